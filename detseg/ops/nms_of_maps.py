"""Non-maximum suppression of a detector's raw maps: one operator for whole batches, which decodes candidates only.

Shape legend: B images, C classes, M the largest number of detections.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detseg.ops.exact_decode import decode_exactly
from detseg.ops.nms import BatchedDetections, batched_nms, check_limits, empty_outputs
from detseg.runtime.postprocess.config import HeadKind, count_box_channels


def nms_of_maps(
    kind: HeadKind,
    levels: Sequence[Tensor],
    strides: Sequence[int],
    reg_max: int,
    *,
    confidence: float,
    iou: float,
    max_detections: int = 300,
    multi_label: bool = False,
    class_agnostic: bool = False,
    max_candidates: int = 30_000,
    kept: Tensor | None = None,
) -> BatchedDetections:
    """Raw maps ``[B, channels, H, W]`` of all levels -> detections: :func:`detseg.ops.decode.decode`, then
    :func:`detseg.ops.nms.batched_nms`.

    On a GPU that is Triton's kernels from the maps on, to the last bit what :mod:`detseg.ops.exact_decode` says. They
    read the logits once and the numbers of a box only where there is a candidate.

    Raises:
        ValueError: for maps or limits that do not fit.
        RuntimeError: the maps are on a GPU, and Triton is missing or cannot compile the kernels.
    """
    settings = (confidence, iou, max_detections, multi_label, class_agnostic, max_candidates)
    _check(levels, kept, kind, strides, reg_max, (confidence, iou, max_detections, max_candidates))
    found = torch.ops.detseg.nms_of_maps(list(levels), kept, kind, list(strides), reg_max, *settings)
    return BatchedDetections(*found)


@torch.library.custom_op("detseg::nms_of_maps", mutates_args=(), device_types="cpu")
def _nms_of_maps(
    levels: Sequence[Tensor],
    kept: Tensor | None,
    kind: str,
    strides: Sequence[int],
    reg_max: int,
    confidence: float,
    iou: float,
    max_detections: int,
    multi_label: bool,
    class_agnostic: bool,
    max_candidates: int,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(levels, kept, kind, strides, reg_max, (confidence, iou, max_detections, max_candidates))
    boxes_xyxy, scores = decode_exactly(kind, levels, strides, reg_max)  # type: ignore[arg-type]  # checked
    found = batched_nms(
        boxes_xyxy,
        scores,
        confidence=confidence,
        iou=iou,
        max_detections=max_detections,
        multi_label=multi_label,
        class_agnostic=class_agnostic,
        max_candidates=max_candidates,
        backend="detseg",
        kept=kept,
    )
    return found.detections, found.counts, found.keep


@_nms_of_maps.register_kernel("cuda")
def _on_cuda(
    levels: Sequence[Tensor],
    kept: Tensor | None,
    kind: str,
    strides: Sequence[int],
    reg_max: int,
    confidence: float,
    iou: float,
    max_detections: int,
    multi_label: bool,
    class_agnostic: bool,
    max_candidates: int,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(levels, kept, kind, strides, reg_max, (confidence, iou, max_detections, max_candidates))
    try:
        from detseg.ops.kernels.nms import launch_nms_of_maps
    except ModuleNotFoundError as error:
        raise RuntimeError(
            "NMS on a GPU needs Triton, which is not installed: pip install triton, or choose the torchvision backend "
            "(task.postprocess.nms_backend=torchvision)"
        ) from error
    settings = (confidence, iou, max_detections, multi_label, class_agnostic, max_candidates)
    out = empty_outputs(levels[0], max_detections)
    return launch_nms_of_maps(levels, kept, kind, strides, reg_max, *settings, out=out)


@_nms_of_maps.register_fake
def _shapes(
    levels: Sequence[Tensor],
    kept: Tensor | None,
    kind: str,
    strides: Sequence[int],
    reg_max: int,
    confidence: float,
    iou: float,
    max_detections: int,
    multi_label: bool,
    class_agnostic: bool,
    max_candidates: int,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(levels, kept, kind, strides, reg_max, (confidence, iou, max_detections, max_candidates))
    return empty_outputs(levels[0], max_detections)


def _check(
    levels: Sequence[Tensor],
    kept: Tensor | None,
    kind: str,
    strides: Sequence[int],
    reg_max: int,
    limits: tuple[float, float, int, int],
) -> None:
    if len(levels) != len(strides) or not levels:
        raise ValueError(f"got {len(levels)} levels for {len(strides)} strides; pass one each")
    first = levels[0]
    for level in levels:
        if level.ndim != 4 or level.shape[:2] != first.shape[:2] or level.dtype != first.dtype:
            shapes = ", ".join(f"{tuple(one.shape)} {one.dtype}" for one in levels)
            raise ValueError(
                f"levels must be BxCxHxW with one batch, one number of channels and one type, got {shapes}"
            )
    if not first.is_floating_point():
        raise ValueError(f"levels must be floating point, got {first.dtype}")
    num_classes = first.shape[1] - count_box_channels(kind, reg_max)  # type: ignore[arg-type]  # which it checks
    if num_classes < 1:
        raise ValueError(f"a {kind!r} head with {reg_max} reg_max has more channels than {first.shape[1]}")
    if kept is not None and kept.shape != (num_classes,):
        raise ValueError(f"kept must have one value for each of {num_classes} classes, got {tuple(kept.shape)}")
    check_limits(*limits)
