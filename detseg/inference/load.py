"""Models in torch as runners: from a model file, or a model and its task, to what predicts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from detseg.arrays import BoolArray, FloatArray
from detseg.inference.cuda_runner import CudaRunner
from detseg.inference.forking import require_process, run_with_torch
from detseg.models.base import fused
from detseg.ops.precision import describe_arithmetic, require_precision
from detseg.ops.triton_probe import warn_without_triton, why_no_triton
from detseg.runtime.inputs.geometry import InputSpec, fitted
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.model import Model, confidence_of, require_boxes
from detseg.runtime.onnx.cores import require_threads
from detseg.runtime.postprocess.class_settings import below, settle
from detseg.runtime.postprocess.streamed import Look, label_volume
from detseg.runtime.runner import Finished, Runner
from detseg.runtime.tracking.tracker import TrackerConfig
from detseg.runtime.views import with_views
from detseg.tasks.base import Task, settle_on
from detseg.tasks.member import TorchMember
from detseg.tasks.model_file import adapt_task, default_device, load_model_file, read_header

PRECISIONS: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


class EagerRunner:
    """Places images or volumes on the CPU, as ``spec`` says, by default the task's, and runs ``model``, which is on
    ``device`` and takes ``dtype``, on them. See :class:`detseg.runtime.runner.Runner`.

    Threads may share a runner: nothing of a batch is kept. So may forked children, unless ``device`` is a GPU.
    """

    max_in_flight = 1

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        device: torch.device,
        dtype: torch.dtype,
        spec: InputSpec | VolumeSpec | None = None,
    ) -> None:
        self.spec = spec or task.spec
        self.kind = task.kind
        self._model = model
        self._task = task
        self._device = device
        self._dtype = dtype
        self._member = TorchMember(model, task, device, dtype)
        self._process = os.getpid()
        self.default_batch_size = 16 if device.type == "cuda" else 1

    def submit(self, images: Sequence[Any], kept: BoolArray | None = None) -> Finished:
        """All that there is to do for a batch of images ``[H, W, 3]`` uint8 RGB of any sizes that give inputs of one
        size, or for volumes. Where a result holds a limited number of objects, these are of the classes that are
        ``kept``, ``[C]``.

        Raises:
            ValueError: an image is none, or their inputs differ in size.
            VolumeError: a volume would become too large.
            RuntimeError: the model is on a GPU, and this process was forked from the one that loaded it.
        """
        if self._device.type == "cuda":
            require_process(self._process)
        if self.kind.has_probabilities:
            return Finished([label_volume([self.look(image)]) for image in images])
        return Finished(run_with_torch(lambda: self._results(images, kept)))

    def look(self, image: Any) -> Look:
        """See :class:`detseg.runtime.ensemble.Member`."""
        if self._device.type == "cuda":
            require_process(self._process)
        look = self._member.look(image)
        return replace(look, within=lambda work: run_with_torch(partial(look.within, work)))

    def probabilities(self, image: Any) -> tuple[FloatArray, Any]:
        """See :class:`detseg.runtime.ensemble.Member`."""
        if self._device.type == "cuda":
            require_process(self._process)
        return run_with_torch(lambda: self._member.probabilities(image))

    def result_of(self, probabilities: FloatArray, transform: Any, *, keeps_probabilities: bool = False) -> Any:
        """See :class:`detseg.runtime.ensemble.Member`."""
        return self._member.result_of(probabilities, transform, keeps_probabilities=keeps_probabilities)

    @torch.inference_mode()
    def _results(self, images: Sequence[Any], kept: BoolArray | None) -> list[Any]:
        task = self._task if kept is None else self._task.only(torch.from_numpy(kept).to(self._device))
        placed = [self.spec.place(image) for image in images]
        arrays = torch.from_numpy(np.stack([array for array, _ in placed]))
        inputs = self._task.normalize(arrays.to(self._device).contiguous()).to(self._dtype)
        if self._device.type == "cuda":  # on the CPU models choose for themselves
            inputs = inputs.contiguous(memory_format=self._task.memory_format)
        outputs = task.infer(self._model, inputs)
        return task.results(outputs, [transform for _, transform in placed])


def make_runner(
    model: nn.Module,
    task: Task,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    *,
    cuda_graph: bool = True,
    full_input: bool = True,
    is_compiled: bool = False,
) -> Runner:
    """What runs ``model`` on images, letterboxed to the task's input each on its own, so that batches may mix sizes
    freely, or on volumes. Without ``full_input``, for boxes on the CPU, images are padded no further than the stride
    asks for, see :class:`detseg.runtime.inputs.geometry.FittedInputSpec`.

    The model itself is moved to ``device``, converted to ``precision`` and put into evaluation mode. On a GPU images go
    through a CUDA graph, see :class:`detseg.inference.cuda_runner.CudaRunner`, unless ``cuda_graph`` is false, the task
    waits for the host, as NMS by torchvision does, or Triton cannot run; on the CPU and for volumes that has no
    meaning. With ``is_compiled`` the graph holds what ``torch.compile`` makes of the model. In tiles and views where
    the task's settings say so, see :func:`detseg.runtime.views.with_views`.

    Raises:
        ValueError: what the task asks for cannot run on ``device``; ``precision`` is none of ``fp32``, ``fp16`` and
            ``bf16``, or the GPU has none such; ``full_input`` is False for what is not boxes on the CPU; there is no
            CUDA graph that could be compiled; tiles are smaller than the stride.
    """
    dtype = PRECISIONS.get(precision)
    if dtype is None:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    device = torch.device(device)
    require_precision(dtype, device)
    if not full_input and (device.type == "cuda" or not task.kind.has_boxes):
        raise ValueError(
            f"full_input can be False for boxes on the CPU only, this is {task.name} on {device}: leave it out"
        )
    model = model.to(device, dtype).eval()
    if device.type == "cuda":
        model = model.to(memory_format=task.memory_format)

    def plain(task: Task) -> Runner:
        if device.type == "cuda":
            settle_on(task, device)
            if cuda_graph and task.spec.one_size and not task.waits_for_host:
                reason = why_no_triton(device)
                if reason is None:
                    return CudaRunner(model, task, device, dtype, is_compiled=is_compiled)
                warn_without_triton(device, reason)  # the letterbox in the graph is a kernel, too
        if is_compiled:
            raise ValueError(
                f"compile is for images on a GPU, in a CUDA graph; this is {task.name} on {device}"
                f"{', whose NMS waits for the host' if task.waits_for_host else ''}: leave it out"
            )
        spec = None if full_input else fitted(cast(InputSpec, task.spec), task.stride)
        return EagerRunner(model, task, device, dtype, spec)

    def make(changed: Mapping[str, Any], size: tuple[int, int]) -> Runner:
        config = adapt_task(task.config, changed, size)
        return plain(config.build(model, task.class_names, task.category_ids))

    return with_views(plain(task), make, task.config.postprocess, task.stride)


def load_torch_model(
    path: Path,
    device: str,
    precision: str,
    num_threads: int | None,
    size: tuple[int, int] | None,
    full_input: bool | None,
    settings: Mapping[str, Any],
    track: TrackerConfig | None = None,
    is_compiled: bool = False,
) -> Model:
    """The model in a ``.safetensors`` file, its batch norms folded; arguments and errors of ``detseg.load``.

    ``num_threads`` is that of the whole process, as torch has it.
    """
    header = read_header(path)
    if track is not None:
        require_boxes(hasattr(header.task.postprocess, "confidence"), path, header.task.name)
    settings, floors = settle(settings, header.class_confidences, header.class_names)
    if track is not None:
        settings["confidence"] = min([track.low_score, *([below(floors)] if floors else [])])
    model_file = load_model_file(path, postprocess=settings, size=size, for_prediction=True)
    if num_threads is not None:
        require_threads(num_threads)
        torch.set_num_threads(num_threads)
    task, network, on = model_file.task, fused(model_file.model), default_device(device)
    if full_input is None:
        full_input = not task.kind.has_boxes or on.type == "cuda"
    fits = full_input

    def remake(others: Mapping[str, Any], tracker: TrackerConfig | None = None) -> Runner:
        changed = task
        if tracker is not None:
            others = {**others, "confidence": tracker.low_score}
        if others:
            config = adapt_task(task.config, others)
            changed = config.build(network, task.class_names, task.category_ids)
        return make_runner(network, changed, on, precision, full_input=fits, is_compiled=is_compiled)

    lowest, runner = confidence_of(task.config.postprocess), remake({})
    arithmetic = describe_arithmetic(on, PRECISIONS[precision])
    return Model(
        runner,
        task.name,
        task.class_names,
        task.category_ids,
        remake,
        confidence=lowest,
        class_confidences=floors,
        class_colors=header.class_colors,
        gpu=f"{on}, {arithmetic}" if arithmetic else "",
    )
