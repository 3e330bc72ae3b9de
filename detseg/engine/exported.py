"""Exported models as evaluation takes them: with its settings, and with a task that judges what they find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from detseg.config import load_entry
from detseg.runtime.exported import in_openvino, onnx_with_views, open_onnx
from detseg.runtime.foreign.options import ForeignOptions
from detseg.runtime.onnx.file import KEY, parse_metadata, read_onnx_file
from detseg.runtime.onnx.runner import OnnxRunner
from detseg.runtime.runner import Runner
from detseg.tasks import TASKS
from detseg.tasks.base import Task, TaskConfig


def load_exported(
    path: Path,
    device: str,
    postprocess: Mapping[str, Any],
    size: tuple[int, int] | None,
    foreign: ForeignOptions | None = None,
    precision: str | None = None,
) -> tuple[Runner, Task]:
    """The ``.onnx`` file ``path``, ready for evaluation, and the task that judges it; ``foreign``: what the user says
    of one that ``detseg export`` did not write. With a ``precision`` OpenVINO runs it.

    The file carries the settings of prediction. Where those of evaluation differ, as average precision counts boxes of
    any confidence, their defaults take the place of the file's, and ``postprocess`` that of both; but NMS that
    is part of the graph keeps its own.

    Raises:
        detseg.runtime.onnx.file.OnnxFileError: the file is missing or damaged, or not recognized.
        ValueError: impossible settings, or such as the graph has fixed.
        ModuleNotFoundError: ONNX Runtime is not installed.
    """
    model = open_onnx(path, device, None, size, foreign)
    if precision is not None:
        model = in_openvino(model, "openvino", precision)
    metadata = model.metadata
    if metadata.task not in TASKS:
        raise ValueError(f"{path}: nothing judges the task {metadata.task!r} here; known are {', '.join(TASKS)}")
    config: type[TaskConfig] = load_entry(TASKS, metadata.task)
    settings = config.evaluation_settings(metadata, path) | dict(postprocess)
    runner = OnnxRunner(model, settings, size, full_input=True)
    changes: dict[str, Any] = {"input": runner.spec, "postprocess": replace(metadata.postprocess, **settings)}
    return onnx_with_views(runner, model, full_input=True), config.from_metadata(replace(metadata, **changes))


def stored_confidences(path: Path) -> tuple[float, ...]:
    """The confidences of the classes that the ``.onnx`` file ``path`` holds; nothing where it is another program's."""
    properties = read_onnx_file(path).properties
    return parse_metadata(properties, path).class_confidences if KEY in properties else ()
