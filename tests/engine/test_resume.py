"""A run that is stopped, killed or resumed ends with the very weights of one that was left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detseg.data.source import DatasetError
from detseg.engine.run import train
from detseg.engine.run_folder import LOCK_NAME
from detseg.engine.settings import RunConfig
from detseg.engine.training import trainer as trainer_module
from detseg.engine.training.checkpoint import STATE_NAME, load_state, save_state
from detseg.engine.training.interrupt import InterruptedRunError

Tiny = Callable[..., RunConfig]
Fingerprint = Callable[[Path], dict[str, str]]
NUM_STEPS = 6


def train_until(config: RunConfig, run_dir: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until optimizer step ``step`` (from 0) is under way, then send this process a real SIGTERM."""
    with monkeypatch.context() as patch:
        forward = trainer_module.Trainer._forward

        def forward_and_signal(self: Any, *arguments: Any) -> Any:
            if self.progress.step == step and not self.stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return forward(self, *arguments)

        patch.setattr(trainer_module.Trainer, "_forward", forward_and_signal)
        with pytest.raises(InterruptedRunError, match=f"after step {step + 1}"):
            train(config, run_dir, bar=False)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_stopped_at_any_step_ends_as_if_never_stopped(
    tiny: Tiny,
    tmp_path: Path,
    fingerprint: Fingerprint,
    monkeypatch: pytest.MonkeyPatch,
    num_workers: int,
    accumulate: int,
) -> None:
    config = tiny(f"data.num_workers={num_workers}", f"train.accumulate={accumulate}")
    train(tiny(f"train.accumulate={accumulate}"), tmp_path / "whole", bar=False)
    expected = fingerprint(tmp_path / "whole")
    steps = range(NUM_STEPS) if num_workers == 0 and accumulate == 1 else [0, 2]
    for step in steps:
        run_dir = tmp_path / f"stopped_{step}"
        train_until(config, run_dir, step, monkeypatch)
        assert load_state(run_dir)["progress"]["step"] == step + 1
        train(config, run_dir, resume=True, bar=False)
        assert fingerprint(run_dir) == expected


