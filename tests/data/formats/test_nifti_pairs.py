from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detseg.data.formats.nifti import find_named_pairs, find_test_pairs, find_training_pairs, pair_up
from detseg.data.source import DatasetError, DataSource
from detseg.data.volume_records import VolumePair, list_volumes


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_the_volumes_of_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "b.nii.gz", "a.nii", "C.NII.GZ", "._a.nii", ".hidden.nii.gz", "notes.txt", "a.gz", "a.nii.gz.part")
    assert [path.name for path in list_volumes(tmp_path)] == ["C.NII.GZ", "a.nii", "b.nii.gz"]
    with pytest.raises(DatasetError, match=r"none: cannot be read: No such file"):
        list_volumes(tmp_path / "none")


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        (["a.nii.gz", "b.nii"], ["b.nii.gz", "a.nii.gz", "c.nii"], ["a.nii.gz", "b.nii.gz"]),
        (["a_0000.nii.gz", "b.nii.gz"], ["a.nii.gz", "b.nii.gz"], ["a.nii.gz", "b.nii.gz"]),
        (["a_0000.nii.gz"], ["a.nii.gz", "a_0000.nii.gz"], ["a_0000.nii.gz"]),
    ],
)
def test_labels_have_the_name_of_their_volume(
    tmp_path: Path, images: list[str], labels: list[str], expected: list[str]
) -> None:
    touch(tmp_path, *(f"labels/{name}" for name in labels))
    paths = [tmp_path / "images" / name for name in images]
    pairs = pair_up(paths, tmp_path / "labels", "set")
    assert pairs == [VolumePair(image, tmp_path / "labels" / name) for image, name in zip(paths, expected, strict=True)]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([], ["a.nii"], r"^set: there are no volumes; their names end in \.nii\.gz, \.nii, .*\.nhdr$"),
        (
            ["a.nii", "b.nii", "c.nii"],
            ["b.nii"],
            r"^set: 2 of 3 volumes have no labels; the first is .*images/a\.nii: ",
        ),
        (["a.nii", "a.nii.gz"], ["a.nii"], r"images/a\.nii\.gz: a\.nii has the same name"),
        (["a.nii"], ["a.nii", "a.nii.gz"], r"labels/a\.nii\.gz: a\.nii has the same name"),
    ],
)
def test_what_cannot_be_paired(tmp_path: Path, images: list[str], labels: list[str], message: str) -> None:
    touch(tmp_path, *(f"labels/{name}" for name in labels))
    with pytest.raises(DatasetError, match=message):
        pair_up([tmp_path / "images" / name for name in images], tmp_path / "labels", "set")


def test_the_folders_of_the_decathlon(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/b.nii", "imagesTr/a.nii", "labelsTr/a.nii", "labelsTr/b.nii", "imagesTs/c.nii")
    pairs = find_training_pairs(tmp_path, "set")
    assert pairs == [VolumePair(tmp_path / f"imagesTr/{name}.nii", tmp_path / f"labelsTr/{name}.nii") for name in "ab"]
    assert find_test_pairs(tmp_path, "set") == [VolumePair(tmp_path / "imagesTs/c.nii", None)]
    touch(tmp_path, "labelsTs/c.nii")
    assert find_test_pairs(tmp_path, "set") == [VolumePair(tmp_path / "imagesTs/c.nii", tmp_path / "labelsTs/c.nii")]


def test_the_list_of_a_description_counts(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a.nii", "imagesTr/b.nii", "labelsTr/other.nii")
    entry = {"image": "./imagesTr/b.nii", "label": "./labelsTr/other.nii"}
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [entry]}))
    expected = [VolumePair(tmp_path / "imagesTr/b.nii", tmp_path / "labelsTr/other.nii")]
    assert find_training_pairs(tmp_path, "set") == expected


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ("all", r"training: expected a list of \{image, label\}, got 'all'"),
        (["a.nii"], r"training\[0\]: expected \{image: FILE, label: FILE\}, got 'a\.nii'"),
        ([{"image": "imagesTr/a.nii"}], r"training\[0\]: expected"),
        ([{"image": "imagesTr/a.nii", "label": 3}], r"training\[0\]: expected"),
        ([{"image": "../a.nii", "label": "labelsTr/a.nii"}], r"training\[0\]: lies outside of"),
        ([{"image": "imagesTr/a.nii", "label": "/etc/a.nii"}], r"training\[0\]: lies outside of"),
        (
            [{"image": f"imagesTr/{name}.nii", "label": "labelsTr/a.nii"} for name in "axy"],
            r"training: 2 of 6 files are missing; the first is .*imagesTr/x\.nii",
        ),
        ([{"image": "imagesTr/a.nii", "label": "labelsTr/a.nii"}] * 2, r"imagesTr/a\.nii is named twice"),
    ],
)
def test_lists_of_a_description_that_cannot_be(tmp_path: Path, training: Any, message: str) -> None:
    touch(tmp_path, "imagesTr/a.nii", "labelsTr/a.nii")
    (tmp_path / "dataset.json").write_text(json.dumps({"training": training}))
    with pytest.raises(DatasetError, match=message):
        find_training_pairs(tmp_path, "set")


