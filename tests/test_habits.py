"""The words of other programs are answered with ours, and ours exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from detseg.cli.arguments import make_parser
from detseg.cli.verbs import EXIT_USER_ERROR, main
from detseg.config import ConfigError, load_config
from detseg.engine.settings import RunConfig
from detseg.habits import HABITS, advice
from detseg.shipped import find_config

KEY = re.compile(r"\b(?:task|train|data|augment|model)(?:\.\w+)+")
OPTION = re.compile(r"--[a-z][\w-]*")


def known_options() -> set[str]:
    parser = make_parser()
    verbs = next(action for action in parser._actions if action.dest == "verb")
    assert isinstance(verbs.choices, dict)
    every = [parser, *verbs.choices.values()]
    return {name for one in every for action in one._actions for name in action.option_strings} | {"--nproc-per-node"}


def base_of(key: str) -> str:
    """A shipped configuration that may have ``key``."""
    if key.startswith("task.patch") or key == "task.postprocess.batch_size":
        return "vnet_s"
    return "letnet" if key.startswith("task.crop") else "c2f_n"


@pytest.mark.parametrize("word", HABITS)
def test_the_keys_and_options_that_are_named_exist(word: str) -> None:
    assert set(OPTION.findall(HABITS[word])) <= known_options()
    for key in KEY.findall(HABITS[word]):
        base = "bccd_resnet50" if "pretrained" in key else base_of(key)
        with pytest.raises(ConfigError) as caught:
            load_config(RunConfig, find_config(base), [f"{key}={{no: such}}", "data.path=shapes"])
        assert "unknown key" not in str(caught.value).partition(f"{key}.no")[0], key


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("imgsz", "--size N"),
        ("batch", "train.batch_size"),
        ("lr0", "train.optimizer.learning_rate"),
        ("fliplr", "augment.flip_horizontal"),
        ("device", "train.device"),
        ("workers", "data.num_workers"),
        ("patience", "train.patience"),
        ("cache", "data.cache"),
        ("project", "-o DIR"),
        ("name", "-o DIR"),
        ("half", "train.amp"),
        ("save_txt", "--save yolo"),
        ("max_epochs", "train.epochs"),
        ("crop_size", "task.crop"),
        ("train.imgsz", "--size N"),
        ("train.lr0", "train.optimizer.learning_rate"),
        ("train.max_epochs", "train.epochs"),
        ("data.workers", "data.num_workers"),
        ("augment.fliplr", "augment.flip_horizontal"),
        ("train.batch", "train.batch_size"),
    ],
)
def test_a_key_of_others_is_answered_with_ours(key: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "c2f_n", "--data", "shapes", f"{key}=1"]) == EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert f"{key}: unknown key; " in said
    assert told in said.partition("unknown key; ")[2].partition("; allowed here")[0]


def test_a_slip_of_the_pen_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"base: {find_config('c2f_n')}\ntrain: {{epoch: 3}}\n")
    with pytest.raises(ConfigError, match=r"train.epoch: unknown key; did you mean train.epochs;"):
        load_config(RunConfig, path)


@pytest.mark.parametrize("word", ["--img-size", "img_size", "IMGSZ", "--imgsz"])
def test_words_are_known_in_any_dress(word: str) -> None:
    assert advice(word).startswith("; in detseg this is task.input.height")


def test_words_of_nobody_get_no_advice() -> None:
    assert advice("--frobnicate") == ""
