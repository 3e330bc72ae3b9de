"""Average precision and recall as COCO defines them (https://cocodataset.org/#detection-eval)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from detseg.arrays import DoubleArray
from detseg.evaluation.base import EvaluatorState
from detseg.evaluation.checks import require_unique
from detseg.evaluation.objects.calibration import calibrate
from detseg.evaluation.objects.coco_backend import Accumulated, Judged, accumulate, choose_backend, describe_backend
from detseg.evaluation.objects.confusion import ConfusionMatrix
from detseg.evaluation.objects.f1 import F1Curve, f1_at, f1_curves, f1_of_all
from detseg.evaluation.objects.matching import MATCH_IOU, overlaps_of
from detseg.evaluation.objects.precision_recall import PrecisionRecallCurve
from detseg.evaluation.objects.scored import ScoredBoxes, score_boxes
from detseg.evaluation.objects.shares import error_shares
from detseg.evaluation.plots import plot_calibration, plot_confusion_matrix, plot_f1_curves, plot_pr_curves
from detseg.runtime.writers.boxes import detections_to_coco, write_results
from detseg.structures import Detections, GroundTruth, Metrics

# name: (kind, IoU threshold or None for the mean over all ten, area range, detections per image and class)
SUMMARY: dict[str, tuple[Literal["precision", "recall"], float | None, str, int]] = {
    "AP": ("precision", None, "all", 100),
    "AP50": ("precision", 0.5, "all", 100),
    "AP75": ("precision", 0.75, "all", 100),
    "AP_small": ("precision", None, "small", 100),
    "AP_medium": ("precision", None, "medium", 100),
    "AP_large": ("precision", None, "large", 100),
    "AR1": ("recall", None, "all", 1),
    "AR10": ("recall", None, "all", 10),
    "AR100": ("recall", None, "all", 100),
    "AR_small": ("recall", None, "small", 100),
    "AR_medium": ("recall", None, "medium", 100),
    "AR_large": ("recall", None, "large", 100),
}

_SUMMARY_OF_CLASS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR100")

_STATE_COLUMNS = {"images": 5, "detections": 6, "truths": 7}


class CocoEvaluator:
    """COCO's twelve numbers over a data set, then ``AP``, ``AP50``, ``AP75``, ``AP_small``, ``AP_medium``, ``AP_large``
    and ``AR100`` of each class, as ``AP/<class>`` and so on.

    A number for which there is no ground truth (no small object, say, or none of this class) is -1, as pycocotools has
    it. A class without any ground truth has no ``AP/<class>`` at all, so that AP is the mean of those present; see
    :meth:`classes_without_truth`.

    ``category_ids``: the data set's id of each class; 1, 2, 3, ... where the format knows none. ``backend``: the
    program that matches and counts, one of :data:`detseg.evaluation.objects.coco_backend.BACKENDS`, which all give the
    same numbers; by default the fastest that is installed.

    Raises:
        ValueError: names or ids that are not unique or differ in number, or a backend that is unknown or not installed.
    """

    judged: ClassVar[Judged] = "bbox"
    """What of the objects is compared."""

    def __init__(
        self, class_names: Sequence[str], category_ids: Sequence[int] | None = None, backend: str | None = None
    ) -> None:
        self.class_names = tuple(class_names)
        num_classes = len(self.class_names)
        self.category_ids = tuple(range(1, num_classes + 1) if category_ids is None else map(int, category_ids))
        if num_classes == 0 or len(self.category_ids) != num_classes:
            raise ValueError(
                f"got {num_classes} class names and {len(self.category_ids)} category ids; evaluation needs at least "
                "one class, and one id for each"
            )
        require_unique("class name", self.class_names)
        require_unique("category id", self.category_ids)
        self.backend = choose_backend(backend)
        self.chosen: DoubleArray | None = None
        self.reset()

    def choose(self, confidences: DoubleArray) -> None:
        """Say from which score on boxes of each class count, ``[C]``, in ``F1_chosen`` and in what is shown of errors;
        average precision counts boxes of any score."""
        self.chosen = confidences

    def reset(self) -> None:
        """Forget all images."""
        self._detections: dict[int, Detections] = {}
        self._truths: dict[int, GroundTruth] = {}
        self._accumulated: Accumulated | None = None
        self._scored: ScoredBoxes | None = None

    def update(self, image_id: int, detections: Detections, truth: GroundTruth) -> None:
        """Add one image; both may be empty.

        Raises:
            ValueError: the image was added before, the ground truth is of another image, a label is no class position,
                or a box or an area is negative or not finite.
        """
        if image_id in self._truths:
            raise ValueError(f"image {image_id} was evaluated twice; image ids must be unique in a data set")
        if truth.image_id != image_id:
            raise ValueError(f"the detections of image {image_id} came with ground truth of image {truth.image_id}")
        _require_judgeable(detections, truth, len(self.class_names))
        self._detections[image_id] = detections
        self._truths[image_id] = truth
        self._accumulated = self._scored = None

    def compute(self) -> Metrics:
        """The metrics over all images; AP 0 where there are no detections.

        Raises:
            ValueError: no image was added, or the backend is not installed.
        """
        accumulated = self._accumulate()
        values = {name: accumulated.mean(*summary) for name, summary in SUMMARY.items()}
        positions = accumulated.positions_with_truth()
        for name in _SUMMARY_OF_CLASS:
            for position in positions:
                values[f"{name}/{self.class_names[position]}"] = accumulated.mean(*SUMMARY[name], position)
        return Metrics(values, primary="AP")

    def classes_without_truth(self) -> tuple[str, ...]:
        """The classes of which no object is annotated (crowd regions are none): nothing is said about them."""
        present = set(self._accumulate().positions_with_truth())
        return tuple(name for position, name in enumerate(self.class_names) if position not in present)

    def error_table(self) -> list[list[str]]:
        """Nothing: reports tell errors of boxes by their kinds."""
        return []

    def facts(self) -> dict[str, str]:
        """``evaluator``: the program that matches and counts, with its version."""
        return {"evaluator": describe_backend(self.backend)}

    def precision_recall_curves(self, iou: float = 0.5) -> list[PrecisionRecallCurve]:
        """The curve of each class that has ground truth, at one of COCO's ten IoU thresholds, 0.50 to 0.95.

        Raises:
            ValueError: another threshold was asked for, or no image was added.
        """
        accumulated = self._accumulate()
        index = accumulated.iou_index(iou)
        return [
            PrecisionRecallCurve(
                class_name=self.class_names[position],
                iou=iou,
                recall=accumulated.recalls,
                precision=accumulated.precision[index, :, position, 0, -1],
                confidences=accumulated.confidences[index, :, position, 0, -1],
            )
            for position in accumulated.positions_with_truth()
        ]

    def f1_curves(self) -> list[F1Curve]:
        """F1 at IoU 0.5 over the confidence, of each class that has ground truth, from boxes of every score.

        Raises:
            ValueError: no image was added.
        """
        return f1_curves(self.scored_boxes(), self.class_names, MATCH_IOU)

    def scored_boxes(self) -> ScoredBoxes:
        """All boxes, each right or wrong at IoU 0.5. Raises ValueError: no image was added."""
        self._require_images()
        if self._scored is None:
            images = ((self._detections[image_id], truth) for image_id, truth in self._truths.items())
            self._scored = score_boxes(images, len(self.class_names), self.overlaps)
        return self._scored

    def diagnose(self) -> dict[str, float]:
        """``F1`` over all objects at the one confidence ``F1_confidence`` where it is best, and both for each class by
        itself; ``ECE``, see :class:`~detseg.evaluation.objects.calibration.Calibration`; and ``dAP50_<kind>``, what
        AP50 lacks for each kind of error, see :mod:`detseg.evaluation.objects.shares`. -1 where nothing can be said.

        Raises:
            ValueError: no image was added.
        """
        boxes = self.scored_boxes()
        values = {"F1": -1.0, "F1_confidence": -1.0, "ECE": calibrate(boxes).error}
        if boxes.num_objects.any():
            values["F1"], confidence = f1_of_all(boxes, MATCH_IOU).best()
            values["F1_confidence"] = confidence if values["F1"] else -1.0
        if self.chosen is not None:
            values["F1_chosen"] = f1_at(boxes, self.chosen) if boxes.num_objects.any() else -1.0
        values |= {f"dAP50_{kind}": gain for kind, gain in error_shares(boxes).items()}
        best = {curve.class_name: curve.best() for curve in self.f1_curves()}
        values |= {f"F1/{name}": f1 for name, (f1, _) in best.items()}
        return values | {f"F1_confidence/{name}": confidence if f1 else -1.0 for name, (f1, confidence) in best.items()}

    @staticmethod
    def overlaps(found: Detections, truth: GroundTruth) -> DoubleArray:
        """How far objects overlap, ``[D, G]``, in all that is not COCO's own; see :data:`Overlaps`."""
        return overlaps_of(found, truth)

    def confusion_matrix(self, confidence: float = 0.25, iou: float = 0.5) -> ConfusionMatrix:
        """The confusion matrix over all images. See :class:`ConfusionMatrix`."""
        matrix = ConfusionMatrix(self.class_names, confidence, iou, self.overlaps)
        for image_id, truth in self._truths.items():
            matrix.update(self._detections[image_id], truth)
        return matrix

    def results(self) -> list[dict[str, Any]]:
        """All detections as COCO result records, for :func:`detseg.runtime.writers.boxes.write_results`."""
        return [
            record
            for image_id, detections in self._detections.items()
            for record in detections_to_coco(image_id, detections, self.category_ids)
        ]

    def write_artifacts(self, folder: Path, names: Mapping[int, str] | None = None) -> None:
        """Write ``detections.json``, ``confusion_matrix.png``, where a class has ground truth ``pr_curve.png`` and
        ``f1_curve.png``, and where a box has the score to be shown ``calibration.png``.

        Raises:
            ValueError: no image was added.
            SaveError: a file cannot be written.
        """
        curves = self.precision_recall_curves()
        write_results(folder / "detections.json", self.results())
        if curves:
            plot_pr_curves(curves, folder / "pr_curve.png")
            plot_f1_curves(self.f1_curves(), folder / "f1_curve.png")
        calibration = calibrate(self.scored_boxes())
        if calibration.num_boxes.any():
            plot_calibration(calibration, folder / "calibration.png")
        plot_confusion_matrix(self.confusion_matrix(), folder / "confusion_matrix.png")

    def state(self) -> EvaluatorState:
        """``images`` ``[I, 5]`` int64 (id, height, width, number of detections, number of ground truth boxes),
        ``detections`` ``[D, 6]`` float64 (xyxy, score, label) and ``truths`` ``[G, 7]`` float64 (xywh, label, crowd,
        area), the latter two in the order of the images."""
        images = [
            (image_id, truth.height, truth.width, len(self._detections[image_id]), len(truth.labels))
            for image_id, truth in self._truths.items()
        ]
        detections = [
            np.column_stack([found.boxes_xyxy, found.scores, found.labels]) for found in self._detections.values()
        ]
        truths = [
            np.column_stack([truth.boxes_xywh, truth.labels, truth.crowd, truth.areas])
            for truth in self._truths.values()
        ]
        return {
            "images": np.array(images, np.int64).reshape(-1, _STATE_COLUMNS["images"]),
            "detections": np.concatenate([np.empty((0, _STATE_COLUMNS["detections"])), *detections]),
            "truths": np.concatenate([np.empty((0, _STATE_COLUMNS["truths"])), *truths]),
        }

    def merge(self, states: Sequence[EvaluatorState]) -> None:
        """Replace all that was added by the union of ``states``, which include this evaluator's own.

        Raises:
            ValueError: an image is in more than one state, or the arrays are not those of :meth:`state`.
        """
        for state in states:
            _require_state(state)
        self.reset()
        for state in states:
            for image_id, detections, truth in self._pairs(state):
                self.update(image_id, detections, truth)

    def _pairs(self, state: EvaluatorState) -> Iterator[tuple[int, Detections, GroundTruth]]:
        """The images of a state."""
        images = state["images"]
        detections_by_image = _split(state["detections"], images[:, 3])
        truths_by_image = _split(state["truths"], images[:, 4])
        for image, found, truth in zip(images.tolist(), detections_by_image, truths_by_image, strict=True):
            image_id, height, width = image[:3]
            detections = Detections(
                boxes_xyxy=found[:, :4].astype(np.float32),
                scores=found[:, 4].astype(np.float32),
                labels=found[:, 5].astype(np.int64),
            )
            ground_truth = GroundTruth(
                image_id=image_id,
                height=height,
                width=width,
                boxes_xywh=truth[:, :4],
                labels=truth[:, 4].astype(np.int64),
                crowd=truth[:, 5].astype(np.bool_),
                areas=truth[:, 6],
            )
            yield image_id, detections, ground_truth

    def _require_images(self) -> None:
        if not self._truths:
            raise ValueError("no image was evaluated: add images with update() before asking for results")

    def _accumulate(self) -> Accumulated:
        self._require_images()
        if self._accumulated is None:
            self._accumulated = accumulate(
                self.backend,
                list(self._truths.values()),
                list(self._detections.values()),
                self.category_ids,
                self.judged,
            )
        return self._accumulated


