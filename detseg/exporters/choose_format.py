"""Which kind of file an export makes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from detseg.config import load_entry
from detseg.exporters import EXPORTERS
from detseg.exporters.formats.base import Format


def format_of(output: Path | None, name: str | None) -> type[Format]:
    """The format that the user names, or the one that the suffix of ``output`` has.

    Raises:
        ValueError: there is none of this name or suffix, or they are not of one.
    """
    if name is not None and name not in EXPORTERS:
        raise ValueError(f"format must be one of {', '.join(EXPORTERS)}, got {name}")
    if output is None:
        chosen: type[Format] = load_entry(EXPORTERS, name or "onnx")
        return chosen
    formats: list[type[Format]] = [load_entry(EXPORTERS, one) for one in EXPORTERS]
    found = next((one for one in formats if one.suffix == output.suffix), None)
    wanted = [one.suffix for one in formats if name in (None, one.name)]
    if found is None or found.suffix not in wanted:
        raise ValueError(f"the output must end in {' or '.join(wanted)}, got {output}")
    return found


def require_packages(chosen: type[Format]) -> None:
    """Raise ModuleNotFoundError unless all that the format needs is installed."""
    missing = [one for one in chosen.packages if find_spec(one) is None]
    if missing:
        raise ModuleNotFoundError(f"export to {chosen.name} needs {' and '.join(missing)}: pip install {chosen.extra}")
