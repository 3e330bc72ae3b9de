"""Whole runs, small enough to be made in a second or two."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from detseg.augment.pipeline import EvalPipeline
from detseg.config import load_config
from detseg.data.open import open_dataset
from detseg.engine import run as run_module
from detseg.engine.evaluate import evaluate
from detseg.engine.run import train
from detseg.engine.settings import RunConfig, TrainConfig
from detseg.engine.training import trainer as trainer_module
from detseg.engine.training.checkpoint import load_state
from detseg.engine.training.interrupt import InterruptedRunError
from detseg.models.load_weights import WeightsError
from detseg.runtime.media.images import read_image, write_image
from detseg.tasks.detection import DetectionCriterion
from detseg.tasks.model_file import load_model_file

Tiny = Callable[..., RunConfig]
Fingerprint = Callable[[Path], dict[str, str]]
# A model that does not move: what it holds at the end is what it held at the beginning.
STILL = (
    "train.epochs=1",
    "train.ema=null",
    "train.freeze_norms=true",
    "train.optimizer.learning_rate=1e-30",
    "train.optimizer.weight_decay=0",
)


def records(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_what_a_run_leaves_behind(
    tiny: Tiny, tmp_path: Path, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    config = tiny("train.seed=3")
    result = train(config, run_dir, bar=False)
    assert sorted(path.name for path in run_dir.iterdir()) == [
        ".lock",
        "best.safetensors",
        "config.yaml",
        "confusion_matrix.png",
        "detections.json",
        "f1_curve.png",
        "history.png",
        "images",
        "images.json",
        "last.safetensors",
        "log.txt",
        "metrics.csv",
        "metrics.json",
        "metrics.jsonl",
        "pr_curve.png",
        "report.html",
        "state.previous.pt",
        "state.pt",
        "tensorboard",
    ]
    assert result.run_dir == run_dir

    lines = records(run_dir)
    # 12 images in batches of 4, 2 epochs
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 3), (2, 6)]
    for line in lines:
        parts = {name: value for name, value in line.items() if name.startswith("loss/")}
        assert len(parts) == 3
        assert all(math.isfinite(value) and value > 0 for value in parts.values())
        assert line["loss"] == pytest.approx(sum(parts.values()))
        assert {"AP", "AP50", "learning_rate", "train_seconds", "eval_seconds"} <= line.keys()
        val_parts = {name: value for name, value in line.items() if name.startswith("val_loss/")}
        assert {name.removeprefix("val_") for name in val_parts} == set(parts)
        assert line["val_loss"] == pytest.approx(sum(val_parts.values()))

    metrics = json.loads((run_dir / "metrics.json").read_text())
    best = max(lines, key=lambda line: line["AP"])
    told = ("classes_without_truth", "evaluator")
    measured = {name: value for name, value in metrics.items() if name not in told}
    assert measured == dict(result.metrics)
    in_epochs = [name for name in result.metrics if name in best]
    assert {name: measured[name] for name in in_epochs} == {name: best[name] for name in in_epochs}
    # What is said beside them only of the best model, as it takes longer.
    assert {name.partition("/")[0].partition("_")[0] for name in set(measured) - set(best)} == {"F1", "ECE", "dAP50"}
    package = load_model_file(run_dir / "best.safetensors")
    val_set = open_dataset(config.data.path, "val")
    # The loss of the last weights over all four images of the split, as if in training but for the norms.
    last = load_model_file(run_dir / "last.safetensors")
    network = last.model.train()
    for module in network.modules():
        module.train(not isinstance(module, torch.nn.BatchNorm2d))
    criterion = config.task.build_criterion(network, last.task)
    place = EvalPipeline(last.task.spec)  # type: ignore[arg-type]
    batch = criterion.collate([place(val_set.load(index)) for index in range(4)])
    with torch.no_grad():
        loss = criterion(network(last.task.normalize(batch.images)), batch)
    assert lines[-1]["val_loss"] == pytest.approx(float(loss.total()), rel=1e-4)
    again: Any = evaluate(package.model, package.task, val_set, batch_size=4, device=torch.device("cpu"), bar=False)
    assert again.results() == json.loads((run_dir / "detections.json").read_text()) != []
    state = load_state(run_dir)
    for name, value in load_file(run_dir / "last.safetensors").items():
        assert torch.equal(value, state["ema"]["weights"][name]), name

    for name in ("confusion_matrix", "history", "pr_curve"):
        assert read_image(run_dir / f"{name}.png").std() > 10, name
    board = EventAccumulator(str(run_dir / "tensorboard"))
    board.Reload()
    for name in lines[0].keys() - {"epoch", "step"}:
        points = [(event.step, event.value) for event in board.Scalars(name)]
        assert points == [(line["epoch"], pytest.approx(line[name], rel=1e-6)) for line in lines], name

    # The resolved configuration, from its new place, is the same run.
    resolved = load_config(RunConfig, run_dir / "config.yaml")
    assert resolved == config
    train(resolved, tmp_path / "again", bar=False)
    assert fingerprint(tmp_path / "again") == fingerprint(run_dir)
    precisions: list[str] = []

    def remember(*given: Any, precision: str, **settings: Any) -> Any:
        precisions.append(precision)
        return evaluate(*given, precision=precision, **settings)

    monkeypatch.setattr(run_module, "evaluate", remember)
    train(tiny("train.seed=4", "train.epochs=1", "train.eval_precision=bf16"), tmp_path / "other", bar=False)
    assert records(tmp_path / "other")[0]["loss"] != lines[0]["loss"]
    assert precisions == ["bf16", "bf16"]  # of the epoch, and of the best model for the report


def test_accumulation_is_one_larger_batch(tiny: Tiny, tmp_path: Path) -> None:
    # Batch norms look at one micro-batch each, so they are held still; clipping would hide the size of the gradient;
    # the normalizer of SimOTA is a number of boxes, that of the other loss begins below 1.
    common = (
        "model.head=direct",
        "task.loss=simota",
        "train.epochs=1",
        "train.ema=null",
        "train.freeze_norms=true",
        "train.clip_norm=null",
        "train.optimizer.name=sgd",
        "train.optimizer.learning_rate=0.01",
    )
    train(tiny(*common, "train.batch_size=12"), tmp_path / "whole", bar=False)
    train(tiny(*common, "train.batch_size=4", "train.accumulate=3"), tmp_path / "parts", bar=False)
    train(tiny(*common, "train.batch_size=4"), tmp_path / "steps", bar=False)
    assert [records(tmp_path / name)[0]["step"] for name in ("whole", "parts", "steps")] == [1, 1, 3]
    whole, parts, steps = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "parts", "steps"))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-7, msg=name)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(steps, whole, rtol=1e-4, atol=1e-7)
    assert records(tmp_path / "parts")[0]["loss"] == pytest.approx(records(tmp_path / "whole")[0]["loss"], rel=1e-5)


def test_the_last_step_of_an_epoch_takes_what_is_left(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny("train.accumulate=2"), tmp_path / "run", bar=False)
    # 3 batches: one step of two, one of one
    assert [line["step"] for line in records(tmp_path / "run")] == [2, 4]


def test_multi_scale_and_bf16(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    types: set[torch.dtype] = set()
    loss = DetectionCriterion.__call__

    def watch(self: DetectionCriterion, raw: list[Tensor], batch: Any) -> Any:
        sizes.append(tuple(batch.images.shape[2:]))
        types.update(level.dtype for level in raw)
        return loss(self, raw, batch)

    monkeypatch.setattr(DetectionCriterion, "__call__", watch)
    run_dir = tmp_path / "run"
    settings = ("augment.multi_scale=[0.5,1.5]", "train.amp=bf16", "train.epochs=3", "train.val_loss=false")
    train(tiny(*settings), run_dir, bar=False)
    assert len(sizes) == 9
    assert set(sizes) <= {(32, 32), (64, 64), (96, 96)}
    assert len(set(sizes)) > 1
    assert types == {torch.bfloat16}
    assert all(math.isfinite(line["loss"]) for line in records(run_dir))
    floating = {value.dtype for value in load_file(run_dir / "last.safetensors").values()} - {torch.int64}
    assert floating == {torch.float32}


def test_patience(tiny: Tiny, tmp_path: Path) -> None:
    still = ("train.epochs=50", "train.ema=null", "train.freeze_norms=true", "train.optimizer.learning_rate=1e-30")
    train(tiny(*still, "train.patience=2"), tmp_path / "run", bar=False)
    # The first epoch is the best; two more bring nothing new.
    lines = records(tmp_path / "run")
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert len({line["AP"] for line in lines}) == 1
    assert load_state(tmp_path / "run")["progress"]["best_epoch"] == 0


def test_frozen_parts_stay_as_they_are_and_learn_later(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[dict[str, Tensor]] = []

    def watch(method: str) -> None:
        original = getattr(trainer_module.Trainer, method)

        def keep(self: Any, *arguments: Any) -> None:
            states.append({name: value.clone() for name, value in self.model.state_dict().items()})
            original(self, *arguments)

        monkeypatch.setattr(trainer_module.Trainer, method, keep)

    watch("fit")
    watch("_finish_epoch")
    train(tiny("train.freeze=[backbone]", "train.freeze_epochs=1", "train.epochs=2"), tmp_path / "run", bar=False)
    assert len(states) == 3
    changed = [
        {name for name in after if not torch.equal(after[name], before[name])}
        for before, after in itertools.pairwise(states)
    ]
    backbone = {name for name in states[0] if name.startswith("backbone.")}
    assert any(name.endswith("running_var") for name in backbone)
    assert changed[0]
    assert not changed[0] & backbone
    constants = {name for name in states[0] if name not in changed[1]}
    assert changed[1] >= backbone
    assert not any("running" in name or "norm" in name for name in constants)


def test_the_learning_rate_given_is_the_learning_rate_used(tiny: Tiny, tmp_path: Path) -> None:
    given = (
        "train.optimizer.learning_rate=0.00123", "train.schedule.kind=constant", "train.schedule.warmup_epochs=0"
    )  # fmt: skip
    for number, extra in enumerate([(), ("train.batch_size=2", "train.accumulate=2"), ("train.optimizer.name=sgd",)]):
        run_dir = tmp_path / str(number)
        train(tiny(*given, *extra), run_dir, bar=False)
        assert [line["learning_rate"] for line in records(run_dir)] == [0.00123] * 2
        groups = load_state(run_dir)["optimizer"]["param_groups"]
        assert [group["lr"] for group in groups] == [0.00123] * 2


def test_a_limit_for_cached_images_leaves_those_of_validation_as_they_are(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def show(config: RunConfig, package: Any, train_set: Any, val_set: Any, *rest: Any, **settings: Any) -> None:
        raise InterruptedRunError(f"{train_set.load(0).image.shape} {val_set.load(0).image.shape}")

    monkeypatch.setattr(run_module, "build_trainer", show)
    with pytest.raises(InterruptedRunError, match=r"\(24, 24, 3\) \(64, 64, 3\)"):
        train(tiny("data.cache=ram", "data.cache_max_side=24"), tmp_path / "run", bar=False)


def test_a_run_is_not_overwritten(tiny: Tiny, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train(tiny("train.epochs=1"), run_dir, bar=False)
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match=r"run holds a run already; go on with --resume .*run or choose another"):
        train(tiny("train.epochs=2"), run_dir, bar=False)
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before
    with pytest.raises(FileNotFoundError, match=r"other holds no state\.pt, so there is no run to resume"):
        train(tiny(), tmp_path / "other", resume=True, bar=False)
    assert not (tmp_path / "other").exists()


def test_a_finished_run_is_resumed_without_harm(tiny: Tiny, tmp_path: Path, fingerprint: Fingerprint) -> None:
    run_dir = tmp_path / "run"
    train(tiny("train.epochs=1"), run_dir, bar=False)
    before = fingerprint(run_dir)
    train(tiny("train.epochs=1"), run_dir, resume=True, bar=False)
    assert fingerprint(run_dir) == before


def coco_folder(folder: Path, shapes: Path, categories: dict[str, list[tuple[int, str]]]) -> Path:
    """The images of ``shapes`` as a COCO data set with these categories; every object is of the first one."""
    for split, named in categories.items():
        dataset = open_dataset(shapes, split)
        content: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": number, "name": name} for number, name in named],
        }
        for index in range(len(dataset)):
            sample, truth = dataset.load(index), dataset.ground_truth(index)
            write_image(folder / split / f"{index}.png", sample.image)
            height, width = dataset.size(index)
            content["images"].append({"id": index + 1, "file_name": f"{index}.png", "height": height, "width": width})
            content["annotations"] += [
                {"id": len(content["annotations"]) + number + 1, "image_id": index + 1, "category_id": named[0][0],
                 "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                for number, box in enumerate(truth.boxes_xywh.tolist())
            ]  # fmt: skip
        path = folder / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


def test_starting_from_the_weights_of_another_run(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny("train.epochs=1"), tmp_path / "first", bar=False)
    file = tmp_path / "first" / "last.safetensors"
    given = load_file(file)

    train(tiny(*STILL, f"train.weights={file}", "train.seed=5"), tmp_path / "same", bar=False)
    for name, value in load_file(tmp_path / "same" / "last.safetensors").items():
        assert torch.equal(value, given[name]), name

    two_classes = [(1, "round"), (2, "edged")]
    data = coco_folder(tmp_path / "data", tmp_path / "shapes.yaml", {"train": two_classes, "val": two_classes})
    other = tiny(*STILL, f"train.weights={file}", f"data.path={data}")
    with pytest.raises(
        WeightsError, match="is for the classes circle, square, triangle, the data set has round, edged"
    ):
        train(other, tmp_path / "refused", bar=False)
    assert not (tmp_path / "refused").exists()
    partial = tiny(*STILL, f"train.weights={file}", f"data.path={data}", "train.partial_weights=true")
    with pytest.warns(UserWarning, match=r"tensors loaded, \d+ of the model had no match and start fresh: head\."):
        train(partial, tmp_path / "partial", bar=False)
    weights = load_file(tmp_path / "partial" / "last.safetensors")
    different = {name for name, value in weights.items() if not torch.equal(value, given[name])}
    # Three levels, weight and bias of the last convolution of the classes.
    assert len(different) == 6
    assert all(len(weights[name]) == 2 and len(given[name]) == 3 for name in different)
    assert load_model_file(tmp_path / "partial" / "best.safetensors").config.class_names == ("round", "edged")


def test_a_class_that_only_validation_knows_is_refused_before_training(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny()
    categories = {"train": [(1, "round")], "val": [(1, "round"), (2, "edged")]}
    data = coco_folder(tmp_path / "data", tmp_path / "shapes.yaml", categories)
    config = tiny(f"data.path={data}")
    with pytest.raises(ValueError, match="the model does not know 1 classes of the data set: edged"):
        train(config, tmp_path / "run", bar=False)
    assert not (tmp_path / "run").exists()


def test_what_cannot_work_is_refused_before_training(tiny: Tiny, tmp_path: Path) -> None:
    cases = {
        "task.loss=simota": "the model's head is 'dfl'",
        "train.freeze=[backbnoe]": "the nearest names are: backbone",
        "train.freeze=[backbone,neck,head]": "holds the whole model",
        "data.val_split=nowhere": "nowhere",
    }
    for override, message in cases.items():
        with pytest.raises(ValueError, match=message):
            train(tiny(override), tmp_path / "run", bar=False)
        assert not (tmp_path / "run").exists(), override


@pytest.mark.parametrize("name", ["epochs", "batch_size", "accumulate", "evaluate_epochs"])
def test_counts_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        TrainConfig(**{name: 0})


@pytest.mark.parametrize(
    "name", ["clip_norm", "patience", "save_steps", "freeze_epochs", "eval_batch_size", "num_threads"]
)
def test_limits_must_be_positive_or_absent(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive or null, got 0"):
        TrainConfig(**{name: 0})
