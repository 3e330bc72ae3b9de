"""The values of 3-D segmentation that rooms hand to each other: scans, labels, and where they lie in a network input.

Conventions: a volume has the axes of its file, ``[X, Y, Z]``, and an ``affine`` ``[4, 4]`` from voxel positions to
millimeters toward the patient's right, front and top (NIfTI's RAS+). A network sees it as ``[D, H, W]``, with axes that
run toward the right, the front and the top in this order, whatever the order in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import ByteArray, DoubleArray, FloatArray, IntArray, require, require_array

Number = TypeVar("Number", bound=np.integer[Any])

Shape3 = tuple[int, int, int]
Spacing = tuple[float, float, float]
"""Millimeters between voxels along each axis."""


_TOLERANCE, _LARGEST_TOLERANCE = 0.01, 0.25
"""Shares of a voxel's shortest side: how far apart the corners of two grids may lie beyond what rounding does to them,
and with it. Below half a voxel the nearest voxel is still the right one."""
_ROUNDED_BY = 5e-5
"""How far each number of an affine may be from its own where a program keeps four decimals, as many do."""


@dataclass(frozen=True, slots=True)
class StoredForms:
    """What a NIfTI file of this ``version``, 1 or 2, says of where its voxels lie, word for word: ``fields`` of its
    header by their names in the standard. Programs choose among them by rules of their own, so that labels lie on their
    scan in all programs only if they say the same."""

    version: int
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Volume:
    """A scan: ``voxels`` ``[X, Y, Z]`` float32, of several channels ``[C, X, Y, Z]``, and their ``affine`` ``[4, 4]``
    float64; ``forms``: how its file says where they lie, None where there is no NIfTI file; ``display``: the
    intensities that are shown black and white, None: by the scan itself."""

    voxels: FloatArray
    affine: DoubleArray
    forms: StoredForms | None = field(default=None, compare=False)
    display: tuple[float, float] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        is_single = not isinstance(self.voxels, np.ndarray) or self.voxels.ndim != 4
        require_array(self.voxels, "voxels", np.float32, (None,) * (3 if is_single else 4))
        _require_affine(self.affine)
        require(is_single or len(self.voxels) > 1, "a channel axis is for several channels, got one")

    @property
    def num_channels(self) -> int:
        """How many values each voxel has."""
        return len(self.voxels) if self.voxels.ndim == 4 else 1

    @property
    def shape(self) -> Shape3:
        """The number of voxels along X, Y, Z."""
        x, y, z = self.voxels.shape[-3:]
        return x, y, z

    @property
    def channels(self) -> list[FloatArray]:
        """Each channel, ``[X, Y, Z]``."""
        return list(self.voxels) if self.voxels.ndim == 4 else [self.voxels]

    @property
    def spacing(self) -> Spacing:
        """Millimeters between voxels along X, Y, Z."""
        return spacing_of(self.affine)


@dataclass(frozen=True, slots=True)
class LabelVolume:
    """A class for every voxel: ``labels`` ``[X, Y, Z]`` uint8 class positions on the grid of a file with this
    ``affine``, ``IGNORE_INDEX`` where no class is given or claimed. Class 0 is the background. ``probabilities``
    ``[C, X, Y, Z]`` float32 of the classes, where they are kept."""

    labels: ByteArray
    affine: DoubleArray
    probabilities: FloatArray | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        require_array(self.labels, "labels", np.uint8, (None, None, None))
        if self.probabilities is not None:
            require_array(self.probabilities, "probabilities", np.float32, (None, *self.labels.shape))
        _require_affine(self.affine)

    @property
    def spacing(self) -> Spacing:
        """Millimeters between voxels along X, Y, Z."""
        return spacing_of(self.affine)

    @property
    def voxel_counts(self) -> IntArray:
        """How many voxels each of the 256 values has."""
        # Counting makes integers of 64 bits of what it is given.
        counts = np.zeros(256, np.int64)
        for part in self.labels:
            np.add(counts, np.bincount(part.ravel(order="K"), minlength=256), out=counts)
        return counts

    @property
    def voxel_milliliters(self) -> float:
        """The size of one voxel in milliliters."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


