"""What NMS must give, in plain loops that share nothing with the package; and images that are hard on it.

Shape legend: B images, A anchors, C classes, M the largest number of detections.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

KINDS = ("random", "clustered", "tied", "integer", "degenerate", "not finite", "duplicates", "far")

Outputs = tuple[Tensor, Tensor, Tensor]


def oracle(
    boxes_xyxy: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray | None,
    *,
    confidence: float,
    iou: float,
    max_detections: int = 300,
    multi_label: bool = False,
    class_agnostic: bool = False,
    max_candidates: int = 30_000,
) -> list[tuple[int, int]]:
    """Anchors and classes of the detections of an image, best first: one class after the other, merged at the end.

    Scores and IoUs are float32, and are compared with the thresholds as the double precision numbers that these are.
    """
    if labels is not None:
        candidates = [(row[0], anchor, int(labels[anchor])) for anchor, row in enumerate(scores.tolist())]
        ranked = sorted((c for c in candidates if not math.isnan(c[0])), key=lambda c: (-c[0], *c[1:]))
    else:
        candidates = []
        for anchor, row in enumerate(scores.tolist()):
            if multi_label:
                candidates += [(score, anchor, label) for label, score in enumerate(row)]
            elif row and not any(map(math.isnan, row)):
                candidates.append((max(row), anchor, row.index(max(row))))
        ranked = sorted((c for c in candidates if c[0] > confidence), key=lambda c: (-c[0], *c[1:]))[:max_candidates]
    anchors = np.array([anchor for _, anchor, _ in ranked], np.int64)
    groups = [[*range(len(ranked))]]
    if not class_agnostic:
        groups = [[i for i in groups[0] if ranked[i][2] == label] for label in sorted({c[2] for c in ranked})]
    survivors: list[int] = []
    for remaining in groups:
        while remaining:
            best, *others = remaining
            survivors.append(best)
            overlaps = iou_with(boxes_xyxy[anchors[best]], boxes_xyxy[anchors[others]])
            remaining = [i for i, overlap in zip(others, overlaps.tolist(), strict=True) if not overlap > iou]
    return [ranked[i][1:] for i in sorted(survivors)[:max_detections]]


def iou_with(box_xyxy: np.ndarray, boxes_xyxy: np.ndarray) -> np.ndarray:
    """The IoU of one box with others, in float32."""
    with np.errstate(all="ignore"):
        width = np.minimum(box_xyxy[2], boxes_xyxy[:, 2]) - np.maximum(box_xyxy[0], boxes_xyxy[:, 0])
        height = np.minimum(box_xyxy[3], boxes_xyxy[:, 3]) - np.maximum(box_xyxy[1], boxes_xyxy[:, 1])
        overlap = np.maximum(width, np.float32(0)) * np.maximum(height, np.float32(0))
        area = (box_xyxy[2] - box_xyxy[0]) * (box_xyxy[3] - box_xyxy[1])
        areas = (boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])
        ious: np.ndarray = overlap / (area + areas - overlap)
    assert ious.dtype == np.float32
    return ious


def find_mismatches(
    found: Outputs, boxes_xyxy: Tensor, scores: Tensor, labels: Tensor | None = None, **settings: float
) -> list[str]:
    """The images whose detections, counts or anchors are not the oracle's to the last bit, and what differs."""
    detections, counts, keep = (tensor.cpu() for tensor in found)
    max_detections = int(settings.get("max_detections", 300))
    assert (detections.shape, detections.dtype) == ((len(scores), max_detections, 6), torch.float32)
    assert (counts.shape, counts.dtype) == ((len(scores),), torch.int64)
    assert (keep.shape, keep.dtype) == ((len(scores), max_detections), torch.int64)
    boxes_xyxy, scores = boxes_xyxy.float().cpu(), scores.float().cpu()
    mismatches = []
    for image in range(len(scores)):
        classes = None if labels is None else labels[image].cpu().numpy()
        expected = oracle(boxes_xyxy[image].numpy(), scores[image].numpy(), classes, **settings)
        anchors = [anchor for anchor, _ in expected]
        columns = [label for _, label in expected] if labels is None else [0] * len(expected)
        rows = torch.zeros(max_detections, 6)
        rows[: len(anchors), :4] = boxes_xyxy[image, anchors]
        rows[: len(anchors), 4] = scores[image, anchors, columns]
        rows[: len(anchors), 5] = torch.tensor([float(label) for _, label in expected])
        for name, is_equal in (
            ("count", counts[image] == len(expected)),
            ("anchors", keep[image].tolist() == anchors + [-1] * (max_detections - len(anchors))),
            ("detections", torch.equal(detections[image].view(torch.int32), rows.view(torch.int32))),
        ):
            if not is_equal:
                mismatches.append(f"image {image}: {name}")
    return mismatches


