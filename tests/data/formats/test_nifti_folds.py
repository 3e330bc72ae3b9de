from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detseg.data.formats.nifti_folds import read_folds
from detseg.data.open import available_splits, open_dataset
from detseg.data.source import DatasetError

CASES = [f"case_{number}" for number in range(6)]
FOLDS = [{"train": CASES[2:], "val": CASES[:2]}, {"train": CASES[:4], "val": CASES[4:]}]


def lay(folder: Path, suffix: str = "_0000.nii", folds: Any = FOLDS) -> Path:
    """What nnU-Net lays: files are read later."""
    for case in [*CASES, "case_of_no_fold"]:
        for path in (f"imagesTr/{case}{suffix}", f"labelsTr/{case}.nii"):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).touch()
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1}}))
    (folder / "splits_final.json").write_text(json.dumps(folds))
    return folder


def cases_in(path: Path, split: str) -> list[str]:
    dataset = open_dataset(path, split)
    return [Path(dataset.path(index)).name.partition(".")[0].removesuffix("_0000") for index in range(len(dataset))]


@pytest.mark.parametrize("suffix", ["_0000.nii", ".nii"])
def test_the_first_fold_is_the_split(tmp_path: Path, suffix: str) -> None:
    lay(tmp_path, suffix)
    assert available_splits(tmp_path) == ("train", "val", "all")
    assert cases_in(tmp_path, "train") == CASES[2:]
    assert cases_in(tmp_path, "val") == CASES[:2]
    assert len(cases_in(tmp_path, "all")) == 7


def test_all_folds_where_a_yaml_says_so(tmp_path: Path) -> None:
    lay(tmp_path)
    (tmp_path / "data.yaml").write_text("format: nifti\nsplit: splits_final.json\n")
    names = ("fold0-train", "fold0-val", "fold1-train", "fold1-val", "all")
    assert available_splits(tmp_path) == names
    assert cases_in(tmp_path, "fold1-train") == CASES[:4]
    assert cases_in(tmp_path, "fold1-val") == CASES[4:]
    # What a YAML says wins.
    (tmp_path / "data.yaml").write_text("format: nifti\nsplit: {folds: 7, seed: 0}\n")
    assert len(available_splits(tmp_path)) == 15
    (tmp_path / "data.yaml").write_text("format: nifti\nsplit: other.json\n")
    with pytest.raises(DatasetError, match=r"other\.json"):
        available_splits(tmp_path)


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ({"train": []}, "expected a list of folds"),
        ([], "expected a list of folds"),
        ([{"train": CASES}], r"fold 0: expected \{train: \[CASE\], val: \[CASE\]\}"),
        ([{"train": [1], "val": CASES}], "fold 0: expected"),
        ([{"train": CASES[:2], "val": []}], "fold 0: expected"),
        (
            [*FOLDS, {"train": CASES, "val": CASES[1:2]}],
            "fold 2: 1 cases are in train and in val; the first is",
        ),
        ([{"train": [*CASES[:2], CASES[0]], "val": CASES[3:]}], "fold 0: train lists a case twice"),
    ],
)
def test_lists_that_cannot_be(tmp_path: Path, folds: Any, message: str) -> None:
    lay(tmp_path, folds=folds)
    with pytest.raises(DatasetError, match=rf"splits_final\.json: {message}"):
        read_folds(tmp_path / "splits_final.json", first_alone=True)


def test_a_case_without_a_volume(tmp_path: Path) -> None:
    lay(tmp_path, folds=[{"train": CASES[2:], "val": ["case_9"]}])
    with pytest.raises(DatasetError, match=r"splits_final\.json lists 1 cases without a volume; the first is 'case_9'"):
        open_dataset(tmp_path, "val")
