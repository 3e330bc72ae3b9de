"""Masks of objects through augmentation: each drawn where its image is, and boxes that keep to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detseg.arrays import BoolArray, ByteArray, DoubleArray, FloatArray
from detseg.augment.geometry import paste, translation
from detseg.run_lengths import MaskStack
from detseg.structures import Sample

_SLACK = 1.0
"""Pixels between a side of a box and that of the pixels it is around, as they come from rounding."""


def have_object_masks(samples: Sequence[Sample]) -> bool:
    """Whether the samples, which make one image, have masks of their objects.

    Raises:
        ValueError: only some of them have.
    """
    without = [sample.path for sample in samples if sample.object_masks is None]
    if without and len(without) < len(samples):
        raise ValueError(
            f"{without[0]} has no masks of its objects, but an image it is combined with has; give all or none"
        )
    return not without


def draw_objects(target: BoolArray, masks: BoolArray | MaskStack, matrix: DoubleArray) -> None:
    """Draw ``masks`` ``[N, H, W]`` through ``matrix`` into ``target`` ``[N, H', W']``, in place; a pixel is what the
    nearest one is. Of runs only the part of each that is covered is ever made."""
    crops = (one.to_crop() for one in masks.runs) if isinstance(masks, MaskStack) else map(_crop, masks)
    for drawn, (part, left, top) in zip(target, crops, strict=True):
        if part.size:
            paste(_as_bytes(drawn), _as_bytes(part), matrix @ translation(left, top), interpolate=False)


def choose(masks: BoolArray | MaskStack, keep: BoolArray) -> BoolArray | MaskStack:
    """The masks that ``keep`` ``[N]`` chooses."""
    if isinstance(masks, MaskStack):
        return masks.select(keep)
    return masks if keep.all() else masks[keep]


def _crop(mask: BoolArray) -> tuple[BoolArray, int, int]:
    """The part of ``mask`` ``[H, W]`` that is covered, with its first column and row."""
    left, top, right, bottom = bounds_of(mask) or (0, 0, 0, 0)
    return mask[top:bottom, left:right], left, top


def bounds_of(mask: BoolArray) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of the pixels in ``mask`` ``[H, W]``; None if there are none."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def fit_boxes(boxes_xyxy: FloatArray, masks: BoolArray) -> tuple[FloatArray, BoolArray]:
    """``boxes_xyxy`` ``[N, 4]`` around what is left of their ``masks`` ``[N, H, W]``, and of which anything is ``[N]``.

    A side more than a pixel away from the pixels of its object goes there: the object was cut, covered or turned, and
    a turned box is larger than the turned object. Other sides stay, as they are finer than pixels.
    """
    fitted, seen = boxes_xyxy.copy(), np.zeros(len(boxes_xyxy), np.bool_)
    for row, mask in enumerate(masks):
        bounds = bounds_of(mask)
        if bounds is not None:
            seen[row] = True
            around = np.array(bounds, np.float32)
            fitted[row] = np.where(np.abs(fitted[row] - around) > _SLACK, around, fitted[row])
    return fitted, seen


def _as_bytes(mask: BoolArray) -> ByteArray:
    """The same memory, as OpenCV takes it."""
    return mask.view(np.uint8)
