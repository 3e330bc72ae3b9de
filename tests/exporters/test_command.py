"""Whole exports through the command, of real models, and its exit codes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from detseg.config import load_config
from detseg.data.open import open_dataset
from detseg.engine.settings import RunConfig
from detseg.exporters import command
from detseg.exporters.base import ParityError
from detseg.exporters.command import EXIT_NOT_EQUAL, export_command
from detseg.models.load_weights import load_weights
from detseg.tasks.model_file import ModelFileConfig, save_model_file

CONFIG = Path(__file__).parents[2] / "configs/detection/yolox_nano.yaml"


def test_a_file_that_was_not_kept_is_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*arguments: Any, **settings: Any) -> None:
        raise ParityError("model.onnx does not give the results")

    monkeypatch.setattr("detseg.exporters.export.export_model", fail)
    assert export_command(tmp_path / "model.safetensors", None) == EXIT_NOT_EQUAL == 3
    assert capsys.readouterr().err == "detseg export: model.onnx does not give the results\n"


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(ModuleNotFoundError, match=r"export needs onnxscript: pip install 'detseg\[export\]'"):
        export_command(tmp_path / "model.safetensors", None)


def test_a_model_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model file"):
        export_command(tmp_path / "model.safetensors", None)


@pytest.fixture(scope="module")
def yolox_nano(detseg_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official weights as a model file."""
    config = load_config(RunConfig, CONFIG)
    dataset = open_dataset(detseg_data / "coco-mini", "val")
    package = ModelFileConfig(config.model, config.task, dataset.class_names, dataset.category_ids)
    model, _ = package.build()
    load_weights(model, detseg_data / "weights/yolox_nano_coco.pth")
    path = tmp_path_factory.mktemp("yolox") / "nano.safetensors"
    save_model_file(path, model.state_dict(), package)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("form", ["nms", "decoded", "raw"])
def test_yolox_nano_keeps_its_average_precision(yolox_nano: Path, detseg_data: Path, form: str) -> None:
    """Also with NMS in the graph, at the low confidence that average precision needs."""
    output = yolox_nano.with_name(f"{form}.onnx")
    settings = {"confidence": 0.001} if form == "nms" else {}
    verify = str(detseg_data / "coco-mini")
    assert export_command(yolox_nano, output, form=form, verify=verify, postprocess=settings) == 0
    report = json.loads(output.with_suffix(".parity.json").read_text(encoding="utf-8"))
    assert report["differences"]["images"] == 80
    assert report["differences"]["boxes"] > (12_000 if form == "nms" else 300)
    metrics = report["metrics"]
    assert metrics["torch"]["AP"] == pytest.approx(0.3073, abs=0.002)
    assert metrics["onnx"]["AP"] == pytest.approx(metrics["torch"]["AP"], abs=0.0005)
    assert report["loss"]["AP"] == metrics["torch"]["AP"] - metrics["onnx"]["AP"]


@pytest.mark.slow
def test_yolox_nano_loses_little_in_half_precision(yolox_nano: Path, detseg_data: Path) -> None:
    output = yolox_nano.with_name("half.onnx")
    assert export_command(yolox_nano, output, precision="fp16", verify=str(detseg_data / "coco-mini")) == 0
    report = json.loads(output.with_suffix(".parity.json").read_text(encoding="utf-8"))
    assert not report["judged"]
    assert abs(report["loss"]["AP"]) < 0.002
    assert output.stat().st_size < 2.3e6
