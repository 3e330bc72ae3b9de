"""Planes of a scan as an eye sees them: turned to the display convention, in true proportions, with outlines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.arrays import BoolArray, ByteArray, FloatArray, IntArray
from detseg.runtime.drawing.labels import classes_in
from detseg.runtime.drawing.palette import Palette, color_of
from detseg.runtime.inputs.volume_geometry import orientation
from detseg.structures import IGNORE_INDEX
from detseg.volumes import Shape3, Spacing, Volume

_ENDS = (("R", "L"), ("A", "P"), ("S", "I"))
_MAX_WINDOW_VOXELS = 1_000_000
"""Percentiles are taken of about this many voxels."""
_SUPERSAMPLING = 3
_OUTLINE_PIXELS = 1.7


@dataclass(frozen=True, slots=True)
class Plane:
    """A plane through the body, across the axis ``normal`` of [right, anterior, superior].

    Shown by the radiological convention: the patient's right, or in the sagittal plane the front, is at the left of the
    image; the front, or else the top, is at its top.
    """

    name: str
    normal: int

    @property
    def row_axis(self) -> int:
        """The axis of the body that runs up the image."""
        return 1 if self.normal == 2 else 2

    @property
    def column_axis(self) -> int:
        """The axis of the body that runs from the right of the image to its left."""
        return 1 if self.normal == 0 else 0

    @property
    def letters(self) -> tuple[str, str, str, str]:
        """What lies at the left, the right, the top and the bottom of the image."""
        return *_ENDS[self.column_axis], *_ENDS[self.row_axis]

    def cut(self, array: NDArray[Any], position: int) -> NDArray[Any]:
        """Slice ``position`` of ``array`` (right, anterior, superior), ``[rows, columns]`` of the image."""
        return np.ascontiguousarray(array.take(position, axis=self.normal).T[::-1, ::-1])


AXIAL, CORONAL, SAGITTAL = Plane("axial", 2), Plane("coronal", 1), Plane("sagittal", 0)
PLANES = (AXIAL, CORONAL, SAGITTAL)


class Scan:
    """The voxels of a file with their axes turned toward the patient's right, front and top.

    ``shape`` and ``spacing`` (millimeters) are in this order. What lies outside of the volume's ``display`` is shown
    black and white; where it has none, what is darker or brighter than 99 % of the voxels. Of several channels the
    first is shown.
    """

    def __init__(self, volume: Volume) -> None:
        self._affine = volume.affine
        voxels = volume.channels[0]
        self._voxels = self.orient(voxels)
        self.shape: Shape3 = self._voxels.shape
        right, anterior, superior = orientation(volume.affine)[0]
        self.spacing: Spacing = (volume.spacing[right], volume.spacing[anterior], volume.spacing[superior])
        if volume.display is not None:
            self._low, self._high = volume.display
            return
        step = max(1, round((voxels.size / _MAX_WINDOW_VOXELS) ** (1 / 3)))
        self._low, self._high = np.percentile(voxels[::step, ::step, ::step], (1, 99)).tolist()

    def orient(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of ``array`` ``[X, Y, Z]`` on the grid of the file with its axes toward the right, front and top."""
        axes, flips = orientation(self._affine)
        return array.transpose(axes)[tuple(slice(None, None, -1 if flip else None) for flip in flips)]

    def extent(self, axis: int) -> float:
        """The length of the scan along an axis in millimeters."""
        return self.shape[axis] * self.spacing[axis]

    def scale(self, planes: tuple[Plane, ...], smallest: int, largest: int) -> float:
        """Pixels per millimeter at which a voxel is a pixel or more, if the longest side of ``planes`` is then no
        longer than ``largest`` pixels; it is never shorter than ``smallest``."""
        axes = {axis for plane in planes for axis in (plane.row_axis, plane.column_axis)}
        longest = max(self.extent(axis) for axis in axes)
        return float(np.clip(longest / min(self.spacing[axis] for axis in axes), smallest, largest)) / longest

    def image(
        self, plane: Plane, position: int, labels: ByteArray, scale: float, palette: Palette | None = None
    ) -> ByteArray:
        """A slice ``[H, W, 3]`` with outlines of the classes in ``labels`` (right, anterior, superior) but class 0, at
        ``scale`` pixels per millimeter."""
        height, width = (max(1, round(self.extent(axis) * scale)) for axis in (plane.row_axis, plane.column_axis))
        voxels = plane.cut(self._voxels, position)
        gray = np.clip((voxels - self._low) / max(self._high - self._low, 1e-12), 0, 1) * 255
        # Averages where the image has fewer pixels than voxels, then smooth curves where it has more.
        smaller = (min(width, gray.shape[1]), min(height, gray.shape[0]))
        enlarged = cv2.resize(
            cv2.resize(gray, smaller, interpolation=cv2.INTER_AREA), (width, height), interpolation=cv2.INTER_CUBIC
        )
        canvas: Any = np.repeat(np.clip(enlarged, 0, 255)[..., None], 3, axis=2)
        classes = plane.cut(labels, position)
        for label in classes_in(classes):
            if label != 0:
                opacity = _outline(classes == label, height, width)[..., None]
                canvas += opacity * (np.array(color_of(label - 1) if palette is None else palette[label]) - canvas)
        drawn: ByteArray = canvas.round().astype(np.uint8)
        return drawn


def foreground(labels: ByteArray) -> BoolArray:
    """Where ``labels`` hold a class that is not the background."""
    region: BoolArray = (labels != 0) & (labels != IGNORE_INDEX)
    return region


def middle(region: BoolArray) -> Shape3:
    """For every axis the slice that has half of ``region`` on either side; the middle of the array where the region is
    empty. Unlike a center of gravity, each of these slices meets the region."""
    positions = []
    for axis, length in enumerate(region.shape):
        counts = np.cumsum(region.sum(axis=tuple({0, 1, 2} - {axis})))
        positions.append(int(np.searchsorted(counts, counts[-1] / 2)) if counts[-1] else length // 2)
    right, anterior, superior = positions
    return right, anterior, superior


def cross_sections(region: BoolArray) -> tuple[IntArray, IntArray, IntArray]:
    """The voxels of ``region`` in each slice along each axis."""
    right, anterior, superior = (region.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3))
    return right, anterior, superior


def largest_sections(region: BoolArray) -> Shape3:
    """For every axis the slice with most of ``region``; of equal ones that in their middle."""
    right, anterior, superior = (
        int(np.flatnonzero(counts == counts.max())[np.count_nonzero(counts == counts.max()) // 2])
        for counts in cross_sections(region)
    )
    return right, anterior, superior


def _outline(region: BoolArray, height: int, width: int) -> FloatArray:
    """The inner border of ``region``, enlarged to this size, as opacities ``[height, width]`` in [0, 1].

    The line lies inside, so that those of neighbors do not cover each other. The region is enlarged linearly, which
    rounds the steps between voxels, and drawn finer than needed for smooth lines.
    """
    size = (width * _SUPERSAMPLING, height * _SUPERSAMPLING)
    fine = (cv2.resize(region.astype(np.uint8) * 255, size, interpolation=cv2.INTER_LINEAR) > 127).astype(np.uint8)
    thickness = round(_OUTLINE_PIXELS * _SUPERSAMPLING)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * thickness + 1, 2 * thickness + 1))
    inside = cv2.erode(fine, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    line = (fine - inside).astype(np.float32)
    return cv2.resize(line, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)
