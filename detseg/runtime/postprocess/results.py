"""From a network's outputs to results in pixels or voxels of the originals, in numpy and OpenCV: what the tasks do with
tensors.

Shape legend: A anchor points, C classes, M the largest number of detections, H, W and D, H, W sides of inputs.
"""

from __future__ import annotations

import cv2
import numpy as np

from detseg.arrays import BoolArray, FloatArray, IntArray
from detseg.runtime.inputs.volume_geometry import resample, to_file_axes
from detseg.runtime.postprocess.config import PostprocessConfig
from detseg.runtime.postprocess.nms import floor_to_float32, select_detections
from detseg.runtime.postprocess.top_k import select_best
from detseg.structures import Detections, LabelMap, LetterboxTransform
from detseg.volumes import LabelVolume, VolumeTransform


def detect(
    boxes_xyxy: FloatArray,
    scores: FloatArray,
    transform: LetterboxTransform,
    settings: PostprocessConfig,
    kept: BoolArray | None = None,
    *,
    one_to_one: bool = False,
) -> Detections:
    """Decoded boxes ``[A, 4]`` in input pixels and scores ``[A, C]`` -> the objects in the original image, of the
    classes that are ``kept`` ``[C]``: what NMS leaves, or where objects have one prediction each (``one_to_one``) the
    best."""
    if not one_to_one:
        return detect_places(boxes_xyxy, scores, transform, settings, kept)[0]
    found, num_left_out = select_best(
        boxes_xyxy, scores, settings.confidence, settings.max_detections, settings.multi_label, kept
    )
    boxes_in_original = transform.to_original(found.boxes_xyxy)
    return Detections(boxes_in_original, found.scores, found.labels, num_left_out=num_left_out)


def detect_places(
    boxes_xyxy: FloatArray,
    scores: FloatArray,
    transform: LetterboxTransform,
    settings: PostprocessConfig,
    kept: BoolArray | None = None,
) -> tuple[Detections, IntArray]:
    """What NMS leaves, as :func:`detect` gives it, with the row ``[N]`` that each object was in."""
    found = select_detections(
        boxes_xyxy,
        scores,
        settings.confidence,
        settings.iou,
        settings.max_detections,
        settings.multi_label,
        settings.class_agnostic,
        kept=kept,
    )
    num_left_out = _left_out(len(found.scores), settings.max_detections)
    boxes_in_original = transform.to_original(found.boxes_xyxy)
    return Detections(boxes_in_original, found.scores, found.labels, num_left_out=num_left_out), found.anchors


def detections_of_graph(
    boxes_xyxy: FloatArray,
    scores: FloatArray,
    labels: IntArray,
    count: int,
    transform: LetterboxTransform,
    num_classes: int,
) -> Detections:
    """The first ``count`` of the rows that NMS in the graph gave -> the objects in the original image.

    Raises:
        ValueError: the count does not fit the rows, or a label is none of ``num_classes``.
    """
    if not 0 <= count <= len(scores):
        raise ValueError(f"the graph counts {count} boxes and gives {len(scores)}")
    labels = labels[:count]
    if count and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"the graph gives labels from {labels.min()} to {labels.max()} for {num_classes} classes")
    # Copies: what is left over of the arrays is not kept alive by the few rows that are used.
    found = transform.to_original(boxes_xyxy[:count]), scores[:count].copy(), labels.copy()
    return Detections(*found, num_left_out=_left_out(count, len(scores)))


def detections_of_rows(
    rows: FloatArray,
    transform: LetterboxTransform,
    settings: PostprocessConfig,
    num_classes: int,
    kept: BoolArray | None = None,
) -> Detections:
    """The ``rows`` ``[M, 6]`` of a one-to-one head, best first: x1, y1, x2, y2, score, class -> the objects in the
    original image, of the classes that are ``kept`` ``[C]``.

    Raises:
        ValueError: they have another form, or a class is none of ``num_classes``.
    """
    if rows.ndim != 2 or rows.shape[1] != 6:
        raise ValueError(f"the graph gives rows of shape {rows.shape}, expected are boxes, score and class, [M, 6]")
    above = rows[rows[:, 4] > floor_to_float32(settings.confidence)].astype(np.float32, copy=False)
    labels = above[:, 5].astype(np.int64)
    if len(above) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"the graph gives labels from {labels.min()} to {labels.max()} for {num_classes} classes")
    chosen = np.arange(len(above)) if kept is None else np.nonzero(kept[labels])[0]
    limited = chosen[: settings.max_detections]
    num_left_out = None if len(above) == len(rows) else len(chosen) - len(limited)
    boxes_in_original = transform.to_original(above[limited, :4])
    return Detections(boxes_in_original, above[limited, 4].copy(), labels[limited], num_left_out=num_left_out)


def _left_out(count: int, limit: int) -> int | None:
    """What NMS that ends at ``limit`` objects left out."""
    return 0 if count < limit else None


def best_classes(scores: FloatArray, transform: LetterboxTransform) -> LabelMap:
    """Scores ``[C, H, W]`` of an input -> the best class of every pixel of the original image, the first of equals.

    The padding is cut off, the rest resized to the original image (bilinear) before the best is chosen, which keeps
    borders smooth.
    """
    top, left = int(transform.offset_y), int(transform.offset_x)
    height = round(transform.original_height * transform.scale_y)
    width = round(transform.original_width * transform.scale_x)
    size = (transform.original_width, transform.original_height)
    planes = (
        cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) if (width, height) != size else plane
        for plane in scores[:, top : top + height, left : left + width]
    )
    best = np.array(next(planes), np.float32)
    labels = np.zeros(best.shape, np.uint8)
    for label, plane in enumerate(planes, start=1):
        # Several times as fast as numpy's argmax. A later label is the larger one, so that it wins where it is set.
        is_better = np.asarray(cv2.compare(plane, best, cv2.CMP_GT), np.uint8)
        cv2.max(labels, is_better & np.uint8(label), dst=labels)
        cv2.max(best, plane, dst=best)
    return LabelMap(labels)


def best_voxel_classes(
    scores: FloatArray, transform: VolumeTransform, *, nested: bool = False, keeps_probabilities: bool = False
) -> LabelVolume:
    """Scores ``[C, D, H, W]`` of an input -> the best class of every voxel on the grid of the file, the first of
    equals; they are resampled (trilinear) before the best is chosen, and kept there where that is wanted. Where classes
    are ``nested`` regions, the last one that is more probable than not."""
    shape = transform.oriented_shape
    best = resample(scores[0], shape, smooth=False).copy()
    labels = np.zeros(shape, np.uint8)
    kept = np.empty((len(scores), *transform.original_shape), np.float32) if keeps_probabilities else None
    if kept is not None:
        kept[0] = to_file_axes(best, transform)
    for label in range(1, len(scores)):
        values = resample(scores[label], shape, smooth=False)
        labels[values > (0.5 if nested else best)] = label
        np.maximum(best, values, out=best)
        if kept is not None:
            kept[label] = to_file_axes(values, transform)
    return LabelVolume(np.ascontiguousarray(to_file_axes(labels, transform)), transform.affine, kept)
