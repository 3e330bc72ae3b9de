from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import detseg
from detseg.models.backbones.csp_darknet import CSPDarknetConfig
from detseg.models.detector import DetectorConfig
from detseg.runtime.commands.predict import predict_command
from detseg.runtime.commands.summary import EXIT_SOME_FAILED
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.media.images import read_image, write_image
from detseg.runtime.sources.finding import SourceError
from detseg.runtime.sources.video_reader import Section, read_video
from detseg.runtime.tracking.tracker import TrackerConfig
from detseg.structures import Detections
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.model_file import ModelFileConfig, save_model_file

CATEGORY_IDS = (3, 17, 90)
SETTINGS = {"confidence": 0.0011, "max_detections": 5}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = ModelFileConfig(
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
    save_model_file(tmp_path / "model.safetensors", network.state_dict(), config)
    return tmp_path / "model.safetensors"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three good images of different sizes, and between them one that is cut off and one that is none."""
    folder = tmp_path / "images"
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (48, 80)), ("c.jpg", (64, 64)), ("e.png", (100, 30))):
        write_image(folder / name, rng.integers(0, 256, (*size, 3), np.uint8))
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:-500])
    (folder / "d.jpg").write_text("no image")
    return folder


def predict(model: Path, sources: list[str], output: Path, settings: Any = SETTINGS, **options: Any) -> int:
    options = {"save": ["image", "coco"], "batch_size": 2, **options}
    return predict_command(detseg.load(model, device="cpu", **settings), sources, output=output, **options)


def test_one_bad_image_does_not_stop_the_others(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert predict(model, [str(images)], output) == EXIT_SOME_FAILED == 1
    names = sorted(path.name for path in output.iterdir())
    assert names == [
        "a.png",
        "c.jpg",
        "detections.json",
        "detections_images.json",
        "e.png",
        "errors.jsonl",
        "sources.json",
    ]

    good = [images / name for name in ("a.png", "c.jpg", "e.png")]
    predictions = list(detseg.load(model, device="cpu", **SETTINGS).predict(good, batch_size=2))
    entries = json.loads((output / "detections_images.json").read_text())
    sizes = [(48, 80), (64, 64), (100, 30)]
    assert entries == [
        {"id": number, "file_name": str(path), "height": height, "width": width}
        for number, (path, (height, width)) in enumerate(zip(good, sizes, strict=True), start=1)
    ]
    results = json.loads((output / "detections.json").read_text())
    for number, prediction in enumerate(predictions, start=1):
        found = prediction.result
        assert isinstance(found, Detections)
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
    assert f"3 of 5 sources, 3 images; results are in {output}" in said.out
    failures = [line for line in said.err.splitlines() if line.startswith("not read: ")]
    assert [str(images / name) in line for name, line in zip(("b.png", "d.jpg"), failures, strict=True)] == [True] * 2
    errors = [json.loads(line) for line in (output / "errors.jsonl").read_text().splitlines()]
    assert [Path(error["source"]).name for error in errors] == ["b.png", "d.jpg"]
    assert "truncated" in errors[0]["error"]
    assert predict(model, [str(images / "a.png")], output) == 0
    assert not (tmp_path / "out-2" / "errors.jsonl").exists(), "the results of another run are left alone"
    assert predict(model, [str(images / "a.png")], output, overwrite=True) == 0
    assert not (output / "errors.jsonl").exists()


def test_all_good_is_exit_code_0(model: Path, images: Path, tmp_path: Path) -> None:
    sources = [str(images / "e.png"), str(images / "a*.png")]
    assert predict(model, sources, tmp_path / "out") == 0
    entries = json.loads((tmp_path / "out" / "detections_images.json").read_text())
    assert [Path(image["file_name"]).name for image in entries] == ["e.png", "a.png"]


@pytest.mark.parametrize(
    ("save", "expected"),
    [
        ("image", ["a.png", "sources.json"]),
        ("coco", ["detections.json", "detections_images.json", "sources.json"]),
    ],
)
def test_only_what_was_asked_for_is_saved(
    model: Path, images: Path, tmp_path: Path, save: str, expected: list[str]
) -> None:
    predict(model, [str(images / "a.png")], tmp_path / "out", save=[save])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == expected


def test_settings_count(model: Path, images: Path, tmp_path: Path) -> None:
    image = str(images / "a.png")
    assert predict(model, [image], tmp_path / "out", {"confidence": 1.0}) == 0
    assert json.loads((tmp_path / "out" / "detections.json").read_text()) == []
    assert np.array_equal(read_image(tmp_path / "out" / "a.png"), read_image(image))


def test_impossible_requests_are_refused_before_anything_is_written(model: Path, images: Path, tmp_path: Path) -> None:
    image = str(images / "a.png")
    with pytest.raises(ValueError, match="--save: unknown mask; allowed for detection are drawn, image, video, coco"):
        predict(model, [image], tmp_path / "out", save=["mask", "coco", "csv"])
    with pytest.raises(SourceError, match=r"'.*missing\.png' does not exist"):
        predict(model, [str(images / "missing.png")], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no model file at"):
        predict(tmp_path / "none.safetensors", [image], tmp_path / "out")
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        predict(model, [image], tmp_path / "out", batch_size=0)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    with pytest.raises(ValueError, match="name another output folder"):
        predict(model, [image], images)
    assert len(list(images.iterdir())) == 5


def test_a_video_is_drawn_with_its_tracks(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten frames of one image: what is found in it stays where it is, and keeps its number."""
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    video = cv2.VideoWriter(str(tmp_path / "footage.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 20, (80, 48))
    for _ in range(10):
        video.write(image)
    video.release()
    output = tmp_path / "out"
    track = TrackerConfig(high_score=0.0011, low_score=0.0, new_score=0.0011)
    save = ["drawn", "jsonl", "csv"]
    assert (
        predict(model, [str(tmp_path / "footage.avi")], output, save=save, track=track, section=Section(every=2)) == 0
    )
    assert sorted(path.name for path in output.iterdir()) == [
        "detections.csv",
        "footage.mp4",
        "results.jsonl",
        "sources.json",
    ]
    lines = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    assert [(line["frame"], line["time_s"]) for line in lines] == [(0, 0), (2, 0.1), (4, 0.2), (6, 0.3), (8, 0.4)]
    ids = [sorted(found["track_id"] for found in line["detections"]) for line in lines]
    assert ids == [[1, 2, 3, 4, 5]] * 5
    frames = list(read_video(output / "footage.mp4"))
    np.testing.assert_allclose([frame.time_s for frame in frames], [0, 0.1, 0.2, 0.3, 0.4], atol=2e-3)
    assert "footage.avi: 5 frames, complete" in capsys.readouterr().out


def test_a_truncated_video_is_done_as_far_as_it_goes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = cv2.VideoWriter(str(tmp_path / "footage.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 20, (160, 120))
    for noise in np.random.default_rng(0).integers(0, 256, (10, 120, 160, 3), np.uint8):
        video.write(noise)
    video.release()
    data = (tmp_path / "footage.avi").read_bytes()
    (tmp_path / "footage.avi").write_bytes(data[: len(data) * 2 // 3])
    output = tmp_path / "out"
    assert predict(model, [str(tmp_path / "footage.avi")], output, save=["video"]) == EXIT_SOME_FAILED
    num_frames = len(list(read_video(output / "footage.mp4")))
    assert 0 < num_frames < 10
    said = capsys.readouterr()
    assert f"footage.avi: {num_frames} frames, not complete" in said.out
    assert "footage.avi: truncated" in said.err


@pytest.mark.parametrize("batch_size", [2, 3, 5])
def test_an_image_gives_the_same_alone_and_in_any_batch(model: Path, batch_size: int) -> None:
    random = np.random.default_rng(1)
    images = [
        random.integers(0, 256, (*size, 3), np.uint8) for size in ((48, 80), (64, 64), (100, 30), (9, 7), (64, 96))
    ]
    ready = detseg.load(model, device="cpu", confidence=0.0011, max_detections=20)
    alone = [prediction.result for image in images for prediction in ready.predict(image)]
    together = [prediction.result for prediction in ready.predict(images, batch_size)]
    for one, other in zip(alone, together, strict=True):
        assert isinstance(one, Detections)
        assert isinstance(other, Detections)
        assert len(one) >= 5
        assert np.array_equal(one.labels, other.labels)
        np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, rtol=0, atol=1e-3)
        np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=1e-6)
