"""Tiles and views around a real network: by Python, the command line and evaluation, in torch and ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import detseg
from detseg.cli.verbs import main
from detseg.data.formats.shapes import ShapesConfig, ShapesDataset
from detseg.runtime.media.images import write_image
from detseg.runtime.views import TiledRunner

WEIGHTS = Path(__file__).parents[2] / "weights" / "detseg_n_shapes.safetensors"


@pytest.fixture(scope="module")
def picture() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """480 x 480 pixels with 10 objects, their boxes and classes."""
    config = ShapesConfig(image_size=480, num_val=1, min_objects=10, max_objects=10, min_side=30, max_side=60)
    data = ShapesDataset("val", config)
    truth = data.ground_truth(0)
    assert len(truth.labels) == 10
    return data.read(0)[0], truth.boxes_xyxy, truth.labels


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "shapes.onnx"
    detseg.export(WEIGHTS, path, confidence=0.25)
    return path


def agreeing(found: Any, picture: tuple[np.ndarray, np.ndarray, np.ndarray]) -> int:
    """How many objects of the picture are found, at an IoU of 0.5 and with their class."""
    _, truth, labels = picture
    count = 0
    for box, label in zip(truth, labels, strict=True):
        boxes = found.boxes_xyxy[found.labels == label]
        sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
        shared = np.maximum(sides, 0).prod(axis=1)
        union = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod() - shared
        count += bool((shared / union > 0.5).any())
    return count


def test_tiles_find_what_is_too_small_in_the_whole(picture: Any) -> None:
    model = detseg.load(WEIGHTS, device="cpu")
    (whole,) = model.predict(picture[0])
    (tiled,) = model.predict(picture[0], tiles=160)
    assert isinstance(detseg.load(WEIGHTS, device="cpu", tiles=160, overlap=0.3).runner, TiledRunner)
    assert agreeing(tiled, picture) >= 9 > agreeing(whole, picture)
    assert len(tiled) < 15, "some objects have boxes of two classes"


def test_views_agree_with_the_network_and_are_surer_of_places(picture: Any) -> None:
    model = detseg.load(WEIGHTS, device="cpu", size=480)
    (plain,) = model.predict(picture[0])
    (viewed,) = model.predict(picture[0], flip=True, scales=(0.83, 1.0))
    assert agreeing(plain, picture) >= 8
    assert agreeing(viewed, picture) >= 8
    assert not np.array_equal(plain.boxes_xyxy, viewed.boxes_xyxy)


@pytest.mark.slow  # 10 s: the export
def test_onnx_files_give_the_same(picture: Any, onnx: Path) -> None:
    several: list[dict[str, Any]] = [
        {"tiles": 160},
        {"tiles": (160, 192), "overlap": 0.3, "flip": True},
        {"scales": (0.8, 1.0)},
    ]
    for views in several:
        (expected,) = detseg.load(WEIGHTS, device="cpu", **views).predict(picture[0])
        (found,) = detseg.load(onnx, device="cpu", **views).predict(picture[0])
        assert len(found) == len(expected) > 0
        np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=1e-2)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


@pytest.mark.slow  # 10 s: the export
def test_an_exported_file_keeps_its_tiles(picture: Any, tmp_path: Path) -> None:
    path = tmp_path / "tiled.onnx"
    assert main(["export", str(WEIGHTS), "-o", str(path), "--tiles", "160", "--overlap", "0.3", "--nms"]) == 0
    model = detseg.load(path, device="cpu")
    assert isinstance(model.runner, TiledRunner)
    (found,) = model.predict(picture[0])
    assert agreeing(found, picture) >= 9
    (mirrored,) = model.predict(picture[0], flip=True)
    assert agreeing(mirrored, picture) >= 9


def test_the_command_line_predicts_in_tiles(picture: Any, tmp_path: Path, capsys: Any) -> None:
    write_image(tmp_path / "picture.png", picture[0])
    command = ["predict", str(WEIGHTS), str(tmp_path / "picture.png"), "--device", "cpu", "--save", "coco"]
    views = ["--tiles", "160", "--overlap", "0.2", "--flip"]
    assert main([*command, "-o", str(tmp_path / "found"), *views, "--shard", "1/1"]) == 0
    assert len(json.loads((tmp_path / "found/detections.json").read_text())) >= 9
    assert '"tiles": [160, 160]' in json.dumps(json.loads((tmp_path / "found/run.json").read_text()))
    capsys.readouterr()
    for wrong, told in (
        (["--tiles", "16"], "tiles must be no smaller than the network's stride, 32 pixels, got 16x16"),
        (["--tiles", "160", "--overlap", "0.95"], "overlap of tiles must lie in [0, 0.9], got 0.95"),
        (["--overlap", "0.5"], "and no tiles; set tiles"),
    ):
        assert main([*command, "-o", str(tmp_path / "wrong"), *wrong]) == 2
        assert told in capsys.readouterr().err


def test_evaluation_looks_as_prediction_does(tmp_path: Path) -> None:
    data = tmp_path / "few.yaml"
    data.write_text("format: shapes\nnum_val: 6\n")
    settings: dict[str, Any] = {"data": data, "device": "cpu", "workers": 0}
    plain = detseg.evaluate(WEIGHTS, **settings)
    tiled = detseg.evaluate(WEIGHTS, tiles=160, **settings)
    # the images are no larger than a tile
    assert tiled["AP"] == pytest.approx(plain["AP"], abs=1e-6)
    viewed = detseg.evaluate(WEIGHTS, flip=True, **settings)
    assert abs(viewed["AP"] - plain["AP"]) < 0.05
    assert viewed["AP"] != plain["AP"]
