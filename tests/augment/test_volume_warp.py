from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.interpolate import BSpline
from scipy.ndimage import map_coordinates

from detseg.augment.volume_warp import RandomWarp, elastic_shifts
from detseg.structures import IGNORE_INDEX
from detseg.volumes import Shape3, Spacing

SIZE = (12, 16, 10)
LIMITS: dict[str, Any] = {
    "rotation_degrees": (30.0, 30.0, 30.0),
    "scaling_factors": (0.7, 1.4),
    "elastic_cells": 3,
    "elastic_shift": (0.0, 0.3),
}
WARPS: list[dict[str, Any]] = [
    {"rotation": 1.0},
    {"scaling": 1.0},
    {"elastic": 1.0},
    {"rotation": 1.0, "scaling": 1.0, "elastic": 1.0},
]


def random_warp(**settings: Any) -> RandomWarp:
    return RandomWarp(**{**LIMITS, **settings})


def grid_of(warp: RandomWarp, seed: int, size: Shape3 = SIZE, spacing: Spacing = (1.0, 1.0, 1.0)) -> np.ndarray:
    grid = warp.grid(size, spacing, np.random.default_rng(seed))
    assert grid is not None
    assert grid.dtype == np.float32
    return grid


def still_grid(size: Shape3) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(side) - (side - 1) / 2 for side in size], indexing="ij"))


def linear_map(grid: np.ndarray) -> np.ndarray:
    """The matrix ``[3, 3]`` of a grid without elastic warp."""
    steps = [np.diff(grid, axis=axis + 1) for axis in range(3)]
    matrix = np.stack([step.mean(axis=(1, 2, 3)) for step in steps], axis=1)
    np.testing.assert_allclose(np.tensordot(matrix, still_grid(grid.shape[1:]), axes=1), grid, atol=1e-4)
    return matrix


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.0, 3.0)])
def test_turns_are_turns_of_space(spacing: Spacing) -> None:
    warp = random_warp(rotation=1.0, rotation_degrees=(180, 180, 180))
    matrices = [linear_map(grid_of(warp, seed, spacing=spacing)) for seed in range(20)]
    for matrix in matrices:
        in_space = np.diag(spacing) @ matrix @ np.linalg.inv(np.diag(spacing))
        np.testing.assert_allclose(in_space @ in_space.T, np.eye(3), atol=1e-5)
        assert np.linalg.det(in_space) == pytest.approx(1, abs=1e-5)
    assert np.abs(np.std(matrices, axis=0)).min() > 0.1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_axis_has_its_own_angle(axis: int) -> None:
    degrees = tuple(20.0 * (a == axis) for a in range(3))
    warp = random_warp(rotation=1.0, rotation_degrees=degrees)
    angles = []
    for seed in range(100):
        matrix = linear_map(grid_of(warp, seed))
        np.testing.assert_allclose(matrix[axis], np.eye(3)[axis], atol=1e-5)
        np.testing.assert_allclose(matrix[:, axis], np.eye(3)[axis], atol=1e-5)
        after, before = (axis + 1) % 3, (axis + 2) % 3
        angles.append(np.rad2deg(np.arctan2(matrix[before, after], matrix[after, after])))
    assert -20 <= min(angles) < -15
    assert 15 < max(angles) <= 20


def test_scales_lie_between_the_factors_with_inverses_as_likely() -> None:
    warp = random_warp(scaling=1.0, scaling_factors=(0.5, 2.0))
    matrices = np.array([linear_map(grid_of(warp, seed)) for seed in range(300)])
    factors = 1 / matrices[:, 0, 0]  # what the patch shows grows when it looks at less
    np.testing.assert_allclose(matrices, np.eye(3) / factors[:, None, None], atol=1e-5)
    assert 0.5 <= factors.min() < 0.53
    assert 1.9 < factors.max() <= 2.0
    assert (factors > 1).mean() == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("name", ["rotation", "scaling", "elastic"])
def test_a_warp_happens_with_its_probability(name: str) -> None:
    warp = random_warp(**{name: 0.3})
    grids = [warp.grid((3, 3, 3), (1.0, 1.0, 1.0), np.random.default_rng(seed)) for seed in range(600)]
    assert np.mean([grid is not None for grid in grids]) == pytest.approx(0.3, abs=0.06)
    assert all(np.abs(grid - still_grid((3, 3, 3))).max() > 0 for grid in grids if grid is not None)


@pytest.mark.parametrize(("num_cells", "size"), [(1, (5, 8, 6)), (3, SIZE), (4, (3, 20, 9))])
def test_elastic_shifts_are_cubic_splines(num_cells: int, size: Shape3) -> None:
    shifts = elastic_shifts(size, num_cells, 0.3, np.random.default_rng(2))
    expected = np.random.default_rng(2).uniform(-0.3, 0.3, (3, *[num_cells + 3] * 3))
    for axis, side in enumerate(size):
        expected[axis] *= side / num_cells
    for axis, side in enumerate(size, start=1):
        spline = BSpline(np.arange(-3, num_cells + 4), np.moveaxis(expected, axis, 0), 3)
        expected = np.moveaxis(spline((np.arange(side) + 0.5) * num_cells / side), 0, axis)
    assert shifts.dtype == np.float32
    np.testing.assert_allclose(shifts, expected, atol=1e-5)


