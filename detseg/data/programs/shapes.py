"""The shapes that programs for annotation draw, as boxes, outlines and masks."""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.arrays import BoolArray
from detseg.data.entries.parsing import is_coordinate, show
from detseg.run_lengths import RunLengths
from detseg.runtime.media.images import encoded_size

_NUM_CORNERS = 72
"""Of the polygon that stands for an ellipse: one every five degrees."""
_MAX_BITMAP_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape of a class: a box (left, top, width, height), or polygons or a mask, which it has a box around.

    ``left_out`` says why it is no object, ``problem`` what is wrong with it.
    """

    label: str | None
    box_xywh: Any = None
    polygons: Sequence[Sequence[float]] = ()
    mask: RunLengths | None = None
    left_out: str = ""
    problem: str = ""


def no_object(label: str | None, kind: object) -> Shape:
    """A shape that encloses nothing."""
    return Shape(label, left_out=f"{show(kind)} encloses nothing, which makes it no object")


def box_between(label: str | None, corners: Sequence[Any]) -> Shape:
    """The box with two opposite corners, x and y each, in any order."""
    if len(corners) != 4 or not all(map(is_coordinate, corners)):
        return Shape(label, problem=f"a box must have two corners, x and y each, got {show(list(corners))}")
    left, right = sorted((corners[0], corners[2]))
    top, bottom = sorted((corners[1], corners[3]))
    return Shape(label, (left, top, right - left, bottom - top))


def polygon(label: str | None, points: Sequence[Any]) -> Shape:
    """The polygon with the corners ``points``, x and y in turn."""
    if len(points) < 6 or len(points) % 2 or not all(map(is_coordinate, points)):
        return Shape(
            label, problem=f"a polygon must have three corners or more, x and y each, got {show(list(points))}"
        )
    return Shape(label, polygons=[[float(one) for one in points]])


def flat(points: Any) -> list[Any]:
    """``[[x, y], ...]`` as x and y in turn; what is no such list gives something that is no polygon."""
    if not isinstance(points, list) or not all(isinstance(one, list) and len(one) == 2 for one in points):
        return [points]
    return [value for one in points for value in one]


def ellipse(label: str | None, center: Sequence[Any], radii: Sequence[Any], turn: float = 0.0) -> Shape:
    """The ellipse around ``center`` (x, y) with ``radii`` along its axes, the first turned by ``turn`` radians from x
    toward y."""
    values = [*center, *radii, turn]
    if len(values) != 5 or not all(map(is_coordinate, values)) or min(radii) <= 0:
        return Shape(label, problem=f"an ellipse must have a center and radii over 0, got {show(values)}")
    angles = np.arange(_NUM_CORNERS) * (2 * math.pi / _NUM_CORNERS)
    along, across = radii[0] * np.cos(angles), radii[1] * np.sin(angles)
    cos, sin = math.cos(turn), math.sin(turn)
    corners = np.stack([center[0] + along * cos - across * sin, center[1] + along * sin + across * cos], axis=1)
    half_width, half_height = math.hypot(radii[0] * cos, radii[1] * sin), math.hypot(radii[0] * sin, radii[1] * cos)
    box = (center[0] - half_width, center[1] - half_height, 2 * half_width, 2 * half_height)
    return Shape(label, box, [corners.ravel().tolist()])


def turned_box(label: str | None, corners: Sequence[Any], degrees: float) -> Shape:
    """The box between two corners, turned about its middle; it is its outline, and has an upright box around it."""
    upright = box_between(label, corners)
    if upright.problem or not degrees:
        return upright
    left, top, width, height = upright.box_xywh
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    from_middle = [(x * width / 2, y * height / 2) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    middle_x, middle_y = left + width / 2, top + height / 2
    return polygon(
        label,
        [value for x, y in from_middle for value in (middle_x + x * cos - y * sin, middle_y + x * sin + y * cos)],
    )


def bitmap(label: str | None, text: Any, left: Any, top: Any, size: tuple[int, int] | None, packed: bool) -> Shape:
    """The mask in a PNG as base64, ``packed`` by zlib before or not, with its first pixel at ``left`` and ``top`` of an
    image of ``size`` (height, width); transparent pixels, or black ones where none is transparent, are outside."""
    if size is None:
        return Shape(label, problem="a mask needs the height and width of its image, which are not stated")
    try:
        data = base64.b64decode(text, validate=False)
        pixels = _decode_bitmap(_unpacked(data) if packed else data)
        row, column = round(float(top)), round(float(left))
        return Shape(label, mask=RunLengths.from_crop(pixels, column, row, *size))
    except (ValueError, TypeError, OverflowError, binascii.Error, zlib.error) as error:
        return Shape(label, problem=f"the mask cannot be used: {error}")


def _unpacked(data: bytes) -> bytes:
    worker = zlib.decompressobj()
    unpacked = worker.decompress(data, _MAX_BITMAP_BYTES)
    if worker.unconsumed_tail:
        raise ValueError(f"it holds more than {_MAX_BITMAP_BYTES:,} bytes")
    return unpacked


def _decode_bitmap(data: bytes) -> BoolArray:
    encoded_size(data, "its PNG")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("its PNG is damaged")
    values: NDArray[Any] = pixels
    if values.ndim == 2:
        return np.asarray(values > 0)
    if values.shape[2] == 4 and values[..., 3].min() < values[..., 3].max():
        return np.asarray(values[..., 3] > 0)
    return np.asarray(values[..., :3].max(axis=2) > 0)
