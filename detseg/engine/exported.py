"""Exported models as evaluation takes them: with its settings, and with a task that judges what they find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from detseg.config import load_entry
from detseg.runtime.exported import onnx_with_views, open_in
from detseg.runtime.foreign.options import ForeignOptions
from detseg.runtime.onnx.runner import OnnxRunner
from detseg.runtime.runner import Runner
from detseg.tasks import TASKS
from detseg.tasks.base import Task, TaskConfig

_TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tensorrt": "TensorRT"}


def load_exported(
    path: Path,
    device: str,
    postprocess: Mapping[str, Any],
    size: tuple[int, int] | None,
    foreign: ForeignOptions | None = None,
    runtime: str | None = None,
    precision: str = "fp32",
    runtime_cache: Path | None = None,
) -> tuple[Runner, Task, str, tuple[float, ...]]:
    """The exported file ``path``, ready for evaluation, the task that judges it, what runs it, in which precision, and
    the confidences of its classes that it stores; ``foreign``: what the user says of one that ``detseg export`` did not
    write; ``runtime``, ``precision`` and ``runtime_cache`` as for ``detseg.load``.

    The file carries the settings of prediction. Where those of evaluation differ, as average precision counts boxes of
    any confidence, their defaults take the place of the file's, and ``postprocess`` that of both; but NMS that
    is part of the graph keeps its own.

    Raises:
        detseg.runtime.onnx.file.OnnxFileError: the file is missing or damaged, or not recognized.
        ValueError: impossible settings, or such as the graph has fixed.
        ModuleNotFoundError: what runs it is not installed.
    """
    model = open_in(path, device, None, size, foreign, runtime, precision, runtime_cache)
    metadata = model.metadata
    if metadata.task not in TASKS:
        raise ValueError(f"{path}: nothing judges the task {metadata.task!r} here; known are {', '.join(TASKS)}")
    config: type[TaskConfig] = load_entry(TASKS, metadata.task)
    settings = config.evaluation_settings(metadata, path) | dict(postprocess)
    runner = OnnxRunner(model, settings, size, full_input=True)
    changes: dict[str, Any] = {"input": runner.spec, "postprocess": replace(metadata.postprocess, **settings)}
    task = config.from_metadata(replace(metadata, **changes))
    runs_in = f"{_TITLES.get(model.runtime, model.runtime)}, {model.precision}"
    return onnx_with_views(runner, model, full_input=True), task, runs_in, metadata.class_confidences
