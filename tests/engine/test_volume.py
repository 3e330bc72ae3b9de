"""Volume segmentation through the same trainer, evaluation and command line as the other tasks."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from detseg.cli import main
from detseg.config import load_config
from detseg.data.formats.blobs import write_blobs
from detseg.data.open import open_dataset
from detseg.engine.run import train
from detseg.engine.settings import RunConfig
from detseg.engine.training.interrupt import InterruptedRunError
from detseg.engine.training.trainer import Trainer
from detseg.runtime.media.images import read_image
from detseg.runtime.volumes.volume_files import read_label_values, read_volume
from detseg.tasks.model_file import load_model_file

CLASSES = ("background", "bright", "dark")
TINY = """
model: {name: vnet, width: 4, num_convolutions: [1, 1], kernel_size: 3, norm: instance}
task: {name: volume, patch: [16, 16, 16]}
data: {path: blobs.yaml, num_workers: 0}
# Without MONAI's transforms, whose import takes seconds; they have their own tests.
augment:
  name: volume
  rotation: 0
  scaling: 0
  noise: 0
  blur: 0
  brightness: 0
  contrast: 0
  low_resolution: 0
  gamma: 0
  gamma_inverted: 0
train:
  epochs: 2
  batch_size: 2
  num_threads: 1
  optimizer: {name: adamw, learning_rate: 1.0e-3}
  schedule: {warmup_epochs: 1}
  ema: {decay: 0.9, ramp: 2}
"""
BLOBS = """
format: blobs
num_train: 6
num_val: 3
num_test: 1
"""


@pytest.fixture
def tiny(tiny: Callable[..., RunConfig], tmp_path: Path) -> Callable[..., RunConfig]:
    """The small run of the other tests, on synthetic volumes."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "blobs.yaml").write_text(BLOBS)
    return tiny


def test_what_a_run_leaves_behind(
    tiny: Callable[..., RunConfig], tmp_path: Path, fingerprint: Callable[[Path], dict[str, str]]
) -> None:
    run_dir = tmp_path / "run"
    result = train(tiny(), run_dir, bar=False)
    names = {path.name for path in run_dir.iterdir()}
    assert {"best.safetensors", "last.safetensors", "config.yaml", "metrics.json", "metrics.jsonl"} <= names
    assert {"history.png", "cases.csv", "dice.png", "images", "report.html"} <= names
    assert len(list((run_dir / "images").glob("*.jpg"))) == 3

    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert result.metrics.primary == "Dice"
    assert {"Dice", "HD95", "surface_dice", "Dice/bright", "HD95/dark"} <= metrics.keys()
    assert metrics["Dice"] == pytest.approx((metrics["Dice/bright"] + metrics["Dice/dark"]) / 2)

    # The spacing that was taken from the training set is part of the model and of the configuration.
    data = open_dataset(tmp_path / "blobs.yaml", "train")
    median = np.median(data.spacings(), axis=0)  # type: ignore[union-attr]
    package = load_model_file(run_dir / "best.safetensors")
    assert package.config.class_names == CLASSES
    assert package.task.spec.spacing == pytest.approx(median, abs=1e-4)
    resolved = load_config(RunConfig, run_dir / "config.yaml")
    assert resolved.task.input.spacing == package.task.spec.spacing

    train(resolved, tmp_path / "again", bar=False)
    assert fingerprint(tmp_path / "again") == fingerprint(run_dir)
    train(tiny("data.cache=ram"), tmp_path / "cached", bar=False)
    assert fingerprint(tmp_path / "cached") == fingerprint(run_dir)


