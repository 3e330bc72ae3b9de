"""Hardest examples: the images with the most errors, found while a model is evaluated."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.arrays import ByteArray, DoubleArray, IntArray
from detseg.evaluation.base import Evaluator
from detseg.evaluation.doubts import Doubt, doubts_of_boxes, doubts_of_mask, rated
from detseg.evaluation.labels.miou import SegmentationEvaluator
from detseg.evaluation.objects.coco_map import CocoEvaluator
from detseg.evaluation.objects.errors import BoxErrors, Outcome, best_confidences, find_box_errors
from detseg.evaluation.objects.explore import BoxCounts, count_boxes, image_record
from detseg.evaluation.per_image import ImageTable, boxes_entry, pixels_entry
from detseg.runtime.drawing.errors import Mark, MarkedBox, draw_marked_boxes
from detseg.structures import Detections, GroundTruth

_LONGEST_SIDE = 1600
_QUALITY = 85
_NUM_NAMED_CLASSES = 3
_MOST_DOUBTS = 5000
"""Regions of masks that are kept until it is known which classes are mostly right."""
MARKS = {
    Outcome.FALSE_POSITIVE: Mark("false positives", (235, 30, 45)),
    Outcome.MISS: Mark("misses", (255, 183, 3)),
    Outcome.WRONG_CLASS: Mark("wrong class", (170, 95, 240)),
    Outcome.BADLY_PLACED: Mark("badly placed", (42, 157, 244)),
    Outcome.RIGHT: Mark("right", (46, 184, 114)),
}
"""The kinds of boxes, those drawn in front first."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that may be among the hardest: the larger ``difficulty``, the harder. ``jpeg`` shows what is wrong."""

    difficulty: float
    index: int
    caption: str
    jpeg: bytes

    @property
    def rank(self) -> tuple[float, int]:
        """Sorts the hardest to the front; of equals the first in the data set."""
        return -self.difficulty, self.index


@dataclass(frozen=True, slots=True)
class BoxTally:
    """Numbers of boxes ``counts`` ``[C, 5]`` by class and :class:`~detseg.evaluation.objects.errors.Outcome`, at these
    ``confidences`` ``[C]``, over a whole data set."""

    class_names: tuple[str, ...]
    confidences: DoubleArray
    counts: IntArray
    is_chosen: bool = False
    """Whether somebody chose the confidences; otherwise they are those of the best F1 here."""

    @property
    def f1(self) -> float:
        """F1 = 2 TP / (2 TP + FP + FN) over the objects of all classes; 0 where there is nothing."""
        right, false_positives, wrong_class, badly_placed, missed = self.counts.sum(axis=0).tolist()
        errors = false_positives + missed + 2 * (wrong_class + badly_placed)
        return 2 * right / (2 * right + errors) if right else 0.0


class HardestExamples(Protocol):
    """Is told of every image, and names the hardest in the end."""

    measure: str
    """How difficulty is measured, in a sentence."""

    def add(self, index: int, result: Any, truth: Any) -> None:
        """What was found in image ``index``, and what is true."""

    def describe(self, result: Any, truth: Any) -> dict[str, Any]:
        """What was found in an image, and what is true, as plain data for a page: of boxes see
        :func:`detseg.evaluation.objects.explore.image_record`; of labels the ``labels`` that are there, the
        ``difficulty`` in thousandths, and a ``caption``."""

    def counts(self) -> BoxCounts | None:
        """Of boxes how many are right and wrong at each confidence, over all images added."""

    def table(self, names: Callable[[int], str]) -> ImageTable:
        """What metrics are made of, of every image added, by its name."""

    def doubts(self, evaluator: Evaluator, files: Callable[[int], str]) -> list[Doubt]:
        """Labels to look at again, of the images added, whose files ``files`` names. ``evaluator`` has seen the whole
        data set."""

    def find(self, evaluator: Evaluator) -> tuple[list[Candidate], BoxTally | None]:
        """The hardest of the images added, those without an error left out, the hardest first; and of boxes how many
        errors of each kind all images added have. ``evaluator`` has seen the whole data set."""


