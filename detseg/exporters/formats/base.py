"""What every kind of exported file must say of itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import onnx

from detseg.exporters.base import ExportSettings
from detseg.files import write_text
from detseg.runtime.onnx.form import properties_path
from detseg.tasks.base import Task


class Format(Protocol):
    """How the graph of an export becomes files; all but the first lie beside it."""

    name: ClassVar[str]
    suffix: ClassVar[str]
    """Of the first file."""
    packages: ClassVar[tuple[str, ...]]
    """What must be installed, by the names of modules."""
    extra: ClassVar[str]
    """What to install for that."""
    precisions: ClassVar[tuple[str, ...]]
    halves_itself: ClassVar[bool]
    """Whether it takes float32 and makes fp16 of that."""
    is_any_size: ClassVar[bool]
    """Whether inputs may be of any size and number."""

    @staticmethod
    def form(task: Task) -> str:
        """The form of outputs where the user names none."""

    @staticmethod
    def refuse(task: Task, settings: ExportSettings) -> None:
        """Raise ValueError where the export is not possible, before any work."""

    @staticmethod
    def write(network: onnx.ModelProto, path: Path, settings: ExportSettings) -> Sequence[Path]:
        """Write ``network``, and give all files that were made, ``path`` the last.

        Raises:
            ValueError: the format cannot hold it.
        """


def write_properties(network: onnx.ModelProto, path: Path) -> Path:
    """The file beside ``path`` that says what ``network`` says of itself, where the format has no room for that."""
    beside = properties_path(path)
    properties = {entry.key: entry.value for entry in network.metadata_props}
    write_text(beside, json.dumps(properties, indent=1) + "\n")
    return beside
