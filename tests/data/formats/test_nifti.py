from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detseg.data.datasets.volumes import VolumeDataset
from detseg.data.formats.blobs import BlobsConfig, write_blobs
from detseg.data.open import available_splits, open_dataset
from detseg.data.source import DatasetError

CONFIGS = Path(__file__).parents[3] / "configs"
NUM_VOLUMES = 10
TINY = BlobsConfig(num_train=NUM_VOLUMES, min_side=8, max_side=9, min_radius=1, max_radius=2)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "set"
    write_blobs(folder, NUM_VOLUMES, config=TINY)
    return folder


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "set"))


def names(path: Path, split: str) -> list[str]:
    dataset = open_dataset(path, split)
    assert isinstance(dataset, VolumeDataset)
    assert dataset.split == split
    assert dataset.target == "volumes"
    for index in range(len(dataset)):
        if dataset.has_labels:
            assert Path(dataset.label_path(index)).name == Path(dataset.path(index)).name
    return [Path(dataset.path(index)).name for index in range(len(dataset))]


def describe(root: Path, given: Mapping[Any, Any] | None = None, **settings: Any) -> Path:
    path = root.parent / "my.yaml"
    path.write_text(yaml.safe_dump({"format": "nifti", "path": str(root), **(given or {}), **settings}))
    return path


def test_a_folder_is_divided_by_default(root: Path) -> None:
    assert available_splits(root) == ("train", "val", "all")
    train, val = names(root, "train"), names(root, "val")
    assert (len(train), len(val)) == (8, 2)
    everything = [f"blobs_{index:04d}.nii.gz" for index in range(NUM_VOLUMES)]
    assert sorted(train + val) == everything == names(root, "all")
    assert train == sorted(train)
    # The same without the list in dataset.json, and with the split stated.
    yaml_path = describe(root, names=["background", "bright", "dark"], split={"ratios": [8, 2], "seed": 0})
    (root / "dataset.json").unlink()
    assert names(yaml_path, "train") == train
    # As the standard formats call it.
    assert len(open_dataset(yaml_path, "val")) == 2


def test_what_a_folder_holds(root: Path) -> None:
    dataset = open_dataset(root, "val", target="volumes")
    assert isinstance(dataset, VolumeDataset)
    assert dataset.class_names == ("background", "bright", "dark")
    assert dataset.category_ids == (0, 1, 2)
    assert dataset.home == root
    volume, labels = dataset.read(1)
    assert labels is not None
    assert volume.voxels.shape == labels.labels.shape
    assert set(np.unique(labels.labels)) <= {0, 1, 2}


