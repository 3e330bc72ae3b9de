"""What is stored in model files, and who uses it: boxes of a detector that finds much, by its fresh weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

import detseg
from detseg.cli.verbs import EXIT_USER_ERROR, main
from detseg.exporters.export import export_model
from detseg.models.backbones.csp_darknet import CSPDarknetConfig
from detseg.models.detector import DetectorConfig
from detseg.models.heads.dfl import DFLHeadConfig
from detseg.models.necks.pan import PANConfig
from detseg.runtime.drawing.palette import color_of
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.media.images import write_image
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.model_file import ModelFileConfig, read_header, save_model_file

NAMES = ("a", "b")
COLORS = ((1, 2, 3), (250, 251, 252))


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    config = ModelFileConfig(
        DetectorConfig(
            backbone=CSPDarknetConfig(width=0.0625, depth=0.01),
            neck=PANConfig(depth=0.01),
            head=DFLHeadConfig(reg_max=4),
        ),
        DetectionTaskConfig(input=InputSpec(64, 64)),
        NAMES,
        (1, 2),
    )
    torch.manual_seed(0)
    model, _ = config.build()
    with torch.no_grad():
        for branch in model.head.class_branches:  # type: ignore[union-attr]
            branch[-1].weight.mul_(20)  # type: ignore[index, operator]
            branch[-1].bias.copy_(torch.tensor([-0.5, 0.5]))  # type: ignore[index, operator, union-attr]
    save_model_file(path, model.state_dict(), config)
    return path


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def chosen(model_path: Path, image: np.ndarray, folder: Path) -> tuple[Path, dict[str, float]]:
    """A file with confidences between two scores of the middle of each class, and another with colors."""
    (every,) = detseg.load(model_path, confidence=0.001)(image)
    floors = {}
    for at, name in enumerate(NAMES):
        scores = np.sort(every.scores[np.asarray(every.labels) == at].astype(np.float64))
        gap = len(scores) // 4 + int(np.diff(scores[len(scores) // 4 : -len(scores) // 4]).argmax())
        floors[name] = float(scores[gap : gap + 2].mean())
    (folder / "chosen.yaml").write_text(json.dumps(floors))
    (folder / "colors.yaml").write_text(json.dumps([list(color) for color in COLORS]))
    return folder / "chosen.yaml", floors


def test_what_is_stored_is_used_and_nothing_else_changes(
    model_path: Path, image: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, floors = chosen(model_path, image, tmp_path)
    target = tmp_path / "stored.safetensors"
    arguments = ["--conf-per-class", str(file), "--colors", str(tmp_path / "colors.yaml"), "-o", str(target)]
    assert main(["set", str(model_path), *arguments]) == 0
    assert main(["set", str(target)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"confidence by class: a {floors['a']:.3g}, b {floors['b']:.3g}",
        "colors: stored",
    ]
    before, after = load_file(model_path), load_file(target)
    assert all(torch.equal(before[name], after[name]) for name in before)
    header = read_header(target)
    assert header.class_confidences == tuple(floors.values())
    assert header.class_colors == COLORS

    model = detseg.load(target)
    (found,) = model(image)
    (every,) = detseg.load(model_path, confidence=min(floors.values()) - 1e-6)(image)
    wanted = [score >= floors[name] for name, score in zip(every.names, every.scores, strict=True)]
    assert 0 < sum(wanted) < len(every)
    assert found.scores.tolist() == every.scores[wanted].tolist()
    assert model.palette is not None
    assert model.palette[1] == COLORS[1]
    # A confidence that is named counts for all classes, one by class for its class.
    assert len(model(image, confidence=0.001)[0]) >= len(every)
    assert set(model(image, confidence={"a": 0.0, "b": 1.0})[0].names) == {"a"}
    assert len(detseg.load(target, confidence=0.001)(image)[0]) >= len(every)
    # Files are the same after all is taken away again.
    assert main(["set", str(target), "--conf-per-class", "none", "--colors", "none", "--overwrite"]) == 0
    assert read_header(target) == read_header(model_path)


@pytest.mark.slow
def test_an_exported_file_keeps_and_takes_them(model_path: Path, image: np.ndarray, tmp_path: Path) -> None:
    file, floors = chosen(model_path, image, tmp_path)
    stored = tmp_path / "stored.safetensors"
    colors = str(tmp_path / "colors.yaml")
    main(["set", str(model_path), "--conf-per-class", str(file), "--colors", colors, "-o", str(stored)])
    exported = export_model(stored, tmp_path / "model.onnx").path
    model = detseg.load(exported)
    assert model.class_confidences == tuple(floors.values())
    (found,) = model(image)
    assert all(score >= floors[name] for name, score in zip(found.names, found.scores, strict=True))
    # Scores of a network that learned nothing are close to each other, and to their limit.
    assert len(found) == pytest.approx(len(detseg.load(stored, full_input=True)(image)[0]), abs=8)
    plain = tmp_path / "plain.onnx"
    assert main(["set", str(exported), "--conf-per-class", "none", "--colors", "none", "-o", str(plain)]) == 0
    assert detseg.load(plain).class_confidences == ()
    assert detseg.load(plain).palette is None
    first, second = onnx.load(exported), onnx.load(plain)
    onnx.checker.check_model(second)
    assert first.graph == second.graph
    assert [one.key for one in second.metadata_props].count("detseg") == 1
    assert {one.key for one in first.metadata_props} == {one.key for one in second.metadata_props}
    assert main(["set", str(plain), "--conf-per-class", str(file), "--overwrite"]) == 0
    assert detseg.load(plain).class_confidences == tuple(floors.values())


def test_drawings_have_the_stored_colors(model_path: Path, image: np.ndarray, tmp_path: Path) -> None:
    chosen(model_path, image, tmp_path)
    target = tmp_path / "stored.safetensors"
    main(["set", str(model_path), "--colors", str(tmp_path / "colors.yaml"), "-o", str(target)])
    gray = np.full((64, 64, 3), 128, np.uint8)
    write_image(tmp_path / "gray.png", gray)
    drawn = detseg.load(target)(gray, confidence={"a": 0.0, "b": 1.0})[0].plot()
    assert (drawn == COLORS[0]).all(axis=2).any()
    assert not (drawn == color_of(0)).all(axis=2).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--conf-per-class", "{other}", "-o", "{folder}/x.safetensors"], "no class other; it has a, b"),
        (["--conf-per-class", "{file}"], "--overwrite"),
        (["--conf-per-class", "{file}", "-o", "{folder}/x.onnx"], "must end in .safetensors"),
        (["--colors", "{folder}/none.yaml", "-o", "{folder}/x.safetensors"], "not found"),
    ],
)
def test_mistakes(
    model_path: Path,
    image: np.ndarray,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, _ = chosen(model_path, image, tmp_path)
    (tmp_path / "other.yaml").write_text("other: 0.5\n")
    places = {"file": str(file), "folder": str(tmp_path), "other": str(tmp_path / "other.yaml")}
    filled = [argument.format(**places) for argument in arguments]
    before = model_path.read_bytes()
    assert main(["set", str(model_path), *filled]) == EXIT_USER_ERROR
    assert message in capsys.readouterr().err
    assert model_path.read_bytes() == before


def test_one_confidence_or_several(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "x", "y", "--conf", "0.5", "--conf-per-class", "z"]) == EXIT_USER_ERROR
    assert "give one of them" in capsys.readouterr().err
