"""The YOLOX that its authors released as ONNX, beside the model that is made of the same file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import detseg


def test_the_file_as_it_is_and_converted(detseg_data: Path, tmp_path: Path) -> None:
    """Raw, as it was exported without decoding. With two threads batches share the cores, each with a network of its
    own."""
    path = detseg_data / "weights" / "yolox_nano_coco.onnx"
    categories = json.loads((detseg_data / "coco-mini/annotations/instances_val2017.json").read_text())["categories"]
    names = [one["name"] for one in categories]
    detseg.convert(path, tmp_path / "yolox.safetensors", names=names)
    images = sorted((detseg_data / "coco-mini" / "val2017").glob("*.jpg"))[:4]
    foreign = detseg.load(path, names=names, num_threads=2, iou=0.65)
    converted = detseg.load(tmp_path / "yolox.safetensors", full_input=True, device="cpu", confidence=0.25, iou=0.65)
    for found, expected in zip(foreign.predict(images), converted.predict(images), strict=True):
        assert len(found) > 0
        assert found.names == expected.names
        np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=0.05)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
