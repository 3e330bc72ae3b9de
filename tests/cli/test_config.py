"""``detseg config`` prints all keys of a training configuration, or what one of them means."""

from __future__ import annotations

import re

import pytest

from detseg.cli.verbs import EXIT_USER_ERROR, main
from detseg.config_reference import sections
from detseg.engine.settings import RunConfig


def test_without_a_key_all_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config"]) == 0
    printed = capsys.readouterr().out
    shown = set(re.findall(r"^    ([a-z][\w.]*)(?: |$)", printed, flags=re.MULTILINE))
    assert shown == {key.path for section in sections(RunConfig) for key in section.keys}
    assert max(map(len, printed.splitlines())) <= 118


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("train.optimizer.learning_rate", ["Peak of the schedule.", "type     a number", "default  0.001"]),
        ("train.optimizer", ["train.optimizer.momentum", "adamw", "(sgd, adam, adamw, rmsprop)"]),
        ("train.optimizer.name", ["allowed  sgd, adam, adamw, rmsprop", "default  adamw"]),
        ("augment.mosaic", ["(where augment: image)", "default  1.0"]),
        (
            "task",
            ["allowed  detection, instance, semantic, volume", "default  none, it must", "task.surface_tolerance_mm"],
        ),
        (
            "task.loss",
            ["(where task: detection)", "allowed  tal, dual, simota", "(where task: volume)", "task.loss.radius"],
        ),
        ("task.loss.name", ["allowed  tal, dual, simota"]),
        ("model", ["model: letnet", "(no settings)"]),
        ("task.loss.ohem", ["default  null", "task.loss.ohem.threshold"]),
    ],
)  # fmt: skip
def test_one_key(key: str, told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", key]) == 0
    printed = capsys.readouterr().out
    for words in told:
        assert words in printed


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("train.epoch", "train.epochs"),
        ("epochs", "train.epochs"),
        ("task.postproces.iou", "task.postprocess.iou"),
        ("mosaik", "augment.mosaic"),
        ("lr0", "train.optimizer.learning_rate"),
        ("augment.close_last_epochs", "augment.close_mosaic_epochs"),
    ],
)
def test_a_mistyped_key_is_an_error_that_names_the_nearest(
    key: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", key]) == EXIT_USER_ERROR
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert key in told
    assert near in told
