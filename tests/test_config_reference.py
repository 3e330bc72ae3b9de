"""The reference of configuration keys says what the dataclasses say, of every key."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from detseg.config import ConfigError, choice, load_config
from detseg.config_reference import Key, Section, below, find, meanings, sections
from detseg.engine.settings import RunConfig

RUN = sections(RunConfig)
KEYS = [(section, key) for section in RUN for key in section.keys]


@pytest.mark.parametrize(("section", "key"), KEYS, ids=[f"{', '.join(s.conditions)}-{k.path}" for s, k in KEYS])
def test_every_key_has_a_line(section: Section, key: Key) -> None:
    assert key.meaning, f"{key.path}: say below the field, in three quotes, what it means"
    assert key.meaning[0].isupper() or key.meaning[0] == "`", key.meaning
    assert key.meaning.endswith("."), key.meaning
    assert len(key.summary) < 240, f"{key.path}: let the first sentence stand for the whole in a list"
    assert "``" not in key.meaning


def test_every_choice_of_every_table_is_there() -> None:
    chosen = {(section.path, name) for section in RUN for name in section.names}
    offered = {(key.path, name) for _, key in KEYS if key.type.startswith("one of these") for name in key.allowed}
    assert chosen == offered
    assert {path for path, _ in chosen} == {
        "model", "model.backbone", "model.neck", "model.head", "task", "task.loss", "augment",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "given", "default"),
    [
        ("train.epochs", (), "100"),
        ("train.optimizer.learning_rate", (), "0.001"),
        ("train.ema", (), ""),
        ("train.ema.decay", (), "0.9999"),
        ("train.weights", (), "null"),
        ("data.path", (), "shapes"),
        ("augment", (), "image"),
        ("task", (), ""),
        ("task.input.height", ("task: detection",), "640"),
        ("task.input.height", ("task: semantic",), "360"),
        ("task.loss", ("task: volume",), "dice"),
        ("model.head.reg_max", ("model: detector", "model.head: dfl"), "16"),
        ("augment.scale", ("augment: image",), "[0.5, 1.5]"),
    ],
)
def test_defaults_are_those_of_a_run(path: str, given: tuple[str, ...], default: str) -> None:
    (found,) = [key for section, key in find(RUN, path) if section.conditions == given]
    assert found.default == default


def test_the_defaults_are_what_a_configuration_without_them_gets(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text("model: detector\ntask: semantic\n")
    run = load_config(RunConfig, tmp_path / "plain.yaml")
    for section, key in KEYS:
        at_hand = {"model: detector", "task: semantic", "augment: image"}
        if not set(section.conditions) <= at_hand or not key.default or key.path in ("model", "task"):
            continue
        value: Any = run
        for part in key.path.split("."):
            value = getattr(value, part)
        value = getattr(value, "name", value)
        shown = str(list(value)).replace("'", '"') if isinstance(value, tuple) else str(value)
        assert shown.replace("None", "null").replace("True", "true").replace("False", "false") == key.default, key.path


# A schema of its own


@dataclass(frozen=True)
class Tiles:
    """Floors of tiles."""

    name: str = "tiles"
    side: float = 0.3
    """Meters.  Of each
    side."""


@dataclass(frozen=True)
class Wood:
    name: str = "wood"


FLOORS = {"tiles": f"{__name__}:Tiles", "ceramic": f"{__name__}:Tiles", "wood": f"{__name__}:Wood"}


@dataclass(frozen=True)
class Lamp:
    """A light."""

    watts: int = 5
    """Power."""
    color: Literal["warm", "cold"] = "warm"
    """Of the light."""


@dataclass(frozen=True)
class Room:
    """A place.

    Raises:
        ValueError: never.
    """

    renamed: ClassVar[dict[str, str]] = {"light": "lamp"}

    area: float
    """Square ``meters``. At least 1."""
    lamp: Lamp = field(default_factory=lambda: Lamp(watts=9))
    """What shines."""
    second: Lamp | None = None
    """Another lamp."""
    size: Literal["small"] | tuple[int, int] = (3, 4)
    """Sides."""
    bare: bool = False
    floor: Any = choice(FLOORS, default="ceramic")
    """What one walks on."""


ROOM = sections(Room)


def test_fields_and_their_text() -> None:
    assert meanings(Room) == {
        "area": "Square `meters`. At least 1.",
        "lamp": "What shines.",
        "second": "Another lamp.",
        "size": "Sides.",
        "floor": "What one walks on.",
    }
    (top,) = (section for section in ROOM if not section.path)
    assert top.meaning == "A place."
    assert top.keys[0] == Key("area", "a number", (), "", "Square `meters`. At least 1.")
    assert top.keys[0].summary == "Square `meters`."
    assert top.keys[3].allowed == ("small", "a list of 2: (a whole number, a whole number)")
    assert (top.keys[3].default, top.keys[4].meaning, top.keys[1].old) == ("[3, 4]", "", "light")


def test_sections_in_order_with_what_must_be_chosen() -> None:
    assert [(section.path, section.names) for section in ROOM] == [
        ("", ()), ("lamp", ()), ("second", ()), ("floor", ("tiles", "ceramic")), ("floor", ("wood",)),
    ]  # fmt: skip
    assert ROOM[3].conditions == ("floor: tiles | ceramic",)
    assert [key.path for key in ROOM[3].keys] == ["floor.side"], "the name is the choice itself"
    assert ROOM[3].keys[0].meaning == "Meters. Of each side."
    assert not ROOM[4].keys


def test_the_default_of_a_section_beats_that_of_its_class() -> None:
    assert [find(ROOM, path)[0][1].default for path in ("lamp.watts", "second.watts", "second")] == ["9", "5", "null"]


def test_what_lies_below_a_key() -> None:
    (section, key) = find(ROOM, "floor")[0]
    assert [one.names for one in below(ROOM, section, key)] == [("tiles", "ceramic"), ("wood",)]
    assert find(ROOM, "floor.name") == find(ROOM, "floor")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("lamp.wats", "did you mean lamp.watts"),
        ("watts", "did you mean lamp.watts, second.watts?"),
        ("flooor", "did you mean floor"),
        ("light", "light is called lamp now"),
        ("zzz", "no key of a configuration is called zzz"),
    ],
)
def test_a_mistyped_key_is_told_what_is_near(path: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        find(ROOM, path)


def test_words_of_other_programs_are_answered() -> None:
    with pytest.raises(ConfigError, match=re.escape("in detseg this is train.optimizer.learning_rate")):
        find(RUN, "lr0")
