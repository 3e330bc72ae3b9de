"""What training begins with: a configuration, or weights whose file says what they are for."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from detseg.config_files import ConfigError
from detseg.conversion.convert import SOURCES, convert
from detseg.files import cache_folder
from detseg.runtime.weights.released import find_model, read_table, sha256_of
from detseg.shipped import SUFFIXES, find_shipped, shipped_configs
from detseg.tasks.model_file import ModelFileConfig, read_header

_OUTPUT = ".safetensors"


@dataclass(frozen=True)
class Start:
    """Either ``config``, a configuration, or ``weights``, a model file with this ``header``.

    ``name`` is what a run folder is called, ``converted_from`` the file of another program that ``weights`` came from.
    """

    name: str
    config: Path | None = None
    weights: Path | None = None
    header: ModelFileConfig | None = None
    converted_from: Path | None = None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes that the weights know; None without weights."""
        return None if self.header is None else self.header.class_names


def find_start(model: Path | str) -> Start:
    """What the user means by ``model``: files as they are; of names, those of released weights come first.

    Raises:
        ConfigError: there is nothing of this name; names the nearest.
        ValueError: the file is of no known kind, or cannot be read.
        FileNotFoundError: released weights of this name are not on this machine.
    """
    path, suffix = Path(model), Path(model).suffix.lower()
    if suffix in SUFFIXES:
        found = path if path.is_file() else find_shipped(str(model))
        if found is None:
            raise ConfigError(f"no configuration at {path}; {_nearest(path.stem)}")
        return Start(found.stem, config=found)
    if suffix in SOURCES:
        return _converted(path)
    if suffix == _OUTPUT or path.is_dir() or str(model) in read_table().weights:
        weights = find_model(model)
        return Start(path.stem, weights=weights, header=read_header(weights))
    found = find_shipped(str(model))
    if found is not None:
        return Start(found.stem, config=found)
    if path.is_file():
        raise ValueError(
            f"{path} is neither a configuration ({', '.join(SUFFIXES)}) nor weights ({_OUTPUT}, {', '.join(SOURCES)})"
        )
    raise ConfigError(f"nothing to train is called {model}; {_nearest(path.name)}")


def _nearest(name: str) -> str:
    names = [*read_table().weights, *shipped_configs(), *(full.split("/")[1] for full in shipped_configs())]
    near = list(dict.fromkeys(difflib.get_close_matches(name, names, n=3, cutoff=0.4)))
    question = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{question}`detseg configs` lists configurations and released weights"


def _converted(path: Path) -> Start:
    """The model file that ``detseg convert`` makes of ``path``, kept in the user's cache under its content."""
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    weights = cache_folder() / "converted" / f"{path.stem}-{sha256_of(path)[:16]}{_OUTPUT}"
    if not weights.is_file():
        convert(path, weights)
    return Start(path.stem, weights=weights, header=read_header(weights), converted_from=path)
