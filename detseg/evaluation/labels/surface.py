"""Distances between the surfaces of two regions, and what is made of them: Hausdorff distance and surface Dice.

The surface of a region is those of its voxels that have a neighbor outside it across one of their six faces; beyond the
borders of the volume is outside. Distances are between centers of voxels, in millimeters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detseg.arrays import BoolArray, DoubleArray
from detseg.volumes import Spacing


@dataclass(frozen=True, slots=True)
class SurfaceDistances:
    """How far each surface voxel of one region is from the surface of the other: ``from_result`` ``[R]`` and
    ``from_truth`` ``[T]`` millimeters. Neither is empty."""

    from_result: DoubleArray
    from_truth: DoubleArray

    def hausdorff(self, percent: float = 95) -> float:
        """The percentile of the distances in each direction, interpolated linearly, and the larger of both; at 100 the
        Hausdorff distance itself."""
        return max(float(np.percentile(distances, percent)) for distances in (self.from_result, self.from_truth))

    def surface_dice(self, tolerance: float) -> float:
        """The share of the voxels of both surfaces that are at most ``tolerance`` millimeters from the other surface.

        All voxels count alike, as in arXiv 2111.05408; in the original, arXiv 1809.04430, each counts by its area.
        """
        # Compared with the digits of float32, so that rounding does not decide about multiples of the voxel size.
        distances = np.concatenate((self.from_result, self.from_truth)).astype(np.float32)
        return float(np.mean(distances <= np.float32(tolerance)))


def surface_distances(result: BoolArray, truth: BoolArray, spacing: Spacing) -> SurfaceDistances:
    """Distances between the surfaces of two regions ``[X, Y, Z]``, neither of them empty.

    Raises:
        ValueError: scipy is not installed.
    """
    assert result.any(), "the result is empty"
    assert truth.any(), "the truth is empty"
    try:
        from scipy.spatial import KDTree
    except ModuleNotFoundError as error:
        raise ValueError(
            f"volumes need the extra `medical`: pip install 'detseg[medical]' (missing: {error.name})"
        ) from error
    # A search tree holds the surfaces only and is several times as fast as a distance transform of large regions.
    result_points, truth_points = (np.argwhere(_surface(region)) * np.array(spacing) for region in (result, truth))
    return SurfaceDistances(
        from_result=KDTree(truth_points).query(result_points)[0],
        from_truth=KDTree(result_points).query(truth_points)[0],
    )


def _surface(region: BoolArray) -> BoolArray:
    """Which voxels ``[X, Y, Z]`` of ``region`` have a neighbor outside it."""
    padded = np.pad(region, 1)
    inside = region.copy()
    for axis in range(region.ndim):
        for step in (-1, 1):
            inside &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
    return region & ~inside
