"""Non-maximum suppression by torchvision: chosen explicitly, for machines where the kernel cannot run.

Shape legend: B images, A anchors, C classes, N candidates, M the largest number of detections.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from detseg.runtime.postprocess.nms import floor_to_float32


def batched_nms_by_torchvision(
    boxes_xyxy: Tensor,
    scores: Tensor,
    confidence: float,
    iou: float,
    max_detections: int,
    multi_label: bool,
    class_agnostic: bool,
    max_candidates: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Detections ``[B, M, 6]``, counts ``[B]`` and anchors ``[B, M]`` as of :func:`detseg.ops.nms.batched_nms`.

    Classes are suppressed one after the other instead of being moved apart, which would round their boxes.
    """
    num_images = len(boxes_xyxy)
    detections = boxes_xyxy.new_zeros((num_images, max_detections, 6), dtype=torch.float32)
    counts = boxes_xyxy.new_zeros(num_images, dtype=torch.int64)
    keep = boxes_xyxy.new_full((num_images, max_detections), -1, dtype=torch.int64)
    for image, (boxes, values) in enumerate(zip(boxes_xyxy.float(), scores.float(), strict=True)):
        anchors, labels = _candidates(values, confidence, multi_label, max_candidates)
        kept = _suppress(boxes[anchors], values[anchors, labels], labels, iou, class_agnostic)[:max_detections]
        anchors, labels = anchors[kept], labels[kept]
        count = len(anchors)
        rows = (boxes[anchors], values[anchors, labels, None], labels[:, None].float())
        detections[image, :count] = torch.cat(rows, dim=1)
        counts[image] = count
        keep[image, :count] = anchors
    return detections, counts, keep


def _candidates(scores: Tensor, confidence: float, multi_label: bool, max_candidates: int) -> tuple[Tensor, Tensor]:
    """Anchors and classes ``[N]`` of the scores ``[A, C]`` above ``confidence``, best first."""
    lowest = float(floor_to_float32(confidence))
    if multi_label or scores.shape[1] == 0:
        anchors, labels = torch.nonzero(scores > lowest, as_tuple=True)
    else:
        best = scores.argmax(dim=1)  # of equal ones the first; a NaN is the largest, and above nothing
        anchors = torch.nonzero(scores.gather(1, best[:, None])[:, 0] > lowest)[:, 0]
        labels = best[anchors]
    order = torch.sort(scores[anchors, labels], descending=True, stable=True).indices[:max_candidates]
    return anchors[order], labels[order]


def _suppress(boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, iou: float, class_agnostic: bool) -> Tensor:
    """The positions of the ranked boxes ``[N, 4]`` that survive, ascending."""
    if class_agnostic:
        survivors: Tensor = nms(boxes_xyxy, scores, iou)
        return survivors.sort().values
    kept = [members[nms(boxes_xyxy[members], scores[members], iou)] for members in _groups(labels)]
    return torch.cat([labels.new_zeros(0), *kept]).sort().values


def _groups(labels: Tensor) -> list[Tensor]:
    """The positions of each class, ascending."""
    order = torch.sort(labels, stable=True).indices
    sizes = torch.unique_consecutive(labels[order], return_counts=True)[1]
    return list(torch.split(order, sizes.tolist()))
