"""Configurations: what is accepted, what an error says, and that a saved configuration comes back equal."""

from __future__ import annotations

import math
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from detseg.config import ConfigError, InputPath, choice, from_dict, load_config, save_config, to_dict
from detseg.config_files import parse_yaml
from detseg.files import SaveError


@dataclass(frozen=True)
class Plain:
    name: str = "plain"
    width: float = 1.0
    depth: int = 2

    def __post_init__(self) -> None:
        if self.width <= 0:
            raise ValueError(f"width must be positive, got {self.width}")


@dataclass(frozen=True)
class Adapted:
    name: Literal["resnet18", "resnet50"] = "resnet50"
    pretrained: bool = False
    width: float = 8.0


BACKBONES = {"plain": "detseg_test_config:Plain"} | dict.fromkeys(
    ("resnet18", "resnet50"), "detseg_test_config:Adapted"
)


@dataclass(frozen=True)
class Optim:
    kind: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float | None = 0.9


@dataclass(frozen=True)
class Model:
    num_classes: int
    backbone: Any = choice(BACKBONES, default="plain")
    neck: Plain | None = choice(BACKBONES, default=None)


@dataclass(frozen=True)
class Run:
    model: Model
    optim: Optim = field(default_factory=lambda: Optim(lr=0.5))
    data: InputPath | None = None
    source: Literal["shapes"] | InputPath = "shapes"
    out: Path = Path("runs")
    size: tuple[int, int] = (320, 320)
    steps: tuple[int, ...] = ()
    gains: dict[str, float] = field(default_factory=lambda: {"box": 7.5})
    pipeline: list[Any] = field(default_factory=list)
    options: Any = None
    title: str = ""
    resume: bool = False


@dataclass(frozen=True)
class Renamed:
    renamed: ClassVar[Mapping[str, str]] = {"body": "backbone", "pace": "mode", "tempo": "mode"}
    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "backbone": {"residual": "resnet50", "simple": "plain"},
        "mode": {"quick": "fast", "rapid": "fast"},
    }

    backbone: Any = choice(BACKBONES, default=Plain())
    neck: Plain | None = choice(BACKBONES, default=None)
    mode: Literal["fast", "slow"] | None = "slow"
    quick: bool = False


@dataclass(frozen=True)
class Outer:
    inner: Renamed = field(default_factory=Renamed)


