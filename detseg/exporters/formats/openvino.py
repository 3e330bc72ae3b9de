"""OpenVINO's own files: the graph as XML, its weights beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import onnx

from detseg.exporters.base import ExportSettings
from detseg.exporters.formats.base import write_properties
from detseg.runtime.onnx.openvino import import_openvino
from detseg.tasks.base import Task


class OpenVinoFormat:
    """See :class:`detseg.exporters.formats.base.Format`."""

    name: ClassVar[str] = "openvino"
    suffix: ClassVar[str] = ".xml"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "openvino")
    extra: ClassVar[str] = "'detseg[export,openvino]'"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "int8")
    halves_itself: ClassVar[bool] = True
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
        """Graph, weights and properties."""
        openvino = import_openvino()
        read = openvino.Core().read_model(network.SerializeToString())
        openvino.save_model(read, path, compress_to_fp16=settings.precision == "fp16")
        return [path.with_suffix(".bin"), write_properties(network, path), path]
