"""What a run makes of files that cannot be used, and of a validation split with nothing in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detseg.cli.verbs import EXIT_USER_ERROR, main
from detseg.config import load_config
from detseg.data.formats.blobs import BlobsConfig, write_blobs
from detseg.data.loading.loader import BadImagesError
from detseg.data.open import open_dataset
from detseg.data.source import DatasetError
from detseg.engine import run as run_module
from detseg.engine.run import train
from detseg.engine.run_data import open_run_data, without_bad
from detseg.engine.settings import DataConfig, RunConfig
from detseg.engine.training.checkpoint import load_state
from detseg.runtime.media.images import write_image, write_mask
from detseg.runtime.volumes.nifti import write_label_volume
from detseg.runtime.volumes.volume_files import read_label_values
from detseg.volumes import LabelVolume

Tiny = Callable[..., RunConfig]
Fingerprint = Callable[[Path], dict[str, str]]


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    """A YOLO data set of six training images and three for validation, each with one box."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for number in range(count):
            image = rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)
            write_image(tmp_path / "boxes/images" / split / f"{number}.jpg", image)
            label = tmp_path / "boxes/labels" / split / f"{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("0 0.5 0.5 0.4 0.4\n")
    (tmp_path / "boxes/classes.txt").write_text("thing\n")
    return tmp_path / "boxes"


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            write_image(tmp_path / "masks" / split / "images" / f"{number}.png", np.full((32, 32, 3), 90, np.uint8))
            mask = np.zeros((32, 32), np.uint8)
            mask[8:20, 8:20] = 1
            write_mask(tmp_path / "masks" / split / "masks" / f"{number}.png", mask)
    (tmp_path / "masks/classes.txt").write_text("ground\nthing\n")
    return tmp_path / "masks"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def records(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_bad_validation_image_is_found_before_training(tiny: Tiny, tmp_path: Path, boxes: Path) -> None:
    truncate(boxes / "images/val/1.jpg")
    config = tiny(f"data.path={boxes}")
    message = r"1 of 3 images or volumes of val cannot be used:\n  .*val/1\.jpg: truncated.*\n.*data\.on_bad_image=skip"
    with pytest.raises(DatasetError, match=message):
        train(config, tmp_path / "run", bar=False)
    assert not (tmp_path / "run").exists()


HEADERS: dict[str, Callable[[Path], object]] = {
    "not an image": lambda path: path.write_bytes(b"<html>"),
    "other size": lambda path: write_image(path, np.zeros((32, 48, 3), np.uint8)),
}


@pytest.mark.parametrize("damage", HEADERS)
def test_headers_of_both_splits_are_looked_at(tmp_path: Path, masks: Path, damage: str) -> None:
    for place in ("train/images/2.png", "train/masks/2.png", "val/images/0.png", "val/masks/0.png"):
        content = (masks / place).read_bytes()
        HEADERS[damage](masks / place)
        with pytest.raises(DatasetError, match=place.rpartition("/")[2].replace(".", r"\.")):
            open_run_data(DataConfig(path=masks), "masks")
        (masks / place).write_bytes(content)
    assert open_run_data(DataConfig(path=masks), "masks").has_truth


def test_what_is_skipped_is_said_everywhere(tiny: Tiny, tmp_path: Path, boxes: Path) -> None:
    truncate(boxes / "images/train/3.jpg")
    truncate(boxes / "images/val/1.jpg")
    config = tiny(f"data.path={boxes}", "data.on_bad_image=skip", "train.batch_size=2", "train.epochs=2")
    with pytest.warns(UserWarning, match="skipped") as caught:
        train(config, tmp_path / "run", bar=False)
    said = [str(one.message) for one in caught]
    assert sum("skipped, another takes its place: " in text and "train/3.jpg: truncated" in text for text in said) == 1
    assert sum("val: skipped, metrics are those of the others: " in text for text in said) == 1
    log = (tmp_path / "run/log.txt").read_text()
    assert log.count("train/3.jpg: truncated") == log.count("val/1.jpg: truncated") == 1
    for record in records(tmp_path / "run"):
        assert record["num_skipped"] == 1
        assert len(record["skipped"]) == 1
        assert record["skipped"][0].startswith(f"{boxes}/images/train/3.jpg: truncated")
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["num_skipped"] == 1
    assert "val/1.jpg: truncated" in metrics["skipped"][0]


def test_a_run_without_bad_images_says_nothing_of_them(tiny: Tiny, tmp_path: Path, boxes: Path) -> None:
    train(tiny(f"data.path={boxes}", "train.epochs=1"), tmp_path / "run", bar=False)
    assert "num_skipped" not in records(tmp_path / "run")[0]
    assert "skipped" not in (tmp_path / "run/metrics.json").read_text()


def test_the_cap_is_a_setting(tiny: Tiny, tmp_path: Path, boxes: Path) -> None:
    for number in (1, 3):
        truncate(boxes / f"images/train/{number}.jpg")
        truncate(boxes / f"images/val/{number // 2}.jpg")
    common = (f"data.path={boxes}", "data.on_bad_image=skip", "train.batch_size=2", "train.epochs=1")
    with pytest.raises(BadImagesError, match=r"2 of 3 .* of val .*, 1 may be skipped \(data\.max_bad_images\)"):
        train(tiny(*common, "data.max_bad_images=1"), tmp_path / "run", bar=False)
    with pytest.warns(UserWarning, match="skipped"):
        train(tiny(*common, "data.max_bad_images=2"), tmp_path / "run", bar=False)
    assert records(tmp_path / "run")[0]["num_skipped"] == 2
    with pytest.raises(ValueError, match="max_bad_images must not be negative, got -1"):
        DataConfig(max_bad_images=-1)


def test_the_policy_may_change_when_a_run_goes_on(tiny: Tiny, tmp_path: Path, boxes: Path) -> None:
    train(tiny(f"data.path={boxes}", "train.epochs=1"), tmp_path / "run", bar=False)
    truncate(boxes / "images/val/1.jpg")
    words = ["train", "--resume", str(tmp_path / "run")]
    assert main(words) == EXIT_USER_ERROR
    assert main([*words, "data.on_bad_image=skip", "data.max_bad_images=1"]) == 0
    assert json.loads((tmp_path / "run/metrics.json").read_text())["num_skipped"] == 1


def test_nothing_left_to_judge_by(boxes: Path) -> None:
    for number in range(3):
        truncate(boxes / f"images/val/{number}.jpg")
    with pytest.raises(BadImagesError, match="3 of 3"):
        open_run_data(DataConfig(path=boxes, on_bad_image="skip"), "boxes")


def test_the_same_for_masks(tmp_path: Path, masks: Path) -> None:
    """One wrong value: found before training, or the pair is skipped, also where weights are taken from the masks."""
    for place in ("train/masks/3.png", "val/masks/1.png"):
        mask = np.zeros((32, 32), np.uint8)
        mask[3, 7] = 127
        write_mask(masks / place, mask)
    (tmp_path / "masks.yaml").write_text(
        f"model: letnet\ntask: {{name: semantic, input: {{height: 32, width: 32}}, loss: {{class_weights: enet}}}}\n"
        f"data: {{path: {masks}, num_workers: 0, cache: ram}}\naugment: {{mosaic: 0, close_mosaic_epochs: 0}}\n"
        "train: {epochs: 1, batch_size: 2, num_threads: 1}\n"
    )
    with pytest.raises(DatasetError, match=r"1 of 4 .* of train .*\n.*3\.png: value 127, first at x 7, y 3"):
        train(load_config(RunConfig, tmp_path / "masks.yaml"), tmp_path / "run", bar=False)
    config = load_config(RunConfig, tmp_path / "masks.yaml", ["data.on_bad_image=skip"])
    with pytest.warns(UserWarning, match="value 127"):
        train(config, tmp_path / "run", bar=False)
    assert records(tmp_path / "run")[0]["num_skipped"] == 1
    assert json.loads((tmp_path / "run/metrics.json").read_text())["num_skipped"] == 1
    weights = json.loads((tmp_path / "run/class_weights.json").read_text())
    assert weights["thing"]["pixels"] == 3 * 12 * 12


def test_masks_with_nothing_but_ignored_are_refused(masks: Path) -> None:
    for number in range(2):
        write_mask(masks / f"val/masks/{number}.png", np.full((32, 32), 255, np.uint8))
    with pytest.raises(DatasetError, match="no labeled pixel in 2 images of val"):
        open_run_data(DataConfig(path=masks), "masks")


def test_volumes(tmp_path: Path) -> None:
    write_blobs(tmp_path, 3, config=BlobsConfig(min_side=20, max_side=24, max_radius=6))
    config = DataConfig(path=tmp_path, train_split="all", val_split="all", on_bad_image="skip")
    first, *_, last = sorted((tmp_path / "labelsTr").iterdir())
    first.write_bytes(b"")
    opened = open_run_data(config, "volumes")
    assert len(opened.train) == 3
    assert len(opened.val) == len(opened.usable_train) == 2
    assert [first.name in message for message in (*opened.bad_train, *opened.bad_val)] == [True, True]
    content = last.read_bytes()
    last.write_bytes(content[: len(content) // 2])  # its header is whole
    assert len(open_run_data(config, "volumes").bad_val) == 2
    with pytest.raises(DatasetError, match="1 of 3 images or volumes of all"):
        open_run_data(DataConfig(path=tmp_path, train_split="all", val_split="all"), "volumes")


def test_without_objects_in_validation_the_last_model_is_the_best(tiny: Tiny, tmp_path: Path, boxes: Path) -> None:
    for number in range(3):
        (boxes / f"labels/val/{number}.txt").write_text("")
    config = tiny(f"data.path={boxes}", "train.epochs=4", "train.patience=1", "train.batch_size=2")
    with pytest.warns(UserWarning, match="nothing to judge by in 3 images: .* the best model is the last one"):
        train(config, tmp_path / "run", bar=False)
    assert [record["epoch"] for record in records(tmp_path / "run")] == [1, 2, 3, 4]
    best, last = ((tmp_path / "run" / f"{name}.safetensors").read_bytes() for name in ("best", "last"))
    assert best == last


VOLUMES = """
model: {name: vnet, width: 4, num_convolutions: [1, 1], kernel_size: 3, norm: instance}
task: {name: volume, patch: [16, 16, 16]}
data: {path: set/data.yaml, num_workers: 0}
augment: {name: volume, rotation: 0, scaling: 0, noise: 0, blur: 0, brightness: 0, contrast: 0, low_resolution: 0,
  gamma: 0, gamma_inverted: 0}
train: {epochs: 3, patience: 1, batch_size: 2, num_threads: 1, optimizer: {learning_rate: 1.0e-30}}
"""


def test_the_same_for_volumes(tmp_path: Path) -> None:
    """Whatever is found in a volume without any structure: its Dice of 0 measures nothing."""
    write_blobs(tmp_path / "set", 3, config=BlobsConfig(min_side=20, max_side=24, max_radius=6))
    empty, *_ = sorted((tmp_path / "set/labelsTr").iterdir())
    labels, affine = read_label_values(empty)
    write_label_volume(empty, LabelVolume(np.zeros(labels.shape, np.uint8), affine))
    pairs = [[f"{folder}/blobs_000{number}.nii.gz" for folder in ("imagesTr", "labelsTr")] for number in range(3)]
    described = {"format": "nifti", "names": {0: "background", 1: "bright", 2: "dark"}}
    (tmp_path / "set/data.yaml").write_text(yaml.safe_dump({**described, "train": pairs[1:], "val": pairs[:1]}))
    (tmp_path / "run.yaml").write_text(VOLUMES)
    config = load_config(RunConfig, tmp_path / "run.yaml")
    with pytest.warns(UserWarning, match="nothing to judge by in 1 images"):
        train(config, tmp_path / "run", bar=False)
    lines = records(tmp_path / "run")
    assert len(lines) == 3
    assert lines[0]["Dice"] == 0
    best, last = ((tmp_path / "run" / f"{name}.safetensors").read_bytes() for name in ("best", "last"))
    assert best == last


def test_a_failing_evaluation_costs_nothing(
    tiny: Tiny, tmp_path: Path, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("train.epochs=2")
    train(config, tmp_path / "whole", bar=False)
    evaluate, left = run_module.evaluate, [0]

    def fail(*arguments: Any, **settings: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise OSError("No space left on device")
        return evaluate(*arguments, **settings)

    monkeypatch.setattr(run_module, "evaluate", fail)
    for failing in (1, 2, 3):  # two epochs, and the report
        left[0] = failing
        run_dir = tmp_path / str(failing)
        with pytest.raises(OSError, match="No space left"):
            train(config, run_dir, bar=False)
        assert load_state(run_dir)["progress"]["step"] == 3 * min(failing, 2)
        train(config, run_dir, resume=True, bar=False)
        assert fingerprint(run_dir) == fingerprint(tmp_path / "whole")


def test_evaluation_leaves_out_what_cannot_be_read_where_it_may(
    boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (boxes / "classes.txt").write_text("circle\nsquare\ntriangle\n")
    truncate(boxes / "images/val/1.jpg")
    weights = Path(__file__).parents[2] / "weights" / "detseg_n_shapes.safetensors"
    words = ["eval", str(weights), "--data", str(boxes), "--size", "64", "--device", "cpu", "--workers", "0"]
    assert main(words) == EXIT_USER_ERROR
    assert "val/1.jpg: truncated" in capsys.readouterr().err
    assert main([*words, "--skip-bad-images", "1", "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert re.match(r"skipped: .*val/1\.jpg: truncated.*\n2 images of ", said)
    assert "skipped" in (tmp_path / "out" / "report.html").read_text()
    truncate(boxes / "images/val/2.jpg")
    assert main([*words, "--skip-bad-images", "1"]) == EXIT_USER_ERROR
    assert "2 of 3 images or volumes of val cannot be used, 1 may be skipped:\n" in capsys.readouterr().err
    assert main([*words, "--skip-bad-images", "-1"]) == EXIT_USER_ERROR
    assert "skip_bad_images is a number of images, 0 or more, got -1" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["masks", "volumes"])
def test_masks_and_volumes_that_cannot_be_read_are_left_out(target: Any, masks: Path, tmp_path: Path) -> None:
    data, split = masks, "val"
    if target == "volumes":
        data, split = tmp_path / "blobs", "all"
        write_blobs(data, 2, config=BlobsConfig(min_side=20, max_side=24, max_radius=6))
    dataset = open_dataset(str(data), split, None, target)
    path: Any = dataset.label_path if target == "volumes" else dataset.mask_path  # type: ignore[union-attr]
    truncate(Path(path(0)))
    usable, skipped = without_bad(dataset, 1)
    assert (len(usable), len(skipped)) == (1, 1)
    assert str(data) in skipped[0]
    with pytest.raises(BadImagesError, match=f"1 of 2 images or volumes of {split} cannot be used, 0 may be skipped"):
        without_bad(dataset, 0)
