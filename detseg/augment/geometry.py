"""Projective maps of images, label masks and boxes, each image drawn straight into the final image.

Matrices are ``[3, 3]`` float64 and act on points ``(x, y, 1)`` in pixels with the origin at the top left corner of the
top left pixel, as boxes do; the center of that pixel is ``(0.5, 0.5)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.arrays import BoolArray, ByteArray, DoubleArray, FloatArray

_MAX_SHRINK = 1.5
"""Bilinear interpolation reads two pixels per axis; a step of more than this between its samples shows as aliasing."""


def translation(x: float, y: float) -> DoubleArray:
    """The matrix that moves points by ``(x, y)``."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def scaling(x: float, y: float) -> DoubleArray:
    """The matrix that scales about the origin; a negative factor mirrors."""
    return np.array([[x, 0.0, 0.0], [0.0, y, 0.0], [0.0, 0.0, 1.0]])


def quarter_turns(count: int, height: int, width: int) -> DoubleArray:
    """The matrix that turns an image of this size by ``count`` quarters counter-clockwise, as ``numpy.rot90`` does."""
    return {
        0: np.eye(3),
        1: np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, width], [0.0, 0.0, 1.0]]),
        2: np.array([[-1.0, 0.0, width], [0.0, -1.0, height], [0.0, 0.0, 1.0]]),
        3: np.array([[0.0, -1.0, height], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
    }[count % 4]


@dataclass(frozen=True, slots=True)
class RandomView:
    """How much of a canvas an image shows, and from where; :class:`~detseg.augment.config.AugmentConfig` says what the
    values mean. Without any, the view is the middle of the canvas as it is."""

    degrees: float = 0.0
    translate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.0
    perspective: float = 0.0
    flip_horizontal: float = 0.0
    flip_vertical: float = 0.0
    crop: bool = False

    def matrix(
        self,
        size: tuple[int, int],
        rng: np.random.Generator,
        image_size: tuple[float, float] | None = None,
        shown_xy: DoubleArray | None = None,
    ) -> DoubleArray:
        """A random map from a canvas with its origin in the middle to an output of ``size`` (height, width).

        In this order: perspective, turn and zoom, shear, flips, shift to the middle of the output and a little further.
        With ``crop`` a shift to the middle of a random window comes first; this needs ``image_size``, the height and
        width of the one image on the canvas; only windows that show the point ``shown_xy`` of the canvas are drawn, if
        one is given.
        """
        height, width = size
        tilt_x, tilt_y = rng.uniform(-self.perspective, self.perspective, 2)
        angle = math.radians(rng.uniform(-self.degrees, self.degrees))
        zoom = rng.uniform(*self.scale)
        shear_x, shear_y = np.tan(np.radians(rng.uniform(-self.shear, self.shear, 2)))
        shift_x, shift_y = rng.uniform(-self.translate, self.translate, 2)
        mirror_x, mirror_y = np.where(rng.random(2) < (self.flip_horizontal, self.flip_vertical), -1.0, 1.0)

        perspective = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [2 * tilt_x / width, 2 * tilt_y / height, 1.0]])
        cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
        turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        shear = np.array([[1.0, shear_x, 0.0], [shear_y, 1.0, 0.0], [0.0, 0.0, 1.0]])
        shift = translation(width * (0.5 + shift_x), height * (0.5 + shift_y))
        view = np.asarray(shift @ scaling(mirror_x, mirror_y) @ shear @ turn @ perspective, dtype=np.float64)
        if not self.crop:
            return view
        assert image_size is not None
        shown = None if shown_xy is None else zoom * shown_xy
        x, y = _random_window((zoom * image_size[0], zoom * image_size[1]), size, shown, rng)
        return view @ translation(-x / zoom, -y / zoom)


