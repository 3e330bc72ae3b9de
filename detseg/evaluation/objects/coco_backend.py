"""Running pycocotools, or a faster program that gives the same numbers, on tables that it cannot choke on."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal, cast

import numpy as np

from detseg.arrays import BoolArray, DoubleArray, IntArray
from detseg.evaluation.objects.boundary import KEY, boundary_of, with_boundaries
from detseg.run_lengths import RunLengths, encode
from detseg.structures import Detections, GroundTruth, Instances

Backend = Literal["hotcoco", "faster-coco-eval", "pycocotools"]
Judged = Literal["bbox", "segm", "boundary"]
"""What of objects is compared, as COCO calls it: boxes, masks, or masks and their boundaries."""


@dataclass(frozen=True, slots=True)
class _Program:
    """Where the classes COCO and COCOeval of a backend are, and how it is installed."""

    coco_module: str
    evaluation_module: str
    evaluation_name: str
    install: str


BACKENDS: dict[str, _Program] = {
    "hotcoco": _Program("hotcoco", "hotcoco", "COCOeval", "pip install 'detseg[fast-eval]'"),
    "faster-coco-eval": _Program(
        "faster_coco_eval.core.coco",
        "faster_coco_eval.core.faster_eval_api",
        "COCOeval_faster",
        "pip install faster-coco-eval",
    ),
    "pycocotools": _Program(
        "pycocotools.coco", "pycocotools.cocoeval", "COCOeval", "pip install 'detseg[train]' or pycocotools"
    ),
}
"""What can evaluate, the fastest first."""

OFFICIAL: Backend = "pycocotools"

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


def choose_backend(named: str | None = None) -> Backend:
    """The backend of this name; without one the first of :data:`BACKENDS` that is installed.

    Raises:
        ValueError: there is none of this name, or it is not installed.
    """
    if named is not None and named not in BACKENDS:
        raise ValueError(f"unknown evaluator {named!r}; allowed are {', '.join(BACKENDS)}")
    for name in BACKENDS if named is None else [named]:
        if importlib.util.find_spec(BACKENDS[name].coco_module.partition(".")[0]) is not None:
            return name  # type: ignore[return-value]
    raise _not_installed(named or OFFICIAL)


def describe_backend(backend: Backend) -> str:
    """Its name with its version."""
    return f"{backend} {metadata.version(backend)}"


def accumulate(
    backend: Backend,
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    category_ids: Sequence[int],
    judged: Judged = "bbox",
) -> Accumulated:
    """Match ``detections`` with ``truths``, one each per image, of unique image ids and known, finite values; by their
    masks, which all have then, where ``judged`` says so. The size of what was found is then that of its mask.
    Boundaries are always compared by pycocotools.

    The official tool has ways to go wrong that are avoided here: it takes an annotation with id 0 for unmatched, lets
    one of two equal ids vanish, and fails on an empty list of results. So images, classes and annotations are counted
    from 1, in the order of their ids, which decides between equal scores.

    Raises:
        ValueError: the backend is not installed.
    """
    backend = OFFICIAL if judged == "boundary" else backend
    program = BACKENDS[backend]
    try:
        coco_class = importlib.import_module(program.coco_module).COCO
        evaluation_class = getattr(importlib.import_module(program.evaluation_module), program.evaluation_name)
        if judged == "boundary":
            evaluation_class = with_boundaries(evaluation_class, importlib.import_module("pycocotools.mask").iou)
    except ModuleNotFoundError as error:
        raise _not_installed(backend) from error
    ranks_of_images = _ranks([truth.image_id for truth in truths])
    class_ranks = _ranks(category_ids)
    images = [
        {"id": int(rank), "file_name": "", "height": truth.height, "width": truth.width}
        for rank, truth in zip(ranks_of_images, truths, strict=True)
    ]
    categories = [{"id": rank, "name": str(rank)} for rank in range(1, len(category_ids) + 1)]
    true_masks = [mask for truth in truths for mask in truth.masks or ()]
    objects = _Objects(
        images=np.repeat(ranks_of_images, [len(truth.labels) for truth in truths]),
        categories=class_ranks[_joined([truth.labels for truth in truths], np.int64)],
        boxes_xywh=_joined([truth.boxes_xywh for truth in truths], np.float64).reshape(-1, 4),
        crowd=_joined([truth.crowd for truth in truths], np.bool_),
        areas=_joined([truth.areas for truth in truths], np.float64),
        masks=None if judged == "bbox" else _texts(true_masks),
        boundaries=_texts(map(boundary_of, true_masks)) if judged == "boundary" else None,
    )
    boxes_xywh = _joined([found.boxes_xyxy for found in detections], np.float64).reshape(-1, 4)
    boxes_xywh[:, 2:] -= boxes_xywh[:, :2]
    areas, masks = boxes_xywh[:, 2] * boxes_xywh[:, 3], None
    if judged != "bbox":
        masks = [mask for found in detections for mask in cast(Instances, found).masks]
        areas = np.array([mask.area for mask in masks], np.float64)
    results = _Objects(
        images=np.repeat(ranks_of_images, [len(found) for found in detections]),
        categories=class_ranks[_joined([found.labels for found in detections], np.int64)],
        boxes_xywh=boxes_xywh,
        crowd=np.zeros(len(boxes_xywh), np.bool_),
        areas=areas,
        masks=None if masks is None else _texts(masks),
        boundaries=_texts(map(boundary_of, masks)) if masks is not None and judged == "boundary" else None,
        scores=_joined([found.scores for found in detections], np.float64),
    )
    make = _from_arrays if backend == "hotcoco" else _from_records
    # the tools report their progress on stdout, which belongs to the caller
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = evaluation_class(
            *make(coco_class, images, categories, objects, results), "bbox" if judged == "bbox" else "segm"
        )
        evaluation.evaluate()
        evaluation.accumulate()
    by_position = class_ranks - 1
    accumulated = evaluation.eval
    return Accumulated(
        iou_thresholds=np.asarray(evaluation.params.iouThrs, np.float64),
        recalls=np.asarray(evaluation.params.recThrs, np.float64),
        precision=np.asarray(accumulated["precision"], np.float64)[:, :, by_position],
        recall=np.asarray(accumulated["recall"], np.float64)[:, by_position],
        confidences=np.asarray(accumulated["scores"], np.float64)[:, :, by_position],
    )


@dataclass(frozen=True, slots=True)
class _Objects:
    """``N`` objects of all images as columns; boxes ``[N, 4]``, detections have ``scores``, ``masks`` COCO's form."""

    images: IntArray
    categories: IntArray
    boxes_xywh: DoubleArray
    crowd: BoolArray
    areas: DoubleArray
    scores: DoubleArray | None = None
    masks: list[dict[str, Any]] | None = None
    boundaries: list[dict[str, Any]] | None = None


