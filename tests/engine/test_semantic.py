"""Semantic segmentation through the same trainer, evaluation and command line as detection."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from detseg.cli import main
from detseg.config import load_config
from detseg.data.datasets.mask_file import read_index_mask
from detseg.data.open import open_dataset
from detseg.engine.evaluate import evaluate
from detseg.engine.run import train
from detseg.engine.settings import RunConfig
from detseg.engine.training.interrupt import InterruptedRunError
from detseg.engine.training.trainer import Trainer
from detseg.runtime.media.images import read_image, write_image
from detseg.structures import IGNORE_INDEX
from detseg.tasks.model_file import load_model_file

CLASSES = ("background", "circle", "square", "triangle")
TINY = """
model: letnet
task:
  name: semantic
  input: {height: 64, width: 64}
  loss: {name: segmentation, class_weights: enet}
data: {path: shapes.yaml, num_workers: 0}
augment: {mosaic: 0, translate: 0, crop: true, scale: [0.7, 1.5], close_mosaic_epochs: 0}
train:
  epochs: 2
  batch_size: 4
  num_threads: 1
  optimizer: {name: adam, learning_rate: 1.0e-3}
  schedule: {kind: poly, warmup_epochs: 1}
  ema: {decay: 0.9, ramp: 2}
"""


@pytest.fixture
def tiny(tiny: Callable[..., RunConfig], tmp_path: Path) -> Callable[..., RunConfig]:
    """The small run of the other tests, on the masks of the same images."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tiny


def write_masks(folder: Path, source: Path, names: tuple[str, ...], values: dict[str, int], size: float = 1.0) -> Path:
    """The validation split of ``source`` as a data set of masks with the classes ``names``; others are ignored."""
    dataset = open_dataset(source, "val", target="masks")
    for index in range(len(dataset)):
        image, mask = dataset.read(index)
        assert mask is not None
        stored = np.full_like(mask, 200)
        for name in names:
            stored[mask == dataset.class_names.index(name)] = values[name]
        for kind, pixels in (("images", image), ("masks", stored)):
            pixels = np.asarray(cv2.resize(pixels, None, fx=size, fy=size, interpolation=cv2.INTER_NEAREST))
            path = folder / "val" / kind / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "images":
                write_image(path, pixels)
            else:
                cv2.imwrite(str(path), pixels)
    rows = "".join(f"  {values[name]}: {name}\n" for name in names)
    (folder / "data.yaml").write_text(f"format: masks\nignore_index: 200\nnames:\n{rows}")
    return folder


def test_what_a_run_leaves_behind(
    tiny: Callable[..., RunConfig], tmp_path: Path, fingerprint: Callable[[Path], dict[str, str]]
) -> None:
    config, run_dir = tiny(), tmp_path / "run"
    result = train(config, run_dir, bar=False)
    names = {path.name for path in run_dir.iterdir()}
    assert {"best.safetensors", "last.safetensors", "config.yaml", "metrics.json", "metrics.jsonl"} <= names
    assert {"history.png", "confusion_matrix.png", "iou.png", "class_weights.json", "images", "report.html"} <= names
    assert len(list((run_dir / "images").glob("*.jpg"))) == 4

    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert result.metrics.primary == "mIoU"
    assert {"mIoU", "pixel_accuracy", *(f"IoU/{name}" for name in CLASSES)} <= metrics.keys()
    assert metrics["mIoU"] == pytest.approx(np.mean([metrics[f"IoU/{name}"] for name in CLASSES]))
    for name in CLASSES:
        assert name in result.table
    weights = json.loads((run_dir / "class_weights.json").read_text())
    dataset = open_dataset(tmp_path / "shapes.yaml", "train", target="masks")
    pixels = sum(np.bincount(dataset.mask(index).ravel(), minlength=4) for index in range(12))
    assert [weights[name]["pixels"] for name in CLASSES] == pixels.tolist()
    assert weights["background"]["weight"] < weights["circle"]["weight"]

    package = load_model_file(run_dir / "best.safetensors")
    assert package.config.class_names == CLASSES
    train(load_config(RunConfig, run_dir / "config.yaml"), tmp_path / "again", bar=False)
    assert fingerprint(tmp_path / "again") == fingerprint(run_dir)


