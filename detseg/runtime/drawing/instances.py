"""Objects with masks on images: each tinted inside its outline, with its box and name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from detseg.arrays import BoolArray, ByteArray
from detseg.run_lengths import RunLengths
from detseg.runtime.drawing.boxes import colors_for, draw_boxes, line_width_for
from detseg.runtime.drawing.known_colors import Color
from detseg.runtime.drawing.palette import Palette
from detseg.structures import Instances

_OPACITY = 0.45

Part = tuple[BoolArray, int, int]
"""A mask, and the column and row of its first pixel in the image."""


def draw_instances(
    image: ByteArray,
    found: Instances,
    class_names: Sequence[str],
    line_width: int | None = None,
    palette: Palette | None = None,
) -> ByteArray:
    """A copy of ``image`` ``[H, W, 3]`` with the masks of what was found, and boxes as in
    :func:`detseg.runtime.drawing.boxes.draw_boxes`; the better a score, the further in front.

    Raises:
        ValueError: a label has no name, or the masks are not as large as the image.
    """
    require_size(image, found.masks)
    order = np.argsort(found.scores, kind="stable")
    colors = colors_for(found.labels, class_names, found.track_ids, palette)
    tinted = tint(image, (found.masks[row].to_crop() for row in order), [colors[row] for row in order], line_width)
    boxes = found.boxes_xyxy, found.labels, class_names, found.scores
    return draw_boxes(tinted, *boxes, line_width=line_width, track_ids=found.track_ids, palette=palette)


def tint(image: ByteArray, parts: Iterable[Part], colors: Sequence[Color], line_width: int | None = None) -> ByteArray:
    """A copy of ``image`` with ``parts`` in their ``colors``, the last in front, within outlines that
    tell neighbors of one color apart. One part after the other is looked at."""
    canvas = image.copy()
    thickness = max(1, (line_width or line_width_for(image)) // 2)
    for (mask, left, top), color in zip(parts, colors, strict=True):
        area = canvas[top : top + mask.shape[0], left : left + mask.shape[1]]
        inside = mask.view(np.uint8)
        if inside.size:
            blended = np.round(np.arange(256)[:, None] * (1 - _OPACITY) + np.array(color) * _OPACITY).astype(np.uint8)
            cv2.copyTo(cv2.LUT(area, blended[:, None]), inside, area)
        lines, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top))
        cv2.drawContours(canvas, lines, -1, color, thickness)
    return canvas


def require_size(image: ByteArray, masks: Sequence[RunLengths]) -> None:
    """Raise ValueError where ``masks`` are not as large as ``image``."""
    size = image.shape[:2]
    for mask in masks[:1]:  # they have one size
        if (mask.height, mask.width) != size:
            raise ValueError(f"masks of {mask.height}x{mask.width} pixels do not fit an image of {size[0]}x{size[1]}")