# What each part of the state is replaced with when it is left out, and a run in which it matters.
PARTS: dict[str, tuple[str, ...]] = {
    "model": (),
    "ema": (),
    "optimizer": (),
    "scaler": ("train.amp=fp16",),
    "progress": (),
    "num_threads": ("train.num_threads=null",),
}


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_the_state_is_needed(
    tiny: Tiny, tmp_path: Path, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    config = tiny(*PARTS[part])
    torch.set_num_threads(2)
    train(config, tmp_path / "whole", bar=False)
    torch.set_num_threads(2)
    train_until(config, tmp_path / "stopped", 3, monkeypatch)
    assert load_state(tmp_path / "stopped").keys() == PARTS.keys() | {"data"}, "the table above must name every part"
    shutil.copytree(tmp_path / "stopped", tmp_path / "incomplete")

    load = trainer_module.Trainer.load_state_dict

    def load_without(self: Any, state: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        load(self, {**state, part: self.state_dict()[part]})

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.Trainer, "load_state_dict", load_without)
        train(config, tmp_path / "incomplete", resume=True, bar=False)
    assert fingerprint(tmp_path / "incomplete") != fingerprint(tmp_path / "whole")

    torch.set_num_threads(1)
    train(config, tmp_path / "stopped", resume=True, bar=False)
    assert fingerprint(tmp_path / "stopped") == fingerprint(tmp_path / "whole")


CHANGES: dict[str, tuple[Callable[[str], str], str]] = {
    "more images": (lambda text: text.replace("num_train: 12", "num_train: 20"), "train: 20 images, 12 before"),
    "fewer to judge by": (lambda text: text.replace("num_val: 4", "num_val: 3"), "val: 3 images, 4 before"),
    "other boxes": (lambda text: f"{text}seed: 1\n", "train: other truth of its images\n  val: other truth"),
    "other sizes": (lambda text: text.replace("image_size: 64", "image_size: 72"), "train: other sizes and truth"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_data_set_that_has_changed_stops_a_resumed_run(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    alter, message = CHANGES[change]
    config, run_dir = tiny("train.epochs=3"), tmp_path / "run"
    train_until(config, run_dir, 4, monkeypatch)
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    shapes = tmp_path / "shapes.yaml"
    shapes.write_text(alter(shapes.read_text()))
    with pytest.raises(DatasetError, match=f"(?s)is not the one that the run in .* saw last:\n.*{message}") as caught:
        train(config, run_dir, resume=True, bar=False)
    assert "--accept-changed-data" in str(caught.value)
    after = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file() and path.name != LOCK_NAME}
    assert after == {path: data for path, data in before.items() if path.name != LOCK_NAME}
    with pytest.warns(UserWarning, match=message):
        train(config, run_dir, resume=True, accept_changed_data=True, bar=False)
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    # The second epoch was broken off: the third goes on, and its learning rate is that of a third epoch.
    steps_per_epoch = 5 if change == "more images" else 3
    assert [record["step"] for record in records] == [3, 3 * steps_per_epoch]
    assert records[1]["epoch"] - records[0]["epoch"] == 2
    assert message.split("\n")[0] in (run_dir / "log.txt").read_text()
    train(config, run_dir, resume=True, bar=False)  # it knows the data now


def test_the_last_epoch_begins_again_with_changed_data(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = tiny("train.epochs=1"), tmp_path / "run"
    train_until(config, run_dir, 1, monkeypatch)
    shapes = tmp_path / "shapes.yaml"
    shapes.write_text(shapes.read_text().replace("num_train: 12", "num_train: 20"))
    with pytest.warns(UserWarning, match="20 images, 12 before"):
        train(config, run_dir, resume=True, accept_changed_data=True, bar=False)
    assert [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()] == [5]


def test_a_moved_data_set_is_the_same(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_until(tiny(), tmp_path / "run", 1, monkeypatch)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "shapes.yaml").rename(tmp_path / "elsewhere" / "other.yaml")
    moved = f"data.path={tmp_path / 'elsewhere' / 'other.yaml'}"
    (tmp_path / "shapes.yaml").write_text("")  # the configuration names it
    train(tiny(moved), tmp_path / "run", resume=True, bar=False)


@pytest.mark.parametrize(
    ("break_state", "message"),
    [
        (lambda state: state.pop("optimizer"), "it has no 'optimizer'"),
        (lambda state: state["model"].popitem(), "Missing key"),
        (lambda state: state["progress"].update(speed=3), "unexpected keyword argument 'speed'"),
    ],
)
def test_the_state_of_another_run_is_refused(
    tiny: Tiny, tmp_path: Path, break_state: Callable[[Any], object], message: str
) -> None:
    run_dir = tmp_path / "run"
    train(tiny("train.epochs=1"), run_dir, bar=False)
    state = load_state(run_dir)
    break_state(state)
    save_state(run_dir, state)
    with pytest.raises(ValueError, match=rf"(?s)state\.pt is no state of the run .*{message}"):
        train(tiny("train.epochs=1"), run_dir, resume=True, bar=False)


def _train_or_resume(config: RunConfig, run_dir: Path) -> None:
    train(config, run_dir, resume=(run_dir / STATE_NAME).exists(), bar=False)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_at_random_points_ends_as_if_never_killed(
    tiny: Tiny, tmp_path: Path, fingerprint: Fingerprint, num_workers: int
) -> None:
    settings = ("train.epochs=3", f"data.num_workers={num_workers}", "train.save_steps=1")
    config = tiny(*settings)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["detseg.engine.run", "detseg.engine.command", "torch.utils.tensorboard"])

    def start(run_dir: Path) -> Any:
        process = context.Process(target=_train_or_resume, args=(config, run_dir))
        process.start()
        return process

    begun = time.monotonic()
    for name in ("warm-up", "whole"):  # the first one pays for the imports
        begun = time.monotonic()
        process = start(tmp_path / name)
        process.join()
        assert process.exitcode == 0
    whole_seconds = time.monotonic() - begun
    expected = fingerprint(tmp_path / "whole")

    chance = random.Random(2026 + num_workers)
    num_kills = 0
    attempt = 0
    while num_kills < 10:
        run_dir = tmp_path / f"killed_{attempt}"
        attempt += 1
        exit_code = None
        while exit_code != 0:
            process = start(run_dir)
            # Once in a while a process is let through, so that the run gets on however slow the machine is.
            process.join(timeout=chance.uniform(0, 1.1 * whole_seconds) if chance.random() < 0.9 else None)
            if process.exitcode is None:
                process.kill()
                process.join()
                # It may have come to its end in the very moment before.
                num_kills += process.exitcode == -signal.SIGKILL
            exit_code = process.exitcode
            assert exit_code in (0, -signal.SIGKILL)
        assert fingerprint(run_dir) == expected
        assert not list(run_dir.glob(".partial-*"))
    assert num_kills >= 10