def test_a_stopped_run_ends_with_the_same_weights(
    tiny: Callable[..., RunConfig],
    tmp_path: Path,
    fingerprint: Callable[[Path], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train(tiny(), tmp_path / "whole", bar=False)
    step = Trainer._step
    with monkeypatch.context() as patch:

        def stop_in_step_four(self: Trainer, *arguments: object) -> bool:
            if self.progress.step == 3:
                signal.raise_signal(signal.SIGTERM)
            return step(self, *arguments)  # type: ignore[arg-type]

        patch.setattr(Trainer, "_step", stop_in_step_four)
        with pytest.raises(InterruptedRunError):
            train(tiny(), tmp_path / "stopped", bar=False)
    train(tiny(), tmp_path / "stopped", resume=True, bar=False)
    assert fingerprint(tmp_path / "stopped") == fingerprint(tmp_path / "whole")


@pytest.mark.slow
def test_learning_lowers_the_loss(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train(tiny("train.epochs=8", "train.optimizer.learning_rate=5e-3", "train.ema=null"), run_dir, bar=False)
    losses = [json.loads(line)["loss"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0]


def test_accumulation_is_one_larger_batch(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    """With every term of the loss, each of which could be normalized per micro-batch by mistake."""
    common = (
        "task.loss.dice=1.0",
        "task.loss.lovasz=1.0",
        "train.epochs=1",
        "train.ema=null",
        "train.freeze_norms=true",
        "train.clip_norm=null",
        "train.optimizer.name=sgd",
        "train.optimizer.learning_rate=0.01",
    )
    train(tiny(*common, "train.batch_size=12"), tmp_path / "whole", bar=False)
    train(tiny(*common, "train.batch_size=4", "train.accumulate=3"), tmp_path / "parts", bar=False)
    whole, parts = (
        load_model_file(tmp_path / name / "last.safetensors").model.state_dict() for name in ("whole", "parts")
    )
    moved = 0.0
    start = initial_weights(tiny(*common))
    for name, value in whole.items():
        if value.dtype == torch.float32:
            moved = max(moved, float((value - start[name]).abs().max()))
            torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert moved > 1e-3


def initial_weights(config: RunConfig) -> dict[str, torch.Tensor]:
    torch.manual_seed(config.train.seed)
    weights: dict[str, torch.Tensor] = config.model.build(num_classes=4).state_dict()
    return weights


def test_the_classes_of_the_data_set_decide(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    """Models and data meet by name: other pixel values, another order and fewer classes change nothing else."""
    train(tiny("train.epochs=1"), tmp_path / "run", bar=False)
    package = load_model_file(tmp_path / "run" / "last.safetensors")
    device = torch.device("cpu")
    everything = open_dataset(tmp_path / "shapes.yaml", "val", target="masks")
    expected = evaluate(package.model, package.task, everything, batch_size=2, device=device, bar=False).compute()
    values = {"background": 9, "circle": 3, "square": 40, "triangle": 0}
    shuffled = open_dataset(write_masks(tmp_path / "a", tmp_path / "shapes.yaml", CLASSES[::-1], values), "val")
    assert shuffled.class_names != CLASSES
    found = evaluate(package.model, package.task, shuffled, batch_size=3, device=device, bar=False).compute()
    assert {name: found[name] for name in expected} == pytest.approx(dict(expected), abs=1e-12)

    few = open_dataset(write_masks(tmp_path / "b", tmp_path / "shapes.yaml", CLASSES[:2], values), "val")
    found = evaluate(package.model, package.task, few, batch_size=3, device=device, bar=False).compute()
    assert {name for name in found if name.startswith("IoU/")} == {"IoU/background", "IoU/circle"}

    values["hexagon"] = 77
    renamed = write_masks(tmp_path / "c", tmp_path / "shapes.yaml", CLASSES, values)
    (renamed / "data.yaml").write_text((renamed / "data.yaml").read_text().replace("circle", "hexagon"))
    with pytest.raises(ValueError, match="does not know 1 classes of the data set: hexagon"):
        evaluate(package.model, package.task, open_dataset(renamed, "val"), batch_size=3, device=device, bar=False)


def test_the_verbs(
    tiny: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny()
    assert main(["train", "tiny.yaml", "train.epochs=1", "-o", "run"]) == 0
    assert "mIoU" in capsys.readouterr().out
    model = "run/best.safetensors"
    plain = ["eval", model, "--data", "shapes.yaml", "--workers", "0"]
    assert main([*plain, "-o", "report"]) == 0
    again = json.loads(Path("report/metrics.json").read_text())
    assert again == json.loads(Path("run/metrics.json").read_text())
    views = ["--flip", "--scales", "0.75,1.0", "--window", "48x48", "--overlap", "0.5", "--json", "views.json"]
    assert main([*plain, *views]) == 0
    assert json.loads(Path("views.json").read_text())["pixel_accuracy"] != again["pixel_accuracy"]
    assert main([*plain, "--conf", "0.5"]) == 2
    assert "the task semantic has no setting --conf" in capsys.readouterr().err

    write_masks(
        tmp_path / "data", tmp_path / "shapes.yaml", CLASSES, {name: 10 * n for n, name in enumerate(CLASSES)}, 1.5
    )
    saving = ["--save", "image,mask,ids,video", "--fps", "5", "-o", "found"]
    assert main(["predict", model, "data/val/images", *saving]) == 0
    package = load_model_file(Path(model))
    for number in range(4):
        mask = read_index_mask(f"found/masks/{number}.png", f"{number}.png")
        assert mask.shape == (96, 96)
        assert set(np.unique(mask)) <= {0, 1, 2, 3}
        ids = cv2.imread(f"found/ids/{number}.png", cv2.IMREAD_UNCHANGED)
        assert np.array_equal(ids, np.array(package.config.category_ids)[mask])
        image = read_image(f"data/val/images/{number}.png")
        drawn = read_image(f"found/{number}.png")
        assert drawn.shape[1:] == image.shape[1:]
        assert len(drawn) > len(image), "a legend below"
        assert (drawn[: len(image)] != image).any()
    video = cv2.VideoCapture("found/video.mp4")
    assert (video.get(cv2.CAP_PROP_FPS), video.get(cv2.CAP_PROP_FRAME_COUNT)) == (5, 4)
    assert main(["predict", model, "data/val/images", "--save", "coco"]) == 2
    assert "coco" in capsys.readouterr().err


def test_boxes_cannot_be_learned_as_masks(tiny: Callable[..., RunConfig], tmp_path: Path, detseg_data: Path) -> None:
    with pytest.raises(ValueError, match="masks were asked for"):
        train(tiny(f"data.path={detseg_data / 'bccd'}"), tmp_path / "run", bar=False)
    assert not (tmp_path / "run").exists()


def test_an_image_of_ignored_only_trains(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    tiny()
    values = {name: number for number, name in enumerate(CLASSES)}
    folder = write_masks(tmp_path / "ignore_index", tmp_path / "shapes.yaml", CLASSES, values)
    masks = sorted((folder / "val" / "masks").iterdir())
    cv2.imwrite(str(masks[0]), np.full((64, 64), 200, np.uint8))
    assert (open_dataset(folder, "val").mask(0) == IGNORE_INDEX).all()
    # One image per step, so that one step sees nothing but ignored.
    settings = (
        "data.train_split=val",
        "train.epochs=1",
        "train.batch_size=1",
        "task.loss.dice=1",
        "task.loss.lovasz=1",
    )
    result = train(tiny(f"data.path={folder}", *settings), tmp_path / "run", bar=False)
    weights = load_model_file(tmp_path / "run" / "last.safetensors").model.state_dict()
    assert all(bool(value.isfinite().all()) for value in weights.values())
    assert 0 <= result.metrics["mIoU"] <= 1

    for path in masks:
        cv2.imwrite(str(path), np.full((64, 64), 200, np.uint8))
    with pytest.raises(ValueError, match="no labeled pixel in 4 images of val"):
        train(tiny(f"data.path={folder}", *settings), tmp_path / "nothing", bar=False)
