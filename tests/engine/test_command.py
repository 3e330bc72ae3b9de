"""``detseg eval`` on the forms of a model: what it takes, writes and refuses."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from detseg.cli.verbs import EXIT_USER_ERROR, main
from detseg.exporters.export import export_model
from detseg.models.backbones.csp_darknet import CSPDarknetConfig
from detseg.models.detector import DetectorConfig
from detseg.models.vnet import VNetConfig
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.media.images import write_image
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.model_file import ModelFileConfig, save_model_file
from detseg.tasks.volume import VolumeTaskConfig
from tests.engine.conftest import TINY


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
    assert written >= {"metrics.json", "report.html", "images"}
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
        ("model.onnx --data blobs --conf 0.3", "the task volume has no setting --conf"),
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


def write_images(root: Path) -> None:
    """Two images with a box each, as COCO."""
    for number in (1, 2):
        write_image(root / "val" / f"{number}.png", np.full((64, 64, 3), 50 * number, np.uint8))
    images = [{"id": number, "file_name": f"{number}.png", "height": 64, "width": 64} for number in (1, 2)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [4, 4, 20, 20], "area": 400} for n in (1, 2)]
    (root / "annotations").mkdir()
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small detector, not trained, and ``data``, which it can be measured on."""
    folder = tmp_path_factory.mktemp("detector")
    config = ModelFileConfig(
        DetectorConfig(backbone=CSPDarknetConfig(width=0.125)),
        DetectionTaskConfig(input=InputSpec(64, 64)),
        ("thing",),
        (1,),
    )
    torch.manual_seed(0)
    save_model_file(folder / "m.safetensors", config.build()[0].state_dict(), config)
    write_images(folder / "data")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_evaluation_replaces_only_its_like(
    detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    measure = ["eval", detector / "m.safetensors", "--data", detector / "data", "--workers", 0, "--device", "cpu"]
    for _ in range(2):
        assert detseg(*measure, "--json", "m.json", "--report", "page.html") == 0
    for folder in ("out", "out-2"):
        assert detseg(*measure, "-o", "out") == 0
        assert Path(folder, "report.html").is_file()
    assert "out holds another evaluation; the results of this one go to out-2\n" in capsys.readouterr().out
    before = contents(tmp_path)
    Path("mine.html").write_text("<html>")
    Path("mine.json").write_text('{"images": []}')
    Path("folder").mkdir()
    Path("folder/report.html").write_text("mine")
    for words in (["--json", "mine.json"], ["--report", "mine.html"], ["-o", "folder"]):
        assert detseg(*measure, *words) == EXIT_USER_ERROR
        assert "is there already and not of a kind that is replaced" in capsys.readouterr().err
    assert contents(tmp_path).items() >= before.items()
    assert Path("mine.json").read_text() == '{"images": []}'
    assert detseg(*measure, "--json", "mine.json", "--overwrite") == 0
    assert "AP" in json.loads(Path("mine.json").read_text())


@pytest.mark.parametrize(
    "words", ["-o DATA", "-o DATA/new", "-o DATA/val", "--json DATA/annotations/instances_val.json",
    "--json DATA/m.json", "--report DATA/val/page.html", "-o LINK/new --overwrite", "--json LINK/val/m.json"],
)  # fmt: skip
def test_nothing_is_written_among_the_data(
    detector: Path, tmp_path: Path, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = detector / "data"
    before = contents(data)
    (tmp_path / "link").symlink_to(data)
    words = words.replace("DATA", str(data)).replace("LINK", str(tmp_path / "link"))
    measure = ["eval", detector / "m.safetensors", "--data", data, "--workers", 0, "--device", "cpu"]
    assert detseg(*measure, *words.split()) == EXIT_USER_ERROR
    assert "data" in capsys.readouterr().err
    assert contents(data) == before


@pytest.mark.slow
def test_exports_and_checks_replace_only_their_like(
    detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = detector / "data"
    for _ in range(2):
        assert detseg("check", data, "--json", "findings.json") == 0
    Path("mine.json").write_text("[]")
    assert detseg("check", data, "--json", "mine.json") == EXIT_USER_ERROR
    shutil.copy(data / "val" / "1.png", "mine.onnx")
    Path("other.parity.json").write_text("{}")
    for output in ("mine.onnx", "other.onnx"):
        assert detseg("export", detector / "m.safetensors", "-o", output) == EXIT_USER_ERROR
        assert "is there already and not of a kind that is replaced" in capsys.readouterr().err
    assert Path("mine.onnx").read_bytes() == (data / "val" / "1.png").read_bytes()
    for _ in range(2):
        assert detseg("export", detector / "m.safetensors", "-o", "new.onnx") == 0
    assert detseg("export", detector / "m.safetensors", "-o", "mine.onnx", "--overwrite") == 0
    assert detseg("check", data, "--json", "mine.json", "--overwrite") == 0


def test_names_of_files_that_are_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are bytes: whatever is written about them, training and evaluation end, and the names can be read again."""
    images, labels = tmp_path / "set/images", tmp_path / "set/labels"
    images.mkdir(parents=True)
    labels.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        name = f"bild_\udce4{number}"
        image = rng.integers(0, 256, (64, 64, 3), np.uint8)
        write_image(tmp_path / "plain.png", image)
        (tmp_path / "plain.png").rename(images / f"{name}.png")
        (labels / f"{name}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    (tmp_path / "data.yaml").write_text("{path: set, train: images, val: images, names: [a]}")
    (tmp_path / "run.yaml").write_text(TINY.replace("shapes.yaml", "data.yaml").replace("epochs: 2", "epochs: 1"))
    run = tmp_path / "run"
    assert detseg("train", tmp_path / "run.yaml", "-o", run, "augment.close_mosaic_epochs=0") == 0
    options = ["--data", tmp_path / "data.yaml", "--workers", 0, "--device", "cpu", "-o", tmp_path / "judged"]
    assert detseg("eval", run / "best.safetensors", *options) == 0
    assert detseg("check", tmp_path / "data.yaml", "--json", tmp_path / "check.json") == 2  # one set in two splits
    files = {finding["file"] for finding in json.loads((tmp_path / "check.json").read_text())["findings"]}
    assert files == {f"images/bild_\udce4{number}.png" for number in range(4)}
    said = capsys.readouterr()
    assert "bild_\\xe40.png" in said.out
    assert "Traceback" not in said.err


def test_exported_files_have_a_precision_of_their_own(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", folder / "blobs.yaml", "--workers", 0, "--device", "cpu", "--precision", "bf16"]
    assert detseg("eval", folder / "model.onnx", *options) == 2
    assert "bf16 is for --runtime openvino" in capsys.readouterr().err
    assert detseg("eval", folder / "model.safetensors", *options) == 0
