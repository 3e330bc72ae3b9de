"""Where in a volume a training patch is taken, and the taking of it; and the drawing of a voxel by its class."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import ByteArray
from detseg.structures import IGNORE_INDEX
from detseg.volumes import Shape3

Value = TypeVar("Value", bound=np.generic)


def sample_patch_corner(labels: ByteArray, size: Shape3, foreground: float, rng: np.random.Generator) -> Shape3:
    """The first voxel of a random patch of this ``size`` in ``labels`` ``[D, H, W]`` (class positions).

    The patch lies inside the volume; along an axis where the volume is smaller, the volume lies in its middle, and the
    corner is negative. With probability ``foreground`` the patch is as near as that allows to one with a voxel of a
    class in its middle: of the classes that are there, background aside, all are equally likely, and so are then all
    voxels of the class. Otherwise, and where there is no such class, all places are equally likely.
    """
    wants_foreground = rng.random() < foreground
    anywhere = rng.random(3)
    voxel = sample_voxel(labels, (0, IGNORE_INDEX), rng) if wants_foreground else None
    corner = []
    for axis, (length, side) in enumerate(zip(labels.shape, size, strict=True)):
        room = length - side
        if room <= 0:
            corner.append(-(-room // 2))
        elif voxel is None:
            corner.append(int(anywhere[axis] * (room + 1)))
        else:
            corner.append(min(max(voxel[axis] - side // 2, 0), room))
    return corner[0], corner[1], corner[2]


def crop_or_pad(voxels: NDArray[Value], corner: Shape3, size: Shape3, fill: float) -> NDArray[Value]:
    """A new array of ``size`` that shows ``voxels`` ``[D, H, W]`` from ``corner`` on, and ``fill`` outside them."""
    patch = np.full(size, fill, voxels.dtype)
    spans = [
        (min(max(first, 0), length), max(0, min(first + side, length)))
        for first, side, length in zip(corner, size, voxels.shape, strict=True)
    ]
    inside = tuple(slice(start - first, stop - first) for first, (start, stop) in zip(corner, spans, strict=True))
    patch[inside] = voxels[tuple(slice(start, stop) for start, stop in spans)]
    return patch


def sample_voxel(labels: ByteArray, without: tuple[int, ...], rng: np.random.Generator) -> Shape3 | None:
    """A random voxel of ``labels`` ``[D, H, W]`` (class positions); None if all of them are of the classes ``without``.

    Of the other classes that are there all are equally likely, and so are then all voxels of the class.
    """
    counts = np.zeros(256, np.int64)
    # By slices, because bincount makes integers of eight bytes of what it counts.
    for plane in labels:
        counts += np.bincount(plane.ravel(), minlength=256)
    counts[list(without)] = 0
    present = np.flatnonzero(counts)
    if len(present) == 0:
        return None
    chosen = int(rng.choice(present))
    rank = int(rng.integers(counts[chosen]))
    per_slice = np.cumsum([np.count_nonzero(plane == chosen) for plane in labels])
    depth = int(np.searchsorted(per_slice, rank, side="right"))
    before = int(per_slice[depth - 1]) if depth else 0
    row, column = divmod(int(np.flatnonzero(labels[depth] == chosen)[rank - before]), labels.shape[2])
    return depth, row, column