def test_files_of_macos_are_no_volumes(root: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (root / folder / "._blobs_0000.nii.gz").write_bytes(b"resource fork")
    (root / "dataset.json").unlink()
    assert len(names(describe(root, names=["a", "b", "c"]), "all")) == NUM_VOLUMES


def test_another_seed_and_other_ratios(root: Path) -> None:
    default = names(root, "val")
    assert names(describe(root, split={"seed": 1}), "val") != default
    path = describe(root, split={"ratios": [6, 2, 2], "seed": 5})
    assert available_splits(path) == ("train", "val", "test", "all")
    parts = [names(path, split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [6, 2, 2]
    assert sorted(name for part in parts for name in part) == names(path, "all")
    assert names(describe(root, split={"ratios": "6:2:2", "seed": 5}), "test") == parts[2]


def test_folds(root: Path) -> None:
    path = describe(root, split={"folds": 5, "seed": 0})
    assert available_splits(path)[:4] == ("fold0-train", "fold0-val", "fold1-train", "fold1-val")
    assert available_splits(path)[10:] == ("all",)
    held_out = [names(path, f"fold{fold}-val") for fold in range(5)]
    assert sorted(name for part in held_out for name in part) == names(path, "all")
    for fold, val in enumerate(held_out):
        assert sorted(names(path, f"fold{fold}-train") + val) == names(path, "all")
    with pytest.raises(DatasetError, match="no split 'train'; there is fold0-train, fold0-val"):
        open_dataset(path, "train")


def test_volumes_for_tests(root: Path) -> None:
    (root / "imagesTs").mkdir()
    shutil.copy(root / "imagesTr/blobs_0003.nii.gz", root / "imagesTs/x.nii.gz")
    assert available_splits(root) == ("train", "val", "all", "test")
    assert names(root, "test") == ["x.nii.gz"]
    dataset = open_dataset(root, "test")
    assert isinstance(dataset, VolumeDataset)
    assert not dataset.has_labels
    # A test that the split makes hides these.
    path = describe(root, split={"ratios": [6, 2, 2]})
    assert available_splits(path) == ("train", "val", "test", "all")
    assert len(names(path, "test")) == 2


def test_names_as_nnunet_gives_them(root: Path) -> None:
    for path in (root / "imagesTr").iterdir():
        path.rename(path.with_name(path.name.replace(".nii.gz", "_0000.nii.gz")))
    (root / "dataset.json").write_text('{"labels": {"background": 0, "bright": 1, "dark": 2}}')
    dataset = open_dataset(root, "all")
    assert isinstance(dataset, VolumeDataset)
    assert Path(dataset.path(4)).name == "blobs_0004_0000.nii.gz"
    assert Path(dataset.label_path(4)).name == "blobs_0004.nii.gz"


def test_splits_in_a_yaml(root: Path) -> None:
    settings = {
        "names": {0: "background", 2: "dark", 1: "bright"},
        "train": {"images": "imagesTr", "labels": "labelsTr"},
    }
    pair = [f"{folder}/blobs_0001.nii.gz" for folder in ("imagesTr", "labelsTr")]
    path = describe(root, **settings, val=[pair], test={"images": "imagesTr"})
    assert available_splits(path) == ("test", "train", "val")  # in the order of the YAML, which dump sorts
    assert len(names(path, "train")) == NUM_VOLUMES
    assert names(path, "val") == ["blobs_0001.nii.gz"]
    dataset = open_dataset(path, "test")
    assert isinstance(dataset, VolumeDataset)
    assert not dataset.has_labels
    assert dataset.class_names == ("background", "bright", "dark")


def test_a_yaml_without_a_format(root: Path) -> None:
    path = root.parent / "my.yaml"
    entry = {"images": "imagesTr", "labels": "labelsTr"}
    path.write_text(yaml.safe_dump({"path": "set", "names": ["a", "b", "c"], "holdout": entry}))
    assert len(names(path, "holdout")) == NUM_VOLUMES
    path.write_text(yaml.safe_dump({"path": "set", "names": ["a", "b", "c"], "val": entry}))
    with pytest.raises(DatasetError, match="may be yolo or nifti; say which with --format"):
        open_dataset(path, "val")
    assert len(open_dataset(path, "val", target="volumes")) == NUM_VOLUMES


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": [8, 2]}, r"split: expected {ratios: \[8, 2\], seed: 0} or {folds: 5, seed: 0}, got \[8, 2\]"),
        ({"split": {"ratios": [8]}}, "ratios must be two or three positive numbers"),
        ({"split": {"ratio": [8, 2]}}, "ratio"),
        ({"split": {"folds": 5, "ratios": [8, 2]}}, "either ratios or folds can be given, not both"),
        ({"split": {"folds": 1}}, "folds must be at least 2, got 1"),
        ({"split": {"seed": -1}}, "seed must not be negative, got -1"),
        ({"split": {"seed": "now"}}, "seed"),
        ({"split": {"ratios": [99, 1]}}, r"my\.yaml: split: 10 .* cannot be divided into 2 splits"),
        ({"path": "nowhere"}, "path not found; tried"),
        ({"train": {"images": "imagesTr", "labels": "labelsTr"}, "split": {"seed": 1}}, "either split or splits"),
        (
            {"train": "imagesTr"},
            "train: expected a split, {images: FOLDER .*got 'imagesTr'; other keys are format, path,",
        ),
        ({"devision": {"seed": 1}}, "devision: expected a split"),
        ({"train": {"images": "imagesTr", "masks": "labelsTr"}}, "train: expected {images: FOLDER or LIST.txt"),
        ({5: ["a", "b"]}, "no split 'train'; there is 5"),
    ],
)
def test_settings_that_cannot_be(root: Path, settings: dict[Any, Any], message: str) -> None:
    path = describe(root, settings)
    with pytest.raises(ValueError, match=message) as caught:
        open_dataset(path, "train")
    assert "my.yaml" in str(caught.value)


def test_more_folds_than_volumes(root: Path) -> None:
    path = describe(root, split={"folds": 11})
    with pytest.raises(DatasetError, match=r"my\.yaml: split: the number of folds must be from 2 to .*, 10; got 11"):
        open_dataset(path, "fold0-val")


def test_what_is_too_little_to_be_divided_can_be_opened_as_a_whole(tmp_path: Path) -> None:
    write_blobs(tmp_path, 1, config=TINY)
    assert names(tmp_path, "all") == ["blobs_0000.nii.gz"]
    with pytest.raises(DatasetError, match=r"split: 1 .* cannot be divided"):
        open_dataset(tmp_path, "train")


def test_a_folder_without_labels(root: Path) -> None:
    shutil.rmtree(root / "labelsTr")
    (root / "dataset.json").unlink()
    with pytest.raises(DatasetError, match=r"labelsTr: cannot be read: No such file"):
        open_dataset(describe(root, names=["a", "b"]), "train")


def test_no_volumes_at_all(tmp_path: Path) -> None:
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    with pytest.raises(DatasetError, match="there are no volumes"):
        open_dataset(tmp_path, "train")
    with pytest.raises(DatasetError, match="no nifti data set; looked for"):
        open_dataset(tmp_path / "imagesTr", "train", "nifti")


def test_the_hippocampus(detseg_data: Path) -> None:
    description = CONFIGS / "data/hippocampus.yaml"
    splits = {}
    for split in ("train", "val", "all"):
        dataset = open_dataset("hippocampus", split, description=description)
        assert isinstance(dataset, VolumeDataset)
        assert dataset.class_names == ("background", "anterior", "posterior")
        assert dataset.category_ids == (0, 1, 2)
        splits[split] = {dataset.path(index) for index in range(len(dataset))}
    assert {split: len(paths) for split, paths in splits.items()} == {"train": 166, "val": 42, "all": 208}
    assert splits["train"] | splits["val"] == splits["all"]
    np.testing.assert_allclose(np.median(dataset.spacings(), axis=0), 1)
    for index in range(0, 208, 20):
        volume, labels = dataset.read(index)
        assert labels is not None
        assert labels.labels.shape == volume.voxels.shape
        assert set(np.unique(labels.labels)) == {0, 1, 2}
    # The figures are published with this split: it stays.
    val = sorted(Path(path).name for path in splits["val"])
    assert val[:3] == ["hippocampus_001.nii.gz", "hippocampus_008.nii.gz", "hippocampus_011.nii.gz"]


def test_the_hippocampus_without_a_description(detseg_data: Path) -> None:
    assert available_splits(detseg_data / "hippocampus") == ("train", "val", "all")
    with pytest.raises(DatasetError, match=r"the labels hold the values 0, 1, 2 \(5 of 166 were read\)") as caught:
        open_dataset(detseg_data / "hippocampus", "train")
    assert "names: {0: background, 1: NAME, 2: NAME}" in str(caught.value)


def test_cases_named_one_by_one(tmp_path: Path) -> None:
    """As nnU-Net's second version allows it, with files anywhere in the folder."""
    write_blobs(tmp_path, 4)
    names = sorted(path.name for path in (tmp_path / "imagesTr").iterdir())
    for old, new in (("imagesTr", "scans"), ("labelsTr", "truth")):
        (tmp_path / old).rename(tmp_path / new)
    cases: dict[str, Any] = {name: {"images": [f"scans/{name}"], "label": f"truth/{name}"} for name in names}
    labels = {"background": "0", "bright": "1", "dark": 2}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "dataset": cases}))
    assert available_splits(tmp_path) == ("train", "val", "all")
    assert len(open_dataset(tmp_path, "all")) == 4
    assert open_dataset(tmp_path, "all").class_names == ("background", "bright", "dark")
    for wrong, message in (
        ({"images": [f"scans/{names[0]}", f"scans/{names[2]}"], "label": "truth/a"}, "2 channels of the case blobs"),
        ({"images": ["../a"], "label": "truth/a"}, "lies outside of"),
        ({"images": ["scans/none.nii"], "label": "truth/none.nii"}, "files are missing"),
        (7, "expected {images: .FILE., label: FILE}, got 7"),
    ):
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "dataset": {**cases, "x": wrong}}))
        with pytest.raises(DatasetError, match=message):
            open_dataset(tmp_path, "all")


