"""The verb ``convert``: from a checkpoint of another program to a model file, with a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detseg.conversion.convert import convert
from detseg.files import holds_keys, require_replaceable


def convert_command(
    path: Path,
    output: Path,
    *,
    names: Sequence[str] | None,
    config: Path | None,
    json_path: Path | None,
    overwrite: bool = False,
) -> int:
    """``detseg convert``. Of what is there, only reports of earlier conversions are replaced, unless ``overwrite``.
    Returns 0."""
    if json_path:
        require_replaceable(
            json_path, overwrite=overwrite, is_ours=lambda one: holds_keys(one, "sha256", "family", "mapped")
        )
    report = convert(path, output, names=names, config=config, overwrite=overwrite)
    print(report.render())
    if json_path:
        report.write_json(json_path)
    return 0
