from __future__ import annotations

import numpy as np
import pytest

from detseg.augment.patches import crop_or_pad, sample_patch_corner
from detseg.structures import IGNORE_INDEX
from detseg.volumes import Shape3


def corners(labels: np.ndarray, size: Shape3, foreground: float, num: int) -> np.ndarray:
    return np.array([sample_patch_corner(labels, size, foreground, np.random.default_rng(i)) for i in range(num)])


def labels_with(*voxels: tuple[int, int, int, int], shape: Shape3 = (9, 10, 11)) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    for *place, value in voxels:
        labels[tuple(place)] = value
    return labels


def test_all_places_inside_are_equally_likely() -> None:
    found = corners(labels_with((0, 0, 0, 1)), (7, 10, 8), 0.0, 2000)
    places, counts = np.unique(found, axis=0, return_counts=True)
    assert places.tolist() == [[d, 0, w] for d in range(3) for w in range(4)]
    assert counts.min() > 2000 / 12 * 0.7
    assert counts.max() < 2000 / 12 * 1.3


def test_a_smaller_volume_lies_in_the_middle() -> None:
    found = corners(labels_with((0, 0, 0, 1)), (9, 12, 14), 0.5, 20)
    assert np.unique(found, axis=0).tolist() == [[0, -1, -1]], "of 3 voxels of padding the odd one comes behind"


@pytest.mark.parametrize(
    ("voxel", "size", "corner"),
    [
        ((4, 5, 6), (3, 3, 3), [3, 4, 5]),  # in the middle
        ((4, 5, 6), (4, 4, 4), [2, 3, 4]),  # even: half the side lies before the voxel
        ((0, 9, 10), (3, 3, 3), [0, 7, 8]),  # at the border
        ((4, 0, 6), (3, 20, 3), [3, -5, 5]),  # larger than the volume along one axis
    ],
)
def test_foreground_comes_to_the_middle(voxel: Shape3, size: Shape3, corner: list[int]) -> None:
    labels = labels_with((*voxel, 3))
    assert (corners(labels, size, 1.0, 5) == corner).all()


def test_classes_are_equally_likely_and_then_their_voxels() -> None:
    labels = labels_with((1, 1, 1, 1), (4, 4, 4, 2), (4, 8, 8, 2), (7, 3, 2, 2), (2, 2, 2, IGNORE_INDEX))
    found = corners(labels, (1, 1, 1), 1.0, 1200)
    places, counts = np.unique(found, axis=0, return_counts=True)
    assert places.tolist() == [[1, 1, 1], [4, 4, 4], [4, 8, 8], [7, 3, 2]], "never the background, never IGNORE_INDEX"
    np.testing.assert_allclose(counts / 1200, [1 / 2, 1 / 6, 1 / 6, 1 / 6], atol=0.04)


def test_every_voxel_of_a_class_can_be_chosen() -> None:
    labels = (np.random.default_rng(0).random((3, 4, 5)) < 0.4).astype(np.uint8)
    found = {tuple(corner) for corner in corners(labels, (1, 1, 1), 1.0, 1000).tolist()}
    assert found == {tuple(place) for place in np.argwhere(labels == 1).tolist()}


def test_the_share_of_foreground_is_as_asked() -> None:
    labels = labels_with((5, 5, 5, 1), shape=(20, 20, 20))
    found = corners(labels, (1, 1, 1), 0.33, 2000)
    assert (found == 5).all(axis=1).mean() == pytest.approx(0.33, abs=0.04)


@pytest.mark.parametrize("value", [0, IGNORE_INDEX])
def test_without_foreground_patches_are_anywhere(value: int) -> None:
    labels = np.full((9, 9, 9), value, np.uint8)
    found = corners(labels, (4, 4, 4), 1.0, 50)
    assert len(np.unique(found, axis=0)) > 30
    assert found.min() >= 0
    assert found.max() <= 5


@pytest.mark.parametrize(
    ("corner", "size"),
    [
        ((1, 2, 3), (2, 2, 2)),
        ((0, 0, 0), (4, 5, 6)),
        ((-2, 0, 1), (8, 5, 3)),
        ((-1, -3, -2), (10, 12, 9)),
        ((3, -4, 5), (4, 6, 7)),
        ((4, 0, 0), (2, 2, 2)),  # beyond the volume
        ((5, 0, 0), (6, 2, 2)),
        ((-2, 0, 0), (2, 2, 2)),
        ((-3, 0, 0), (2, 2, 2)),
        ((-9, 8, 0), (2, 2, 2)),
    ],
)
def test_a_patch_shows_the_volume_and_the_fill_around_it(corner: Shape3, size: Shape3) -> None:
    voxels = np.arange(1, 121, dtype=np.float32).reshape(4, 5, 6)
    patch = crop_or_pad(voxels, corner, size, -7)
    expected = np.pad(voxels, 20, constant_values=-7)
    start = [first + 20 for first in corner]
    window = tuple(slice(first, first + side) for first, side in zip(start, size, strict=True))
    np.testing.assert_array_equal(patch, expected[window])
    assert patch.dtype == np.float32


def test_a_patch_is_a_copy() -> None:
    voxels = np.zeros((4, 5, 6), np.uint8)
    crop_or_pad(voxels, (0, 0, 0), (4, 5, 6), IGNORE_INDEX)[:] = 1
    assert (voxels == 0).all()
