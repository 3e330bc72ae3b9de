"""The official YOLOX-Nano weights give the official average precision."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detseg.engine.command import eval_command

CONFIG = Path(__file__).parents[2] / "configs/detection/yolox_nano.yaml"


@pytest.mark.parametrize(("max_detections", "num_boxes"), [(300, None), (10_000, 14_714)])
def test_yolox_nano_on_coco_mini(detseg_data: Path, tmp_path: Path, max_detections: int, num_boxes: int | None) -> None:
    eval_command(
        CONFIG,
        weights=detseg_data / "weights/yolox_nano_coco.pth",
        data=str(detseg_data / "coco-mini"),
        format=None,
        split="val",
        batch_size=16,
        num_workers=0,
        device="cpu",
        json_path=None,
        output=tmp_path,
        postprocess={"max_detections": max_detections},
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    # The official code: AP 0.3073, AP50 0.4823, AP75 0.3257 with 14,714 boxes. It does not clip boxes to the image.
    assert metrics["AP"] == pytest.approx(0.3073, abs=0.002)
    assert metrics["AP50"] == pytest.approx(0.4823, abs=0.002)
    assert metrics["AP75"] == pytest.approx(0.3257, abs=0.002)
    if num_boxes is not None:
        assert len(json.loads((tmp_path / "detections.json").read_text())) == num_boxes
