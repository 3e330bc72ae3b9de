"""ONNX files, which everything else is made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import onnx

from detseg.exporters.base import ExportSettings
from detseg.tasks.base import Task


class OnnxFormat:
    """See :class:`detseg.exporters.formats.base.Format`."""

    name: ClassVar[str] = "onnx"
    suffix: ClassVar[str] = ".onnx"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript")
    extra: ClassVar[str] = "'detseg[export]'"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8")
    halves_itself: ClassVar[bool] = False
    is_any_size: ClassVar[bool] = True

    @staticmethod
    def form(task: Task) -> str:
        """The first of the task."""
        return task.forms[0]

    @staticmethod
    def refuse(task: Task, settings: ExportSettings) -> None:
        """Nothing."""

    @staticmethod
    def write(network: onnx.ModelProto, path: Path, settings: ExportSettings) -> Sequence[Path]:
        """One file."""
        onnx.save(network, path)
        return [path]