def monai_list(root: Path, key: str = "training", **more: Any) -> dict[str, Any]:
    """The cases of ``root`` in folders of their own, all called image.nii.gz, and the list of them."""
    cases: list[dict[str, Any]] = []
    for number, image in enumerate(sorted((root / "imagesTr").iterdir())):
        folder = root / f"case_{number}"
        folder.mkdir()
        image.rename(folder / "image.nii.gz")
        (root / "labelsTr" / image.name).rename(folder / "label.nii.gz")
        cases.append({"image": f"./case_{number}/image.nii.gz", "label": f"case_{number}/label.nii.gz"})
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).rmdir()
    (root / "dataset.json").unlink()
    return {key: cases, **more}


def cases_of(path: Path, split: str) -> list[str]:
    dataset = open_dataset(path, split)
    return [Path(dataset.path(index)).parent.name for index in range(len(dataset))]


def test_a_list_of_monai_with_folds(root: Path) -> None:
    listed = monai_list(root)
    for number, case in enumerate(listed["training"]):
        case["fold"] = number % 3
    (root / "list.json").write_text(json.dumps(listed))
    named = {"names": ["background", "bright", "dark"], "datalist": "list.json"}
    path = describe(root, named)
    assert available_splits(path) == ("train", "val", "all")
    assert cases_of(path, "val") == ["case_0", "case_3", "case_6", "case_9"]
    assert len(cases_of(path, "train")) == 6
    folds = describe(root, named, split="list.json")
    assert "fold2-val" in available_splits(folds)
    assert cases_of(folds, "fold2-val") == ["case_2", "case_5", "case_8"]
    listed["training"][0].pop("fold")
    (root / "list.json").write_text(json.dumps(listed))
    with pytest.raises(DatasetError, match="expected the number of its fold for every case"):
        open_dataset(path, "train")