@pytest.fixture(autouse=True)
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice tables above name this module, which pytest imports under a path of its own."""
    monkeypatch.setitem(sys.modules, "detseg_test_config", sys.modules[__name__])
    monkeypatch.delenv("DETSEG_DATA", raising=False)


def load(folder: Path, text: str, overrides: Sequence[str] = (), name: str = "run.yaml") -> Run:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return load_config(Run, path, overrides)


MINIMAL = "model: {num_classes: 3}\n"


def test_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL)
    assert config == Run(model=Model(num_classes=3, backbone=Plain()))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("optim: {lr: 1}", ("optim", Optim(lr=1.0))),
        ("optim: {lr: 1e-3}", ("optim", Optim(lr=0.001))),
        ("optim: {lr: -2.5E+2}", ("optim", Optim(lr=-250.0))),
        ("optim: {lr: .inf}", ("optim", Optim(lr=math.inf))),
        ("optim: {momentum: null}", ("optim", Optim(lr=0.5, momentum=None))),
        ("optim: {kind: adamw}", ("optim", Optim(kind="adamw", lr=0.5))),
        ("size: [416, 640]", ("size", (416, 640))),
        ("steps: [1, 2, 3]", ("steps", (1, 2, 3))),
        ("steps: []", ("steps", ())),
        ("gains: {box: 1, dfl: 2.5}", ("gains", {"box": 1.0, "dfl": 2.5})),
        ("pipeline: [{Blur: {p: 1e-2}}, HorizontalFlip]", ("pipeline", [{"Blur": {"p": 0.01}}, "HorizontalFlip"])),
        ("title: '1e-3'", ("title", "1e-3")),
        ("title: 'no'", ("title", "no")),
        ("out: some/where", ("out", Path("some/where"))),
        ("resume: true", ("resume", True)),
        ("source: shapes", ("source", "shapes")),
    ],
)
def test_values(tmp_path: Path, text: str, wanted: tuple[str, Any]) -> None:
    name, value = wanted
    got = getattr(load(tmp_path, MINIMAL + text), name)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        # unknown and missing keys
        ("optim: {lrr: 1}", "optim.lrr", ["unknown key", "did you mean optim.lr", "kind, lr, momentum"]),
        ("optimm: {}", "optimm", ["did you mean optim", "model, optim, data"]),
        ("momentum: 1", "momentum", ["unknown key", "did you mean optim.momentum"]),
        ("zzz: 1", "zzz", ["unknown key", "allowed here: model"]),
        ("model: {backbone: plain}", "model.num_classes", ["missing key", "a whole number"]),
        # types: nothing is coerced
        ("optim: {lr: fast}", "optim.lr", ["a number", "'fast' (str)"]),
        ("optim: {lr: '0.1'}", "optim.lr", ["a number", "'0.1' (str)"]),
        ("optim: {lr: true}", "optim.lr", ["a number", "True (bool)"]),
        ("optim: {lr: .nan}", "optim.lr", ["a number", "nan (float)"]),
        ("optim: {lr: null}", "optim.lr", ["a number", "nothing (null)"]),
        ("optim: {momentum: x}", "optim.momentum", ["a number", "'x' (str)"]),
        ("optim: {kind: sdg}", "optim.kind", ["'sgd', 'adamw'", "'sdg' (str)", "did you mean sgd"]),
        ("optim: 3", "optim", ["a mapping", "3 (int)"]),
        ("model: {num_classes: 3.0}", "model.num_classes", ["a whole number", "3.0 (float)"]),
        ("model: {num_classes: yes}", "model.num_classes", ["a whole number", "True (bool)"]),
        ("resume: 1", "resume", ["true or false", "1 (int)"]),
        ("title: no", "title", ["text", "False (bool)", "quotes"]),
        ("title: [a]", "title", ["text", "['a'] (list)"]),
        ("out: 3", "out", ["a path", "3 (int)"]),
        ("size: 320", "size", ["a list of 2", "320 (int)"]),
        ("size: [320]", "size", ["a list of 2", "got 1 items"]),
        ("size: [320, true]", "size[1]", ["a whole number", "True (bool)"]),
        ("steps: [1, 2, x]", "steps[2]", ["a whole number", "'x' (str)"]),
        ("steps: '12'", "steps", ["a list", "'12' (str)"]),
        ("gains: {box: much}", "gains.box", ["a number", "'much' (str)"]),
        ("gains: {1: 2}", "gains", ["keys must be text", "1 (int)"]),
        ("gains: [1]", "gains", ["a mapping", "[1] (list)"]),
        # choices
        ("model: {num_classes: 3, backbone: resnet51}", "model.backbone.name", ["did you mean resnet50"]),
        ("model: {num_classes: 3, backbone: 3}", "model.backbone", ["a mapping", "3 (int)"]),
        ("model: {num_classes: 3, backbone: {name: 3}}", "model.backbone.name", ["unknown name 3 (int)"]),
        ("model: {num_classes: 3, backbone: null}", "model.backbone", ["a mapping", "nothing (null)"]),
        ("model: {num_classes: 3, neck: {width: 2}}", "model.neck.name", ["missing key", "allowed: plain"]),
        ("model: {num_classes: 3, backbone: {pretrained: true}}", "model.backbone.pretrained", ["unknown key"]),
        # what a dataclass refuses
        ("model: {num_classes: 3, backbone: {width: -1}}", "model.backbone", ["width must be positive, got -1.0"]),
    ],
)  # fmt: skip
def test_errors_name_file_path_and_remedy(tmp_path: Path, text: str, key: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text if text.startswith("model:") else MINIMAL + text)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'run.yaml'}: {key}: ")
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b\n", "expected a mapping"),
        ("42", "expected a mapping"),
        ("model: {num_classes: 3}\nmodel: {num_classes: 4}\n", "'model' is given twice"),
        ("model: {num_classes: 3, num_classes: 4}\n", "line 1"),
        ("model: [1, 2\n", "not valid YAML"),
        ("model: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("title: 2020-13-45\n", "not valid YAML"),
        ("title: &a x\nout: *a\n", "aliases"),
        ("pipeline: &a [*a]\n", "aliases"),
        ("title: {<<: {a: 1}}\n", "merges"),
        ("<<: [{a: 1}, {b: 2}]\n", "merges"),
        ("title: !!timestamp x\n", "tags (!name) are not supported"),
        ("title: !!bool x\n", "tags"),
        ("!!map [a]\n", "tags"),
        ("? [a, b]\n: 1\n", "a key must be text or a number"),
        ("? {a: 1}\n: 1\n", "a key must be text or a number"),
        (f"title: 0x{'f' * 10_000}\n", "a whole number must fit into 64 bits"),
        (f"title: {'9' * 1000}\n", "a whole number must fit into 64 bits"),
        (f"? {'x' * 900}\n: 1\n? {'x' * 900}\n: 1\n", "xxx... is given twice"),
        ("title: x" + "y" * 2**22, "characters, allowed are 4,194,304"),
        ("title: \x01\n", "not valid YAML"),
        ("[" * 5000, "nested too deeply"),
        ("base: 3\n", "base: expected the path of one YAML file"),
        ("base: absent.yaml\n", "absent.yaml: cannot read the configuration (named as base by"),
    ],
)
def test_unusable_files(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(Run, tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(Run, tmp_path / "binary.yaml")


def test_an_empty_file_lacks_the_required_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model: missing key; give a mapping"):
        load(tmp_path, "")


def test_bases_form_a_chain_and_errors_name_the_right_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "root.yaml").write_text("model: {num_classes: 1}\noptim: {lr: 0.1, momentum: 0.8}\ngains: {cls: 1}\n")
    (tmp_path / "sub" / "middle.yaml").write_text("base: ../root.yaml\noptim: {lr: 0.2}\ntitle: middle\n")
    config = load(tmp_path, "base: sub/middle.yaml\nmodel: {num_classes: 5}\ngains: {box: 2}\n")
    assert config.model.num_classes == 5
    assert config.optim == Optim(lr=0.2, momentum=0.8)
    assert config.title == "middle"
    assert config.gains == {"cls": 1.0, "box": 2.0}
    (tmp_path / "root.yaml").write_text("model: {num_classes: 1}\noptim: {momentun: 0.8}\n")
    with pytest.raises(ConfigError, match=r"root\.yaml: optim\.momentun: unknown key; did you mean optim\.momentum"):
        load_config(Run, tmp_path / "run.yaml")


def test_bases_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(ConfigError, match=r"circle: .*a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        load_config(Run, tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("base", "top", "overrides", "wanted"),
    [
        # the same name: settings are merged
        ("{name: plain, width: 3}", "{name: plain, depth: 5}", [], Plain(width=3.0, depth=5)),
        ("{name: plain, width: 3}", "plain", [], Plain(width=3.0)),
        ("plain", "{width: 3}", [], Plain(width=3.0)),
        ("resnet18", "{width: 3}", [], Adapted(name="resnet18", width=3.0)),
        ("{name: resnet18, width: 3}", "{pretrained: true}", [], Adapted(name="resnet18", width=3.0, pretrained=True)),
        ("{width: 3}", "{depth: 5}", [], Plain(width=3.0, depth=5)),
        # another name: the base's settings are dropped, `width` too, which both know
        ("{name: plain, width: 3}", "resnet50", [], Adapted()),
        ("{name: plain, width: 3}", "{name: resnet50, pretrained: true}", [], Adapted(pretrained=True)),
        ("{name: resnet18, pretrained: true}", "resnet50", [], Adapted()),
        ("{name: resnet50, pretrained: true}", "{name: plain, width: 2}", [], Plain(width=2.0)),
        # the command line
        ("{name: plain, width: 3}", "{depth: 5}", ["model.backbone.depth=7"], Plain(width=3.0, depth=7)),
        ("{name: plain, width: 3}", "{depth: 5}", ["model.backbone=resnet18"], Adapted(name="resnet18")),
        (
            "{name: plain, width: 3}",
            "{depth: 5}",
            ["model.backbone.pretrained=true", "model.backbone.name=resnet18"],
            Adapted(name="resnet18", pretrained=True),
        ),
        ("plain", "plain", ["model.backbone={name: resnet50, width: 4}"], Adapted(width=4.0)),
    ],
)
def test_choices_across_layers(tmp_path: Path, base: str, top: str, overrides: list[str], wanted: Any) -> None:
    (tmp_path / "base.yaml").write_text(f"model: {{num_classes: 3, backbone: {base}}}\n")
    config = load(tmp_path, f"base: base.yaml\nmodel: {{backbone: {top}}}\n", overrides)
    assert config.model.backbone == wanted


def test_an_optional_choice(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("model: {num_classes: 3, neck: {name: plain, width: 3}}\n")
    assert load(tmp_path, "base: base.yaml").model.neck == Plain(width=3.0)
    assert load(tmp_path, "base: base.yaml\nmodel: {neck: null}").model.neck is None
    # null cleared what the base said, so only the command line's settings remain
    cleared = load(tmp_path, "base: base.yaml\nmodel: {neck: null}", ["model.neck.name=plain", "model.neck.depth=4"])
    assert cleared.model.neck == Plain(depth=4)


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("optim.lr=1e-3", "optim", Optim(lr=0.001)),
        ("optim={lr: 0.25}", "optim", Optim(lr=0.25)),
        ("size=[64, 96]", "size", (64, 96)),
        ("optim.momentum=null", "optim", Optim(lr=0.5, momentum=None)),
        ("title='a=b.c'", "title", "a=b.c"),
        ("gains.dfl=1.5", "gains", {"dfl": 1.5}),
        ("options.a.b=[1, x]", "options", {"a": {"b": [1, "x"]}}),
        ("resume=true", "resume", True),
    ],
)
def test_overrides(tmp_path: Path, override: str, name: str, value: Any) -> None:
    assert getattr(load(tmp_path, MINIMAL, [override]), name) == value


def test_plain_data_is_merged_and_replaced(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(MINIMAL + "options: {a: {x: 1, y: 2}, b: 3}\npipeline: [a]\n")
    config = load(tmp_path, "base: base.yaml\noptions: {a: {y: 4}, b: [5]}\npipeline: [b]\n", ["options.a.z=6"])
    assert config.options == {"a": {"x": 1, "y": 4, "z": 6}, "b": [5]}
    assert config.pipeline == ["b"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optim.lr"], "expected key.sub=value, got 'optim.lr'"),
        (["=3"], "expected key.sub=value"),
        (["optim..lr=3"], "expected key.sub=value"),
        (["optim.lr=1", "optim.lr=2"], "optim.lr is given twice"),
        (["optim.lrr=1"], "optim.lrr: unknown key; did you mean optim.lr;"),
        (["optim.lr.x=1"], "optim.lr: expected a number, got {'x': 1} (dict)"),
        (["optim.lr=[1"], "optim.lr: not valid YAML"),
        (["size.0=3"], "size: expected a list of 2"),
        (["base=other.yaml"], "base: unknown key"),
        (["model.backbone.width=0"], "model.backbone: width must be positive"),
    ],
)
def test_bad_overrides(tmp_path: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, MINIMAL, overrides)
    assert str(caught.value).startswith("command line: ")
    assert words in str(caught.value)


def test_a_key_missing_in_the_file_is_not_blamed_on_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml: model\.num_classes: missing key"):
        load(tmp_path, "model: {backbone: plain}", ["model.backbone.width=2"])


def test_input_paths_start_from_their_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {name: tmp_path / name for name in ("configs", "elsewhere", "shared")}
    for folder in folders.values():
        folder.mkdir()
    (folders["elsewhere"] / "base.yaml").write_text(MINIMAL + "data: set\n")
    monkeypatch.chdir(folders["configs"])
    top = "base: ../elsewhere/base.yaml\n"
    elsewhere, shared, here = (folders[name] / "set" for name in ("elsewhere", "shared", "configs"))

    with pytest.raises(ConfigError) as caught:
        load(folders["configs"], top)
    assert str(elsewhere) in str(caught.value)
    assert "DETSEG_DATA is not set" in str(caught.value)
    assert str(here) not in str(caught.value)

    monkeypatch.setenv("DETSEG_DATA", str(folders["shared"]))
    with pytest.raises(ConfigError) as caught:
        load(folders["configs"], top)
    assert f"tried {elsewhere}, {shared}" in str(caught.value)

    shared.mkdir()
    assert load(folders["configs"], top).data == shared
    elsewhere.mkdir()
    assert load(folders["configs"], top).data == elsewhere
    with pytest.raises(ConfigError, match="command line: data: 'sett' not found"):
        load(folders["configs"], top, ["data=sett"])
    here.mkdir()
    assert load(folders["configs"], top, ["data=set"]).data == here
    assert load(folders["configs"], top, [f"data={shared}"]).data == shared


def test_a_word_or_a_path(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL + "source: run.yaml").source == tmp_path / "run.yaml"
    with pytest.raises(ConfigError, match=r"source: expected one of 'shapes', got 'absent'.*; or 'absent' not found;"):
        load(tmp_path, MINIMAL + "source: absent")


FULL = Run(
    model=Model(num_classes=7, backbone=Adapted(name="resnet18", pretrained=True), neck=Plain(width=0.3)),
    optim=Optim(kind="adamw", lr=1e-5, momentum=None),
    size=(1, 2),
    steps=(3, 4, 5),
    gains={"dfl": 0.1 + 0.2, "no": 1e300},
    pipeline=["1e-3", {"p": 1e-3}, None, "true", "ünïcode"],
    options={"deep": {"er": [[]]}},
    title="1e5",
)


@pytest.mark.parametrize("config", [FULL, Run(model=Model(3, Plain())), Run(model=Model(3, Plain()), gains={})])
def test_round_trips(tmp_path: Path, config: Run) -> None:
    assert from_dict(Run, to_dict(config), "memory") == config
    save_config(config, tmp_path / "config.yaml")
    assert load_config(Run, tmp_path / "config.yaml") == config
    assert list(tmp_path.iterdir()) == [tmp_path / "config.yaml"]


def test_a_resolved_configuration_stands_alone(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    config = load(tmp_path, MINIMAL + "data: set\n", ["model.backbone=resnet50"])
    (tmp_path / "run").mkdir()
    save_config(config, tmp_path / "run" / "config.yaml")
    assert load_config(Run, tmp_path / "run" / "config.yaml") == config


def test_from_dict_names_its_source() -> None:
    with pytest.raises(ConfigError, match=r"^weights\.safetensors: model\.num_clases: unknown key"):
        from_dict(Run, {"model": {"num_clases": 3}}, "weights.safetensors")


def test_a_failed_save_keeps_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    save_config(FULL, path)
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(SaveError, match="No space left"):
        save_config(Run(model=Model(3, Plain())), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


ANSWER = "; this version still reads the old name, the next will not"
KEY = "inner.pace is now called inner.mode"
VALUE = "inner.backbone: residual is now called resnet50"
TEXT = "inner.mode: quick is now called fast"


@pytest.mark.parametrize(
    ("text", "overrides", "wanted", "notices"),
    [
        # a key
        ("pace: fast", [], Renamed(mode="fast"), [f"run.yaml: {KEY}"]),
        ("pace: null", [], Renamed(mode=None), [f"run.yaml: {KEY}"]),
        ("body: {depth: 4}", [], Renamed(Plain(depth=4)), ["run.yaml: inner.body is now called inner.backbone"]),
        # a value: the bare name of a choice, the name in its mapping, text
        ("backbone: residual", [], Renamed(Adapted()), [f"run.yaml: {VALUE}"]),
        ("backbone: {width: 3, name: residual}", [], Renamed(Adapted(width=3.0)), [f"run.yaml: {VALUE}"]),
        ("mode: quick", [], Renamed(mode="fast"), [f"run.yaml: {TEXT}"]),
        # both at once
        ("pace: quick", [], Renamed(mode="fast"), [f"run.yaml: {KEY}", f"run.yaml: {TEXT}"]),
        # the command line, which wins by either name
        ("quick: true", ["inner.pace=fast"], Renamed(mode="fast", quick=True), [f"command line: {KEY}"]),
        ("mode: null", ["inner.pace=fast"], Renamed(mode="fast"), [f"command line: {KEY}"]),
        ("pace: fast", ["inner.mode=slow"], Renamed(mode="slow"), [f"run.yaml: {KEY}"]),
        ("pace: fast", ["inner.pace=slow"], Renamed(mode="slow"), [f"run.yaml: {KEY}", f"command line: {KEY}"]),
        ("backbone: {width: 3}", ["inner.backbone=residual"], Renamed(Adapted()), [f"command line: {VALUE}"]),
        # the old and the new name of a choice are the same one, so its settings stay
        (
            "backbone: {name: residual, width: 3}",
            ["inner.backbone.name=resnet50", "inner.backbone.pretrained=true"],
            Renamed(Adapted(width=3.0, pretrained=True)),
            [f"run.yaml: {VALUE}"],
        ),
        # the old words elsewhere, and the new ones
        ("quick: true", [], Renamed(quick=True), []),
        ("mode: fast", ["inner.backbone=resnet50"], Renamed(Adapted(), mode="fast"), []),
    ],
)  # fmt: skip
def test_old_names_are_read_with_a_notice(
    tmp_path: Path, text: str, overrides: list[str], wanted: Renamed, notices: list[str]
) -> None:
    (tmp_path / "run.yaml").write_text(f"inner: {{{text}}}\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = load_config(Outer, tmp_path / "run.yaml", overrides)
    assert config == Outer(wanted)
    assert [(w.category, str(w.message).removeprefix(f"{tmp_path}/")) for w in caught] == [
        (FutureWarning, notice + ANSWER) for notice in notices
    ]


def test_what_is_saved_has_the_new_names(tmp_path: Path) -> None:
    stored = {"body": "residual", "pace": "quick"}
    with pytest.warns(FutureWarning, match=r"^model\.safetensors: (body|pace|backbone: residual|mode: quick) is now"):
        config = from_dict(Renamed, stored, "model.safetensors")
    save_config(config, tmp_path / "run.yaml")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_config(Renamed, tmp_path / "run.yaml") == config == Renamed(Adapted(), mode="fast")


def test_a_base_may_have_the_old_name_and_what_stands_on_it_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("body: {name: residual, width: 3}\n")
    (tmp_path / "new.yaml").write_text("base: old.yaml\nbackbone: {pretrained: true}\n")
    (tmp_path / "older.yaml").write_text("base: new.yaml\nbody: simple\n")
    with pytest.warns(FutureWarning, match=r"old\.yaml: body is now called backbone"):
        assert load_config(Renamed, tmp_path / "new.yaml") == Renamed(Adapted(width=3.0, pretrained=True))
    with pytest.warns(FutureWarning, match=r"older\.yaml: backbone: simple is now called plain"):
        assert load_config(Renamed, tmp_path / "older.yaml") == Renamed(Plain())


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("mode: fast, pace: fast", [], "run.yaml: inner.mode: given twice, as mode and as pace; keep mode"),
        ("pace: fast, mode: fast", [], "run.yaml: inner.mode: given twice, as pace and as mode; keep mode"),
        ("pace: fast, tempo: fast", [], "run.yaml: inner.mode: given twice, as pace and as tempo; keep mode"),
        ("", ["inner.mode=fast", "inner.pace=fast"], "command line: inner.mode: given twice, as mode and as pace"),
        ("pace: quik", [], "run.yaml: inner.mode: expected one of 'fast', 'slow', got 'quik' (str)"),
        ("body: {widths: 3}", [], "run.yaml: inner.backbone.widths: unknown key; did you mean inner.backbone.width"),
        ("neck: residual", [], "run.yaml: inner.neck.name: unknown name 'residual' (str)"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_old_names_do_not_hide_mistakes(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    (tmp_path / "run.yaml").write_text(f"inner: {{{text}}}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, tmp_path / "run.yaml", overrides)
    assert message in str(caught.value)


def test_text_may_be_marked_as_such(tmp_path: Path) -> None:
    assert parse_yaml("title: !!str 12", "here") == {"title": "12"}


def test_many_keys_take_no_more_time_each() -> None:
    """A search among all keys before would make 20,000 of them take minutes."""
    text = "".join(f"k{number}: 1\n" for number in range(20_000))
    began = time.process_time()
    assert len(parse_yaml(text, "here")) == 20_000
    assert time.process_time() - began < 20


def test_a_base_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for base in ("pipe.yaml", "/dev/zero"):
        with pytest.raises(ConfigError, match=r"cannot read the configuration \(named as base by .*not a regular file"):
            load(tmp_path, f"base: {base}\n")


@pytest.mark.parametrize("number", [10**400, -(2**63), 2**64])
def test_numbers_from_headers_have_64_bits(number: int) -> None:
    for key in ("whole", "real"):
        with pytest.raises(ConfigError, match="a whole number must fit into 64 bits"):
            from_dict(Numbers, {key: number}, "here")


@dataclass(frozen=True)
class Numbers:
    whole: int = 0
    real: float = 0.0
