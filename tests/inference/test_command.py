"""``detseg predict`` on a folder of pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from detseg.inference.command import EXIT_SOME_FAILED, predict_command
from detseg.models.detector import DetectorConfig
from detseg.runtime.geometry import InputSpec
from detseg.runtime.images import read_image, write_image
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.package import PackageConfig, save_package


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = PackageConfig(DetectorConfig(), DetectionTaskConfig(input=InputSpec(64, 64)), ("cat", "dog"), (5, 9))
    model, _ = config.build()
    with torch.no_grad():
        for branch in model.head.class_branches:
            branch[-1].bias.fill_(1.0)
    save_package(tmp_path / "model.safetensors", model.state_dict(), config)
    return tmp_path / "model.safetensors"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, shape in {"a.png": (40, 60, 3), "b.jpg": (100, 30, 3), "c.png": (64, 64, 3)}.items():
        write_image(tmp_path / "pictures" / name, rng.integers(0, 256, shape, dtype=np.uint8))
    return tmp_path / "pictures"


def predict(model_file: Path, pictures: Path, output: Path, **settings: object) -> int:
    arguments = {"save": ["picture", "coco"], "batch_size": 2, "device": "cpu", "postprocess": {"max_detections": 4}}
    return predict_command(model_file, [str(pictures)], output=output, **{**arguments, **settings})


def test_pictures_and_results(
    model_file: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in pictures.iterdir()}
    assert predict(model_file, pictures, tmp_path / "out") == 0
    assert "3 of 3 pictures, 12 objects" in capsys.readouterr().out
    results = json.loads((tmp_path / "out/detections.json").read_text())
    images = {image["id"]: image for image in json.loads((tmp_path / "out/detections_images.json").read_text())}
    assert len(results) == 12
    assert {result["category_id"] for result in results} <= {5, 9}
    for result in results:
        left, top, width, height = result["bbox"]
        image = images[result["image_id"]]
        assert 0 <= left <= left + width <= image["width"] + 1e-4
        assert 0 <= top <= top + height <= image["height"] + 1e-4
    for name in ("a.png", "b.jpg", "c.png"):
        drawn, original = read_image(tmp_path / "out" / name), read_image(pictures / name)
        assert drawn.shape == original.shape
        assert not np.array_equal(drawn, original)
    assert {path: path.read_bytes() for path in pictures.iterdir()} == before


def test_a_damaged_picture_does_not_stop_the_rest(
    model_file: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (pictures / "b.jpg").read_bytes()
    (pictures / "b.jpg").write_bytes(content[: len(content) // 2])
    assert predict(model_file, pictures, tmp_path / "out", save=["picture"]) == EXIT_SOME_FAILED
    printed = capsys.readouterr()
    assert "2 of 3 pictures" in printed.out
    assert str(pictures / "b.jpg") in printed.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


def test_requests_that_cannot_be_met(model_file: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--save: unknown video; allowed are picture, coco"):
        predict(model_file, pictures, tmp_path / "out", save=["video"])
    with pytest.raises(ValueError, match="does not exist"):
        predict(model_file, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match="name another output folder"):
        predict(model_file, pictures, pictures)
    assert not (tmp_path / "out").exists()