def make_images(kinds: Sequence[str], num_anchors: int, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Boxes ``[B, A, 4]`` and scores ``[B, A, C]``, float32, one image of each of ``kinds``."""
    random = np.random.default_rng(seed)
    images = [_make_image(kind, num_anchors, num_classes, random) for kind in kinds]
    boxes, scores = (np.stack(arrays).astype(np.float32) for arrays in zip(*images, strict=True))
    return torch.from_numpy(boxes), torch.from_numpy(scores)


def _make_image(
    kind: str, num_anchors: int, num_classes: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    centers, sizes = random.uniform(0, 100, (num_anchors, 2)), random.uniform(2, 60, (num_anchors, 2))
    scores = random.random((num_anchors, num_classes))
    if kind in ("clustered", "duplicates"):
        objects = random.integers(0, 6, num_anchors)
        centers = random.uniform(0, 100, (6, 2))[objects] + random.normal(0, 3, (num_anchors, 2))
        sizes = random.uniform(20, 40, (6, 2))[objects] + random.normal(0, 3, (num_anchors, 2))
    elif kind == "far":  # where offsetting boxes by class would meet other boxes, or lose what tells boxes apart
        centers = random.integers(0, 4, (num_anchors, 2)) * 7680 + random.uniform(0, 12, (num_anchors, 2))
        sizes = random.uniform(4, 8, (num_anchors, 2))
    boxes = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=1)
    if kind == "tied":
        boxes, scores = np.round(boxes / 8) * 8, np.round(scores * 8) / 8
    elif kind == "integer":  # of few sizes: many IoUs are exactly 0.6
        corners = random.integers(0, 2, (num_anchors, 2))
        boxes = np.concatenate([corners, corners + random.integers(1, 6, (num_anchors, 2))], axis=1)
    elif kind == "degenerate":
        boxes[random.random(num_anchors) < 0.3, 2:] -= 40
        flat = random.random(num_anchors) < 0.2
        boxes[flat, 2] = boxes[flat, 0]
        boxes[random.random(num_anchors) < 0.2] = 50
    elif kind == "not finite":
        strange = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 3e38])
        where = random.random(boxes.shape) < 0.1
        boxes[where] = random.choice(strange, int(where.sum()))
        where = random.random(scores.shape) < 0.1
        scores[where] = random.choice(strange, int(where.sum()))
    elif kind == "duplicates":
        sources = random.integers(0, max(1, num_anchors // 3), num_anchors)
        boxes, scores = boxes[sources], scores[sources]
    return boxes, scores


@pytest.fixture
def mismatches() -> Callable[..., list[str]]:
    return find_mismatches


@pytest.fixture
def images() -> Callable[..., tuple[Tensor, Tensor]]:
    """``images(num_anchors, num_classes, seed, kinds=all of them)``: see :func:`make_images`."""

    def make(num_anchors: int, num_classes: int, seed: int, kinds: Sequence[str] = KINDS) -> tuple[Tensor, Tensor]:
        return make_images(kinds, num_anchors, num_classes, seed)

    return make
