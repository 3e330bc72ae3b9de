"""Weighted boxes fusion (Solovyev, Wang and Gabruseva, Weighted boxes fusion, arXiv 1910.13302): the objects that a
network finds in several views of an image, made one.

Boxes of one class are taken best first. A box joins the cluster whose fused box it overlaps most, if that IoU is above
``FUSION_IOU``, else it begins one. The fused box is the mean of the cluster's, weighted by their scores (equation 1,
section 3); the score is the sum of theirs divided by the number of views, which is their mean times T / N of equation
(section 3, step 8) for T boxes and N views. Other than there, a view adds no more than one box to a cluster: what the
network has told apart in one view stays apart.

Shape legend: N objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from detseg.arrays import DoubleArray, FloatArray, IntArray
from detseg.run_lengths import RunLengths

FUSION_IOU = 0.55
"""That of the paper."""


class Fused(NamedTuple):
    """One object made of those in ``rows``: its ``box_xyxy`` ``[4]``, ``score`` and ``label``."""

    rows: IntArray
    box_xyxy: FloatArray
    score: float
    label: int


def fuse_views(
    boxes_xyxy: FloatArray,
    scores: FloatArray,
    labels: IntArray,
    counts: Sequence[int],
    *,
    confidence: float,
    max_detections: int,
    class_agnostic: bool = False,
    iou: float = FUSION_IOU,
) -> list[Fused]:
    """The objects ``[N]`` of all views, view after view, ``counts`` of each, fused; at most ``max_detections`` whose
    score is above ``confidence``, best first. A cluster of several classes, where boxes of any class are one object,
    has the class of its best box."""
    views = np.repeat(np.arange(len(counts)), counts)
    classes = np.zeros_like(labels) if class_agnostic else labels
    found: list[Fused] = []
    for label in np.unique(classes):
        rows = np.flatnonzero(classes == label)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        for cluster in _clusters(boxes_xyxy.astype(np.float64), scores.astype(np.float64), views, rows, iou):
            members = np.array(cluster)
            weights = scores[members].astype(np.float64)
            score = float(weights.sum() / len(counts))
            box = _mean(boxes_xyxy[members].astype(np.float64), weights).astype(np.float32)
            found.append(Fused(members, box, score, int(labels[members[0]])))
    found = [one for one in found if one.score > confidence]
    return sorted(found, key=lambda one: -one.score)[:max_detections]


def _clusters(boxes: DoubleArray, scores: DoubleArray, views: IntArray, rows: IntArray, iou: float) -> list[list[int]]:
    """The clusters of ``rows``, which are in order of their scores."""
    clusters: list[list[int]] = []
    fused = np.zeros((len(rows), 4))
    weights = np.zeros(len(rows))
    has_view = np.zeros((len(rows), int(views.max(initial=0)) + 1), np.bool_)
    for row in rows.tolist():
        count, box, score = len(clusters), boxes[row], scores[row]
        overlaps = np.where(has_view[:count, views[row]], 0, _iou(fused[:count], box))
        best = int(overlaps.argmax()) if count else 0
        if count and overlaps[best] > iou:
            clusters[best].append(row)
            total = weights[best] + score
            if total > 0:
                fused[best] += (box - fused[best]) * (score / total)
        else:
            best, total = count, score
            clusters.append([row])
            fused[best] = box
        weights[best] = total
        has_view[best, views[row]] = True
    return clusters


def _mean(boxes: DoubleArray, weights: DoubleArray) -> DoubleArray:
    found: DoubleArray = np.average(boxes, axis=0, weights=weights) if weights.any() else boxes.mean(axis=0)
    return found


def _iou(boxes: DoubleArray, box: DoubleArray) -> DoubleArray:
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    shared = np.maximum(sides, 0).prod(axis=1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod() - shared
    found: DoubleArray = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return found


def majority(masks: Sequence[RunLengths], weights: FloatArray) -> RunLengths:
    """The pixels that masks of more than half of the ``weights`` cover; at least one mask, all of one size."""
    if len(masks) == 1:
        return masks[0]
    first = masks[0]
    intervals = [mask.intervals() for mask in masks]
    lengths = [len(starts) for starts, _ in intervals]
    steps = np.repeat(np.asarray(weights, np.float64), lengths)
    edges = np.concatenate([*(starts for starts, _ in intervals), *(ends for _, ends in intervals)])
    places, position = np.unique(edges, return_inverse=True)
    covered = np.bincount(position, np.concatenate([steps, -steps]), minlength=len(places)).cumsum()
    inside = np.flatnonzero(covered[:-1] > np.sum(weights, dtype=np.float64) / 2 * (1 + 1e-9))
    return RunLengths.from_intervals(first.height, first.width, places[inside], places[inside + 1])
