"""Non-maximum suppression for tensors: one operator for whole batches, with fixed shapes, on the CPU and on GPUs.

On the CPU it is the numpy code of the torch-free runtime, on a GPU a Triton kernel; both follow the same rules to the
last bit, so that training, evaluation and deployment agree.

Shape legend: B images, A anchors, C classes, N boxes, M the largest number of detections.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from detseg.arrays import FloatArray
from detseg.ops.triton_probe import choose_nms_backend
from detseg.runtime.postprocess import nms as numpy_nms
from detseg.runtime.postprocess.config import NmsBackend

Settings = tuple[float, float, int, bool, bool, int]
"""confidence, iou, max_detections, multi_label, class_agnostic, max_candidates: an operator takes them one by one."""


class BatchedDetections(NamedTuple):
    """What is left of the dense predictions of B images, best first.

    ``detections`` ``[B, M, 6]`` float32: x1, y1, x2, y2, score, class; ``counts`` ``[B]`` int64: how many rows of each
    image are detections, the rest is 0; ``keep`` ``[B, M]`` int64: the anchor that each came from, -1 in the rest.
    """

    detections: Tensor
    counts: Tensor
    keep: Tensor


def batched_nms(
    boxes_xyxy: Tensor,
    scores: Tensor,
    *,
    confidence: float,
    iou: float,
    max_detections: int = 300,
    multi_label: bool = False,
    class_agnostic: bool = False,
    max_candidates: int = 30_000,
    backend: NmsBackend = "auto",
    kept: Tensor | None = None,
) -> BatchedDetections:
    """Dense predictions -> detections, all images at once.

    ``boxes_xyxy`` ``[B, A, 4]`` and ``scores`` ``[B, A, C]`` of any strides, float32, float16 or bfloat16 (float64 is
    rounded to float32); the arithmetic is float32. Which boxes are candidates is told in
    :func:`detseg.runtime.postprocess.nms.select_candidates`, which of these survive in
    :func:`detseg.runtime.postprocess.nms.nms`.

    ``kept`` ``[C]`` bool: only these classes make candidates, see the same place.

    On a GPU nothing waits for the host and all shapes are fixed, so that it can be captured in a CUDA graph. The
    ``torchvision`` backend does the same with a loop over images and classes, and waits for the host; it is there for
    machines without Triton, where ``auto`` takes it.

    Raises:
        ValueError: for shapes or types that do not fit, ``confidence`` or ``iou`` outside [0, 1], limits below 1, or a
            backend that is none.
        RuntimeError: the tensors are on a GPU and Triton is missing or cannot compile the kernel.
    """
    settings = (confidence, iou, max_detections, multi_label, class_agnostic, max_candidates)
    if kept is not None:
        scores = _only(scores, kept, multi_label)
    if backend == "auto":
        backend = choose_nms_backend(backend, boxes_xyxy.device)
    if backend == "torchvision":
        from detseg.ops.nms_torchvision import batched_nms_by_torchvision

        _check(boxes_xyxy, scores, None, settings)
        return BatchedDetections(*batched_nms_by_torchvision(boxes_xyxy, scores, *settings))
    if backend != "detseg":
        raise ValueError(f"the NMS backend must be auto, detseg or torchvision, got {backend!r}")
    return BatchedDetections(*torch.ops.detseg.batched_nms_topk(boxes_xyxy, scores, None, *settings))


def _only(scores: Tensor, kept: Tensor, multi_label: bool) -> Tensor:
    """``scores`` ``[B, A, C]`` with -1, which is never above a confidence, where there shall be no candidate."""
    if multi_label:
        return scores.masked_fill(~kept, -1)
    return scores.masked_fill(~kept[scores.argmax(dim=-1, keepdim=True)], -1)


def nms(
    boxes_xyxy: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou: float,
    max_detections: int = 300,
    class_agnostic: bool = False,
) -> Tensor:
    """The indices (int64, on the device of ``boxes_xyxy``) of the boxes that survive, best score first.

    ``boxes_xyxy`` ``[N, 4]``, ``scores`` and ``labels`` ``[N]``; rules of :func:`detseg.runtime.postprocess.nms.nms`.
    The length of the result depends on the data: on a GPU the host waits for it, where :func:`batched_nms` does not.

    Raises:
        ValueError: for shapes that do not fit, ``iou`` outside [0, 1] or ``max_detections`` below 1.
        RuntimeError: as for :func:`batched_nms`.
    """
    num_boxes = len(boxes_xyxy)
    if boxes_xyxy.shape != (num_boxes, 4) or scores.shape != (num_boxes,) or labels.shape != (num_boxes,):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (boxes_xyxy, scores, labels))
        raise ValueError(f"boxes must be Nx4, scores and labels N, got {shapes}")
    _, counts, keep = torch.ops.detseg.batched_nms_topk(
        boxes_xyxy[None], scores[None, :, None], labels[None], 0.0, iou, max_detections, False, class_agnostic, 1
    )
    kept: Tensor = keep[0, : int(counts)]
    return kept


@torch.library.custom_op("detseg::batched_nms_topk", mutates_args=(), device_types="cpu")
def batched_nms_topk(
    boxes_xyxy: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    confidence: float,
    iou: float,
    max_detections: int,
    multi_label: bool,
    class_agnostic: bool,
    max_candidates: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator behind :func:`batched_nms` and :func:`nms`.

    With ``labels`` ``[B, A]`` the scores are ``[B, A, 1]``, every box whose score is a number is a candidate, and
    ``confidence``, ``multi_label`` and ``max_candidates`` do not count.
    """
    _check(boxes_xyxy, scores, labels, (confidence, iou, max_detections, multi_label, class_agnostic, max_candidates))
    detections, counts, keep = empty_outputs(boxes_xyxy, max_detections)
    detections.zero_()
    keep.fill_(-1)
    for image in range(len(boxes_xyxy)):
        boxes, values = to_numpy(boxes_xyxy[image]), to_numpy(scores[image])
        if labels is None:
            found = numpy_nms.select_detections(
                boxes, values, confidence, iou, max_detections, multi_label, class_agnostic, max_candidates
            )
        else:
            classes = labels[image].numpy().astype(np.int64, copy=False)
            kept = numpy_nms.nms(boxes, values[:, 0], classes, iou, max_detections, class_agnostic)
            found = numpy_nms.Candidates(boxes[kept], values[kept, 0], classes[kept], kept)
        count = len(found.anchors)
        counts[image] = count
        rows = np.concatenate([found.boxes_xyxy, found.scores[:, None], found.labels[:, None]], axis=1)
        detections[image, :count] = torch.from_numpy(rows.astype(np.float32, copy=False))
        keep[image, :count] = torch.from_numpy(found.anchors)
    return detections, counts, keep


