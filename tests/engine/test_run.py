"""What a run leaves behind, and that every setting does what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from detseg.config import load_config
from detseg.engine.run import train
from detseg.engine.settings import RunConfig
from detseg.engine.trainer import NonFiniteLossError
from detseg.models.load_weights import WeightsError
from detseg.tasks.package import load_package

Tiny = Callable[..., RunConfig]
Fingerprint = Callable[[Path], dict[str, str]]


def records_of(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_its_files_and_its_configuration_reproduces_it(
    tiny: Tiny, tmp_path: Path, fingerprint: Fingerprint
) -> None:
    run_dir = tmp_path / "first"
    result = train(tiny("train.epochs=1"), run_dir, bar=False)
    names = {path.name for path in run_dir.iterdir()}
    assert names >= {
        "config.yaml",
        "metrics.jsonl",
        "best.safetensors",
        "last.safetensors",
        "state.pt",
        "metrics.json",
        "detections.json",
        "confusion_matrix.png",
        "pr_curve.png",
        "history.png",
        "tensorboard",
    }
    assert list((run_dir / "tensorboard").iterdir())
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["AP"] == result.metrics["AP"] == records_of(run_dir)[0]["AP"]

    again = load_config(RunConfig, run_dir / "config.yaml")
    train(again, tmp_path / "second", bar=False)
    assert fingerprint(tmp_path / "second") == fingerprint(run_dir)

    with pytest.raises(FileExistsError, match="holds a run already"):
        train(again, run_dir, bar=False)


def test_a_model_file_is_enough_to_use_the_model(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny("train.epochs=1")
    train(config, tmp_path / "run", bar=False)
    package = load_package(tmp_path / "run/best.safetensors", postprocess={"confidence": 0.5})
    assert package.config.class_names == ("circle", "square", "triangle")
    assert package.config.model == config.model
    assert package.task.spec == config.task.input
    assert package.task.config.postprocess == replace(config.task.postprocess, confidence=0.5)
    assert not package.model.training


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.amp=bf16",),
        ("train.amp=fp16",),
        ("augment.multi_scale=[0.5, 1.5]",),
        ("train.accumulate=3", "train.clip_norm=null"),
        ("train.ema=null", "train.channels_last=false"),
        ("train.optimizer.name=sgd", "train.schedule.kind=poly"),
        ("train.optimizer.name=rmsprop", "train.schedule.kind=linear"),
        ("augment.mixup=1.0", "augment.mosaic=0.0"),
        ("augment.albumentations=[{name: RandomGamma, params: {p: 1.0}}]",),
        ("data.cache=ram", "data.num_workers=1"),
        ("model.head=direct", "task.loss=simota"),
    ],
)
def test_every_way_to_train_trains(tiny: Tiny, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    train(tiny("train.epochs=1", *overrides), tmp_path / "run", bar=False)
    (record,) = records_of(tmp_path / "run")
    assert 0 < record["loss"] < 100
    weights = load_file(tmp_path / "run/last.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_the_learning_rate_is_the_one_that_was_asked_for(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(
        "train.optimizer.learning_rate=0.0123", "train.schedule.kind=constant", "train.schedule.warmup_epochs=0"
    )
    train(config, tmp_path / "run", bar=False)
    assert [record["learning_rate"] for record in records_of(tmp_path / "run")] == [0.0123, 0.0123]


def test_training_ends_when_patience_does(tiny: Tiny, tmp_path: Path) -> None:
    # Nothing is learned at this rate, so the first epoch stays the best one.
    config = tiny("train.epochs=9", "train.patience=2", "train.optimizer.learning_rate=1e-12", "train.ema=null",
                  "train.freeze_norms=true")  # fmt: skip
    train(config, tmp_path / "run", bar=False)
    assert len(records_of(tmp_path / "run")) == 3


def test_evaluation_may_be_less_frequent_but_never_misses_the_end(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny("train.epochs=3", "train.evaluate_epochs=2"), tmp_path / "run", bar=False)
    assert ["AP" in record for record in records_of(tmp_path / "run")] == [False, True, True]


def test_frozen_parts_stay_as_they_are_for_as_long_as_asked(tiny: Tiny, tmp_path: Path) -> None:
    common = ("train.ema=null", "train.freeze=[backbone]")
    train(tiny("train.epochs=1", "train.ema=null", "train.seed=3"), tmp_path / "start", bar=False)
    start = tmp_path / "start/last.safetensors"
    common = (*common, f"train.weights={start}")
    before = load_file(start)
    for freeze_epochs, learns in (("null", False), ("1", True)):
        run_dir = tmp_path / freeze_epochs
        train(tiny(*common, f"train.freeze_epochs={freeze_epochs}"), run_dir, bar=False)
        after = load_file(run_dir / "last.safetensors")
        same = {name: torch.equal(before[name], after[name]) for name in before}
        assert all(equal != learns for name, equal in same.items() if name.startswith("backbone.stem."))
        assert not any(
            equal for name, equal in same.items() if name.startswith("neck.") and name.endswith("conv.weight")
        )


def test_weights_for_other_classes_start_from_what_fits(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny("train.epochs=1"), tmp_path / "first", bar=False)
    start = tmp_path / "first/last.safetensors"
    settings = (f"train.weights={start}", "train.epochs=1", "model.head=direct", "task.loss=simota")
    with pytest.raises(WeightsError, match="does not fit the model"):
        train(tiny(*settings), tmp_path / "second", bar=False)
    assert not (tmp_path / "second").exists()
    frozen = ("train.partial_weights=true", "train.freeze=[backbone, neck]", "train.ema=null")
    train(tiny(*settings, *frozen), tmp_path / "second", bar=False)
    before, after = load_file(start), load_file(tmp_path / "second/last.safetensors")
    shared = [name for name in before if name.startswith(("backbone.", "neck."))]
    assert shared
    assert all(torch.equal(before[name], after[name]) for name in shared)


def test_a_run_that_explodes_leaves_the_last_good_state(tiny: Tiny, tmp_path: Path) -> None:
    settings = ("train.optimizer.name=sgd", "train.optimizer.learning_rate=1e30", "train.clip_norm=null",
                "train.schedule.warmup_epochs=0", "train.save_steps=1", "train.ema=null")  # fmt: skip
    with pytest.raises(NonFiniteLossError, match=r"images of the batch: shapes/train/\d+, ") as caught:
        train(tiny(*settings), tmp_path / "run", bar=False)
    assert str(tmp_path / "run") in str(caught.value)
    state = torch.load(tmp_path / "run/state.pt", weights_only=True)
    assert f"in step {state['progress']['step']}" in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("train.batch_size=13",), "has 12 images, which does not fill a single batch of 13"),
        (("task.input.height=72",), "multiples of the model's largest stride, 32"),
        (("task.loss=simota",), "for a 'direct' head; the model's head is 'dfl'"),
        (("train.freeze=[bakbone]",), "no part 'bakbone'; the nearest names are: backbone"),
        (("train.device=cuda",), "torch sees no CUDA device"),
        (("data.val_split=test2",), "test2"),
    ],
)
def test_impossible_runs_are_refused_before_anything_is_written(
    tiny: Tiny, tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    if "train.device=cuda" in overrides and torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    with pytest.raises(ValueError, match=message):
        train(tiny(*overrides), tmp_path / "run", bar=False)
    assert not (tmp_path / "run").exists()