def _random_window(
    image_size: tuple[float, float], size: tuple[int, int], shown_xy: DoubleArray | None, rng: np.random.Generator
) -> tuple[float, float]:
    """Where the middle of a random window of ``size`` lies, as x and y from the middle of an image (height, width).

    The point ``shown_xy``, from the middle of the image as well, lies in the window.

    Along each axis the larger of the two holds the smaller, at one of all distances in whole pixels between their first
    edges: an image that is not zoomed is copied, never interpolated.
    """
    middles = []
    for axis, image_side, side in zip((1, 0), image_size, size, strict=True):
        room = image_side - side
        # The tolerance keeps the last place where the side was scaled to a whole number, give or take a rounding.
        first, last = 0, math.floor(abs(room) + 1e-6)
        if shown_xy is not None and room > 0:
            shown = float(shown_xy[axis]) + image_side / 2
            first, last = min(max(math.floor(shown - side) + 1, 0), last), min(math.floor(shown), last)
        distance = int(rng.integers(first, last + 1))
        middles.append(math.copysign(distance, room) - room / 2)
    return middles[1], middles[0]


def project(points_xy: NDArray[Any], matrix: DoubleArray) -> DoubleArray:
    """Points ``[..., 2]`` through ``matrix``."""
    mapped = np.asarray(points_xy, np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return np.asarray(mapped[..., :2] / mapped[..., 2:], dtype=np.float64)


def transform_boxes(boxes_xyxy: NDArray[Any], matrix: DoubleArray) -> DoubleArray:
    """The upright boxes ``[N, 4]`` that enclose the four mapped corners of each box; not clipped. ``matrix`` is one for
    all, or ``[N, 3, 3]``."""
    corners = np.asarray(boxes_xyxy, np.float64)[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    mapped = corners @ np.swapaxes(matrix[..., :2], -1, -2) + matrix[..., None, :, 2]
    points = mapped[..., :2] / mapped[..., 2:]
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)


@dataclass(frozen=True, slots=True)
class BoxFilter:
    """Which boxes are dropped: of which less than ``min_area_ratio`` is left inside the image, with a side under
    ``min_box_side`` pixels, or with one side over ``max_box_aspect`` times the other."""

    min_area_ratio: float
    min_box_side: float
    max_box_aspect: float

    def clip(self, boxes_xyxy: NDArray[Any], size: tuple[int, int]) -> tuple[FloatArray, BoolArray]:
        """The boxes ``[N, 4]`` clipped to an image of ``size`` (height, width), and ``[N]`` bool, true for those to
        keep."""
        limit = np.array([size[1], size[0]] * 2, np.float64)
        clipped = np.clip(boxes_xyxy, 0, limit)
        width, height = clipped[:, 2] - clipped[:, 0], clipped[:, 3] - clipped[:, 1]
        full = (boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])
        short, long = np.minimum(width, height), np.maximum(width, height)
        # The tolerance keeps a box of exactly the smallest side after it went through floating-point matrices.
        keep = (short > 0) & (short >= self.min_box_side - 1e-6) & (long <= self.max_box_aspect * short)
        keep &= width * height >= self.min_area_ratio * full
        return clipped.astype(np.float32), keep


@dataclass(frozen=True, slots=True)
class Piece:
    """What is seen of a source in an image, before it is drawn there.

    ``source`` ``[h, w, ...]`` uint8 is the part of it that is seen, shrunk as far as needed, and ``matrix`` leads from
    there into the region of the image that begins at ``left`` and ``top`` and has ``size`` (height, width). Where
    ``outline`` is given, the height and width of the whole source and the matrix from there into the region, a pixel
    is only covered if the pixel of the source that is nearest to its center exists; otherwise the whole region is.
    """

    source: ByteArray
    matrix: DoubleArray
    left: int
    top: int
    size: tuple[int, int]
    outline: tuple[tuple[int, int], DoubleArray] | None
    interpolate: bool

    def draw(self, target: ByteArray) -> None:
        """Draw it into ``target`` ``[H, W, ...]`` uint8, in place."""
        height, width = self.size
        region = target[self.top : self.top + height, self.left : self.left + width]
        source = self.source
        method = cv2.INTER_LINEAR if self.interpolate else cv2.INTER_NEAREST
        # OpenCV draws four channels with the same result as three, in less than half the time.
        is_padded = source.ndim == 3 and source.shape[2] == 3
        if is_padded:
            source = _bytes(cv2.cvtColor(source, cv2.COLOR_RGB2RGBA))
        if self.outline is None and source.shape[2:] == region.shape[2:] and _is_plain(region):
            _warp(source, self.matrix, self.size, method, cv2.BORDER_REPLICATE, region)
            return
        drawn = _warp(source, self.matrix, self.size, method, cv2.BORDER_REPLICATE)
        if is_padded and target.shape[2] == 3:
            drawn = _bytes(cv2.cvtColor(drawn, cv2.COLOR_RGBA2RGB))
        if self.outline is None:
            region[:] = drawn
        else:
            shape, matrix = self.outline
            covered = _warp(np.ones(shape, np.uint8), matrix, self.size, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)
            cv2.copyTo(drawn, covered, region)


