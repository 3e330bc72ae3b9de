"""``detseg eval`` on the forms of a model: what it takes, writes and refuses."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from detseg.cli import EXIT_USER_ERROR, main
from detseg.exporters.export import export_model
from detseg.models.vnet import VNetConfig
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.tasks.model_file import ModelFileConfig, save_model_file
from detseg.tasks.volume import VolumeTaskConfig


def detseg(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network for volumes, not trained, as ``model.safetensors`` and ``model.onnx``, and data for it."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "blobs.yaml").write_text("{format: blobs, num_val: 2, min_side: 20, max_side: 24, max_radius: 6}")
    config = ModelFileConfig(
        VNetConfig(width=4, num_convolutions=(1, 1), kernel_size=3),
        VolumeTaskConfig(input=VolumeSpec((2.0, 2.0, 2.0)), patch=(16, 16, 16)),
        ("background", "bright", "dark"),
        (0, 1, 2),
    )
    torch.manual_seed(0)
    model, _ = config.build()
    save_model_file(folder / "model.safetensors", model.state_dict(), config)
    export_model(folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "model.onnx"])
def test_one_page_with_the_numbers_and_the_file(
    folder: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page, numbers = tmp_path / "deep" / "page.html", tmp_path / "metrics.json"
    options = ["--data", folder / "blobs.yaml", "--workers", 0, "--device", "cpu", "--json", numbers]
    page.parent.mkdir()
    assert detseg("eval", folder / name, *options, "--report", page) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"2 images of {folder / 'blobs.yaml'}, split val\n")
    assert f"report: {page}\n" in said
    metrics = json.loads(numbers.read_text())
    text = page.read_text()
    assert f"{metrics['Dice']:.4f}" in said
    assert hashlib.sha256((folder / name).read_bytes()).hexdigest() in text
    assert ("ONNX Runtime" if name.endswith("onnx") else "torch, cpu") in text
    # One file, and nothing beside it.
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["metrics.json", "page.html"]


def test_a_folder_with_everything(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", folder / "blobs.yaml", "--workers", 0, "--device", "cpu"]
    assert detseg("eval", folder / "model.onnx", *options, "-o", tmp_path / "out") == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written >= {"metrics.json", "report.html", "pictures"}
    assert f"report: {tmp_path / 'out' / 'report.html'}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("best.pt --data blobs", "`detseg convert best.pt -o best.safetensors`"),
        ("YOLOX.PTH --data blobs", "`detseg convert YOLOX.PTH -o YOLOX.safetensors`"),
        ("missing.onnx --data blobs", "missing.onnx: cannot be read: No such file"),
        ("missing.onnx", "name the data to evaluate on: --data"),
        ("model.onnx --data blobs --weights model.safetensors", "--weights is for configurations, and model.onnx is"),
        ("model.onnx --data blobs --report folder", "name a file that ends in .html, got folder"),
        ("model.onnx --data blobs --conf 0.3", "the task volume has no setting confidence"),
        ("model.onnx --data blobs --device mps", "device must be auto, cpu or cuda for .onnx files, got mps"),
        ("model.onnx --data blobs --device tpu", "device tpu is not known; it may be auto, cpu, cuda"),
        ("model.onnx --data shapes", "volumes were asked for"),
    ],
)
def test_what_is_refused(
    folder: Path, words: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert detseg("eval", *words.split()) == EXIT_USER_ERROR
    assert message in capsys.readouterr().err