def test_a_list_of_monai_with_validation_and_without(root: Path) -> None:
    listed = monai_list(root)
    labels = {"0": "background", "1": "bright", "2": "dark"}
    (root / "dataset.json").write_text(json.dumps({**listed, "labels": labels}))
    assert (len(cases_of(root, "train")), len(cases_of(root, "val"))) == (8, 2)
    parts = {"training": listed["training"][2:], "validation": listed["training"][:2]}
    (root / "dataset.json").write_text(json.dumps({**parts, "labels": labels}))
    assert cases_of(root, "val") == ["case_0", "case_1"]
    assert len(cases_of(root, "all")) == 10


def test_a_region_of_one_value_is_a_class(root: Path) -> None:
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "bright": [1], "dark": [2]}}))
    assert open_dataset(root, "train").class_names == ("background", "bright", "dark")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["a-1/a-1-t1n.nii.gz", "a-1/a-1-t2w.nii.gz", "a-1/a-1-seg.nii.gz"],
            r"a-1-t1n, a-1-t2w; labels a-1-seg\), as Br",
        ),
        (["s1/ct.nii.gz", "s1/segmentations/liver.nii.gz"], "s1/segmentations has a file for each structure"),
        (["images/a.nii.gz", "labels/a.nii.gz"], r"train: \{images: images, labels: labels\}"),
        (["imagesTr/a_0000.png", "labelsTr/a.png"], r"a_0000\.png and others in imagesTr are pictures.*rename images"),
    ],
)
def test_layouts_of_others_are_called_by_name(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DatasetError, match=message):
        open_dataset(tmp_path, "train")


def test_a_list_of_monai_that_is_named_itself(root: Path) -> None:
    (root / "list.json").write_text(json.dumps(monai_list(root)))
    for path in (root, root / "list.json"):
        with pytest.raises(DatasetError, match=r"`datalist: list\.json`"):
            open_dataset(path, "train")
