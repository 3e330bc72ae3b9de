from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from detseg.runtime.inputs import volume_geometry
from detseg.runtime.inputs.volume_geometry import (
    VolumeSpec,
    normalize_intensity,
    orientation,
    place_labels,
    place_volume,
    resample,
    to_file_axes,
    to_input_axes,
    transform_of,
)
from detseg.runtime.volumes import nifti
from detseg.runtime.volumes.nifti import write_volume
from detseg.runtime.volumes.nifti_header import VolumeError
from detseg.runtime.volumes.volume_files import read_label_values
from detseg.structures import IGNORE_INDEX
from detseg.volumes import Volume

RNG = np.random.default_rng(0)


def affine_of(directions: str, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Any:
    orientation = nibabel.orientations.axcodes2ornt(tuple(directions))
    matrix = np.linalg.inv(nibabel.orientations.inv_ornt_aff(orientation, (1, 1, 1)))
    matrix[:3, :3] *= np.array(spacing)
    return matrix


def random_affine(rng: np.random.Generator) -> Any:
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation * rng.uniform(0.3, 5, 3)
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    return affine


@pytest.mark.parametrize(
    ("directions", "axes", "flips"),
    [
        ("RAS", (0, 1, 2), (False, False, False)),
        ("LPS", (0, 1, 2), (True, True, False)),
        ("SRA", (1, 2, 0), (False, False, False)),
        ("PIL", (2, 0, 1), (True, True, True)),
    ],
)
def test_orientation_of_straight_volumes(directions: str, axes: tuple[int, ...], flips: tuple[bool, ...]) -> None:
    assert orientation(affine_of(directions, (0.5, 2.0, 4.0))) == (axes, flips)


def test_orientation_is_that_of_nibabel_for_oblique_volumes() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        affine = random_affine(rng)
        axes, flips = orientation(affine)
        theirs = nibabel.orientations.io_orientation(affine)
        for patient_axis in range(3):
            assert theirs[axes[patient_axis]].tolist() == [patient_axis, -1 if flips[patient_axis] else 1]


def test_of_two_equally_near_axes_the_one_is_taken_that_nibabel_takes() -> None:
    steps = np.radians(range(0, 360, 45))
    for first, second, third in itertools.product(steps, repeat=3):
        affine = np.eye(4)
        affine[:3, :3] = nibabel.eulerangles.euler2mat(first, second, third).round(3)
        axes, flips = orientation(affine)
        theirs = nibabel.orientations.io_orientation(affine)
        assert theirs[list(axes)].tolist() == [[axis, -1 if flip else 1] for axis, flip in enumerate(flips)]


def test_the_way_to_the_network_and_back() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        shape = tuple(rng.integers(2, 9, 3).tolist())
        array, affine = rng.random(shape).astype(np.float32), random_affine(rng)
        transform = transform_of(shape, affine, VolumeSpec())
        assert transform.input_shape == transform.oriented_shape
        oriented = to_input_axes(array, transform)
        assert oriented.shape == transform.oriented_shape
        canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(array, affine))
        assert np.array_equal(oriented, canonical.get_fdata(dtype=np.float32))
        np.testing.assert_allclose(transform.input_spacing, nibabel.affines.voxel_sizes(canonical.affine), rtol=1e-5)
        assert np.array_equal(to_file_axes(oriented, transform), array)


def test_shrinking_skips_nothing() -> None:
    """A single bright voxel leaves its share wherever it lies, and a constant stays one."""
    for position in range(12):
        array = np.zeros((12, 3, 3), np.float32)
        array[position] = 1
        assert resample(array, (4, 3, 3))[:, 1, 1].sum() == pytest.approx(1 / 3, abs=0.12)
    assert np.allclose(resample(np.full((9, 8, 7), 3.5, np.float32), (2, 3, 4)), 3.5)
    # By hand: centers at 0.5 and 2.5, triangles of half width 2; the first reaches 0, 1 and 2.
    halved = resample(np.array([[[1.0, 2.0, 4.0, 8.0]]], np.float32), (1, 1, 2))
    first = (0.75 * 1 + 0.75 * 2 + 0.25 * 4) / 1.75
    second = (0.25 * 2 + 0.75 * 4 + 0.75 * 8) / 1.75
    np.testing.assert_allclose(halved[0, 0], [first, second], rtol=1e-6)


def test_the_spacing_decides_the_shape_of_the_input() -> None:
    volume = Volume(RNG.random((10, 20, 6)).astype(np.float32), affine_of("SRA", (1.0, 0.5, 3.0)))
    array, transform = place_volume(volume, VolumeSpec(spacing=(1.0, 2.0, 0.75)))
    # Toward the right are 20 voxels of 0.5 mm, toward the front 6 of 3 mm, toward the top 10 of 1 mm.
    assert transform.oriented_shape == (20, 6, 10)
    assert array.shape == transform.input_shape == (10, 9, 13)
    assert transform.input_spacing == pytest.approx((1.0, 2.0, 10 / 13))
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    own, transform = place_volume(volume, VolumeSpec())
    assert own.shape == (20, 6, 10)
    assert own.flags.c_contiguous
    tiny, _ = place_volume(volume, VolumeSpec(spacing=(500.0, 500.0, 500.0)))
    assert tiny.shape == (1, 1, 1)


