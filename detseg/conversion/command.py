"""The verb ``convert``: from a checkpoint of another program to a model file, with a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detseg.conversion.convert import convert


def convert_command(
    path: Path, output: Path, *, names: Sequence[str] | None, config: Path | None, json_path: Path | None
) -> int:
    """``detseg convert``. Returns 0."""
    report = convert(path, output, names=names, config=config)
    print(report.render())
    if json_path:
        report.write_json(json_path)
    return 0
