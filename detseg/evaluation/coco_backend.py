"""Running pycocotools, or its faster twin, on records that it cannot choke on."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from detseg.arrays import DoubleArray
from detseg.structures import GroundTruth

Backend = Literal["pycocotools", "faster-coco-eval"]
# module of the class COCO, module and name of the evaluation class
BACKENDS: dict[str, tuple[str, str, str]] = {
    "pycocotools": ("pycocotools.coco", "pycocotools.cocoeval", "COCOeval"),
    "faster-coco-eval": ("faster_coco_eval.core.coco", "faster_coco_eval.core.faster_eval_api", "COCOeval_faster"),
}

AREAS = ("all", "small", "medium", "large")
MAX_DETECTIONS = (1, 10, 100)


@dataclass(frozen=True, slots=True)
class Accumulated:
    """What COCO's evaluation accumulates, -1 where there is no ground truth.

    T IoU thresholds, R recalls, K classes by position, A areas as in :data:`AREAS`, M highest numbers of detections per
    image and class as in :data:`MAX_DETECTIONS`.
    """

    iou_thresholds: DoubleArray  # [T]
    recalls: DoubleArray  # [R]
    precision: DoubleArray  # [T, R, K, A, M]
    recall: DoubleArray  # [T, K, A, M]
    confidences: DoubleArray  # [T, R, K, A, M]

    def iou_index(self, iou: float) -> int:
        """The position of an IoU threshold.

        Raises:
            ValueError: COCO does not evaluate at this threshold.
        """
        matches = np.flatnonzero(np.isclose(self.iou_thresholds, iou))
        if not len(matches):
            allowed = ", ".join(f"{value:.2f}" for value in self.iou_thresholds)
            raise ValueError(f"no results at IoU {iou}; COCO evaluates at {allowed}")
        return int(matches[0])

    def mean(
        self,
        kind: Literal["precision", "recall"],
        iou: float | None,
        area: str,
        num_detections: int,
        position: int | None = None,
    ) -> float:
        """The mean over the recalls for ``precision``, over the IoU thresholds where ``iou`` is None, and over the
        classes, unless the ``position`` of one is given; -1 where there is no ground truth."""
        values = self.precision if kind == "precision" else self.recall
        if iou is not None:
            values = values[self.iou_index(iou)]
        of_classes = values[..., AREAS.index(area), MAX_DETECTIONS.index(num_detections)]
        return _mean_where_defined(of_classes if position is None else of_classes[..., position])

    def positions_with_truth(self) -> list[int]:
        """The classes of which there is an object that is no crowd region."""
        return [int(position) for position in np.flatnonzero(self.recall[0, :, 0, -1] > -1)]


def accumulate(
    backend: Backend, truths: Iterable[GroundTruth], results: Iterable[dict[str, Any]], category_ids: Sequence[int]
) -> Accumulated:
    """Match ``results`` (COCO result records) with ``truths`` of unique images and known, finite values.

    The official tool has ways to go wrong that are avoided here: it takes an annotation with id 0 for unmatched, lets
    one of two equal ids vanish, and fails on an empty list of results.

    Raises:
        ValueError: the backend is not installed.
    """
    coco_class, evaluation_class = _load(backend)
    truths = list(truths)
    images = [{"id": int(truth.image_id), "height": truth.height, "width": truth.width} for truth in truths]
    annotations = [record for truth in truths for record in _truth_records(truth, category_ids)]
    detections = [{**record, "iscrowd": 0, "area": record["bbox"][2] * record["bbox"][3]} for record in results]
    for records in (annotations, detections):
        for number, record in enumerate(records, start=1):
            record["id"] = number
    # the tools report their progress on stdout, which belongs to the caller
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = evaluation_class(
            _indexed(coco_class, images, category_ids, annotations),
            _indexed(coco_class, images, category_ids, detections),
            iouType="bbox",
        )
        evaluation.evaluate()
        evaluation.accumulate()
    # the tools order classes by category id
    by_position = np.argsort(np.argsort(category_ids))
    return Accumulated(
        iou_thresholds=np.asarray(evaluation.params.iouThrs, np.float64),
        recalls=np.asarray(evaluation.params.recThrs, np.float64),
        precision=np.asarray(evaluation.eval["precision"], np.float64)[:, :, by_position],
        recall=np.asarray(evaluation.eval["recall"], np.float64)[:, by_position],
        confidences=np.asarray(evaluation.eval["scores"], np.float64)[:, :, by_position],
    )


def _load(backend: Backend) -> tuple[Any, Any]:
    coco_module, evaluation_module, evaluation_name = BACKENDS[backend]
    try:
        coco_class = importlib.import_module(coco_module).COCO
        return coco_class, getattr(importlib.import_module(evaluation_module), evaluation_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"evaluation with {backend!r} needs a package that is not installed: {error}; install {backend}, or choose "
            f"another of {', '.join(BACKENDS)}"
        ) from error


def _truth_records(truth: GroundTruth, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    rows = zip(
        truth.boxes_xywh.tolist(), truth.labels.tolist(), truth.crowd.tolist(), truth.areas.tolist(), strict=True
    )
    return [
        {
            "image_id": int(truth.image_id),
            "category_id": category_ids[label],
            "bbox": box_xywh,
            "iscrowd": int(crowd),
            "area": area,
        }
        for box_xywh, label, crowd, area in rows
    ]


def _indexed(
    coco_class: Any, images: list[dict[str, Any]], category_ids: Sequence[int], records: list[dict[str, Any]]
) -> Any:
    coco = coco_class()
    coco.dataset = {
        "images": images,
        "categories": [{"id": category_id} for category_id in category_ids],
        "annotations": records,
    }
    coco.createIndex()
    return coco


def _mean_where_defined(values: DoubleArray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if len(defined) else -1.0