def _require_judgeable(detections: Detections, truth: GroundTruth, num_classes: int) -> None:
    sizes = detections.boxes_xyxy[:, 2:] - detections.boxes_xyxy[:, :2]
    faults = {
        "a detection whose right or bottom lies before its left or top": (sizes < 0).any(),
        "ground truth with a box that is not finite": not np.isfinite(truth.boxes_xywh).all(),
        "ground truth with a box of negative size": (truth.boxes_xywh[:, 2:] < 0).any(),
        "ground truth with an area that is negative or not finite": not (
            np.isfinite(truth.areas) & (truth.areas >= 0)
        ).all(),
    }
    for kind, labels in (("a detection", detections.labels), ("ground truth", truth.labels)):
        faults[f"{kind} with a label outside 0 to {num_classes - 1}"] = ((labels < 0) | (labels >= num_classes)).any()
    for fault, is_present in faults.items():
        if is_present:
            raise ValueError(f"image {truth.image_id} has {fault}; it cannot be judged")


def _require_state(state: EvaluatorState) -> None:
    for name, columns in _STATE_COLUMNS.items():
        shape = state[name].shape if name in state else None
        if shape is None or len(shape) != 2 or shape[1] != columns:
            raise ValueError(f"an evaluator's state needs {name!r} of shape Nx{columns}, got {shape}")
    for name, column in (("detections", 3), ("truths", 4)):
        announced, held = int(state["images"][:, column].sum()), len(state[name])
        if announced != held:
            raise ValueError(f"an evaluator's state announces {announced} {name} but holds {held}")


def _split(rows: Any, counts: Any) -> list[Any]:
    return np.split(rows, np.cumsum(counts)[:-1]) if len(counts) else []
