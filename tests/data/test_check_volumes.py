from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from detseg.data.check import check_dataset
from detseg.data.checks.report import CheckReport, VolumeSummary
from detseg.data.checks.volumes import VolumeState, inspect_volumes
from detseg.data.datasets.subset import leave_out
from detseg.data.datasets.volumes import VolumeDataset
from detseg.data.formats.blobs import write_blobs
from detseg.data.formats.nifti import NiftiFormat
from detseg.data.open import find_source, open_dataset
from detseg.data.source import DatasetError
from detseg.runtime.volumes.volume_files import read_label_values, read_volume


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten volumes in the Decathlon's layout, with a YAML that divides them 8:2."""
    write_blobs(tmp_path / "data", 10)
    return tmp_path / "data"


def files(folder: Path, number: int) -> tuple[Path, Path]:
    name = sorted((folder / "imagesTr").iterdir())[number].name
    return folder / "imagesTr" / name, folder / "labelsTr" / name


def rewrite(path: Path, change: Callable[[Any, Any], tuple[Any, Any]]) -> None:
    image = nibabel.load(path)
    array, affine = change(np.asarray(image.dataobj).copy(), image.affine.copy())
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def codes(report: CheckReport) -> list[str]:
    return [finding.code for finding in report.findings]


def test_a_sound_data_set(folder: Path) -> None:
    report = check_dataset(folder)
    assert codes(report) == []
    assert report.exit_code == 0
    summary = report.splits["all"]
    assert isinstance(summary, VolumeSummary)
    assert summary.num_images == 10
    # Independently: milliliters and shapes of the files, read by nibabel.
    milliliters, shapes, spacings = [], [], []
    for path in (folder / "labelsTr").iterdir():
        image = nibabel.load(path)
        values = np.asarray(image.dataobj)
        milliliters.append(np.count_nonzero(values == 1) * abs(np.linalg.det(image.affine[:3, :3])) / 1000)
        canonical = nibabel.as_closest_canonical(image)
        shapes.append(canonical.shape)
        spacings.append(nibabel.affines.voxel_sizes(canonical.affine))
    assert summary.milliliters_by_class["bright"] == pytest.approx(np.mean(milliliters), rel=1e-5)
    assert summary.shapes == (tuple(np.min(shapes, 0)), tuple(np.max(shapes, 0)))
    np.testing.assert_allclose(summary.spacing, np.median(spacings, 0), rtol=1e-5)
    assert report.splits["train"].num_images == 8
    text = report.render()
    for word in ("milliliters per volume", "bright", "median spacing in mm", "volumes"):
        assert word in text
    assert "background" not in text


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def poison(array: Any, affine: Any) -> tuple[Any, Any]:
    array[0, 0, 0] = np.nan
    return array, affine


def stretch(array: Any, affine: Any) -> tuple[Any, Any]:
    return np.concatenate([array, array[-1:]]), affine


def shift(array: Any, affine: Any) -> tuple[Any, Any]:
    affine[0, 3] += 5
    return array, affine


def unknown(array: Any, affine: Any) -> tuple[Any, Any]:
    array[:2, 0, 0] = 9
    return array, affine


def fractions(array: Any, affine: Any) -> tuple[Any, Any]:
    return array.astype(np.float32) * 0.5, affine


def no_structure(array: Any, affine: Any) -> tuple[Any, Any]:
    return array * 0, affine


def mirror(array: Any, affine: Any) -> tuple[Any, Any]:
    """The same voxels at the same places, counted from the other end of the first axis."""
    affine[:3, 3] += affine[:3, 0] * (array.shape[0] - 1)
    affine[:3, 0] *= -1
    return array[::-1], affine


def swap_axes(array: Any, affine: Any) -> tuple[Any, Any]:
    """The same voxels at the same places, with the last axis first."""
    return np.ascontiguousarray(array.transpose(2, 0, 1)), affine[:, [2, 0, 1, 3]]


def in_centimeters(array: Any, affine: Any) -> tuple[Any, Any]:
    affine[:3] *= 0.1
    return array, affine


