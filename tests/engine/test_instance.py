"""Instances through every verb: trained, judged, reported, found in images and followed through a video."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detseg.cli import main
from detseg.data.formats.shapes import ShapesConfig, draw_image
from detseg.data.open import open_dataset
from detseg.runtime.media.images import read_image
from detseg.runtime.media.video_file import OpenCVVideo

pytestmark = pytest.mark.slow

SETTINGS = """
base: {config}
model: {{backbone: {{width: 0.125}}}}
task: {{input: {{height: 64, width: 64}}, boundary_ap: true}}
data: {{num_workers: 0}}
augment: {{copy_paste: 0.5}}
train: {{epochs: 2, batch_size: 8}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, its data, and a video of two shapes that stand still."""
    folder = tmp_path_factory.mktemp("instances")
    (folder / "data").mkdir()
    (folder / "data" / "shapes.yaml").write_text(
        "format: shapes\nimage_size: 64\nnum_train: 24\nnum_val: 8\nmin_side: 20\nmax_side: 40\n"
    )
    config = Path("configs/instance/c2f_n_seg.yaml").absolute()
    (folder / "config.yaml").write_text(SETTINGS.format(config=config))
    data = str(folder / "data" / "shapes.yaml")
    assert main(["train", str(folder / "config.yaml"), "--data", data, "-o", str(folder / "run")]) == 0
    image, _ = draw_image(ShapesConfig(image_size=64, min_side=20, max_side=40), "val", 0)
    with OpenCVVideo(folder / "footage.mp4", 10.0) as video:
        for _ in range(4):
            video.append(image, "footage")
    return folder


def test_training_leaves_what_is_worth_keeping(folder: Path) -> None:
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert {"AP", "AP_box", "AP_boundary"} <= metrics.keys()
    for name in ("detections.json", "detections_boxes.json", "pr_curve.png", "report.html"):
        assert (folder / "run" / name).is_file()


def test_evaluation_equals_the_official_tool_on_what_it_saves(folder: Path, tmp_path: Path) -> None:
    data = str(folder / "data" / "shapes.yaml")
    report = tmp_path / "out" / "report.html"
    assert (
        main(["eval", str(folder / "run"), "--data", data, "-o", str(tmp_path / "out"), "--report", str(report)]) == 0
    )
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    dataset = open_dataset(data, "val", target="instances")
    content = {"images": [], "annotations": [], "categories": []}  # type: ignore[var-annotated]
    content["categories"] = [{"id": number, "name": str(number)} for number in dataset.category_ids]
    for index in range(len(dataset)):
        truth = dataset.ground_truth(index)  # type: ignore[union-attr]
        content["images"].append({"id": truth.image_id, "height": 64, "width": 64})
        for mask, label, area in zip(truth.masks or (), truth.labels, truth.areas, strict=True):
            content["annotations"].append(
                {"id": len(content["annotations"]) + 1, "image_id": truth.image_id, "iscrowd": 0, "area": float(area),
                 "category_id": dataset.category_ids[label], "segmentation": mask.to_coco()}
            )  # fmt: skip
    (tmp_path / "truth.json").write_text(json.dumps(content))
    official_truth = COCO(str(tmp_path / "truth.json"))
    found = official_truth.loadRes(str(tmp_path / "out" / "detections.json"))
    official = COCOeval(official_truth, found, "segm")
    official.evaluate()
    official.accumulate()
    official.summarize()
    assert list(metrics.values())[:12] == pytest.approx(list(official.stats), abs=1e-9, rel=0)
    assert "AP_boundary" in report.read_text()


def test_objects_are_followed_with_their_masks(folder: Path, tmp_path: Path) -> None:
    arguments = ["--save", "drawn,coco,yolo,index,jsonl", "--conf", "0.001", "--max-det", "3", "--track"]
    video = str(folder / "footage.mp4")
    assert main(["predict", str(folder / "run"), video, "-o", str(tmp_path / "out"), *arguments]) == 0
    assert (tmp_path / "out" / "footage.mp4").is_file()
    records = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert all(record["segmentation"]["size"] == [64, 64] for record in records)
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    numbers = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((tmp_path / "out" / "index").iterdir())]
    for line, image in zip(lines, numbers, strict=True):
        assert set(np.unique(image).tolist()) <= set(range(len(line["detections"]) + 1))
    assert len(list((tmp_path / "out" / "labels").iterdir())) == 4


def test_previews_show_masks(folder: Path, tmp_path: Path) -> None:
    data = str(folder / "data" / "shapes.yaml")
    arguments = ["--config", str(folder / "config.yaml")]
    assert main(["check", data, "--preview", str(tmp_path / "out"), *arguments]) == 0
    assert read_image(tmp_path / "out" / "train_000_000.png").shape[2] == 3
