"""All boxes of a data set in one table, each right or wrong: the ground for curves of F1, calibration, error shares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from detseg.arrays import BoolArray, DoubleArray, IntArray
from detseg.evaluation.objects.matching import MATCH_IOU, Overlaps, match_boxes, overlaps_of
from detseg.structures import Detections, GroundTruth

BACKGROUND_IOU = 0.1
"""A box that overlaps an object by less has nothing to do with it (arXiv 2008.08979)."""


class Fault(IntEnum):
    """Why a box is wrong, in the order in which that is asked (arXiv 2008.08979, section 2.2)."""

    LOCATION = 0
    CLASS = 1
    DUPLICATE = 2
    BACKGROUND = 3
    BOTH = 4


@dataclass(frozen=True, slots=True)
class ScoredBoxes:
    """The N boxes that count, of whatever score, and how many objects there are of each of C classes.

    ``scores``, ``labels`` and ``right`` ``[N]``. Of wrong boxes ``faults`` ``[N]`` int64 hold the :class:`Fault`, -1 of
    right ones; ``targets`` ``[N]`` int64 number the object, unique in the data set, that the box would have stood for
    with another class or place, and ``target_labels`` ``[N]`` its class: -1 where there is none or a right box has it.
    ``num_objects`` ``[C]``; ``num_missed`` ``[C]`` of these neither a right box nor one with a target stands for.
    """

    scores: DoubleArray
    labels: IntArray
    right: BoolArray
    faults: IntArray
    targets: IntArray
    target_labels: IntArray
    num_objects: IntArray
    num_missed: IntArray


def score_boxes(
    images: Iterable[tuple[Detections, GroundTruth]], num_classes: int, measure: Overlaps = overlaps_of
) -> ScoredBoxes:
    """Match the boxes of all ``images`` at IoU 0.5 and say of each what it is; those in crowds are left out."""
    integer = np.empty(0, np.int64)
    columns: dict[str, list[Any]] = {
        "scores": [np.empty(0)],
        "labels": [integer],
        "right": [np.empty(0, np.bool_)],
        "faults": [integer],
        "targets": [integer],
        "target_labels": [integer],
    }
    num_objects, num_missed = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    first = 0
    for detections, truth in images:
        found = detections.select(np.argsort(-detections.scores, kind="stable"))
        match = match_boxes(found, truth, measure=measure)
        used = np.zeros(len(truth.labels), np.bool_)
        used[match.objects[match.objects >= 0]] = True
        faults, targets = _find_faults(found, truth, match.objects, match.overlaps, used)
        counts = ~match.in_crowd
        reached = used.copy()
        reached[targets[counts & (targets >= 0)]] = True
        labels = np.append(truth.labels, -1)
        values = {
            "scores": found.scores.astype(np.float64),
            "labels": found.labels,
            "right": match.objects >= 0,
            "faults": faults,
            "targets": np.where(targets >= 0, first + targets, -1),
            "target_labels": labels[targets],
        }
        for name, value in values.items():
            columns[name].append(value[counts])
        num_objects += np.bincount(truth.labels[~truth.crowd], minlength=num_classes)
        num_missed += np.bincount(truth.labels[~truth.crowd & ~reached], minlength=num_classes)
        first += len(truth.labels)
    joined: dict[str, Any] = {name: np.concatenate(parts) for name, parts in columns.items()}
    return ScoredBoxes(**joined, num_objects=num_objects, num_missed=num_missed)


def _find_faults(
    found: Detections, truth: GroundTruth, objects: IntArray, overlaps: DoubleArray, used: BoolArray
) -> tuple[IntArray, IntArray]:
    """The faults and the targets ``[D]`` of the boxes of one image, -1 where there is none."""
    faults = np.full(len(found), -1, np.int64)
    targets = np.full(len(found), -1, np.int64)
    rows = np.flatnonzero(objects < 0)
    faults[rows] = Fault.BACKGROUND
    columns = np.flatnonzero(~truth.crowd)
    if not len(columns) or not len(rows):
        return faults, targets
    overlap = overlaps[np.ix_(rows, columns)]
    same_class = found.labels[rows, None] == truth.labels[columns]
    own, other = np.where(same_class, overlap, 0.0), np.where(same_class, 0.0, overlap)
    taken = np.where(used[columns], own, 0.0)
    is_near = (own.max(axis=1) >= BACKGROUND_IOU) & (own.max(axis=1) <= MATCH_IOU)
    is_other = ~is_near & (other.max(axis=1) >= MATCH_IOU)
    is_duplicate = ~is_near & ~is_other & (taken.max(axis=1) >= MATCH_IOU)
    is_both = ~is_near & ~is_other & ~is_duplicate & (overlap.max(axis=1) > BACKGROUND_IOU)
    for fault, chosen in (
        (Fault.LOCATION, is_near),
        (Fault.CLASS, is_other),
        (Fault.DUPLICATE, is_duplicate),
        (Fault.BOTH, is_both),
    ):
        faults[rows[chosen]] = fault
    best = np.where(is_near, own.argmax(axis=1), other.argmax(axis=1))
    has_target = (is_near | is_other) & ~used[columns][best]
    targets[rows[has_target]] = columns[best[has_target]]
    return faults, targets
