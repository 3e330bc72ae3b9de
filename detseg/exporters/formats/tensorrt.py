"""Engines of TensorRT, which are built for the GPU of this machine and run on such ones only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import onnx
import torch

from detseg.exporters.base import ExportSettings
from detseg.exporters.formats.base import write_properties
from detseg.tasks.base import Task

_WORKSPACE_BYTES = 4 * 2**30


class TensorRtFormat:
    """See :class:`detseg.exporters.formats.base.Format`."""

    name: ClassVar[str] = "tensorrt"
    suffix: ClassVar[str] = ".engine"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "tensorrt")
    extra: ClassVar[str] = "'detseg[export]' tensorrt cuda-bindings"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16")
    halves_itself: ClassVar[bool] = False
    is_any_size: ClassVar[bool] = False

    @staticmethod
    def form(task: Task) -> str:
        """The first of the task."""
        return task.forms[0]

    @staticmethod
    def refuse(task: Task, settings: ExportSettings) -> None:
        """A machine without such a GPU."""
        if not torch.cuda.is_available() or torch.version.hip:
            raise ValueError(
                "a TensorRT engine is built on the NVIDIA GPU that is to run it, and there is none here; export to "
                "onnx here, and to tensorrt on the machine with the GPU"
            )

    @staticmethod
    def write(network: onnx.ModelProto, path: Path, settings: ExportSettings) -> Sequence[Path]:
        """The engine and its properties."""
        import tensorrt

        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        builder = tensorrt.Builder(logger)
        made = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = tensorrt.OnnxParser(made, logger)
        if not parser.parse(network.SerializeToString()):
            reasons = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
            raise ValueError(f"TensorRT cannot read the network: {reasons}")
        config = builder.create_builder_config()
        config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
        config.clear_flag(tensorrt.BuilderFlag.TF32)  # never less exact than asked for
        engine = builder.build_serialized_network(made, config)
        if engine is None:
            raise ValueError("TensorRT cannot build the engine; its log says why")
        path.write_bytes(bytes(engine))
        return [write_properties(network, path), path]