class HardestLabels:
    """Masks and volumes, by the mean of the ``scores`` of their classes in this image alone.

    An image is drawn as soon as it is among the hardest so far, and dropped when it no longer is, so that no more than
    ``num_images`` are ever kept. ``pools_pixels``: the metric counts the pixels of all images together.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        num_images: int,
        draw: Callable[[int, Any, Any], ByteArray],
        score_name: str,
        scores: Callable[[Any, Any, Sequence[str]], dict[str, float]],
        *,
        pools_pixels: bool = False,
    ) -> None:
        self.measure = f"Lowest {score_name} of the image by itself: the mean of the classes that it holds."
        self._class_names = class_names
        self._num_images = num_images
        self._draw = draw
        self._score_name = score_name
        self._scores = scores
        self._pools_pixels = pools_pixels
        self._entries: dict[int, Any] = {}
        self._doubts: list[tuple[int, float, Doubt]] = []
        self._hardest: list[Candidate] = []

    def add(self, index: int, result: Any, truth: Any) -> None:
        """See :class:`HardestExamples`."""
        scores = self._scores(result, truth, self._class_names)
        if self._pools_pixels:
            self._entries[index] = pixels_entry(result.labels, truth, len(self._class_names))
            regions = doubts_of_mask("", result.labels, truth, self._class_names)
            self._doubts += [(index, share, doubt) for share, doubt in regions]
            if len(self._doubts) > 2 * _MOST_DOUBTS:
                self._doubts = heapq.nlargest(_MOST_DOUBTS, self._doubts, key=lambda one: one[1])
        else:
            self._entries[index] = [scores.get(name) for name in self._class_names]
        if not scores:
            return
        difficulty = 1 - sum(scores.values()) / len(scores)
        is_full = len(self._hardest) == self._num_images
        if difficulty <= 0 or (is_full and (-difficulty, index) > self._hardest[-1].rank):
            return
        image = encode_jpeg(self._draw(index, result, truth))
        self._hardest = sorted(
            [*self._hardest, Candidate(difficulty, index, self._caption(scores), image)], key=lambda one: one.rank
        )
        del self._hardest[self._num_images :]

    def describe(self, result: Any, truth: Any) -> dict[str, Any]:
        """See :class:`HardestExamples`."""
        scores = self._scores(result, truth, self._class_names)
        if not scores:
            return {"labels": [], "difficulty": 0, "caption": "nothing is judged"}
        labels = [label for label, name in enumerate(self._class_names) if name in scores]
        difficulty = round(1000 * (1 - sum(scores.values()) / len(scores)))
        return {"labels": labels, "difficulty": difficulty, "caption": self._caption(scores)}

    def counts(self) -> None:
        """See :class:`HardestExamples`."""

    def table(self, names: Callable[[int], str]) -> ImageTable:
        """See :class:`HardestExamples`."""
        images = {names(index): entry for index, entry in self._entries.items()}
        return ImageTable("pixels" if self._pools_pixels else "cases", tuple(self._class_names), images)

    def doubts(self, evaluator: Evaluator, files: Callable[[int], str]) -> list[Doubt]:
        """See :class:`HardestExamples`; of volumes nothing, whose cases are listed."""
        if not self._pools_pixels:
            return []
        counts = cast(SegmentationEvaluator, evaluator).confusion_matrix()[:, :-1]
        found = np.maximum(counts.sum(axis=0), 1)
        precision = dict(zip(self._class_names, (counts.diagonal() / found).tolist(), strict=True))
        every = [(share, replace(doubt, file=files(index))) for index, share, doubt in self._doubts]
        return rated(every, precision)

    def find(self, evaluator: Evaluator) -> tuple[list[Candidate], None]:
        """See :class:`HardestExamples`."""
        return self._hardest, None

    def _caption(self, scores: dict[str, float]) -> str:
        lowest = heapq.nsmallest(_NUM_NAMED_CLASSES, scores.items(), key=lambda item: item[1])
        mean = sum(scores.values()) / len(scores)
        named = ", ".join(f"{name} {score:.2f}" for name, score in lowest)
        return f"{self._score_name} {mean:.3f}; lowest: {named}"


class HardestBoxes:
    """Objects, by the number of errors at the confidence of best F1 of each class, which is known in the end.

    The detections are those that the evaluator holds as well, so that keeping them takes no memory.
    """

    measure = (
        "Most errors, at the confidence where the F1 of each class is best. A false positive and a miss count 1; a box "
        "of the wrong class or in the wrong place counts 2, being a false positive that leaves an object without its "
        "box. So an image ranks by its share of what F1 = 2 TP / (2 TP + FP + FN) over all objects lacks to 1."
    )

    def __init__(self, class_names: Sequence[str], num_images: int, read: Callable[[int], ByteArray]) -> None:
        self._class_names = class_names
        self._num_images = num_images
        self._read = read
        self._images: list[tuple[int, Detections, GroundTruth]] = []

    def add(self, index: int, result: Detections, truth: GroundTruth) -> None:
        """See :class:`HardestExamples`."""
        self._images.append((index, result, truth))

    def describe(self, result: Detections, truth: GroundTruth) -> dict[str, Any]:
        """See :class:`HardestExamples`."""
        return image_record(result, truth, len(self._class_names))

    def counts(self) -> BoxCounts:
        """See :class:`HardestExamples`."""
        return count_boxes(((result, truth) for _, result, truth in self._images), len(self._class_names))

    def table(self, names: Callable[[int], str]) -> ImageTable:
        """See :class:`HardestExamples`."""
        num_classes = len(self._class_names)
        images = {names(index): boxes_entry(result, truth, num_classes) for index, result, truth in self._images}
        return ImageTable("boxes at IoU 0.5", tuple(self._class_names), images)

    def doubts(self, evaluator: Evaluator, files: Callable[[int], str]) -> list[Doubt]:
        """See :class:`HardestExamples`."""
        judged = cast(CocoEvaluator, evaluator)
        images = [(files(index), result, truth) for index, result, truth in self._images]
        return doubts_of_boxes(images, self._class_names, self._confidences(judged), judged.overlaps)

    def find(self, evaluator: Evaluator) -> tuple[list[Candidate], BoxTally]:
        """See :class:`HardestExamples`."""
        judged = cast(CocoEvaluator, evaluator)
        confidences = self._confidences(judged)
        counts = np.zeros((len(self._class_names), len(Outcome)), np.int64)
        ranked = []
        for position, (index, result, truth) in enumerate(self._images):
            errors = self._errors(result, truth, confidences)
            counts += errors.tally(truth, len(self._class_names))
            if errors.num_errors:
                ranked.append((-errors.num_errors, index, position))
        hardest = [
            self._drawn(*self._images[position], confidences)
            for _, _, position in heapq.nsmallest(self._num_images, ranked)
        ]
        return hardest, BoxTally(tuple(self._class_names), confidences, counts, judged.chosen is not None)

    def _confidences(self, judged: CocoEvaluator) -> DoubleArray:
        """Those that were chosen, else those of the best F1, ``[C]``."""
        return best_confidences(judged.f1_curves(), self._class_names) if judged.chosen is None else judged.chosen

    def _drawn(self, index: int, result: Detections, truth: GroundTruth, confidences: DoubleArray) -> Candidate:
        errors = self._errors(result, truth, confidences)
        counts = [(mark, errors.count(outcome)) for outcome, mark in MARKS.items()]
        front = list(MARKS.values())
        boxes = sorted(_marked(errors, truth, self._class_names), key=lambda box: front.index(box.mark))
        image = draw_marked_boxes(self._image(index, errors, truth), boxes, counts)
        caption = ", ".join(f"{mark.name} {count}" for mark, count in counts if count)
        return Candidate(float(errors.num_errors), index, caption, encode_jpeg(image))

    def _errors(self, result: Detections, truth: GroundTruth, confidences: DoubleArray) -> BoxErrors:
        """What is wrong with the result for one image."""
        return find_box_errors(result, truth, confidences)

    def _image(self, index: int, errors: BoxErrors, truth: GroundTruth) -> ByteArray:
        """The image that boxes are drawn on."""
        return self._read(index)


def _marked(errors: BoxErrors, truth: GroundTruth, class_names: Sequence[str]) -> list[MarkedBox]:
    """The boxes found and the objects missed, in no order; an object whose box is badly placed is shown as well."""
    truth_xyxy = truth.boxes_xyxy
    boxes = []
    found = errors.found
    columns = found.boxes_xyxy, found.scores, found.labels, errors.outcomes, errors.objects, errors.overlaps
    for xyxy, score, label, outcome, true, overlap in zip(*columns, strict=True):
        mark = MARKS[Outcome(outcome)]
        text = f"{class_names[label]} {score:.2f}"
        if outcome == Outcome.WRONG_CLASS:
            text += f", is {class_names[truth.labels[true]]}"
        if outcome == Outcome.BADLY_PLACED:
            text += f", IoU {overlap:.2f}"
            boxes.append(MarkedBox(_corners(truth_xyxy[true]), mark, dashed=True))
        boxes.append(MarkedBox(_corners(xyxy), mark, text))
    boxes += [
        MarkedBox(_corners(truth_xyxy[missed]), MARKS[Outcome.MISS], class_names[truth.labels[missed]], dashed=True)
        for missed in np.flatnonzero(errors.missed)
    ]
    return boxes


def _corners(xyxy: NDArray[Any]) -> tuple[float, float, float, float]:
    left, top, right, bottom = xyxy.tolist()
    return left, top, right, bottom


def encode_jpeg(image: ByteArray) -> bytes:
    """``image`` ``[H, W, 3]`` RGB as a JPEG, made smaller where a side is longer than 1600 pixels."""
    scale = _LONGEST_SIDE / max(image.shape[:2])
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    done, encoded = cv2.imencode(".jpg", np.ascontiguousarray(bgr), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done, f"an image of {image.shape} cannot be encoded"
    return encoded.tobytes()
