"""Opening an exported model, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detseg.runtime.model import Model
from detseg.runtime.onnx.metadata import DetectionMetadata
from detseg.runtime.onnx.model import OnnxModel
from detseg.runtime.onnx.runner import OnnxRunner

_PROVIDERS = {"cpu": ("CPUExecutionProvider",), "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider")}


def load_onnx(
    path: Path,
    device: str,
    precision: str,
    num_threads: int | None,
    size: tuple[int, int] | None,
    full_input: bool | None,
    settings: Mapping[str, Any],
) -> Model:
    """The model in an ``.onnx`` file; arguments and errors of ``detseg.load``."""
    if precision != "fp32":
        raise ValueError(f"{path}: an exported model has its own precision; leave {precision} out, or export it again")
    providers = None if device == "auto" else _PROVIDERS.get(device.partition(":")[0])
    if device != "auto" and providers is None:
        raise ValueError(f"device must be auto, cpu or cuda for .onnx files, got {device}")
    model = OnnxModel(path, num_threads, providers)
    if full_input is None:
        full_input = not (isinstance(model.metadata, DetectionMetadata) and model.has_free_sides)
    runner = OnnxRunner(model, settings, size, full_input=full_input)
    return Model(runner, runner.task_name, runner.class_names, runner.category_ids)
