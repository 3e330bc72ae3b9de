"""How much AP50 each kind of error costs: what would be gained were it mended and no other.

After TIDE (Bolya et al., arXiv 2008.08979): a box in the wrong place or of the wrong class is put right where its
object is free, and only the best of several for one object; all other wrong boxes are taken away; objects that no box
could stand for are left out of the count. The gains of several kinds do not add up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from detseg.arrays import BoolArray, DoubleArray
from detseg.evaluation.objects.scored import Fault, ScoredBoxes

_RECALLS = np.linspace(0, 1, 101)


def error_shares(boxes: ScoredBoxes) -> Mapping[str, float]:
    """The gain of AP50 by the name of the kind: ``class``, ``location``, ``both``, ``duplicate``, ``background``,
    ``missed``; nothing where there are no objects."""
    if not boxes.num_objects.any():
        return {}
    before = average_precision(boxes)
    gains = {fault.name.lower(): average_precision(_without(boxes, fault)) - before for fault in Fault}
    without_missed = replace(boxes, num_objects=boxes.num_objects - boxes.num_missed)
    gains["missed"] = average_precision(without_missed) - before
    return {name: max(0.0, gains[name]) for name in ("class", "location", "both", "duplicate", "background", "missed")}


def average_precision(boxes: ScoredBoxes) -> float:
    """AP at IoU 0.5 as COCO computes it, from boxes of every score; classes that have neither objects nor boxes do not
    count."""
    order = np.argsort(-boxes.scores, kind="stable")
    labels, right = boxes.labels[order], boxes.right[order]
    present = (boxes.num_objects > 0) | (np.bincount(labels, minlength=len(boxes.num_objects)) > 0)
    values = [
        _average_precision(right[labels == label], int(boxes.num_objects[label])) for label in np.flatnonzero(present)
    ]
    return float(np.mean(values)) if values else 0.0


def _average_precision(right: BoolArray, num_objects: int) -> float:
    """AP of one class whose boxes are sorted by score."""
    if not num_objects or not len(right):
        return 0.0
    num_right = np.cumsum(right)
    precision: DoubleArray = num_right / np.arange(1, len(right) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    places = np.searchsorted(num_right / num_objects, _RECALLS, side="left")
    return float(envelope[places].mean())


def _without(boxes: ScoredBoxes, fault: Fault) -> ScoredBoxes:
    """``boxes`` with those of this fault put right, or taken away."""
    concerned = boxes.faults == fault
    mended = concerned & _best_of_targets(boxes)
    kept = ~concerned | mended
    columns = {
        "labels": np.where(mended, boxes.target_labels, boxes.labels),
        "right": boxes.right | mended,
        "scores": boxes.scores,
        "faults": boxes.faults,
        "targets": boxes.targets,
        "target_labels": boxes.target_labels,
    }
    return replace(boxes, **{name: column[kept] for name, column in columns.items()})


def _best_of_targets(boxes: ScoredBoxes) -> BoolArray:
    """Of the boxes that would stand for one object, whatever their fault, that with the highest score."""
    rows = np.flatnonzero(boxes.targets >= 0)
    by_score = rows[np.argsort(-boxes.scores[rows], kind="stable")]
    _, first = np.unique(boxes.targets[by_score], return_index=True)
    is_best = np.zeros(len(boxes.targets), np.bool_)
    is_best[by_score[first]] = True
    return is_best
