"""Random turns, scales and elastic warps of volumes, resampled by MONAI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.transforms.spatial.array import Resample
from monai.transforms.utils import create_rotate
from numpy.typing import NDArray
from torch import Tensor

from detseg.arrays import ByteArray, DoubleArray, FloatArray
from detseg.structures import IGNORE_INDEX
from detseg.volumes import Shape3, Spacing

_CLASSES_AT_ONCE = 4
"""How many classes are resampled together: enough to be fast, few enough to need little memory."""

_resample = Resample(padding_mode="border", dtype=np.float32)


@dataclass(frozen=True)
class RandomWarp:
    """A turn, a scale and an elastic warp about the middle of the patch, at the cost of one interpolation.

    Each with its probability; :class:`~detseg.augment.volume_config.VolumeAugmentConfig` says what the values mean.

    It reads what the volume holds beyond the patch. Labels follow by linear interpolation of each class, the largest
    wins. Voxels whose centers lie outside the volume become 0 with the label ``IGNORE_INDEX``.
    """

    rotation: float = 0.0
    rotation_degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scaling: float = 0.0
    scaling_factors: tuple[float, float] = (1.0, 1.0)
    elastic: float = 0.0
    elastic_cells: int = 1
    elastic_shift: tuple[float, float] = (0.0, 0.0)

    def grid(self, size: Shape3, spacing: Spacing, rng: np.random.Generator) -> FloatArray | None:
        """Where each voxel of a patch of ``size`` looks after a random warp, or None where the coins say so.

        ``[3, D, H, W]``, in voxels from the middle of the patch; ``spacing``: millimeters between voxels.
        """
        turns, scales, bends = rng.random(3) < (self.rotation, self.scaling, self.elastic)
        radians = np.deg2rad(rng.uniform(-1, 1, 3) * self.rotation_degrees)
        factor = np.exp(rng.uniform(*np.log(self.scaling_factors)))
        shift = rng.uniform(*self.elastic_shift)
        if not (turns or scales or bends):
            return None
        matrix = np.eye(3)
        if turns:
            to_space = np.diag(spacing)
            matrix = np.linalg.inv(to_space) @ create_rotate(3, radians.tolist())[:3, :3] @ to_space
        if scales:
            matrix /= factor
        own = [(np.arange(side) - (side - 1) / 2).astype(np.float32) for side in size]
        places = np.stack(np.meshgrid(*own, indexing="ij"))
        if bends:
            places += elastic_shifts(size, self.elastic_cells, shift, rng)
        warped: FloatArray = np.tensordot(matrix.astype(np.float32), places, axes=1)
        return warped

    def __call__(
        self, image: FloatArray, labels: ByteArray, corner: Shape3, grid: FloatArray
    ) -> tuple[FloatArray, ByteArray]:
        """What a patch with its first voxel at ``corner`` shows of ``image`` (``[D, H, W]`` or ``[C, D, H, W]``) and
        ``labels`` through ``grid``."""
        shape, size = np.array(labels.shape), np.array(grid.shape[1:])
        positions = grid + _per_axis(corner + (size - 1) / 2)
        # The volume ends at the faces of its outermost voxels, half a voxel beyond their centers.
        outside = (np.abs(positions - _per_axis((shape - 1) / 2)) > _per_axis(shape / 2)).any(axis=0)
        first = np.clip(np.floor(positions.min(axis=(1, 2, 3))).astype(int), 0, shape - 1)
        stop = np.clip(np.ceil(positions.max(axis=(1, 2, 3))).astype(int) + 1, first + 1, shape)
        box = tuple(slice(*span) for span in zip(first.tolist(), stop.tolist(), strict=True))
        # MONAI counts from the middle of what it samples.
        from_middle = torch.from_numpy(positions - _per_axis((first + stop - 1) / 2))

        channels = [image] if image.ndim == 3 else list(image)
        warped = _sample([channel[box] for channel in channels], from_middle)
        warped[:, outside] = 0
        warped_labels = _warp_labels(labels[box], from_middle)
        warped_labels[outside] = IGNORE_INDEX
        return warped if image.ndim == 4 else warped[0], warped_labels


def elastic_shifts(size: Shape3, num_cells: int, shift: float, rng: np.random.Generator) -> FloatArray:
    """A random smooth vector field ``[3, D, H, W]`` in voxels, by uniform cubic B-splines.

    ``num_cells`` cells cover a patch of ``size`` along each axis. Each control point moves along each axis by up to
    ``shift`` times the side of a cell, and no voxel moves by more.
    """
    field = rng.uniform(-shift, shift, (3, *[num_cells + 3] * 3)).astype(np.float32)
    field *= np.array(size, np.float32)[:, None, None, None] / num_cells
    for axis, side in enumerate(size, start=1):
        field = np.moveaxis(np.tensordot(_spline_weights(side, num_cells), field, axes=(1, axis)), 0, axis)
    return field


def _warp_labels(labels: ByteArray, from_middle: Tensor) -> ByteArray:
    present = np.flatnonzero(np.bincount(labels.ravel())).tolist()
    winner = np.full(from_middle.shape[1:], IGNORE_INDEX, np.uint8)
    highest = np.zeros(winner.shape, np.float32)
    for start in range(0, len(present), _CLASSES_AT_ONCE):
        values = present[start : start + _CLASSES_AT_ONCE]
        weights = _sample([labels == value for value in values], from_middle)
        for value, weight in zip(values, weights, strict=True):
            winner[weight > highest] = value
            np.maximum(highest, weight, out=highest)
    return winner


def _sample(layers: list[NDArray[Any]], from_middle: Tensor) -> FloatArray:
    """All of ``layers`` ``[N, D, H, W]``, linearly interpolated."""
    sampled = _resample(torch.from_numpy(np.stack(layers).astype(np.float32, copy=False)), from_middle)
    return np.asarray(sampled)


def _per_axis(values: DoubleArray) -> FloatArray:
    return values.astype(np.float32)[:, None, None, None]


def _spline_weights(side: int, num_cells: int) -> FloatArray:
    """The weight ``[side, num_cells + 3]`` of each control point for each of ``side`` voxels along an axis."""
    cells, t = np.divmod((np.arange(side) + 0.5) * num_cells / side, 1)
    weights = np.zeros((side, num_cells + 3), np.float32)
    basis = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for offset, weight in enumerate(basis):
        weights[np.arange(side), cells.astype(int) + offset] = weight / 6
    return weights