FILES = ("scans/a.nii", "scans/b.nii", "truth/a.nii", "truth/b.nii")


@pytest.fixture
def source(tmp_path: Path) -> DataSource:
    touch(tmp_path / "set", *FILES)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/scans.txt").write_text("scans/b.nii\n\n" + str(tmp_path / "set/scans/a.nii") + "\n")
    (tmp_path / "lists/truth.txt").write_text("../set/truth/b.nii\ntruth/a.nii\n")
    (tmp_path / "lists/one.txt").write_text("truth/b.nii\n")
    (tmp_path / "lists/lost.txt").write_text("scans/lost.nii\n")
    (tmp_path / "lists/twice.txt").write_text("scans/a.nii\nscans/a.nii\n")
    (tmp_path / "lists/empty.txt").write_text("\n")
    return DataSource(tmp_path, {"path": "set"}, tmp_path / "my.yaml")


@pytest.mark.parametrize(
    ("entry", "order"),
    [
        ({"images": "scans", "labels": "truth"}, "ab"),
        ({"images": "lists/scans.txt", "labels": "truth"}, "ba"),
        ({"images": "lists/scans.txt", "labels": "lists/truth.txt"}, "ba"),
        ([["scans/b.nii", "truth/b.nii"]], "b"),
        ([{"image": "scans/b.nii", "label": "truth/b.nii"}, ["scans/a.nii", "truth/a.nii"]], "ba"),
    ],
)
def test_pairs_named_in_a_yaml(source: DataSource, entry: Any, order: str) -> None:
    root = source.root / "set"
    pairs = [VolumePair(root / f"scans/{name}.nii", root / f"truth/{name}.nii") for name in order]
    assert find_named_pairs(entry, source, "my.yaml: train") == pairs


def test_volumes_without_labels(source: DataSource) -> None:
    root = source.root / "set"
    for entry in ({"images": "scans"}, {"images": "scans", "labels": None}):
        pairs = find_named_pairs(entry, source, "my.yaml: test")
        assert pairs == [VolumePair(root / "scans/a.nii", None), VolumePair(root / "scans/b.nii", None)]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("scans", "^my.yaml: train: expected {images: FOLDER or LIST.txt, labels: FOLDER or LIST.txt}.*got 'scans'"),
        ({"labels": "truth"}, "expected {images"),
        ({"images": "scans", "label": "truth"}, "expected {images"),
        ({"images": "nowhere", "labels": "truth"}, "images not found; tried .*set/nowhere"),
        ({"images": "scans", "labels": "nowhere"}, "labels not found"),
        ({"images": "scans/a.nii", "labels": "truth"}, r"scans/a\.nii: expected a folder or a \.txt list"),
        ({"images": "lists/scans.txt", "labels": "lists/one.txt"}, r"has 2 volumes, .*one\.txt lists 1 labels"),
        ({"images": "lists/lost.txt", "labels": "truth"}, r"lost\.txt: 'scans/lost\.nii' not found"),
        ({"images": "lists/twice.txt", "labels": "truth"}, r"scans/a\.nii is named twice"),
        ({"images": "lists/empty.txt", "labels": "truth"}, "there are no volumes"),
        ({"images": "lists", "labels": "truth"}, "there are no volumes"),
        ([], "there are no volumes"),
        (["scans/a.nii"], r"expected a pair \[VOLUME, LABELS\], got 'scans/a\.nii'"),
        ([["scans/a.nii"]], r"expected a pair"),
        ([["scans/a.nii", "truth/lost.nii"]], r"'truth/lost\.nii' not found"),
        ([["scans/a.nii", "truth/a.nii"]] * 2, r"scans/a\.nii is named twice"),
    ],
)
def test_entries_that_cannot_be(source: DataSource, entry: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        find_named_pairs(entry, source, "my.yaml: train")
