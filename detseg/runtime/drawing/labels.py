"""Drawing masks on images: tinted regions with crisp borders and the names of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from detseg.arrays import ByteArray
from detseg.runtime.drawing.palette import Palette, palette_of
from detseg.structures import IGNORE_INDEX

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SEARCH_SIDE = 160
"""Room for names is looked for at about this many pixels per side: a name may be off by a few pixels."""


def draw_labels(
    image: ByteArray,
    labels: ByteArray,
    class_names: Sequence[str],
    opacity: float = 0.5,
    names: bool = True,
    palette: Palette | None = None,
) -> ByteArray:
    """A copy of ``image`` ``[H, W, 3]``, tinted by the class positions in ``labels`` ``[H, W]``; clear where
    ``IGNORE_INDEX`` and where class 0 is the background. ``palette`` takes the place of the usual colors of these
    classes.

    Borders between classes are drawn in full color. With ``names`` every class is named once, where it has most room,
    if there is enough of it.

    Raises:
        ValueError: the sizes differ, a label has no name, or ``opacity`` is not in [0, 1].
    """
    if labels.shape != image.shape[:2]:
        raise ValueError(f"labels and image must have one size, got {labels.shape} and {image.shape[:2]}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be from 0 to 1, got {opacity}")
    present = classes_in(labels)
    if len(present) and present[-1] >= len(class_names):
        raise ValueError(f"label {present[-1]} in the mask, but there are {len(class_names)} class names")
    palette = palette or palette_of(class_names)
    tint = cv2.LUT(cv2.merge([labels] * 3), _color_table(palette))
    canvas = cv2.addWeighted(image, 1 - opacity, tint, opacity, 0)
    cv2.copyTo(tint, _borders(labels), canvas)
    clear = labels == IGNORE_INDEX
    if palette.has_background:
        clear |= labels == 0
        present = [label for label in present if label != 0]
    cv2.copyTo(image, clear.astype(np.uint8), canvas)
    drawn = canvas.astype(np.uint8, copy=False)
    if names:
        _draw_names(drawn, labels, [(label, class_names[label]) for label in present])
    return drawn


def classes_in(*masks: ByteArray) -> list[int]:
    """The class positions that occur in ``masks``, in order, without ``IGNORE_INDEX``."""
    # Counting makes integers of 64 bits of what it is given: of volumes, one slice at a time.
    parts = (part for mask in masks for part in (mask if mask.ndim == 3 else [mask]))
    counts = sum(np.bincount(part.ravel(), minlength=IGNORE_INDEX + 1) for part in parts)
    return [int(label) for label in np.flatnonzero(counts) if label != IGNORE_INDEX]


@lru_cache(maxsize=64)
def _color_table(palette: Palette) -> ByteArray:
    table = palette.table()[None]
    table.flags.writeable = False  # all images share it
    return table


def _borders(labels: ByteArray) -> ByteArray:
    """1 where a pixel differs from its neighbor to the right or below, ``[H, W]``."""
    borders = np.zeros(labels.shape, np.uint8)
    borders[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    borders[:-1] |= labels[:-1] != labels[1:]
    return borders


def _draw_names(canvas: ByteArray, labels: ByteArray, names: Sequence[tuple[int, str]]) -> None:
    """Write each name on a dark plate in the middle of the widest part of its region, the roomiest first.

    A name is left out where its region is too narrow, or where the plate would cover another one.
    """
    height, width = labels.shape
    step = max(1, max(height, width) // _SEARCH_SIDE)
    coarse = labels[::step, ::step]
    places = []
    for label, name in names:
        # A frame of zeros: names keep away from the border of the image as well.
        region = np.pad((coarse == label).astype(np.uint8), 1)
        _, room, _, (x, y) = cv2.minMaxLoc(cv2.distanceTransform(region, cv2.DIST_L2, 3))
        places.append((room * step, (x - 1) * step, (y - 1) * step, name))
    scale = max(0.4, max(height, width) / 1400)
    thickness = max(1, round(scale * 1.4))
    taken = np.zeros((height, width), np.bool_)
    for room, x, y, name in sorted(places, reverse=True):
        (text_width, text_height), baseline = cv2.getTextSize(name, _FONT, scale, thickness)
        plate_width, plate_height = text_width + 8, text_height + baseline + 2
        if room < text_height / 2 or plate_width > width or plate_height > height:
            continue
        left = int(np.clip(x - plate_width // 2, 0, width - plate_width))
        top = int(np.clip(y - plate_height // 2, 0, height - plate_height))
        place = np.s_[top : top + plate_height, left : left + plate_width]
        if not taken[place].any():
            taken[place] = True
            canvas[place] = canvas[place] // 3
            origin = (left + 4, top + 1 + text_height)
            cv2.putText(canvas, name, origin, _FONT, scale, (255, 255, 255), thickness, cv2.LINE_AA)