@pytest.mark.parametrize(
    ("which", "damage", "code", "message", "exit_code"),
    [
        (1, mirror, "D403", r"has the voxels of the volume .* direction, toward SRP instead of IRP", 2),
        (1, swap_axes, "D403", r"has the voxels of the volume .* direction, toward PIR instead of IRP", 2),
        (0, cut, "D401", "truncated", 2),
        (0, poison, "D401", "1 of .* voxels are NaN or infinite", 2),
        (1, cut, "D402", "truncated", 2),
        (1, fractions, "D402", "a label must be a whole number", 2),
        (1, stretch, "D403", "labels have one value for every voxel", 2),
        (1, shift, "D403", "its affine puts voxels up to 5 mm away", 2),
        (1, unknown, "D404", "9", 2),
        (1, no_structure, "D405", "all voxels are background", 1),
    ],
)
def test_each_fault_is_one_finding(
    folder: Path, which: int, damage: Any, code: str, message: str, exit_code: int
) -> None:
    path = files(folder, 3)[which]
    if damage is cut:
        cut(path)
    else:
        rewrite(path, damage)
    report = check_dataset(folder)
    assert codes(report) == [code]
    assert report.findings[0].file.endswith(path.name)
    assert report.exit_code == exit_code
    assert re.search(message, report.findings[0].message)
    assert report.splits["all"].num_images == 10


def test_hidden_files_and_labels_without_volume(folder: Path) -> None:
    image, label = files(folder, 0)
    shutil.copy(label, label.with_name("stray.nii.gz"))
    (image.parent / f"._{image.name}").write_bytes(b"macOS")
    report = check_dataset(folder)
    assert [(finding.code, Path(finding.file).name) for finding in report.findings] == [("D306", "stray.nii.gz")]
    assert report.exit_code == 0


def test_a_volume_without_labels_is_found_where_the_split_is_read(folder: Path) -> None:
    image, label = files(folder, 2)
    label.unlink()
    report = check_dataset(folder)
    assert set(codes(report)) == {"D100"}
    assert image.name.removesuffix(".nii.gz") in report.findings[0].message
    assert report.exit_code == 2


def test_copies_in_two_splits_leak_and_those_in_one_are_repetitions(folder: Path) -> None:
    report = check_dataset(folder, splits=["train", "val"])
    assert codes(report) == []
    paths = {
        split: [Path(open_dataset(folder, split).path(i)) for i in range(n)] for split, n in (("train", 8), ("val", 2))
    }
    original = paths["val"][0].read_bytes()
    for victim, code in ((paths["train"][5], "D201"), (paths["val"][1], "D203")):
        before = victim.read_bytes()
        victim.write_bytes(original)
        # The labels follow, or they would be on another grid.
        labels = folder / "labelsTr" / victim.name
        labels_before = labels.read_bytes()
        shutil.copy(folder / "labelsTr" / paths["val"][0].name, labels)
        assert codes(check_dataset(folder)) == [code]
        victim.write_bytes(before)
        labels.write_bytes(labels_before)


def test_folds_share_volumes_by_design(folder: Path) -> None:
    (folder / "data.yaml").write_text("format: nifti\nnames: [background, bright, dark]\nsplit: {folds: 5, seed: 3}\n")
    report = check_dataset(folder)
    assert codes(report) == []
    assert list(report.splits)[:2] == ["fold0-train", "fold0-val"]
    assert [report.splits[f"fold{fold}-val"].num_images for fold in range(5)] == [2] * 5
    image, label = files(folder, 0)
    other_image, other_label = files(folder, 1)
    shutil.copy(image, other_image)
    shutil.copy(label, other_label)
    assert codes(check_dataset(folder)) == ["D201"]  # in some fold one of the two is held out, the other is not


@pytest.mark.parametrize(
    ("train", "val", "expected"),
    [
        (range(8), range(8, 10), []),
        (range(8), range(7, 10), ["D201"]),
        (range(10), range(8, 10), ["D201", "D201"]),  # contained in the other is a leak too
        (range(3), range(3), ["D201"] * 3),
    ],
)
def test_splits_of_a_list_shall_have_no_volume_in_common(
    folder: Path, train: range, val: range, expected: list[str]
) -> None:
    settings = "format: nifti\nnames: [background, bright, dark]\n"
    for split, members in (("train", train), ("val", val)):
        for kind, position in (("images", 0), ("labels", 1)):
            listing = folder / f"{split}_{kind}.txt"
            listing.write_text("".join(f"{files(folder, index)[position]}\n" for index in members))
        settings += f"{split}: {{images: {split}_images.txt, labels: {split}_labels.txt}}\n"
    (folder / "data.yaml").write_text(settings)
    assert [code for code in codes(check_dataset(folder)) if code != "D105"] == expected


def test_built_in_volumes_have_a_histogram_too() -> None:
    report = check_dataset("blobs", splits=["val"])
    assert codes(report) == []
    assert report.splits["val"].num_images == 12


def test_counts_are_those_of_the_files(folder: Path) -> None:
    records = NiftiFormat().records(find_source(folder), "all", "volumes")
    inspection = inspect_volumes([records])
    for pair, state in zip(records.pairs, inspection.amounts["all"], strict=True):
        assert pair.label is not None
        assert isinstance(state, VolumeState)
        values, _ = read_label_values(pair.label)
        assert list(state.num_voxels.values()) == np.bincount(values.ravel(), minlength=3).tolist()
        assert state.header is not None
        assert state.header.shape == read_volume(pair.image).voxels.shape
    assert len(set(inspection.digests.values())) == len(records.pairs)


