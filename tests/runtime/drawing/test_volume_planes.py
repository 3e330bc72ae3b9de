from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from detseg.arrays import ByteArray
from detseg.runtime.drawing.palette import color_of
from detseg.runtime.drawing.volume_planes import AXIAL, CORONAL, PLANES, SAGITTAL, Plane, Scan, foreground, middle
from detseg.structures import IGNORE_INDEX
from detseg.volumes import Shape3, Spacing, Volume


def scan_of(voxels: np.ndarray, spacing: Spacing = (1, 1, 1)) -> Scan:
    """A scan whose axes run toward the right, the front and the top already."""
    return Scan(Volume(voxels.astype(np.float32), np.diag([*spacing, 1.0])))


@pytest.mark.parametrize(
    ("plane", "letters", "slice_of"),
    [
        # Radiological: right is left, front is up, top is up; from the side the face looks left.
        (AXIAL, ("R", "L", "A", "P"), lambda body, k: body[::-1, ::-1, k].T),
        (CORONAL, ("R", "L", "S", "I"), lambda body, k: body[::-1, k, ::-1].T),
        (SAGITTAL, ("A", "P", "S", "I"), lambda body, k: body[k, ::-1, ::-1].T),
    ],
)
def test_planes_keep_the_radiological_convention(
    plane: Plane, letters: tuple[str, ...], slice_of: Callable[[np.ndarray, int], np.ndarray]
) -> None:
    body = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    assert plane.letters == letters
    for position in range(body.shape[plane.normal]):
        assert np.array_equal(plane.cut(body, position), slice_of(body, position))


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, 1, -1)])
def test_the_order_and_direction_of_the_axes_in_the_file_do_not_matter(axes: Shape3, signs: Shape3) -> None:
    """``body`` is stored with axis ``axes[a]`` of the body as axis ``a`` of the file."""
    body = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    stored = body.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (body_axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[body_axis, axis] = sign * (body_axis + 1.5)
    scan = Scan(Volume(np.ascontiguousarray(stored), affine))
    assert scan.shape == (2, 3, 4)
    assert scan.spacing == (1.5, 2.5, 3.5)
    assert np.array_equal(scan.orient(stored), body)


def test_images_have_the_proportions_of_the_body() -> None:
    scan = scan_of(np.zeros((20, 30, 8)), (1, 2, 5))
    labels = np.zeros((20, 30, 8), np.uint8)
    assert [scan.extent(axis) for axis in range(3)] == [20, 60, 40]
    # 60 mm is the longest side, and has 60 voxels of the finest spacing, so it gets the 420 pixels of the lower limit.
    scale = scan.scale(PLANES, 420, 720)
    assert scale == 7
    sizes = [scan.image(plane, 0, labels, scale).shape for plane in PLANES]
    assert sizes == [(420, 140, 3), (280, 140, 3), (280, 420, 3)]


@pytest.mark.parametrize(("length", "longest"), [(10, 420), (500, 500), (2000, 720)])
def test_a_voxel_is_a_pixel_within_limits(length: int, longest: int) -> None:
    scan = scan_of(np.zeros((length, 1, 1)), (0.5, 0.5, 0.5))
    assert scan.scale(PLANES, 420, 720) * scan.extent(0) == pytest.approx(longest)


def test_a_plane_as_thin_as_a_hair_still_is_an_image() -> None:
    scan = scan_of(np.zeros((1, 1, 1)), (1e-3, 1.0, 1e3))
    labels, scale = np.ones((1, 1, 1), np.uint8), scan.scale(PLANES, 420, 720)
    sizes = [scan.image(plane, 0, labels, scale).shape for plane in PLANES]
    assert sizes == [(1, 1, 3), (720, 1, 3), (720, 1, 3)]


def test_gray_runs_from_the_first_to_the_last_percentile() -> None:
    voxels = np.linspace(0, 100, 101)[:, None, None] * np.ones((1, 4, 4))
    voxels[100] = 1e6
    scan = scan_of(voxels)
    image = scan.image(AXIAL, 0, np.zeros(scan.shape, np.uint8), 1.0)
    assert image.shape == (4, 101, 3)
    # From left to right: from the body's right to its left.
    gray = image[0, ::-1, 0].astype(int)
    assert gray[[0, 1]].tolist() == [0, 0]
    assert gray[[99, 100]].tolist() == [255, 255]
    assert gray[50] == round(255 * 49 / 98)
    assert (image == image[..., :1]).all()


def test_a_constant_scan_is_black() -> None:
    scan = scan_of(np.full((3, 3, 3), 7.0))
    assert (scan.image(AXIAL, 1, np.zeros((3, 3, 3), np.uint8), 4.0) == 0).all()


def colored(image: ByteArray, label: int) -> np.ndarray:
    return np.asarray((image == color_of(label - 1)).all(axis=2))


def test_classes_are_outlined_inside_their_borders() -> None:
    """Two classes of 10 x 10 mm side by side on black, 20 pixels to the millimeter: lines of nearly two pixels."""
    labels = np.zeros((30, 30, 1), np.uint8)
    labels[5:15, 10:20] = 1
    labels[15:25, 10:20] = 2
    labels[0:3, 0:3] = IGNORE_INDEX
    image = scan_of(np.zeros((30, 30, 1))).image(AXIAL, 0, labels, 20.0)
    drawn = (image != 0).any(axis=2)
    rows, columns = np.nonzero(drawn)
    # Columns count from the right of the body at the left of the image: class 2 lies first.
    assert (rows.min(), rows.max() + 1) == pytest.approx((200, 400), abs=1)
    assert (columns.min(), columns.max() + 1) == pytest.approx((100, 500), abs=1)
    assert drawn[300, 110:290].sum() == 0, "the inside is clear"
    both = [np.flatnonzero(colored(image, label)[300]) for label in (2, 1)]
    assert 100 <= both[0].min() < both[0].max() < 300 <= both[1].min() < both[1].max() < 500
    assert drawn[300].sum() == pytest.approx(4 * 2, abs=4)


def test_a_class_at_the_border_of_the_scan_is_outlined_all_around() -> None:
    labels = np.full((10, 10, 1), 1, np.uint8)
    image = scan_of(np.zeros((10, 10, 1))).image(AXIAL, 0, labels, 20.0)
    drawn = colored(image, 1)
    assert drawn[0, 3:-3].all()
    assert drawn[-1, 3:-3].all()
    assert drawn[3:-3, 0].all()
    assert drawn[3:-3, -1].all()
    assert not drawn[5:-5, 5:-5].any()


def test_a_single_voxel_is_seen() -> None:
    labels = np.zeros((40, 40, 1), np.uint8)
    labels[20, 20] = 3
    image = scan_of(np.zeros((40, 40, 1))).image(AXIAL, 0, labels, 10.0)
    rows, columns = np.nonzero((image != 0).any(axis=2))
    assert (rows.mean(), columns.mean()) == pytest.approx((194.5, 194.5), abs=0.5)
    assert len(rows) > 10


def test_the_middle_meets_the_region() -> None:
    """A horseshoe: its center of gravity is empty, the slices through its middle are not."""
    region = np.zeros((9, 9, 5), np.bool_)
    region[1:8, 1:8, 2] = True
    region[3:8, 3:6, 2] = False
    assert not region[4, 4, 2]
    for axis, position in enumerate(middle(region)):
        assert region.take(position, axis=axis).any()
    assert middle(region)[1:] == (4, 2)
    line = np.zeros((10, 1, 1), np.bool_)
    line[[0, 8, 9]] = True
    assert middle(line) == (8, 0, 0)


def test_the_middle_of_nothing_is_that_of_the_scan() -> None:
    assert middle(np.zeros((7, 10, 1), np.bool_)) == (3, 5, 0)


def test_background_and_ignored_are_no_foreground() -> None:
    labels = np.array([0, 1, 254, IGNORE_INDEX], np.uint8).reshape(4, 1, 1)
    assert foreground(labels).ravel().tolist() == [False, True, True, False]