def test_an_input_beyond_all_measure_is_refused_before_it_is_made() -> None:
    volume = Volume(np.zeros((10, 12, 14), np.float32), np.diag([900.0, 1000.0, 1100.0, 1.0]))
    with pytest.raises(
        VolumeError,
        match=r"10x12x14 voxels of 900x1000x1100 mm would become 18000x24000x30800 of 0\.5x0\.5x0\.5 mm .* larger",
    ):
        place_volume(volume, VolumeSpec(spacing=(0.5, 0.5, 0.5)))
    # 2 ** 30 voxels are allowed, a row more is not.
    affine = np.diag([1024.0, 1024.0, 1024.0, 1.0])
    assert transform_of((1, 1, 1), affine, VolumeSpec(spacing=(1.0, 1.0, 1.0))).input_shape == (1024, 1024, 1024)
    with pytest.raises(VolumeError, match="1024x1024x1025"):
        transform_of((1, 1, 1), np.diag([1024.0, 1024.0, 1025.0, 1.0]), VolumeSpec(spacing=(1.0, 1.0, 1.0)))


def test_a_long_row_takes_no_more_memory_than_its_voxels() -> None:
    row = np.arange(30_000, dtype=np.float32).reshape(1, 1, -1)
    tracemalloc.start()
    longer, shorter = resample(row, (1, 1, 60_000)), resample(row, (1, 1, 20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e7
    np.testing.assert_allclose(longer[0, 0, 1:-1], np.arange(1, 59_999) / 2 - 0.25)
    # Where its triangle lies inside of the row, a new voxel is the mean about its center.
    np.testing.assert_allclose(shorter[0, 0, 1:-1], np.arange(1.5, 19) * 1500 - 0.5, rtol=1e-5)


def test_labels_follow_their_volume() -> None:
    labels = np.zeros((12, 10, 8), np.uint8)
    labels[2:8, 3:9, 1:7] = 3
    labels[9:, :, :] = IGNORE_INDEX
    affine = affine_of("LSA", (1.0, 2.0, 1.5))
    same = transform_of((12, 10, 8), affine, VolumeSpec())
    assert np.array_equal(place_labels(labels, same), to_input_axes(labels, same))
    longer = transform_of((12, 10, 8), affine, VolumeSpec(spacing=(0.5, 1.5, 2.0)))
    assert np.array_equal(place_labels(labels, longer), to_input_axes(labels, same).repeat(2, 0))
    finer = transform_of((12, 10, 8), affine, VolumeSpec(spacing=(0.5, 0.75, 1.0)))
    placed = place_labels(labels, finer)
    assert placed.shape == finer.input_shape == (24, 16, 20)
    # All that may differ are the corners of the box, which are rounded off.
    repeated = to_input_axes(labels, same).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    assert np.array_equal(placed == IGNORE_INDEX, repeated == IGNORE_INDEX)
    assert np.count_nonzero(placed != repeated) <= 8


def test_of_equal_shares_the_lower_class_wins() -> None:
    labels = np.array([0, 1, 2, 1], np.uint8).reshape(4, 1, 1)
    transform = transform_of((4, 1, 1), np.eye(4), VolumeSpec(spacing=(2.0, 1.0, 1.0)))
    # First: 0 and 1 with 0.75 each, 2 with 0.25. Second: 1 with 0.25 + 0.75, 2 with 0.75.
    assert place_labels(labels, transform).ravel().tolist() == [0, 1]


def test_zscore_is_over_the_volume_as_it_is_in_the_file() -> None:
    voxels = (RNG.random((5, 6, 7)) * 1000 + 400).astype(np.float32)
    normalized = normalize_intensity(voxels, VolumeSpec())
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized, (voxels - voxels.mean()) / voxels.std(), atol=1e-5)
    coarse, _ = place_volume(Volume(voxels, np.eye(4)), VolumeSpec(spacing=(2.0, 2.0, 2.0)))
    np.testing.assert_allclose(coarse, resample(normalized, coarse.shape), atol=1e-6)
    slight = normalize_intensity(np.array([1e6 - 0.5, 1e6 + 0.5], np.float32).reshape(2, 1, 1), VolumeSpec())
    assert slight.ravel().tolist() == [-1, 1], "little contrast on a high level is not none"
    for constant in (0.0, -7.3, 1e6):
        assert not normalize_intensity(np.full((3, 3, 3), constant, np.float32), VolumeSpec()).any()


def test_a_window_is_clipped_and_mapped() -> None:
    voxels = np.array([-1000, -160, 40, 240, 3000], np.float32).reshape(5, 1, 1)
    normalized = normalize_intensity(voxels, VolumeSpec(intensity="window", window=(-160.0, 240.0)))
    assert normalized.ravel().tolist() == [-1, -1, 0, 1, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"spacing": (1.0, 0.0, 1.0)},
            r"spacing must be three positive numbers of millimeters, got \(1\.0, 0\.0, 1\.0\)",
        ),
        ({"spacing": (1.0, 1.0)}, "spacing must be three positive numbers"),
        ({"spacing": (1.0, float("nan"), 1.0)}, "spacing must be three positive numbers"),
        ({"intensity": "minmax"}, "intensity must be one of zscore, window, ct, got 'minmax'"),
        (
            {"window": (0.0, 1.0)},
            r"a window belongs to intensity window, but intensity is zscore; got window \(0\.0, 1\.0\)",
        ),
        ({"intensity": "window"}, "intensity window needs a window"),
        ({"intensity": "window", "window": (5.0, 5.0)}, r"lower < upper.* got \(5\.0, 5\.0\)"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VolumeSpec(**settings)


def test_a_file_by_its_specification(tmp_path: Path) -> None:
    volume = Volume(RNG.random((4, 5, 6)).astype(np.float32), affine_of("LPS"))
    write_volume(tmp_path / "a.nii.gz", volume)
    spec = VolumeSpec()
    array, transform = spec.place(spec.read(tmp_path / "a.nii.gz"))
    assert array.shape == (1, 4, 5, 6)
    np.testing.assert_allclose(array[0], normalize_intensity(volume.voxels, spec)[::-1, ::-1], atol=1e-6)
    assert transform.original_shape == (4, 5, 6)


def test_real_labels_survive_another_spacing_and_back(detseg_data: Path) -> None:
    path = min((detseg_data / "hippocampus" / "labelsTr").iterdir())
    values, affine = read_label_values(path)
    labels = values.astype(np.uint8)
    shape = labels.shape
    transform = transform_of((shape[0], shape[1], shape[2]), affine, VolumeSpec(spacing=(0.8, 0.9, 1.1)))
    finer = place_labels(labels, transform)
    for label in (1, 2):
        milliliters = np.count_nonzero(finer == label) * np.prod(transform.input_spacing)
        assert milliliters == pytest.approx(np.count_nonzero(labels == label), rel=0.03)


@pytest.mark.parametrize(("spacing", "num_classes"), [(None, 1), (None, 20), ((0.5, 0.5, 0.5), 3)])
def test_the_memory_of_the_whole_road_is_estimated_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spacing: Any, num_classes: int
) -> None:
    """A compressed file of nothing but zeros takes a thousand times as much as it is long, and its result more."""
    path = tmp_path / "a.nii.gz"
    write_volume(path, Volume(np.zeros((100, 100, 100), np.float32), np.eye(4)))
    spec = VolumeSpec(spacing=spacing)
    placed = 1_000_000 if spacing is None else 8_000_000
    # The scan, its labels, sums over windows and strips of the input, each up to its limit.
    monkeypatch.setattr(volume_geometry, "SUMS_BYTES", 50_000_000)
    sums = min(50_000_000, 4 * placed * (2 * num_classes + 1)) + 8 * placed
    needed = 4_000_000 + 1_000_000 + max(sums, 4_000_000)
    monkeypatch.setattr(nifti, "usable_memory", lambda: 2 * needed)
    assert spec.read(path, num_classes).voxels.shape == (100, 100, 100)
    monkeypatch.setattr(nifti, "usable_memory", lambda: 2 * needed - 2)
    with pytest.raises(VolumeError, match=r"a\.nii\.gz: its 100x100x100 voxels would take some .* GB of memory"):
        spec.read(path, num_classes)
    # What is kept of the probabilities is there as a whole.
    monkeypatch.setattr(nifti, "usable_memory", lambda: 2 * needed)
    with pytest.raises(VolumeError, match="GB of memory"):
        spec.read(path, num_classes, num_classes)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (VolumeSpec(), None),
        (VolumeSpec(intensity="window", window=(-160.0, 240.0)), (-160.0, 240.0)),
        (VolumeSpec(intensity="ct", window=(-50.0, 90.0), mean=1.0, deviation=2.0), (-50.0, 90.0)),
    ],
)
def test_a_volume_is_shown_as_the_network_sees_it(tmp_path: Path, spec: VolumeSpec, expected: object) -> None:
    write_volume(tmp_path / "a.nii", Volume(np.zeros((3, 4, 5), np.float32), np.eye(4)))
    assert spec.read(tmp_path / "a.nii").display == expected