def test_a_stopped_run_ends_with_the_same_weights(
    tiny: Callable[..., RunConfig],
    tmp_path: Path,
    fingerprint: Callable[[Path], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny("model.deep_supervision=true", "model.dropout=0.2", "augment.elastic=0")
    train(config, tmp_path / "whole", bar=False)
    step = Trainer._step
    with monkeypatch.context() as patch:

        def stop_in_step_four(self: Trainer, *arguments: object) -> bool:
            if self.progress.step == 3:
                signal.raise_signal(signal.SIGTERM)
            return step(self, *arguments)  # type: ignore[arg-type]

        patch.setattr(Trainer, "_step", stop_in_step_four)
        with pytest.raises(InterruptedRunError):
            train(config, tmp_path / "stopped", bar=False)
    train(config, tmp_path / "stopped", resume=True, bar=False)
    assert fingerprint(tmp_path / "stopped") == fingerprint(tmp_path / "whole")


def test_learning_finds_the_blobs(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    settings = ("train.epochs=25", "train.evaluate_epochs=25", "train.optimizer.learning_rate=1e-2", "train.ema=null")
    result = train(tiny(*settings), tmp_path / "run", bar=False)
    assert result.metrics["Dice"] > 0.5


def test_accumulation_is_one_larger_batch(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    common = ("train.epochs=1", "train.ema=null", "train.clip_norm=null", "train.optimizer.name=sgd")
    train(tiny(*common, "train.batch_size=6"), tmp_path / "whole", bar=False)
    train(tiny(*common, "train.batch_size=2", "train.accumulate=3"), tmp_path / "parts", bar=False)
    whole, parts = (
        load_model_file(tmp_path / name / "last.safetensors").model.state_dict() for name in ("whole", "parts")
    )
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_verbs(
    tiny: Callable[..., RunConfig],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny()
    preview = tmp_path_factory.mktemp("preview")  # what is checked is never written to
    assert main(["check", "blobs.yaml", "--preview", str(preview), "--config", "tiny.yaml"]) == 0
    shown = sorted(preview.iterdir())
    assert len(shown) == 3
    assert min(read_image(shown[0]).shape[:2]) > 300
    assert main(["train", "tiny.yaml", "-o", "run"]) == 0
    assert "surface_dice" in capsys.readouterr().out
    model = "run/best.safetensors"
    plain = ["eval", model, "--data", "blobs.yaml", "--workers", "0"]
    assert main([*plain, "-o", "report"]) == 0
    again = json.loads(Path("report/metrics.json").read_text())
    assert again == json.loads(Path("run/metrics.json").read_text())
    views = ["--flip", "--window", "12x16x20", "--overlap", "0.25", "--json", "views.json"]
    assert main([*plain, *views]) == 0
    assert json.loads(Path("views.json").read_text())["Dice/bright"] != again["Dice/bright"]
    capsys.readouterr()
    for options, message in (
        (["--size", "64x64"], "the task volume has no input size"),
        (["--window", "64x64"], "window must be a positive depth, height and width, got (64, 64)"),
        (["--conf", "0.5"], "the task volume has no setting --conf"),
    ):
        assert main([*plain, *options]) == 2
        assert message in capsys.readouterr().err
    assert main(["eval", "tiny.yaml", "--weights", model]) == 2
    assert "task.input.spacing is null" in capsys.readouterr().err

    write_blobs(Path("scans"), 3)
    (Path("scans") / "imagesTr" / "broken.nii.gz").write_bytes(b"\x1f\x8b nothing")
    assert main(["predict", model, "scans/imagesTr", "-o", "found"]) == 1
    said = capsys.readouterr()
    assert "3 of 4 sources, 3 images" in said.out
    assert "broken.nii.gz" in said.err
    rows = list(csv.DictReader(Path("found/volumes.csv").read_text().splitlines()))
    assert len(rows) == len(json.loads(Path("found/volumes.json").read_text())) == 3
    for source in sorted(Path("scans/labelsTr").iterdir()):
        scan = nibabel.load(Path("scans/imagesTr") / source.name)
        found = nibabel.load(Path("found/labels") / source.name)
        assert found.shape == scan.shape
        np.testing.assert_allclose(found.affine, scan.affine, atol=1e-5)
        values, _ = read_label_values(Path("found/labels") / source.name)
        assert set(np.unique(values)) <= {0, 1, 2}
        (row,) = [row for row in rows if source.name in row["file"]]
        assert int(row["bright_voxels"]) == np.count_nonzero(values == 1)
        milliliters = np.count_nonzero(values == 1) * abs(np.linalg.det(scan.affine[:3, :3])) / 1000
        assert float(row["bright_ml"]) == pytest.approx(milliliters, abs=1e-3)
        for folder in ("slices", "montages"):
            assert min(read_image(f"found/{folder}/{source.name.removesuffix('.nii.gz')}.png").shape[:2]) > 100
    assert read_volume("scans/imagesTr/" + source.name).voxels.shape == scan.shape


def test_augmentation_and_task_must_fit(tiny: Callable[..., RunConfig]) -> None:
    with pytest.raises(
        ValueError, match="augment is image, which makes samples with boxes or instances or masks, but the task volume"
    ):
        tiny("augment={name: image}")


def test_images_cannot_be_learned_as_volumes(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="volumes were asked for"):
        train(tiny("data.path=shapes"), tmp_path / "run", bar=False)
    assert not (tmp_path / "run").exists()


def test_a_volume_that_would_become_too_large_is_named_and_the_rest_goes_on(
    tiny: Callable[..., RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny("train.epochs=1"), tmp_path / "run", bar=False)
    write_blobs(tmp_path / "scans", 2)
    first, second = sorted((tmp_path / "scans/imagesTr").iterdir())
    image = nibabel.load(first)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), np.diag([500.0, 500.0, 500.0, 1.0])), first)
    model = str(tmp_path / "run/best.safetensors")
    assert main(["predict", model, str(tmp_path / "scans/imagesTr"), "-o", str(tmp_path / "found")]) == 1
    said = capsys.readouterr()
    assert f"{first}: " in said.err
    assert "set a larger spacing" in said.err
    assert [path.name for path in (tmp_path / "found/labels").iterdir()] == [second.name]
