from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detseg.inference.command import EXIT_SOME_FAILED, predict_command
from detseg.inference.predictor import Predictor
from detseg.models.backbones.csp_darknet import CSPDarknetConfig
from detseg.models.detector import DetectorConfig
from detseg.runtime.geometry import InputSpec
from detseg.runtime.images import read_image, write_image
from detseg.runtime.sources import SourceError
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.package import PackageConfig, load_package, save_package

CATEGORY_IDS = (3, 17, 90)
SETTINGS = {"confidence": 0.0011, "max_detections": 5}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = PackageConfig(
        DetectorConfig(backbone=CSPDarknetConfig(width=0.125)),
        DetectionTaskConfig(input=InputSpec(64, 64)),
        ("circle", "square", "triangle"),
        CATEGORY_IDS,
    )
    torch.manual_seed(0)
    network, _ = config.build()
    with torch.no_grad():
        for branch in network.get_submodule("head.box_branches"):
            branch[-1].bias.copy_(-torch.arange(16).repeat(4))  # boxes of about a cell, which do not overlap much
    save_package(tmp_path / "model.safetensors", network.state_dict(), config)
    return tmp_path / "model.safetensors"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three good pictures of different sizes, and between them one that is cut off and one that is none."""
    folder = tmp_path / "pictures"
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (48, 80)), ("c.jpg", (64, 64)), ("e.png", (100, 30))):
        write_image(folder / name, rng.integers(0, 256, (*size, 3), np.uint8))
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:-500])
    (folder / "d.jpg").write_text("no picture")
    return folder


def predict(model: Path, sources: list[str], output: Path, **changes: Any) -> int:
    options: dict[str, Any] = {
        "output": output,
        "save": ["picture", "coco"],
        "batch_size": 2,
        "device": "cpu",
        "postprocess": SETTINGS,
        "size": None,
        "fps": 25.0,
    }
    return predict_command(model, sources, **{**options, **changes})


def test_one_bad_picture_does_not_stop_the_others(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert predict(model, [str(pictures)], output) == EXIT_SOME_FAILED == 1
    names = sorted(path.name for path in output.iterdir())
    assert names == ["a.png", "c.jpg", "detections.json", "detections_images.json", "e.png"]

    package = load_package(model, postprocess=SETTINGS)
    good = [pictures / name for name in ("a.png", "c.jpg", "e.png")]
    predictions = list(Predictor(package.model.fuse(), package.task).predict(good, batch_size=2))
    images = json.loads((output / "detections_images.json").read_text())
    sizes = [(48, 80), (64, 64), (100, 30)]
    assert images == [
        {"id": number, "file_name": str(path), "height": height, "width": width}
        for number, (path, (height, width)) in enumerate(zip(good, sizes, strict=True), start=1)
    ]
    results = json.loads((output / "detections.json").read_text())
    for number, prediction in enumerate(predictions, start=1):
        found = prediction.result
        assert len(found) == 5
        mine = [result for result in results if result["image_id"] == number]
        assert [result["category_id"] for result in mine] == [CATEGORY_IDS[label] for label in found.labels]
        assert [result["score"] for result in mine] == found.scores.tolist()
        boxes_xywh = np.array([result["bbox"] for result in mine])
        np.testing.assert_allclose(boxes_xywh[:, :2], found.boxes_xyxy[:, :2], atol=1e-4)
        np.testing.assert_allclose(boxes_xywh[:, :2] + boxes_xywh[:, 2:], found.boxes_xyxy[:, 2:], atol=1e-4)
        drawn, source = read_image(output / good[number - 1].name), prediction.image
        assert drawn.shape == source.shape
        assert (drawn != source).any()
    assert len(results) == 15

    said = capsys.readouterr()
    assert f"3 of 5 files; results are in {output}" in said.out
    failures = [line for line in said.err.splitlines() if line.startswith("not read: ")]
    assert [str(pictures / name) in line for name, line in zip(("b.png", "d.jpg"), failures, strict=True)] == [True] * 2


def test_all_good_is_exit_code_0(model: Path, pictures: Path, tmp_path: Path) -> None:
    sources = [str(pictures / "e.png"), str(pictures / "a*.png")]
    assert predict(model, sources, tmp_path / "out") == 0
    images = json.loads((tmp_path / "out" / "detections_images.json").read_text())
    assert [Path(image["file_name"]).name for image in images] == ["e.png", "a.png"]


@pytest.mark.parametrize(
    ("save", "expected"), [("picture", ["a.png"]), ("coco", ["detections.json", "detections_images.json"])]
)
def test_only_what_was_asked_for_is_saved(
    model: Path, pictures: Path, tmp_path: Path, save: str, expected: list[str]
) -> None:
    predict(model, [str(pictures / "a.png")], tmp_path / "out", save=[save])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == expected


def test_settings_count(model: Path, pictures: Path, tmp_path: Path) -> None:
    picture = str(pictures / "a.png")
    assert predict(model, [picture], tmp_path / "out", postprocess={"confidence": 1.0}) == 0
    assert json.loads((tmp_path / "out" / "detections.json").read_text()) == []
    assert np.array_equal(read_image(tmp_path / "out" / "a.png"), read_image(picture))


def test_impossible_requests_are_refused_before_anything_is_written(
    model: Path, pictures: Path, tmp_path: Path
) -> None:
    picture = str(pictures / "a.png")
    with pytest.raises(ValueError, match="--save: unknown mask, csv; allowed for detection are picture, coco, video"):
        predict(model, [picture], tmp_path / "out", save=["mask", "coco", "csv"])
    with pytest.raises(SourceError, match=r"'.*missing\.png' does not exist"):
        predict(model, [picture, str(pictures / "missing.png")], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no model file at"):
        predict(tmp_path / "none.safetensors", [picture], tmp_path / "out")
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        predict(model, [picture], tmp_path / "out", batch_size=0)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    with pytest.raises(ValueError, match="name another output folder"):
        predict(model, [picture], pictures)
    assert len(list(pictures.iterdir())) == 5