@batched_nms_topk.register_kernel("cuda")
def _on_cuda(
    boxes_xyxy: Tensor, scores: Tensor, labels: Tensor | None, *settings: *Settings
) -> tuple[Tensor, Tensor, Tensor]:
    _check(boxes_xyxy, scores, labels, settings)
    try:
        from detseg.ops.kernels.nms import launch_nms
    except ModuleNotFoundError as error:
        raise RuntimeError(
            "NMS on a GPU needs Triton, which is not installed: pip install triton, or choose the torchvision backend "
            "(task.postprocess.nms_backend=torchvision)"
        ) from error
    return launch_nms(boxes_xyxy, scores, labels, *settings, out=empty_outputs(boxes_xyxy, settings[2]))


@batched_nms_topk.register_fake
def _shapes(
    boxes_xyxy: Tensor, scores: Tensor, labels: Tensor | None, *settings: *Settings
) -> tuple[Tensor, Tensor, Tensor]:
    _check(boxes_xyxy, scores, labels, settings)
    return empty_outputs(boxes_xyxy, settings[2])


def empty_outputs(boxes_xyxy: Tensor, max_detections: int) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for the detections, counts and anchors of ``boxes_xyxy``, beside it."""
    num_images = boxes_xyxy.shape[0]
    return (
        boxes_xyxy.new_empty((num_images, max_detections, 6), dtype=torch.float32),
        boxes_xyxy.new_empty((num_images,), dtype=torch.int64),
        boxes_xyxy.new_empty((num_images, max_detections), dtype=torch.int64),
    )


def to_numpy(tensor: Tensor) -> FloatArray:
    """A tensor of any floating type as a float32 array."""
    return tensor.detach().to("cpu", torch.float32).numpy()


def _check(boxes_xyxy: Tensor, scores: Tensor, labels: Tensor | None, settings: Settings) -> None:
    confidence, iou, max_detections, _, _, max_candidates = settings
    if scores.ndim != 3 or boxes_xyxy.shape != (*scores.shape[:2], 4):
        raise ValueError(
            f"boxes must be BxAx4 and scores BxAxC, got {tuple(boxes_xyxy.shape)} and {tuple(scores.shape)}"
        )
    if labels is not None and (labels.shape != boxes_xyxy.shape[:2] or scores.shape[2] != 1):
        raise ValueError(f"with labels BxA the scores are BxAx1, got {tuple(labels.shape)} and {tuple(scores.shape)}")
    if not (boxes_xyxy.is_floating_point() and scores.is_floating_point()):
        raise ValueError(f"boxes and scores must be floating point, got {boxes_xyxy.dtype} and {scores.dtype}")
    check_limits(confidence, iou, max_detections, max_candidates)


def check_limits(confidence: float, iou: float, max_detections: int, max_candidates: int) -> None:
    """Raise ValueError for limits that make no sense."""
    for name, value in (("confidence", confidence), ("iou", iou)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be from 0 to 1, got {value}")
    for name, limit in (("max_detections", max_detections), ("max_candidates", max_candidates)):
        if limit < 1:
            raise ValueError(f"{name} must be at least 1, got {limit}")