def _texts(masks: Iterable[RunLengths]) -> list[dict[str, Any]]:
    return encode(list(masks))


def _not_installed(backend: str) -> ValueError:
    return ValueError(
        f"the evaluator {backend!r} needs a package that is not installed: {BACKENDS[backend].install}; or choose "
        f"another of {', '.join(BACKENDS)}"
    )


def _ranks(ids: Sequence[int]) -> IntArray:
    """The position of each id in their order, from 1."""
    order = sorted(range(len(ids)), key=lambda position: ids[position])
    ranks = np.empty(len(ids), np.int64)
    ranks[order] = np.arange(1, len(ids) + 1)
    return ranks


def _joined(arrays: Iterable[Any], dtype: type[np.generic]) -> Any:
    arrays = list(arrays)
    return np.concatenate(arrays).astype(dtype) if arrays else np.empty(0, dtype)


def _from_arrays(
    coco_class: Any, images: list[Any], categories: list[Any], objects: _Objects, results: _Objects
) -> tuple[Any, Any]:
    """Target and detections without an object of Python for each."""
    truth = coco_class.from_arrays(
        images,
        categories,
        objects.images,
        objects.categories,
        objects.boxes_xywh,
        area=objects.areas,
        iscrowd=objects.crowd.astype(np.int64),
        segmentation=objects.masks,
    )
    assert results.scores is not None
    table = np.column_stack([results.images, results.boxes_xywh, results.scores, results.categories])
    if results.masks is None:
        return truth, truth.load_res(table)
    found = truth.load_res(table, segmentation=results.masks)
    # Its own areas are those of the boxes.
    found.update_anns(ids=np.arange(1, len(results.areas) + 1), area=results.areas)
    return truth, found


def _from_records(
    coco_class: Any, images: list[Any], categories: list[Any], objects: _Objects, results: _Objects
) -> tuple[Any, Any]:
    truth, found = (
        _indexed(coco_class, {"images": images, "categories": categories, "annotations": _records(table)})
        for table in (objects, results)
    )
    return truth, found


def _records(table: _Objects) -> list[dict[str, Any]]:
    columns = {
        "id": range(1, len(table.images) + 1),
        "image_id": table.images.tolist(),
        "category_id": table.categories.tolist(),
        "bbox": table.boxes_xywh.tolist(),
        "iscrowd": table.crowd.astype(np.int64).tolist(),
        "area": table.areas.tolist(),
    }
    if table.scores is not None:
        columns["score"] = table.scores.tolist()
    if table.masks is not None:
        columns["segmentation"] = table.masks
    if table.boundaries is not None:
        columns[KEY] = table.boundaries
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _indexed(coco_class: Any, dataset: dict[str, Any]) -> Any:
    coco = coco_class()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _mean_where_defined(values: DoubleArray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if len(defined) else -1.0
