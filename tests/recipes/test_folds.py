"""A cross-validation from the command line: every fold, broken off and gone on with, judged together."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import detseg
from detseg.cli import main
from detseg.data.formats.blobs import write_blobs
from detseg.engine.cross_validation import cross_validate
from detseg.tasks.model_file import read_header

TINY = """
model: {name: vnet, width: 4, num_convolutions: [1, 1], kernel_size: 3, norm: instance}
task: {name: volume, patch: [16, 16, 16]}
data: {path: set.yaml, num_workers: 0}
augment: {name: volume, rotation: 0, scaling: 0, noise: 0, blur: 0, brightness: 0, contrast: 0, low_resolution: 0,
          gamma: 0, gamma_inverted: 0}
train: {epochs: 2, batch_size: 2, num_threads: 1, schedule: {warmup_epochs: 0}, optimizer: {learning_rate: 0.01}}
"""
NUM_VOLUMES = 6


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_blobs(tmp_path / "set", NUM_VOLUMES)
    (tmp_path / "set.yaml").write_text(
        "format: nifti\npath: set\nnames: [background, bright, dark]\nsplit: {folds: 3, seed: 0}\n"
    )
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_all_folds_and_on_after_a_break(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tiny.yaml", "--folds", "all", "-o", "runs"]) == 0
    out = capsys.readouterr().out
    assert "fold 2 (3 of 3): runs/fold2" in out
    assert "all cases, models alone: Dice" in out
    before = {fold: (folder / f"runs/fold{fold}/best.safetensors").read_bytes() for fold in range(3)}
    metrics = json.loads(Path("runs/metrics.json").read_text())
    # Each case once, by the model that has not seen it: as evaluation of each fold by itself has it.
    with Path("runs/cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["name"] for row in rows[::2]) == sorted(path.name for path in Path("set/imagesTr").iterdir())
    dice = {}
    for fold in range(3):
        found = detseg.evaluate(f"runs/fold{fold}", "set.yaml", split=f"fold{fold}-val", workers=0, output=f"e{fold}")
        with Path(f"e{fold}/cases.csv").open() as file:
            dice |= {(row["name"], row["class"]): row["Dice"] for row in csv.DictReader(file)}
        assert found.num_images == 2
    assert {(row["name"], row["class"]): row["Dice"] for row in rows} == dice
    by_class = [
        np.mean([float(row["Dice"]) for row in rows if row["class"] == name and row["Dice"]])
        for name in ("bright", "dark")
    ]
    assert metrics["Dice"] == pytest.approx(np.mean(by_class), abs=1e-4)
    cleaning = json.loads(Path("runs/cleaning.json").read_text())
    for fold in range(3):
        clean = read_header(Path(f"runs/fold{fold}/best.safetensors")).task.postprocess.clean
        assert [one.name for one in clean] == [one["name"] for one in cleaning["clean"]]
    assert "Cases, worst first" in Path("runs/report.html").read_text()
    # A fold that was broken off is trained again, to the same weights; the others are left as they are.
    for path in sorted(Path("runs/fold1").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    # And one that was stopped after its last epoch, before its report.
    Path("runs/fold2/metrics.json").unlink()
    assert main(["train", "--resume", "runs"]) == 0
    out = capsys.readouterr().out
    assert "fold 0 (1 of 3) is there already" in out
    assert "fold 1 (2 of 3): runs/fold1" in out
    assert Path("runs/fold2/metrics.json").is_file()
    assert json.loads(Path("runs/metrics.json").read_text())["Dice"] == pytest.approx(metrics["Dice"], abs=1e-6)
    assert {fold: (folder / f"runs/fold{fold}/best.safetensors").read_bytes() for fold in range(3)} == before
    # The folder stands for all of its models.
    assert main(["predict", "runs", "set/imagesTr", "--save", "table", "-o", "found"]) == 0
    assert main(["train", "tiny.yaml", "--folds", "all", "-o", "runs", "--epochs", "3"]) == 2
    assert "a cross-validation that was begun otherwise" in capsys.readouterr().err
    Path("runs/fold2/best.safetensors").unlink()
    assert main(["predict", "runs", "set/imagesTr", "-o", "found"]) == 2
    assert "a cross-validation that is not finished: there is no best.safetensors in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny.yaml", "--folds", "0,7"], "there is no fold 7; there are 0, 1, 2"),
        (["tiny.yaml", "--folds", "some"], "expected all or numbers such as 0,2; got 'some'"),
        (["tiny.yaml", "--folds", "all", "data.val_split=val"], "leave out data.val_split=val"),
        (
            ["tiny.yaml", "--folds", "all", "--data", "set"],
            "so there are no folds; write `split: {folds: 5, seed: 0}`",
        ),
        (["--folds", "all"], "--folds begins a cross-validation: name a model"),
        (["--folds", "all", "--resume", "runs"], "--folds begins a cross-validation: name a model"),
        (["tiny.yaml", "--folds", "all", "-o", "set"], "set is not empty"),
    ],
)
def test_what_is_no_cross_validation(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (folder / "set" / "dataset.json").write_text('{"labels": {"background": 0, "bright": 1, "dark": 2}}')
    assert main(["train", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "runs").exists()


def test_a_case_that_is_held_out_twice(folder: Path) -> None:
    assert (
        main(
            [
                "train",
                "tiny.yaml",
                "--epochs",
                "1",
                "-o",
                "a",
                "data.train_split=fold0-train",
                "data.val_split=fold0-val",
            ]
        )
        == 0
    )
    with pytest.raises(ValueError, match="is in the validation splits of folds 0 and 1"):
        cross_validate({0: Path("a"), 1: Path("a")}, Path("out"), "cpu", bar=False)
