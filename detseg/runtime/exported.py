"""Models in exported files, in the runtime that the user names, or in the fastest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from detseg.runtime.devices import parse_device
from detseg.runtime.foreign.options import ForeignOptions
from detseg.runtime.kinds.base import Metadata
from detseg.runtime.model import Model, confidence_of, require_boxes
from detseg.runtime.onnx.choice import RUNTIMES, fastest
from detseg.runtime.onnx.model import OnnxModel
from detseg.runtime.onnx.providers import open_on
from detseg.runtime.onnx.runner import OnnxRunner
from detseg.runtime.onnx.session import import_onnxruntime
from detseg.runtime.postprocess.class_settings import below, require_in_graph, settle
from detseg.runtime.runner import Runner
from detseg.runtime.tracking.tracker import TrackerConfig
from detseg.runtime.views import with_views


def load_onnx(
    path: Path,
    device: str,
    precision: str,
    num_threads: int | None,
    size: tuple[int, int] | None,
    full_input: bool | None,
    settings: Mapping[str, Any],
    track: TrackerConfig | None = None,
    foreign: ForeignOptions | None = None,
    runtime: str | None = None,
    runtime_cache: Path | None = None,
) -> Model:
    """The model in an exported file; arguments and errors of ``detseg.load``."""
    model = open_in(path, device, num_threads, size, foreign, runtime, precision, runtime_cache)
    if track is not None:
        require_boxes(model.kind.has_boxes, path, model.metadata.task)
    metadata = model.metadata
    settings, floors = settle(settings, metadata.class_confidences, metadata.class_names)
    if floors and metadata.postprocess_in_graph:
        require_in_graph(floors, metadata.postprocess.confidence)
        settings.pop("confidence")
    if full_input is None:
        full_input = model.is_foreign or not (model.kind.has_boxes and model.has_free_sides)
    fits = full_input

    def plain(others: Mapping[str, Any], tracker: TrackerConfig | None = None) -> OnnxRunner:
        wanted = {**settings, **others}
        if tracker is not None:
            wanted = _settings_for_tracking(wanted, tracker, metadata, floors)
        return OnnxRunner(model, wanted, size, full_input=fits)

    def remake(others: Mapping[str, Any], tracker: TrackerConfig | None = None) -> Runner:
        return onnx_with_views(plain(others, tracker), model, full_input=fits)

    runner = plain({}, track)
    lowest = confidence_of(runner.postprocess)
    viewed = onnx_with_views(runner, model, full_input=fits)
    return Model(
        viewed,
        runner.task_name,
        runner.class_names,
        runner.category_ids,
        remake,
        confidence=lowest,
        runs_in=f"{model.runtime}, {model.precision}",
        class_confidences=floors,
        class_colors=metadata.class_colors,
    )


def onnx_with_views(runner: OnnxRunner, model: OnnxModel, *, full_input: bool) -> Runner:
    """``runner`` of ``model``, in tiles and views where its settings say so. Raises ValueError: it cannot look so."""

    def make(changed: Mapping[str, Any], size: tuple[int, int]) -> OnnxRunner:
        known = {one.name: getattr(runner.postprocess, one.name) for one in fields(runner.postprocess)}
        return OnnxRunner(model, {**known, **changed}, size, full_input=full_input)

    fixed = model.metadata.postprocess_in_graph
    try:
        return with_views(runner, make, runner.postprocess, model.metadata.stride, fixed=fixed)
    except ValueError as error:
        named = str(error) if str(error).startswith(str(model.path)) else f"{model.path}: {error}"
        raise ValueError(named) from error


def _settings_for_tracking(
    settings: Mapping[str, Any], track: TrackerConfig, metadata: Metadata, floors: Sequence[float]
) -> dict[str, Any]:
    """Boxes from ``track.low_score`` on, or from the lowest of ``floors``, the confidences of the classes. Where NMS is
    in the graph, these are as they are, and a confidence above that of the graph is left to the tracker."""
    if not metadata.postprocess_in_graph:
        return {**settings, "confidence": min([track.low_score, *([below(floors)] if floors else [])])}
    wanted = settings.get("confidence")
    if wanted is not None and metadata.postprocess.confidence < wanted <= track.high_score:
        return {name: value for name, value in settings.items() if name != "confidence"}
    return dict(settings)


def open_in(
    path: Path,
    device: str,
    num_threads: int | None = None,
    size: tuple[int, int] | None = None,
    foreign: ForeignOptions | None = None,
    runtime: str | None = None,
    precision: str = "fp32",
    cache: Path | None = None,
) -> OnnxModel:
    """The network in an exported file, on ``device``; ``size`` and ``foreign`` are for files of other programs.
    ``runtime``: None for that which the file is made for; ``cache``: where the choice of ``auto`` is kept.

    Raises:
        ValueError: there is no such runtime or precision, or not for this file, or OpenVINO is to run on a GPU.
    """
    if runtime is not None and runtime not in RUNTIMES:
        raise ValueError(f"runtime must be {', '.join(RUNTIMES[:-1])} or {RUNTIMES[-1]}, got {runtime}")
    if cache is not None and runtime != "auto":
        raise ValueError("--runtime-cache keeps what --runtime auto finds; leave it out, or take auto")
    available = import_onnxruntime().get_available_providers()
    model = open_on(
        parse_device(device),
        available,
        lambda providers: OnnxModel(path, num_threads, providers, foreign=foreign, size=size),
    )
    if runtime == "auto":
        return fastest(model, precision, size, cache)
    if runtime == "openvino" or (runtime is None and model.runtime == "openvino"):
        if not model.runs_on_cpu:
            raise ValueError("OpenVINO runs on the CPU here; take --device cpu, or --runtime onnxruntime")
        if (model.runtime, model.precision) == ("openvino", precision):
            return model
        model.require_form_for("openvino")
        return model.in_openvino(precision)
    if runtime is not None:
        model.require_form_for(runtime)
    if precision != "fp32":
        raise ValueError(
            f"{path}: an exported model has its own precision; leave {precision} out, or export it again; bf16 is for "
            "--runtime openvino"
        )
    return model