def seen_piece(source: ByteArray, matrix: DoubleArray, size: tuple[int, ...], interpolate: bool = True) -> Piece | None:
    """What an image of ``size`` (height, width) shows of ``source`` ``[H, W, 3]`` or ``[H, W]`` uint8 through
    ``matrix``; None if nothing. A pixel is covered where its center lies in the mapped source.

    With ``interpolate`` false each gets the nearest value, as label masks need it; otherwise bilinear, after the source
    was shrunk as far as needed.
    """
    axis_aligned = _is_axis_aligned(matrix)
    left, top, right, bottom = _covered_pixels(matrix, source.shape, size, axis_aligned)
    if left >= right or top >= bottom:
        return None
    region_size = (bottom - top, right - left)
    matrix = translation(-left, -top) @ matrix
    outline = None if axis_aligned else ((source.shape[0], source.shape[1]), matrix)
    if interpolate:
        source, matrix = _seen_part(source, matrix, region_size)
    return Piece(source, matrix, left, top, region_size, outline, interpolate)


def paste(target: ByteArray, source: ByteArray, matrix: DoubleArray, interpolate: bool = True) -> None:
    """Draw ``source`` through ``matrix`` into ``target``, both ``[H, W, 3]`` or ``[H, W]`` uint8, in place; see
    :func:`seen_piece`. A ``target`` of four channels gets a source of three in its first, which takes half the time.
    """
    piece = seen_piece(source, matrix, target.shape[:2], interpolate)
    if piece is not None:
        piece.draw(target)


def _is_plain(region: ByteArray) -> bool:
    """Whether the pixels of each row lie one after the other, so that OpenCV can write there."""
    return region.strides[-1] == 1 and region.strides[1] == region[0, 0].size


def _is_axis_aligned(matrix: DoubleArray) -> bool:
    straight = matrix[0, 1] == matrix[1, 0] == 0
    turned = matrix[0, 0] == matrix[1, 1] == 0
    return bool((straight or turned) and matrix[2, 0] == matrix[2, 1] == 0)


