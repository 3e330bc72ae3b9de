"""The configurations that come with detseg, by name: ``c2f_n``, or ``detection/c2f_n`` where several share a name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from detseg.config_files import ConfigError

FOLDER = Path(__file__).parent / "configs"
"""In a checkout a link to the folder ``configs``, in an installed package the files themselves."""

SUFFIXES = (".yaml", ".yml")
_NO_RUNS = ("data", "finetune")
"""Folders of what is no whole run: descriptions of data sets, and what fine-tuning adds to weights."""
_RELEASE = "release/"
"""Of weights that were trained for others; found by their full name only."""


def shipped_configs() -> dict[str, Path]:
    """All configurations of training runs, by folder and name, such as ``detection/c2f_n``."""
    return {
        path.relative_to(FOLDER).with_suffix("").as_posix(): path
        for path in sorted(FOLDER.glob("*/*.yaml"))
        if path.parent.name not in _NO_RUNS
    }


def find_shipped(name: str) -> Path | None:
    """The shipped configuration that ``name`` means, or None: ``c2f_n``, ``detection/c2f_n``, with ``.yaml`` or not,
    and ``configs/detection/c2f_n.yaml`` as in a checkout.

    Raises:
        ConfigError: several have this name.
    """
    wanted = name.removeprefix("./").removeprefix("configs/")
    for suffix in SUFFIXES:
        wanted = wanted.removesuffix(suffix)
    configs = shipped_configs()
    short = [full for full in configs if full.split("/")[1] == wanted and not full.startswith(_RELEASE)]
    fitting = [wanted] if wanted in configs else short
    if len(fitting) > 1:
        raise ConfigError(f"several configurations are called {wanted}; say which: {', '.join(fitting)}")
    return configs[fitting[0]] if fitting else None


def find_config(named: Path | str) -> Path:
    """The file that a user means by ``named``: a file as it is, else the shipped configuration of this name.

    Raises:
        ConfigError: there is neither; names the nearest.
    """
    path = Path(named)
    if path.is_file():
        return path
    shipped = find_shipped(str(named))
    if shipped is None:
        raise ConfigError(f"no configuration at {path}, and none that comes with detseg is called so; {nearest(path)}")
    return shipped


def nearest(named: Path | str) -> str:
    """Advice for a name that no configuration has."""
    names = list(_short_names())
    near = difflib.get_close_matches(Path(named).stem, names, n=3, cutoff=0.4)
    question = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{question}`detseg configs` lists them"


def _short_names() -> Iterator[str]:
    for full in shipped_configs():
        yield full
        yield full.split("/")[1]


def first_comment(path: Path) -> str:
    """What the comment at the top of a configuration says, as one line."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").strip())
    return " ".join(lines)


def render_configs() -> str:
    """All configurations as lines of name and purpose."""
    lines = []
    for full, path in shipped_configs().items():
        text = first_comment(path)
        first, _, _ = text.partition(". ")
        lines.append(f"{full:28} {first.rstrip('.')}")
    return "\n".join(lines)