@dataclass(frozen=True, slots=True)
class VolumeTransform:
    """Where the voxels of a file lie in a network input ``[D, H, W]``.

    Axis ``a`` of the input is axis ``axes[a]`` of the file, reversed where ``flips[a]``; ``input_shape`` is that of the
    input, which covers the same space with voxels of another size. ``original_shape`` and ``affine`` are the file's.
    """

    axes: Shape3
    flips: tuple[bool, bool, bool]
    input_shape: Shape3
    original_shape: Shape3
    affine: DoubleArray

    def __post_init__(self) -> None:
        require(sorted(self.axes) == [0, 1, 2], f"axes must be an order of 0, 1 and 2, got {self.axes}")
        for name in ("input_shape", "original_shape"):
            require(min(getattr(self, name)) > 0, f"{name} must be positive, got {getattr(self, name)}")
        _require_affine(self.affine)

    @property
    def oriented_shape(self) -> Shape3:
        """The shape of the file's voxels with their axes in the order of the input."""
        depth, height, width = (self.original_shape[axis] for axis in self.axes)
        return depth, height, width

    @property
    def input_spacing(self) -> Spacing:
        """Millimeters between voxels of the input along D, H, W."""
        spacing = spacing_of(self.affine)
        depth, height, width = (
            spacing[axis] * length / new_length
            for axis, length, new_length in zip(self.axes, self.oriented_shape, self.input_shape, strict=True)
        )
        return depth, height, width


@dataclass(frozen=True, slots=True)
class VolumeSample:
    """One volume as a network sees it, on its way to a batch: ``image`` ``[D, H, W]`` float32, normalized, of several
    channels ``[C, D, H, W]``; ``labels`` ``[D, H, W]`` uint8 class positions, ``IGNORE_INDEX`` where there is none, or
    None. A training sample is a patch of what ``transform`` describes."""

    image: FloatArray
    image_id: int
    path: str
    transform: VolumeTransform
    labels: ByteArray | None = None

    def __post_init__(self) -> None:
        is_single = not isinstance(self.image, np.ndarray) or self.image.ndim != 4
        require_array(self.image, "image", np.float32, (None,) * (3 if is_single else 4))
        if self.labels is not None:
            require_array(self.labels, "labels", np.uint8, self.image.shape[-3:])


def replaced(labels: ByteArray, table: NDArray[Number]) -> NDArray[Number]:
    """``table[labels]`` for ``labels`` ``[X, Y, Z]``, without integers of 64 bits for all of them."""
    values = np.empty(labels.shape, table.dtype)
    for made, part in zip(values, labels, strict=True):
        made[...] = table[part]
    return values


def spacing_of(affine: DoubleArray) -> Spacing:
    """Millimeters between voxels along the three axes of ``affine`` ``[4, 4]``."""
    x, y, z = np.sqrt((affine[:3, :3] ** 2).sum(axis=0)).tolist()
    return x, y, z


def grid_distance_mm(first_affine: DoubleArray, second_affine: DoubleArray, shape: Shape3) -> float:
    """The largest distance in millimeters between where two affines put the same voxel of a volume of this shape."""
    # A difference of affine maps is largest at a corner.
    corners = np.stack(np.meshgrid(*((0, length - 1) for length in shape), [1.0], indexing="ij"), -1).reshape(-1, 4)
    offsets = corners @ (first_affine - second_affine).T
    return float(np.linalg.norm(offsets[:, :3], axis=1).max())


def grid_tolerance_mm(affine: DoubleArray, shape: Shape3) -> float:
    """The largest :func:`grid_distance_mm` of two grids that count as one. Headers hold float32, quaternions and text
    are rounded further, to four decimals at the worst, and each voxel on the way to the far corner adds to that."""
    rounding = float(np.sqrt(3)) * _ROUNDED_BY * (sum(length - 1 for length in shape) + 1)
    side = min(spacing_of(affine))
    return min(_TOLERANCE * side + rounding, _LARGEST_TOLERANCE * side)


def _require_affine(affine: Any) -> None:
    require_array(affine, "affine", np.float64, (4, 4))
    require(bool(np.isfinite(affine).all()), "the affine holds a value that is not finite")
    require(abs(np.linalg.det(affine[:3, :3])) > 0, "the affine maps the volume onto a plane")
