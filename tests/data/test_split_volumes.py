from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from detseg.cli import main
from detseg.data.check import check_dataset
from detseg.data.formats.blobs import write_blobs
from detseg.data.open import available_splits, open_dataset
from detseg.data.split import split_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_blobs(tmp_path / "data", 10)
    return tmp_path / "data"


def names(path: Path, split: str) -> set[str]:
    dataset = open_dataset(path, split)
    return {Path(dataset.path(index)).name for index in range(len(dataset))}


def test_ratios(folder: Path, tmp_path: Path) -> None:
    result = split_dataset(folder, "6:2:2", 0, tmp_path / "out")
    assert available_splits(result.yaml_path) == ("train", "val", "test")
    parts = [names(result.yaml_path, split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [6, 2, 2]
    assert set().union(*parts) == {path.name for path in (folder / "imagesTr").iterdir()}
    dataset = open_dataset(result.yaml_path, "val")
    assert dataset.class_names == ("background", "bright", "dark")
    for index in range(len(dataset)):
        assert Path(dataset.label_path(index)).name == Path(dataset.path(index)).name  # type: ignore[union-attr]
        assert dataset.label_volume(index).labels.any()  # type: ignore[union-attr]
    assert check_dataset(result.yaml_path).exit_code == 0
    assert {"6", "2"} <= set(result.render().split())

    again = split_dataset(folder, "6:2:2", 0, tmp_path / "again")
    other = split_dataset(folder, "6:2:2", 1, tmp_path / "other")
    assert names(again.yaml_path, "train") == parts[0]
    assert names(other.yaml_path, "train") != parts[0]
    # What was divided can be divided anew: the splits are put together before.
    anew = split_dataset(result.yaml_path, "1:1", 5, tmp_path / "anew")
    assert [len(names(anew.yaml_path, split)) for split in ("train", "val")] == [5, 5]


def test_folds_by_the_command_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["split", "data", "--folds", "4", "-o", "folds"]) == 0
    assert "fold3-val" in capsys.readouterr().out
    held_out = [names(tmp_path / "folds" / "data.yaml", f"fold{fold}-val") for fold in range(4)]
    assert sorted(map(len, held_out)) == [2, 2, 3, 3]
    assert len(set().union(*held_out)) == 10
    for fold in range(4):
        assert not held_out[fold] & names(tmp_path / "folds" / "data.yaml", f"fold{fold}-train")
    assert main(["split", "data", "--folds", "4", "--ratios", "8:2", "-o", "both"]) == 2
    assert "either ratios or folds are needed" in capsys.readouterr().err
    assert main(["split", "data", "--folds", "11", "-o", "many"]) == 2
    assert "from 2 to that of the volumes, 10; got 11" in capsys.readouterr().err
    assert not (tmp_path / "both").exists()
    assert not (tmp_path / "many").exists()


def test_folds_are_for_volumes_only(detseg_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="folds are for volumes"):
        split_dataset(detseg_data / "bccd", None, 0, tmp_path / "out", folds=3)


def test_what_is_wrong_is_not_divided(folder: Path, tmp_path: Path) -> None:
    first, second = sorted((folder / "imagesTr").iterdir())[:2]
    before = second.read_bytes()
    second.write_bytes(before[:-100])
    with pytest.raises(ValueError, match="number of errors: 1; the first is D401"):
        split_dataset(folder, "8:2", 0, tmp_path / "out")
    shutil.copy(first, second)
    shutil.copy(folder / "labelsTr" / first.name, folder / "labelsTr" / second.name)
    with pytest.raises(ValueError, match="2 volumes are copies of each other"):
        split_dataset(folder, "8:2", 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="blobs has its splits built in"):
        split_dataset("blobs", "8:2", 0, tmp_path / "out")
