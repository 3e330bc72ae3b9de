"""The best of a one-to-one head's predictions, for tensors: fixed shapes, no loop, nothing that waits for the host.

Shape legend: B images, A anchors, C classes, M the largest number of detections, N values to choose from.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from detseg.runtime.postprocess.nms import floor_to_float32

_NONE = -1.0
"""The score of what is no candidate."""


class BestDetections(NamedTuple):
    """The best of the dense predictions of B images, best first.

    ``detections`` ``[B, M, 6]`` float32: x1, y1, x2, y2, score, class; ``counts`` ``[B]`` int64: how many rows of each
    image are detections, the rest is 0; ``num_above`` ``[B]`` int64: how many there would be without a limit.
    """

    detections: Tensor
    counts: Tensor
    num_above: Tensor


def batched_top_k(
    boxes_xyxy: Tensor,
    scores: Tensor,
    *,
    confidence: float,
    max_detections: int,
    multi_label: bool,
    kept: Tensor | None = None,
) -> BestDetections:
    """Dense predictions -> detections, by the rules of :func:`detseg.runtime.postprocess.top_k.select_best`.

    ``boxes_xyxy`` ``[B, A, 4]`` and ``scores`` ``[B, A, C]``, in float32 at last; ``kept`` ``[C]`` bool: only these
    classes count. A CUDA graph may hold it.

    Raises:
        ValueError: for shapes that do not fit, or ``max_detections`` below 1.
    """
    if scores.ndim != 3 or boxes_xyxy.shape != (*scores.shape[:2], 4):
        raise ValueError(
            f"boxes must be BxAx4 and scores BxAxC, got {tuple(boxes_xyxy.shape)} and {tuple(scores.shape)}"
        )
    if max_detections < 1:
        raise ValueError(f"max_detections must be at least 1, got {max_detections}")
    lowest = float(floor_to_float32(confidence))
    boxes_xyxy, scores = boxes_xyxy.float(), scores.float()
    if kept is not None:
        is_kept = kept if multi_label else kept[scores.argmax(dim=2, keepdim=True)]
        scores = scores.masked_fill(~is_kept, _NONE)
    best = scores.amax(dim=2)
    above = (scores > lowest) & ~best.isnan()[..., None] if multi_label else best > lowest
    rows = best_rows(boxes_xyxy, scores, max_detections, multi_label)
    is_found = rows[..., 4] > lowest
    return BestDetections(rows * is_found[..., None], is_found.sum(dim=1), above.flatten(1).sum(dim=1))


def best_rows(
    boxes_xyxy: Tensor, scores: Tensor, max_detections: int, multi_label: bool, *, for_onnx: bool = False
) -> Tensor:
    """The best pairs of an anchor and a class of any score: ``[B, M, 6]`` float32, x1, y1, x2, y2, score, class; rows
    for which there is no pair are 0.

    ``for_onnx``: leave the order of equal scores to the operator TopK of ONNX, which ranks them by their index as is
    wanted; that of torch leaves it open.
    """
    num_anchors, num_classes = scores.shape[1:]
    best, labels = scores.max(dim=2)
    # M rows of nothing, so that there are always enough to choose from.
    best = F.pad(torch.where(best >= 0, best, _NONE), (0, max_detections), value=_NONE)
    score, anchor = _first_best(best, max_detections, for_onnx)
    if multi_label:
        # The best M pairs are among the best M anchors: each has a pair that is at least as good as its others.
        anchor = anchor.sort(dim=1).values
        is_none = best.gather(1, anchor) < 0
        anchor = anchor.clamp(max=num_anchors - 1)
        pairs = scores.gather(1, anchor[..., None].expand(-1, -1, num_classes))
        pairs = pairs.masked_fill(is_none[..., None], _NONE)
        score, place = _first_best(pairs.flatten(1), max_detections, for_onnx)
        row = torch.div(place, num_classes, rounding_mode="floor")
        anchor, label = anchor.gather(1, row), place - row * num_classes
    else:
        anchor = anchor.clamp(max=num_anchors - 1)
        label = labels.gather(1, anchor)
    chosen = boxes_xyxy.gather(1, anchor[..., None].expand(-1, -1, 4))
    rows = torch.cat((chosen, score[..., None], label[..., None].to(score.dtype)), dim=2)
    return torch.where(score[..., None] >= 0, rows, 0.0)


def _first_best(values: Tensor, count: int, for_onnx: bool) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of ``values`` ``[B, N]`` float32, which are not negative or ``_NONE``, and their places;
    equal values in the order of their places."""
    if for_onnx:
        top = values.topk(count, dim=1)
        return top.values, top.indices
    # The order of floats is that of their bits (IEEE 754); keys are unique.
    num_values = values.shape[1]
    places = torch.arange(num_values - 1, -1, -1, device=values.device)
    keys = (values.contiguous().view(torch.int32).long() << 32) + places
    place = keys.topk(count, dim=1).indices
    return values.gather(1, place), place
