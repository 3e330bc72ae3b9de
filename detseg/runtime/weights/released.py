"""Released weights: the table of those that this project trained, and where their files are on this machine."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from detseg.config import load_config, to_dict
from detseg.config_files import to_yaml
from detseg.files import home_folder, open_regular, write_text

TABLE = Path(__file__).with_name("released.yaml")
FOLDER_VARIABLE = "DETSEG_WEIGHTS"

BEST = "best.safetensors"
"""The best model in the folder of a training run."""
FOLDS_NAME = "folds.json"
"""Says of a folder that it holds the runs of a cross-validation, ``fold0``, ``fold1``, ..., and how they were begun."""

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SUFFIXES = (".safetensors", ".onnx")
_CHECKOUT = Path(__file__).parents[3]


class ReleaseError(ValueError):
    """A file under the name of released weights is another one; the message says what to do."""


@dataclass(frozen=True)
class Release:
    """One row of the table.

    ``license`` is that of the weights and of the data they learned from, ``quality`` what they reach and on which
    split, both in words.
    """

    file: str
    sha256: str
    num_bytes: int
    task: Literal["detection", "instance", "semantic", "volume"]
    data: str
    license: str
    quality: str

    def __post_init__(self) -> None:
        path = Path(self.file)
        if path.suffix not in _SUFFIXES or not _NAME.fullmatch(path.stem) or path.name != self.file:
            raise ValueError(f"file must be a plain name that ends in {' or '.join(_SUFFIXES)}, got {self.file!r}")
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 must be 64 lower-case hexadecimal digits, got {self.sha256!r}")
        if self.num_bytes < 1:
            raise ValueError(f"num_bytes must be at least 1, got {self.num_bytes}")


@dataclass(frozen=True)
class ReleaseTable:
    """All released weights by name. ``url`` is the folder where their files are; None as long as there is none."""

    url: str | None = None
    weights: dict[str, Release] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, release in self.weights.items():
            if Path(release.file).stem != name:
                raise ValueError(f"weights.{name}.file must be {name} and a suffix, got {release.file!r}")

    def __getitem__(self, name: str) -> Release:
        """The weights called ``name``.

        Raises:
            FileNotFoundError: there are none; names the nearest, and all there are.
        """
        if name not in self.weights:
            raise FileNotFoundError(f"no released weights are called {name}; {self._alternatives(name)}")
        return self.weights[name]

    def _alternatives(self, name: str) -> str:
        if not self.weights:
            return "none are released yet"
        near = difflib.get_close_matches(name, self.weights, n=3)
        question = f"did you mean {' or '.join(near)}? " if near else ""
        return f"{question}there are: {', '.join(self.weights)}"


def read_table(path: Path | None = None) -> ReleaseTable:
    """The table in the YAML file ``path``, or detseg's own.

    Raises:
        detseg.config.ConfigError: the file does not follow the format that its first lines describe.
    """
    return load_config(ReleaseTable, path or TABLE)


def add_release(name: str, release: Release, path: Path | None = None) -> None:
    """Write ``release`` into the table at ``path`` (default detseg's own), in place of an earlier one of this name."""
    path = path or TABLE
    table = read_table(path)
    table = replace(table, weights={**table.weights, name: release})
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    head = "".join(line for line in lines if line.startswith("#"))
    write_text(path, head + to_yaml(to_dict(table)))


def weights_folder() -> Path:
    """Where ``detseg download`` puts weights: ``$DETSEG_WEIGHTS``, or else a folder in the user's data."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen).expanduser() if chosen else _data_home(sys.platform, os.environ) / "detseg" / "weights"


def _data_home(platform: str, environment: Mapping[str, str]) -> Path:
    """Where ``platform``, in the words of ``sys.platform``, keeps the data of a user's programs."""
    if platform == "darwin":
        return home_folder() / "Library" / "Application Support"
    variable, usual = ("LOCALAPPDATA", "AppData/Local") if platform == "win32" else ("XDG_DATA_HOME", ".local/share")
    chosen = Path(environment.get(variable, ""))
    # The specification of XDG_DATA_HOME has relative paths ignored.
    return chosen if chosen.is_absolute() else home_folder() / usual


def search_folders() -> list[Path]:
    """The folders where released weights are looked for, in order: that of a checkout, and :func:`weights_folder`."""
    checkout = [_CHECKOUT / "weights"] if (_CHECKOUT / "pyproject.toml").is_file() else []
    with suppress(FileNotFoundError):  # there is no home
        return [*checkout, weights_folder()]
    return checkout


def find_release(release: Release, folders: Sequence[Path] | None = None) -> Path | None:
    """The file of ``release`` in the first of ``folders`` (default :func:`search_folders`) that has it, or None.

    Raises:
        ReleaseError: what has its name is another file.
    """
    for folder in search_folders() if folders is None else folders:
        path = folder / release.file
        if path.is_file():
            _check(path, release)
            return path
    return None


def _check(path: Path, release: Release) -> None:
    found = sha256_of(path)
    if found != release.sha256:
        raise ReleaseError(
            f"{path} is not the released file: its sha256 is {found}, not {release.sha256}; "
            f"rename or remove it, then: detseg download {path.stem}"
        )


def find_models(model: Path | str) -> list[Path]:
    """The file that ``model`` means, see :func:`find_model`; of the folder of a cross-validation the best model of each
    fold.

    Raises:
        FileNotFoundError: as :func:`find_model`; also where a fold has no model yet.
    """
    folder = Path(model)
    if not (folder / FOLDS_NAME).is_file():
        return [find_model(model)]
    folds = sorted(folder.glob("fold[0-9]*"), key=lambda path: (len(path.name), path.name))
    missing = [path for path in folds if not (path / BEST).is_file()]
    if missing or not folds:
        raise FileNotFoundError(
            f"{folder} holds a cross-validation that is not finished: there is no {BEST} in "
            f"{missing[0] if missing else folder / 'fold0'}; go on with detseg train --resume {folder}"
        )
    return [path / BEST for path in folds]


def find_model(model: Path | str) -> Path:
    """The file that a user means by ``model``: a path as it is, the best model of a run's folder, or the file of the
    released weights of this name.

    A name has neither folder nor suffix, and an existing file comes before released weights. Nothing is downloaded.

    Raises:
        FileNotFoundError: there is no file, and there are no released weights of this name, or they are not here; the
            message says how to get them.
        ReleaseError: what has their name is another file.
    """
    path = Path(model)
    if path.is_dir() and (path / BEST).is_file():
        return path / BEST
    if not _NAME.fullmatch(str(model)) or path.is_file():
        return path
    table = read_table()
    if path.is_dir() and path.name not in table.weights:
        return path  # whoever opens it says what it should be
    try:
        release = table[path.name]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no model file at {path}, and {error}") from None
    found = find_release(release)
    if found is None:
        folders = " and ".join(map(str, search_folders()))
        raise FileNotFoundError(
            f"the released weights {path} are not on this machine (looked in {folders}); "
            f"get them: detseg download {path}"
        )
    return found


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