def test_real_volumes(detseg_data: Path) -> None:
    report = check_dataset(Path(__file__).parents[2] / "configs/data/hippocampus.yaml")
    assert codes(report) == []
    assert [report.splits[name].num_images for name in ("train", "val", "all")] == [166, 42, 208]


def test_a_header_that_contradicts_itself_is_told(folder: Path) -> None:
    image = nibabel.load(files(folder, 0)[0])
    moved = image.affine.copy()
    moved[0, 3] += 50
    image.set_qform(moved, code=1)
    image.set_sform(image.affine, code=1)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header), files(folder, 0)[0])
    report = check_dataset(folder)
    assert [code for code in codes(report) if code != "D403"] == ["D406"]
    assert "disagree by up to 50 mm" in report.by_code()["D406"][0].message


def test_other_values_do_not_hide_the_classes(folder: Path) -> None:
    def change(array: Any, affine: Any) -> tuple[Any, Any]:
        array[0, 0, 0] = 9
        return array, affine

    before = check_dataset(folder).splits["all"].num_images_by_class
    for number in range(10):
        rewrite(files(folder, number)[1], change)
    report = check_dataset(folder)
    assert set(codes(report)) == {"D404"}
    assert report.splits["all"].num_images_by_class == before


def test_labels_that_have_lost_their_affine(folder: Path, tmp_path: Path) -> None:
    for number in range(10):
        rewrite(files(folder, number)[1], lambda array, affine: (array, np.eye(4)))
    report = check_dataset(folder)
    assert set(codes(report)) == {"D403"}
    assert "write `trust_grid: true` in the data YAML" in report.findings[0].message
    settings = "format: nifti\npath: data\nnames: {0: background, 1: bright, 2: dark}\n"
    (tmp_path / "trust.yaml").write_text(settings + "trust_grid: true\n")
    assert codes(check_dataset(tmp_path / "trust.yaml")) == []
    dataset = open_dataset(tmp_path / "trust.yaml", "train")
    assert isinstance(dataset, VolumeDataset)
    volume, labels = dataset.read(0)
    assert labels is not None
    assert np.array_equal(labels.affine, volume.affine)
    kept = leave_out(dataset, [0])
    assert isinstance(kept, VolumeDataset)
    assert np.array_equal(kept.label_volume(0).affine, dataset.read(1)[0].affine)
    rewrite(files(folder, 3)[1], stretch)
    assert codes(check_dataset(tmp_path / "trust.yaml")) == ["D403"], "the shape must be the same"
    (tmp_path / "trust.yaml").write_text(settings + "trust_grid: always\n")
    with pytest.raises(DatasetError, match=r"trust\.yaml: trust_grid: expected true or false, got 'always'"):
        open_dataset(tmp_path / "trust.yaml", "train")


def test_a_structure_that_is_too_thin_for_the_spacing_of_training(tmp_path: Path) -> None:
    """Most have slices of 4 mm; in the others a class is in one slice of 1 mm alone, or in four."""
    for number in range(10):
        is_fine = number in (3, 7)
        shape = (6, 6, 16 if is_fine else 4)
        labels = np.zeros(shape, np.uint8)
        labels[1:5, 1:5, : shape[2] // 2] = 1
        labels[2:4, 2:4, 12 if number == 3 else slice(12, 16) if is_fine else slice(3, 4)] = 2
        affine = np.diag([1.0, 1, 1 if is_fine else 4, 1])
        scan = np.random.default_rng(number).random(shape).astype(np.float32)
        for name, array in (("imagesTr", scan), ("labelsTr", labels)):
            (tmp_path / name).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / name / f"{number}.nii")
    (tmp_path / "data.yaml").write_text("format: nifti\nnames: [background, body, vessel]\n")
    report = check_dataset(tmp_path)
    assert [(one.code, Path(one.file).name) for one in report.findings] == [("D407", "3.nii")]
    assert report.findings[0].message.startswith("nothing is left of vessel at 1x1x4 mm, the median spacing")


def test_a_volume_in_another_unit_than_the_others(folder: Path) -> None:
    """Its labels say the same, so that nothing but the others tells of it: by a factor of 10 along each axis."""
    for path in files(folder, 3):
        rewrite(path, in_centimeters)
    report = check_dataset(folder)
    # What is learned at the spacing of the others is not seen in it either.
    assert codes(report) == ["D406", "D407"]
    assert re.search(r"its voxels are .* times larger: correct the spacing", report.findings[0].message)