@pytest.mark.parametrize("num_cells", [1, 3, 6])
def test_elastic_warps_do_not_fold_and_move_no_further_than_said(num_cells: int) -> None:
    size = (24, 30, 18)
    for seed in range(20):
        shifts = elastic_shifts(size, num_cells, 0.4, np.random.default_rng(seed))
        farthest = np.abs(shifts).max(axis=(1, 2, 3))
        assert (farthest <= 0.4 * np.array(size) / num_cells).all()
        assert (farthest > 0.05 * np.array(size) / num_cells).all()
        jacobian = np.stack(np.gradient(shifts, axis=(1, 2, 3)), axis=1).transpose(2, 3, 4, 0, 1) + np.eye(3)
        assert np.linalg.det(jacobian).min() > 0


def test_no_shift_is_no_warp() -> None:
    warp = random_warp(elastic=1.0, elastic_shift=(0.0, 0.0))
    np.testing.assert_array_equal(grid_of(warp, 0), still_grid(SIZE))


SOURCES: list[tuple[Shape3, Shape3]] = [
    # shape of the volume, first voxel of the patch
    ((30, 32, 28), (9, 8, 9)),  # all of the patch and its surroundings inside
    ((20, 18, 14), (0, 2, 4)),  # at the border
    ((8, 30, 7), (-2, 5, -1)),  # smaller than the patch
    ((1, 20, 14), (-5, 2, 2)),
    ((20, 18, 14), (-60, 0, 0)),  # nothing of the volume
]


@pytest.mark.parametrize(("shape", "corner"), SOURCES)
@pytest.mark.parametrize("settings", WARPS)
def test_the_image_is_what_scipy_interpolates(shape: Shape3, corner: Shape3, settings: dict[str, Any]) -> None:
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    warp = random_warp(**settings)
    for seed in range(4):
        grid = grid_of(warp, seed)
        warped, labels = warp(image, np.ones(shape, np.uint8), corner, grid)
        middle = np.add(corner, (np.array(SIZE) - 1) / 2)
        positions = grid + middle[:, None, None, None]
        expected = map_coordinates(image, positions, order=1, mode="nearest")
        limits = np.array(shape)[:, None, None, None] - 0.5
        outside = ((positions < -0.5) | (positions > limits)).any(axis=0)
        expected[outside] = 0
        assert warped.dtype == np.float32
        np.testing.assert_allclose(warped, expected, atol=1e-4)
        np.testing.assert_array_equal(labels == IGNORE_INDEX, outside)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("settings", WARPS)
def test_labels_follow_the_image(axis: int, settings: dict[str, Any]) -> None:
    """The image is a ramp, which linear interpolation keeps, and classes change where it is half way between voxels."""
    shape, corner = (30, 32, 28), (9, 8, 9)
    ramp = np.indices(shape, np.float32)[axis]
    labels = (ramp // 3).astype(np.uint8)
    warp = random_warp(**settings)
    for seed in range(4):
        warped, warped_labels = warp(ramp, labels, corner, grid_of(warp, seed))
        # Voxels 0, 1 and 2 are class 0 and voxels 3, 4 and 5 class 1, so that the first border is at 2.5.
        expected = np.floor((warped + 0.5) / 3)
        decided = np.abs((warped + 0.5) / 3 - np.round((warped + 0.5) / 3)) > 1e-4
        assert decided.mean() > 0.99
        assert len(np.unique(warped_labels)) >= 3
        np.testing.assert_array_equal(warped_labels[decided], expected[decided])


def test_ignored_of_the_volume_stays_a_class_of_its_own() -> None:
    shape = (30, 32, 28)
    labels = np.full(shape, 3, np.uint8)
    labels[15:] = IGNORE_INDEX
    warp = random_warp(scaling=1.0, scaling_factors=(2.0, 2.0))
    _, warped = warp(np.zeros(shape, np.float32), labels, (9, 8, 9), grid_of(warp, 0))
    # The patch covers 9 to 21 with its middle at 14.5 between voxels, and voxel 14 is the last with a class.
    assert (warped[:6] == 3).all()
    assert (warped[6:] == IGNORE_INDEX).all()


def test_more_classes_than_are_resampled_at_once() -> None:
    labels = np.random.default_rng(0).integers(0, 40, (30, 32, 28)).astype(np.uint8)
    warp = random_warp(rotation=1.0)
    grid = grid_of(warp, 0)
    _, warped = warp(np.zeros(labels.shape, np.float32), labels, (9, 8, 9), grid)
    positions = grid + np.add((9, 8, 9), (np.array(SIZE) - 1) / 2)[:, None, None, None]
    weights = np.stack([map_coordinates((labels == v).astype(float), positions, order=1) for v in range(40)])
    best = np.sort(weights, axis=0)
    decided = best[-1] - best[-2] > 1e-4
    assert decided.mean() > 0.9
    np.testing.assert_array_equal(warped[decided], weights.argmax(axis=0)[decided])
