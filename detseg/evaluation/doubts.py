"""Labels to look at again: where a model is sure and the annotation says otherwise. One of both is wrong; among the
first of a list like this it is often the annotation (Northcutt et al., "Confident Learning", arXiv 1911.00068)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from detseg.arrays import ByteArray, DoubleArray
from detseg.evaluation.objects.errors import NEAR_IOU, Outcome, find_box_errors
from detseg.evaluation.objects.matching import Overlaps, overlaps_of
from detseg.files import read_text, write_text
from detseg.structures import IGNORE_INDEX, Detections, GroundTruth

FILE_NAME = "label_doubts.json"
_VERSION = 1
_MOST = 500
_SURE = 0.5
"""The lowest score at which a box says something about the annotation."""
_FOUND = 0.05
"""An object that no box of at least this score touches was not found at all."""
_LEAST_SHARE = 0.002
"""Of the pixels of an image: smaller regions are mostly the edges of what is there."""

DoubtKind = Literal["no label", "other class", "other place", "nothing found"]
"""What a model says: an object without a label; another class; the same elsewhere; nothing where a label is."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """One label to look at: in ``file``, at ``box_xyxy`` in pixels. ``annotated`` and ``found`` name classes, where
    there are any; ``sureness`` in [0, 1] is the score of the box or, where nothing was found, the share of the objects
    of this class that are found; of regions of masks the share of the class's pixels that are right."""

    file: str
    kind: DoubtKind
    sureness: float
    annotated: str | None
    found: str | None
    box_xyxy: tuple[float, float, float, float]

    def words(self) -> str:
        """What to look at, for people."""
        left, top, right, bottom = (round(value) for value in self.box_xyxy)
        said = {
            "no label": f"no label where {self.found} was found",
            "other class": f"labeled {self.annotated}, found {self.found}",
            "other place": f"{self.annotated} was found at another place than it is labeled",
            "nothing found": f"labeled {self.annotated}, nothing was found",
        }[self.kind]
        return f"{said} at ({left}, {top}, {right}, {bottom}), sure to {self.sureness:.2f}"


def doubts_of_boxes(
    images: Sequence[tuple[str, Detections, GroundTruth]],
    class_names: Sequence[str],
    confidences: DoubleArray,
    measure: Overlaps = overlaps_of,
) -> list[Doubt]:
    """Those of all ``images``, each with the name of its file, the surest first. ``confidences`` ``[C]``: from which
    score on boxes of a class count; sure ones need 0.5 at least."""
    sure = np.maximum(confidences, _SURE)
    doubts, missed = [], []
    totals, num_missed = np.zeros(len(class_names)), np.zeros(len(class_names))
    for file, found, truth in images:
        errors = find_box_errors(found, truth, sure, measure=measure)
        overlaps = measure(errors.found, truth)
        corners = truth.boxes_xyxy
        touched: Any = np.zeros(len(truth.labels), np.bool_)
        any_found = found.select(found.scores >= _FOUND)
        if len(any_found) and len(truth.labels):
            touched = (measure(any_found, truth) >= NEAR_IOU).any(axis=0)
        for row, outcome in enumerate(errors.outcomes.tolist()):
            score, name = round(float(errors.found.scores[row]), 4), class_names[errors.found.labels[row]]
            target = int(errors.objects[row])
            box = _corners(errors.found.boxes_xyxy[row])
            if outcome == Outcome.WRONG_CLASS:
                annotated = class_names[truth.labels[target]]
                doubts.append(Doubt(file, "other class", score, annotated, name, _corners(corners[target])))
            elif outcome == Outcome.BADLY_PLACED:
                doubts.append(Doubt(file, "other place", score, name, name, box))
            elif outcome == Outcome.FALSE_POSITIVE and not (overlaps[row] >= NEAR_IOU).any():
                doubts.append(Doubt(file, "no label", score, None, name, box))
        for at in np.flatnonzero(~truth.crowd).tolist():
            label = int(truth.labels[at])
            totals[label] += 1
            if not touched[at]:
                num_missed[label] += 1
                missed.append((file, label, _corners(corners[at])))
    recall = 1 - num_missed / np.maximum(totals, 1)
    doubts += [
        Doubt(file, "nothing found", round(float(recall[label]), 4), class_names[label], None, box)
        for file, label, box in missed
        if recall[label] >= _SURE  # who finds few objects of a class says nothing by missing one
    ]
    return surest(doubts)


def doubts_of_mask(
    file: str, result: ByteArray, truth: ByteArray, class_names: Sequence[str]
) -> list[tuple[float, Doubt]]:
    """Regions of one mask that are of one class in ``truth`` and of another in ``result``, both ``[H, W]``, each with
    its share of the image; how sure they are is for :func:`rated` to say."""
    judged = (truth != IGNORE_INDEX) & (result != IGNORE_INDEX) & (result != truth)
    if judged.mean() < _LEAST_SHARE:
        return []
    pairs = np.where(judged, truth.astype(np.int32) * 256 + result + 1, 0)
    doubts = []
    for pair in np.unique(pairs[pairs > 0]).tolist():
        annotated, found = divmod(pair - 1, 256)
        # Thin seams along borders are no regions.
        region = cv2.morphologyEx((pairs == pair).astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
        _, _, stats, _ = cv2.connectedComponentsWithStats(region, connectivity=4)
        for left, top, width, height, area in stats[1:].tolist():
            share = area / region.size
            if share >= _LEAST_SHARE:
                box = (float(left), float(top), float(left + width), float(top + height))
                doubts.append((share, Doubt(file, "other class", 0.0, class_names[annotated], class_names[found], box)))
    return doubts


def rated(doubts: Sequence[tuple[float, Doubt]], precision: Mapping[str, float]) -> list[Doubt]:
    """Regions of masks, the largest of what is mostly right first: ``precision`` says by class which share of the
    pixels that it was found at are right."""
    found = [(share, precision.get(doubt.found or "", 0.0), doubt) for share, doubt in doubts]
    found.sort(key=lambda one: (-one[0] * one[1], one[2].file, one[2].box_xyxy))
    return [Doubt(**{**asdict(doubt), "sureness": round(sure, 4)}) for _, sure, doubt in found[:_MOST]]


def surest(doubts: Sequence[Doubt]) -> list[Doubt]:
    """The surest first, no more than a reader can look at."""
    return sorted(doubts, key=lambda one: (-one.sureness, one.file, one.box_xyxy))[:_MOST]


def write_doubts(path: Path, doubts: Sequence[Doubt]) -> None:
    """Write them as JSON, whole or not at all.

    Raises:
        SaveError: the file cannot be written.
    """
    content = {"version": _VERSION, "label_doubts": [asdict(one) for one in doubts]}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_doubts(path: Path) -> list[Doubt]:
    """What :func:`write_doubts` wrote to ``path``, or the file of this name in a folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of these.
    """
    if path.is_dir():
        path = path / FILE_NAME
    try:
        content: Any = json.loads(read_text(path))
        entries = [Doubt(**{**one, "box_xyxy": tuple(map(float, one["box_xyxy"]))}) for one in content["label_doubts"]]
        for one in entries:
            one.words()
        return entries
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: there is no such file; `detseg eval MODEL --data DATA -o FOLDER` writes {FILE_NAME}"
        ) from None
    except (KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path}: is no list of labels in doubt that detseg eval wrote: {error}") from error


def _corners(xyxy: Any) -> tuple[float, float, float, float]:
    left, top, right, bottom = (round(float(value), 2) for value in xyxy)
    return left, top, right, bottom
