"""Surface distances worked out by hand, against distances of all pairs, and equal to MONAI's."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy.ndimage import gaussian_filter

from detseg.arrays import BoolArray, DoubleArray
from detseg.evaluation.labels.surface import SurfaceDistances, surface_distances
from detseg.volumes import Spacing

pytestmark = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's own call

Shape = tuple[int, int, int]

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 0.7, 3.0), (2.5, 0.9, 1.3)]


def box(shape: Shape, first: Shape, last: Shape) -> BoolArray:
    region = np.zeros(shape, np.bool_)
    region[tuple(slice(low, high + 1) for low, high in zip(first, last, strict=True))] = True
    return region


def blobs(seed: int, shape: Shape = (18, 22, 15)) -> tuple[BoolArray, BoolArray]:
    """Two smooth random regions that overlap in part, with holes, and cut by the borders of the volume."""
    generator = np.random.default_rng(seed)
    common, *own = (gaussian_filter(generator.normal(size=shape), 2) for _ in range(3))
    result, truth = (common + 0.5 * part > 0.02 for part in own)
    return result, truth


def all_pairs(result: BoolArray, truth: BoolArray, spacing: Spacing) -> SurfaceDistances:
    """By the definitions: a voxel with a neighbor outside, and the least of the distances to all of the others."""

    def points(region: BoolArray) -> DoubleArray:
        found = []
        for voxel in np.argwhere(region):
            neighbors = [voxel + sign * np.eye(3, dtype=int)[axis] for axis in range(3) for sign in (-1, 1)]
            inside = [(n >= 0).all() and (n < region.shape).all() and region[tuple(n)] for n in neighbors]
            if not all(inside):
                found.append(voxel * np.array(spacing))
        return np.array(found)

    distances = np.linalg.norm(points(result)[:, None] - points(truth)[None], axis=2)
    return SurfaceDistances(distances.min(1), distances.min(0))


SHAPE = (7, 8, 9)
ONE = box(SHAPE, (3, 3, 3), (3, 3, 3))
BY_HAND = [
    # result, truth, spacing, distances from the result, from the truth
    (ONE, ONE, (1, 1, 1), [0], [0]),
    (ONE, box(SHAPE, (3, 5, 7), (3, 5, 7)), (1, 1.5, 2), [np.hypot(3, 8)], [np.hypot(3, 8)]),
    # a plate of 1 x 1 x 3 against its middle
    (box(SHAPE, (3, 3, 2), (3, 3, 4)), ONE, (1, 1, 2.5), [2.5, 0, 2.5], [0]),
    # the one voxel inside a cube of 3 is no surface, and 1 from each face, the nearest of which counts
    (ONE, box(SHAPE, (2, 2, 2), (4, 4, 4)), (3, 2, 4), [2], None),
    # a region that fills the volume has its surface at the borders
    (np.ones((3, 3, 3), np.bool_), box((3, 3, 3), (1, 1, 1), (1, 1, 1)), (1, 1, 1), None, [1]),
]


@pytest.mark.parametrize(("result", "truth", "spacing", "from_result", "from_truth"), BY_HAND)
def test_by_hand(
    result: BoolArray,
    truth: BoolArray,
    spacing: Spacing,
    from_result: list[float] | None,
    from_truth: list[float] | None,
) -> None:
    distances = surface_distances(result, truth, spacing)
    for found, expected in ((distances.from_result, from_result), (distances.from_truth, from_truth)):
        if expected is None:
            assert len(found) == 26
        else:
            assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_equals_the_distances_of_all_pairs(spacing: Spacing) -> None:
    result, truth = blobs(0)
    found, expected = surface_distances(result, truth, spacing), all_pairs(result, truth, spacing)
    np.testing.assert_allclose(found.from_result, expected.from_result, rtol=1e-12)
    np.testing.assert_allclose(found.from_truth, expected.from_truth, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spacing", SPACINGS)
def test_equals_monai(spacing: Spacing, seed: int) -> None:
    result, truth = blobs(seed)
    assert result.any()
    assert (result != truth).any()
    distances = surface_distances(result, truth, spacing)
    pair = [torch.from_numpy(region)[None, None] for region in (result, truth)]
    given: dict[str, Any] = {"include_background": True, "spacing": list(spacing)}
    for percent in (50, 95, 100):
        expected = compute_hausdorff_distance(*pair, percentile=percent, **given).item()
        assert distances.hausdorff(percent) == pytest.approx(expected, rel=1e-6)
    for tolerance in (0.0, 0.7, 0.9, 1.0, 1.4, 2.5, 3.0):
        expected = compute_surface_dice(*pair, class_thresholds=[tolerance], **given).item()
        assert distances.surface_dice(tolerance) == pytest.approx(expected, abs=1e-6)


def test_the_larger_direction_counts() -> None:
    distances = SurfaceDistances(np.arange(101.0), np.full(3, 7.0))
    assert distances.hausdorff() == 95
    assert distances.hausdorff(100) == 100
    assert SurfaceDistances(distances.from_truth, distances.from_result).hausdorff() == 95


def test_surface_dice_counts_both_surfaces_together() -> None:
    distances = SurfaceDistances(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0]))
    assert [distances.surface_dice(tolerance) for tolerance in (0, 0.9, 1, 2.5, 3)] == [0.4, 0.4, 0.6, 0.8, 1]


def test_rounding_does_not_decide_about_the_tolerance() -> None:
    """3 * 0.1 is above 0.3 in 64 bits, and 0.7 is not what a header of 32 bits says."""
    result, truth = box((8, 1, 1), (0, 0, 0), (0, 0, 0)), box((8, 1, 1), (3, 0, 0), (3, 0, 0))
    assert surface_distances(result, truth, (0.1, 1, 1)).surface_dice(0.3) == 1
    moved = np.roll(result, 1, axis=0)
    for size in (0.7, float(np.float32(0.7))):
        assert surface_distances(result, moved, (size, 1, 1)).surface_dice(0.7) == 1


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable[..., Any] = builtins.__import__

    def without_scipy(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("scipy"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="scipy")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_scipy)
    with pytest.raises(
        ValueError, match=r"need the extra `medical`: pip install 'detseg\[medical\]' \(missing: scipy\)"
    ):
        surface_distances(ONE, ONE, (1, 1, 1))