def _covered_pixels(
    matrix: DoubleArray, source_shape: tuple[int, ...], target_shape: tuple[int, ...], axis_aligned: bool
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the target pixels that the source reaches: exact if axis-aligned, else enclosing."""
    left, top, right, bottom = _extent(matrix, source_shape)
    if axis_aligned:
        left, top, right, bottom = (math.ceil(side - 0.5) for side in (left, top, right, bottom))
    height, width = target_shape[:2]
    return (
        min(max(math.floor(left), 0), width),
        min(max(math.floor(top), 0), height),
        min(max(math.ceil(right), 0), width),
        min(max(math.ceil(bottom), 0), height),
    )


def _extent(matrix: DoubleArray, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of an image of ``shape`` through ``matrix``; in plain numbers, of which there are too
    few for arrays."""
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    height, width = shape[:2]
    corners = ((0, 0), (width, 0), (width, height), (0, height))
    scales = [g * x + h * y + i for x, y in corners]
    xs = [(a * x + b * y + c) / scale for (x, y), scale in zip(corners, scales, strict=True)]
    ys = [(d * x + e * y + f) / scale for (x, y), scale in zip(corners, scales, strict=True)]
    return min(xs), min(ys), max(xs), max(ys)


def _seen_part(source: ByteArray, matrix: DoubleArray, region_shape: tuple[int, ...]) -> tuple[ByteArray, DoubleArray]:
    """The part of the source that the region shows, and the matrix from there; of blocks of pixels that are averaged
    where the map shrinks it by more than bilinear interpolation can stand.

    Only whole factors: OpenCV averages whole blocks five to twenty times faster than fractional ones, and at most a
    factor of ``_MAX_SHRINK`` is left to the interpolation.
    """
    inverse = _inverse(matrix)
    factor = _shrinking(inverse, region_shape)
    seen_left, seen_top, seen_right, seen_bottom = _extent(inverse, region_shape)
    num_rows, num_columns = (-(-side // factor) for side in source.shape[:2])
    left = min(max(math.floor(seen_left / factor) - 1, 0), num_columns - 1)
    top = min(max(math.floor(seen_top / factor) - 1, 0), num_rows - 1)
    right = min(max(math.ceil(seen_right / factor) + 1, left + 1), num_columns)
    bottom = min(max(math.ceil(seen_bottom / factor) + 1, top + 1), num_rows)
    part = source[top * factor : bottom * factor, left * factor : right * factor]
    to_part = matrix @ translation(left * factor, top * factor)
    if factor == 1:
        return part, to_part
    missing_y = (bottom - top) * factor - part.shape[0]
    missing_x = (right - left) * factor - part.shape[1]
    if missing_y or missing_x:
        part = _bytes(cv2.copyMakeBorder(part, 0, missing_y, 0, missing_x, cv2.BORDER_REPLICATE))
    smaller = cv2.resize(part, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    return _bytes(smaller), to_part @ scaling(factor, factor)


def _inverse(matrix: DoubleArray) -> DoubleArray:
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    determinant = a * e - b * d
    if g or h or i != 1 or not determinant:
        return np.linalg.inv(matrix).astype(np.float64)
    a, b, d, e = e / determinant, -b / determinant, -d / determinant, a / determinant
    return np.array([[a, b, -a * c - b * f], [d, e, -d * c - e * f], [0.0, 0.0, 1.0]])


def _shrinking(inverse: DoubleArray, region_shape: tuple[int, ...]) -> int:
    """The side of the blocks of source pixels that make one before it is interpolated, in the middle of the region."""
    (a, b, c), (d, e, f), (g, h, i) = inverse.tolist()
    if g == h == 0:
        area = abs(a * e - b * d) / (i * i)
    else:
        x, y = region_shape[1] / 2, region_shape[0] / 2
        middle, right_of_it, below_it = (
            ((a * u + b * v + c) / (g * u + h * v + i), (d * u + e * v + f) / (g * u + h * v + i))
            for u, v in ((x, y), (x + 1, y), (x, y + 1))
        )
        area = abs(
            (right_of_it[0] - middle[0]) * (below_it[1] - middle[1])
            - (right_of_it[1] - middle[1]) * (below_it[0] - middle[0])
        )
    return max(1, math.ceil(math.sqrt(area) / _MAX_SHRINK))


def _warp(
    source: ByteArray,
    matrix: DoubleArray,
    shape: tuple[int, ...],
    method: int,
    border: int,
    into: ByteArray | None = None,
) -> ByteArray:
    # OpenCV counts from the center of the first pixel.
    size = (shape[1], shape[0])
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    if g == h == 0:
        affine = np.array([[a, b, c + (a + b - i) / 2], [d, e, f + (d + e - i) / 2]]) / i
        return _bytes(cv2.warpAffine(source, affine, size, dst=into, flags=method, borderMode=border))
    matrix = translation(-0.5, -0.5) @ matrix @ translation(0.5, 0.5)
    return _bytes(cv2.warpPerspective(source, matrix, size, dst=into, flags=method, borderMode=border))


def _bytes(image: NDArray[Any]) -> ByteArray:
    return image.astype(np.uint8, copy=False)
