"""Drawing boxes by what they turned out to be: right, found where nothing is, missed, ..., with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from detseg.arrays import ByteArray
from detseg.runtime.drawing.boxes import corners_in, draw_tags, line_width_for
from detseg.runtime.drawing.known_colors import Color
from detseg.runtime.drawing.lettering import Lettering

_READABLE_SIDE = 1280
"""Pixels; smaller images are enlarged by the whole factor that brings the longer side closest to this, so that the
tags leave room to see what is wrong."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The color of one kind of box, and what the legend calls it."""

    name: str
    color: Color


@dataclass(frozen=True, slots=True)
class MarkedBox:
    """One box, (left, top, right, bottom) in pixels, with the text of its tag; without a tag where that is empty.
    ``dashed``: an object, not what was found."""

    xyxy: tuple[float, float, float, float]
    mark: Mark
    text: str = ""
    dashed: bool = False


def draw_marked_boxes(image: ByteArray, boxes: Sequence[MarkedBox], legend: Sequence[tuple[Mark, int]]) -> ByteArray:
    """``image`` ``[H, W, 3]`` with ``boxes``, the first in front, over a legend that says how many there are of each
    kind; an image ``[S * H + L, S * W, 3]``.

    Boxes without a tag have thin lines. An image too small for letters is shown ``S`` times as large.
    """
    height, width = image.shape[:2]
    scale = max(1, round(_READABLE_SIDE / max(height, width)))
    canvas = cv2.resize(image, (scale * width, scale * height), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    line_width = line_width_for(canvas)
    all_xyxy = np.array([box.xyxy for box in boxes], np.float32).reshape(-1, 4) * scale
    corners = corners_in(canvas, all_xyxy)
    for box, (left, top, right, bottom) in reversed(list(zip(boxes, corners.tolist(), strict=True))):
        thickness = line_width if box.text else max(1, line_width // 2)
        if box.dashed:
            _draw_dashed(canvas, (left, top, right, bottom), box.mark.color, thickness)
        else:
            cv2.rectangle(canvas, (left, top), (right, bottom), box.mark.color, thickness)
    tagged = np.array([bool(box.text) for box in boxes], np.bool_)
    tags = [(box.text, box.mark.color) for box in boxes if box.text]
    draw_tags(canvas, [text for text, _ in tags], corners[tagged], [color for _, color in tags], line_width)
    lettering = Lettering(max(0.45, max(canvas.shape[:2]) / 1400))
    entries = [(mark.color, f"{mark.name}: {count}") for mark, count in legend]
    return np.concatenate([canvas, lettering.legend(entries, canvas.shape[1])])


def _draw_dashed(canvas: ByteArray, corners: tuple[int, int, int, int], color: Color, thickness: int) -> None:
    left, top, right, bottom = corners
    dash = 4 * thickness + 2
    for start in range(left, right, 2 * dash):
        end = min(start + dash, right)
        for y in (top, bottom):
            cv2.line(canvas, (start, y), (end, y), color, thickness)
    for start in range(top, bottom, 2 * dash):
        end = min(start + dash, bottom)
        for x in (left, right):
            cv2.line(canvas, (x, start), (x, end), color, thickness)
