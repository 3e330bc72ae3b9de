"""Dense predictions for the benchmark of NMS: some as a trained detector gives them, some meant to go wrong.

Shape legend: B images, A anchors, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

INPUT_SIDE = 640.0
NUM_OBJECTS = 25
ANCHORS_PER_OBJECT = 8
"""Anchors around an object whose scores are above 0.25, so 200 in an image."""
NUM_WEAK = 6_000
"""Scores above 0.001 that an image of 8,400 anchors has beside these, but no more than three in ten of all."""
_USUAL_ANCHORS = 8_400
_LOGIT_SPREAD = 1.75

KINDS = ("random", "clustered", "ties", "integer", "degenerate", "not finite", "duplicates")


@dataclass(frozen=True)
class Setting:
    """How candidates are chosen and suppressed."""

    confidence: float = 0.25
    iou: float = 0.7
    max_detections: int = 300
    multi_label: bool = False
    class_agnostic: bool = False
    max_candidates: int = 30_000


def realistic_predictions(
    num_images: int, num_anchors: int, num_classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Boxes ``[B, A, 4]`` and scores ``[B, A, C]`` like a trained detector's, float32, on the generator's device.

    25 objects of 16 to 400 pixels, each seen by 8 anchors with one class at a score from 0.3 to 0.95 and boxes that
    differ by some percent; everywhere else logits that are normally distributed, so that 6,000 scores of 8,400 anchors
    are above 0.001, but at most three in ten. The scores lie class by class in memory, as a decoded head leaves them.
    """
    device = generator.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device) * (high - low) + low

    center = uniform(0, INPUT_SIDE, num_images, num_anchors, 2)
    size = uniform(2.0, 5.5, num_images, num_anchors, 2).exp()
    share = min(0.3, NUM_WEAK / (_USUAL_ANCHORS * num_classes))
    mean = torch.logit(torch.tensor(0.001)).item() - _LOGIT_SPREAD * NormalDist().inv_cdf(1 - share)
    logits = torch.randn(num_images, num_classes, num_anchors, generator=generator, device=device)
    scores = (logits * _LOGIT_SPREAD + mean).sigmoid_()

    num_strong = min(NUM_OBJECTS * ANCHORS_PER_OBJECT, num_anchors)
    objects = torch.arange(num_strong, device=device) // ANCHORS_PER_OBJECT
    anchors = torch.rand(num_images, num_anchors, generator=generator, device=device).argsort(1)[:, :num_strong]
    images = torch.arange(num_images, device=device)[:, None]
    object_center = uniform(0, INPUT_SIDE, num_images, NUM_OBJECTS, 2)[:, objects]
    object_size = uniform(2.8, 6.0, num_images, NUM_OBJECTS, 2).exp()[:, objects]
    shift, stretch = (uniform(-0.08, 0.08, num_images, num_strong, 2) for _ in range(2))
    center[images, anchors] = object_center + shift * object_size
    size[images, anchors] = object_size * (1 + stretch)
    labels = torch.randint(num_classes, (num_images, NUM_OBJECTS), generator=generator, device=device)[:, objects]
    scores[images, labels, anchors] = uniform(0.3, 0.95, num_images, num_strong)
    return torch.cat((center - size / 2, center + size / 2), dim=2), scores.transpose(1, 2)


def adversarial_predictions(
    kind: str, num_images: int, num_anchors: int, num_classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Boxes and scores of one of ``KINDS``, as of :func:`realistic_predictions`, on the CPU."""
    shape = (num_images, num_anchors)

    def uniform(low: float, high: float, *trailing: int) -> Tensor:
        return torch.rand(*shape, *trailing, generator=generator) * (high - low) + low

    def some(share: float) -> Tensor:
        return torch.rand(*shape, generator=generator) < share

    center, size = uniform(0, 200, 2), uniform(2, 120, 2)
    scores = uniform(0, 1, num_classes)
    if kind in ("clustered", "duplicates"):
        heart = torch.randint(6, shape, generator=generator)[..., None]
        center = 40.0 * heart + uniform(-4, 4, 2)
        size = 60 + uniform(-6, 6, 2)
    elif kind == "ties":
        scores = (scores * 8).round() / 8
    boxes_xyxy = torch.cat((center - size / 2, center + size / 2), dim=2)
    if kind == "integer":
        boxes_xyxy, scores = (boxes_xyxy / 10).round() * 10, (scores * 16).round() / 16
    elif kind == "degenerate":
        boxes_xyxy[some(0.2)] *= torch.tensor([1.0, 1.0, -1.0, 1.0])
        boxes_xyxy[some(0.2)] = 50.0
    elif kind == "not finite":
        for value in (float("nan"), float("inf"), -float("inf")):
            boxes_xyxy[some(0.03), 2] = value
            scores[some(0.03), 0] = value
    elif kind == "duplicates" and num_anchors:
        sources = torch.randint(max(1, num_anchors // 3), (num_anchors,), generator=generator)
        boxes_xyxy, scores = boxes_xyxy[:, sources], scores[:, sources]
    return boxes_xyxy.contiguous(), scores.contiguous()
