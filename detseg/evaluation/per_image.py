"""What is to be known of each image so that metrics can be had of any part of a data set, without the images: written
beside the metrics as ``images.json``, and compared between runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import DoubleArray
from detseg.evaluation.objects.explore import judge
from detseg.files import read_text, write_text
from detseg.structures import IGNORE_INDEX, Detections, GroundTruth

FILE_NAME = "images.json"
_VERSION = 1

Form = Literal["boxes at IoU 0.5", "pixels", "cases"]
"""Of each image: ``boxes``: by class the number of objects, and a row of label, score and whether it is right for each
box; ``pixels``: by class how many are right, true and found; ``cases``: by class the score of the case, or None."""


@dataclass(frozen=True)
class ImageTable:
    """One entry for each image, by the name of its file; see :data:`Form`."""

    form: Form
    class_names: tuple[str, ...]
    images: Mapping[str, Any]

    @property
    def measure(self) -> str:
        """The metric that :class:`Resampler` gives."""
        return {"boxes at IoU 0.5": "AP50", "pixels": "mIoU", "cases": "Dice"}[self.form]


def write_table(path: Path, table: ImageTable) -> None:
    """Write ``table`` as JSON, whole or not at all.

    Raises:
        SaveError: the file cannot be written.
    """
    content = {"version": _VERSION, "form": table.form, "classes": table.class_names, "images": table.images}
    write_text(path, json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n")


def read_table(path: Path) -> ImageTable:
    """The table in ``path``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is none that :func:`write_table` wrote.
    """
    try:
        content = json.loads(read_text(path))
        if content["version"] != _VERSION:
            raise ValueError(f"its version is {content['version']!r}, this detseg reads {_VERSION}")
        classes = content["classes"]
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in (*classes, content["form"])):
            raise TypeError("the form and the names of classes must be texts")
        return ImageTable(content["form"], tuple(classes), dict(content["images"]))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: there is no such file; `detseg eval MODEL --data DATA -o FOLDER` writes it"
        ) from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no table of images that detseg eval wrote: {error}") from error


class Resampler:
    """Metrics of chosen images of a ``table``, of those called ``names``, in their order.

    Calling it with how often each of them counts, ``weights`` ``[I]``, gives the metric of each class ``[C]``, NaN
    where nothing can be said.
    """

    def __init__(self, table: ImageTable, names: Sequence[str]) -> None:
        self._table = table
        self._num_classes = len(table.class_names)
        try:
            self._fill(table, [table.images[name] for name in names])
        except (LookupError, TypeError, AttributeError, OverflowError, ValueError) as error:
            raise ValueError(f"a table of images is not as detseg eval wrote it: {error}") from error

    def _fill(self, table: ImageTable, entries: Sequence[Any]) -> None:
        if table.form == "boxes at IoU 0.5":
            self._objects = np.array([one["objects"] for one in entries], np.float64).reshape(-1, self._num_classes)
            rows = [(image, *row) for image, one in enumerate(entries) for row in one["boxes"]]
            boxes = np.array(rows, np.float64).reshape(-1, 4)
            order = np.argsort(-boxes[:, 2], kind="stable")
            self._boxes = [boxes[order][boxes[order][:, 1] == label] for label in range(self._num_classes)]
        else:
            empty = [[None] * 3] * self._num_classes if table.form == "pixels" else [None] * self._num_classes
            filled = [one or empty for one in entries]
            self._values = np.array(filled, np.float64)

    def __call__(self, weights: DoubleArray) -> DoubleArray:
        """See the class."""
        if self._table.form == "boxes at IoU 0.5":
            totals = weights @ self._objects
            return np.array([self._precision(label, weights, totals[label]) for label in range(self._num_classes)])
        if self._table.form == "pixels":
            right, true, found = np.einsum("i,icv->vc", weights, np.nan_to_num(self._values))
            union = true + found - right
            return _shares(right, union)
        counts = np.isfinite(self._values) * weights[:, None]
        sums, totals = (np.nan_to_num(self._values) * weights[:, None]).sum(axis=0), counts.sum(axis=0)
        return _shares(sums, totals)

    def _precision(self, label: int, weights: DoubleArray, num_objects: float) -> float:
        """The average precision at IoU 0.5 over 101 recalls, as COCO has it."""
        if num_objects <= 0:
            return float("nan")
        boxes = self._boxes[label]
        counts = weights[boxes[:, 0].astype(np.int64)]
        right = np.cumsum(counts * boxes[:, 3])
        precision = right / np.maximum(np.cumsum(counts), 1e-12)
        highest = np.maximum.accumulate(precision[::-1])[::-1]
        reached = np.searchsorted(right / num_objects, np.linspace(0, 1, 101) - 1e-9, side="left")
        padded = np.append(highest, 0.0)
        return float(padded[np.minimum(reached, len(highest))].mean())


def boxes_entry(found: Detections, truth: GroundTruth, num_classes: int) -> dict[str, Any]:
    """The entry of one image in a table of boxes."""
    boxes, is_right = judge(found, truth, num_classes)
    objects = np.bincount(truth.labels[~truth.crowd], minlength=num_classes)
    scores = boxes.scores.astype(np.float64).round(5).tolist()
    rows = zip(boxes.labels.tolist(), scores, is_right.astype(int).tolist(), strict=True)
    return {"objects": objects.tolist(), "boxes": [list(row) for row in rows]}


def pixels_entry(found: NDArray[Any], truth: NDArray[Any], num_classes: int) -> list[list[int]]:
    """The entry of one image in a table of pixels; those without truth are left out."""
    judged = truth != IGNORE_INDEX
    right = np.bincount(truth[judged & (found == truth)], minlength=num_classes)[:num_classes]
    true = np.bincount(truth[judged], minlength=num_classes)[:num_classes]
    seen = np.bincount(found[judged], minlength=num_classes)[:num_classes]
    rows: list[list[int]] = np.stack([right, true, seen], axis=1).tolist()
    return rows


def _shares(parts: DoubleArray, wholes: DoubleArray) -> DoubleArray:
    """NaN where the whole is nothing."""
    shares: DoubleArray = np.divide(parts, wholes, out=np.full(len(parts), np.nan), where=wholes > 0)
    return shares
