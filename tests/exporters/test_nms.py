"""Suppression in the graph gives what detseg's own gives, to the last bit and in the same order."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from detseg.arrays import FloatArray
from detseg.exporters.nms import append_nms
from detseg.runtime.postprocess.config import PostprocessConfig
from detseg.runtime.postprocess.nms import select_detections

# Gives its inputs back, in place of a network.
PASSING_ON = """
<ir_version: 10, opset_import: ["" : 18]>
network (float[batch, anchors, 4] in_boxes, float[batch, anchors, classes] in_scores)
    => (float[batch, anchors, 4] boxes, float[batch, anchors, classes] scores)
{
    boxes = Identity (in_boxes)
    scores = Identity (in_scores)
}
"""


def run(settings: PostprocessConfig, boxes_xyxy: FloatArray, scores: FloatArray) -> dict[str, Any]:
    model = append_nms(onnx.parser.parse_model(PASSING_ON), settings)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"in_boxes": boxes_xyxy, "in_scores": scores}), strict=True))


def test_coefficients_follow_their_boxes() -> None:
    text = PASSING_ON.replace(
        "in_scores)\n", "in_scores, float[batch, anchors, 2] in_coefficients, float[n, 1] more)\n", 1
    )
    text = text.replace("scores)\n{", "scores, float[batch, anchors, 2] coefficients, float[n, 1] other)\n{")
    text = text.replace("}", "coefficients = Identity (in_coefficients)\nother = Identity (more)\n}")
    boxes_xyxy, scores = crowd(2, seed=5)
    scores[1] *= 0.3  # hardly any box in the second image
    anchors = np.tile(np.arange(150, dtype=np.float32), (2, 1))
    coefficients = np.stack([anchors, anchors**2], axis=2)
    more = np.array([[3.0], [4.0]], np.float32)
    settings = PostprocessConfig(confidence=0.27, iou=0.5)
    model = append_nms(onnx.parser.parse_model(text), settings)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    assert set(names) == {"boxes", "scores", "labels", "counts", "coefficients", "other"}
    inputs = {"in_boxes": boxes_xyxy, "in_scores": scores, "in_coefficients": coefficients, "more": more}
    found = dict(zip(names, session.run(names, inputs), strict=True))
    assert found["other"].tolist() == more.tolist()
    for image in range(2):
        expected = select_detections(
            boxes_xyxy[image], scores[image], settings.confidence, settings.iou, 300, multi_label=True,
            class_agnostic=False,
        )  # fmt: skip
        count = int(found["counts"][image])
        assert count == len(expected.anchors) > 0
        assert np.array_equal(found["coefficients"][image, :count], coefficients[image, expected.anchors])
        assert not found["coefficients"][image, count:].any()


def crowd(batch: int, seed: int, levels: int = 0) -> tuple[FloatArray, FloatArray]:
    """Boxes that overlap a lot; with ``levels`` scores take so many values, so that many are equal."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 100, (batch, 150, 2))
    boxes_xyxy = np.concatenate([corner, corner + rng.uniform(5, 60, (batch, 150, 2))], axis=2).astype(np.float32)
    scores = rng.random((batch, 150, 4)) if not levels else rng.integers(0, levels, (batch, 150, 4)) / levels
    return boxes_xyxy, scores.astype(np.float32)


SETTINGS = [
    PostprocessConfig(confidence=0.25, iou=0.5),
    PostprocessConfig(confidence=0.25, iou=0.5, multi_label=False),
    PostprocessConfig(confidence=0.25, iou=0.5, multi_label=False, class_agnostic=True),
    PostprocessConfig(confidence=0.001, iou=0.9, max_detections=7),
    PostprocessConfig(confidence=1.0),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["classes", "best class", "agnostic", "few", "none"])
@pytest.mark.parametrize(("batch", "levels"), [(1, 0), (3, 0), (2, 10)])
def test_it_equals_detseg_suppression(settings: PostprocessConfig, batch: int, levels: int) -> None:
    boxes_xyxy, scores = crowd(batch, seed=batch + levels, levels=levels)
    found = run(settings, boxes_xyxy, scores)
    for image in range(batch):
        expected = select_detections(
            boxes_xyxy[image],
            scores[image],
            settings.confidence,
            settings.iou,
            settings.max_detections,
            settings.multi_label,
            settings.class_agnostic,
        )
        count = found["counts"][image]
        assert count == len(expected.scores)
        np.testing.assert_array_equal(found["boxes"][image, :count], expected.boxes_xyxy)
        np.testing.assert_array_equal(found["scores"][image, :count], expected.scores)
        np.testing.assert_array_equal(found["labels"][image, :count], expected.labels)


def test_shapes_types_and_padding() -> None:
    """Two images, one of them without boxes; the rest of the rows is 0."""
    boxes_xyxy = np.array([[[0, 0, 10, 10], [50, 50, 60, 60]]] * 2, np.float32)
    scores = np.array([[[0.1, 0.2], [0.2, 0.1]], [[0.9, 0.3], [0.1, 0.8]]], np.float32)
    found = run(PostprocessConfig(confidence=0.25, max_detections=5), boxes_xyxy, scores)
    assert {name: (value.shape, value.dtype) for name, value in found.items()} == {
        "boxes": ((2, 5, 4), np.float32),
        "scores": ((2, 5), np.float32),
        "labels": ((2, 5), np.int64),
        "counts": ((2,), np.int64),
    }
    assert found["counts"].tolist() == [0, 3]
    assert found["labels"].tolist() == [[0] * 5, [0, 1, 1, 0, 0]]
    assert not found["boxes"][0].any()
    assert not found["boxes"][1, 3:].any()
    np.testing.assert_array_equal(found["scores"][1], np.array([0.9, 0.8, 0.3, 0, 0], np.float32))


def test_a_score_at_the_limit_and_an_overlap_at_the_limit() -> None:
    """Scores must be above the confidence; boxes that overlap by exactly the limit are both kept."""
    # IoU 50 / 150 = 1/3 between the first two, 50 / 100 = 1/2 between the last two.
    boxes_xyxy = np.array([[[0, 0, 10, 10], [5, 0, 15, 10], [100, 0, 110, 10], [100, 0, 105, 10]]], np.float32)
    scores = np.array([[[0.9], [0.5], [0.8], [0.7]]], np.float32)
    found = run(PostprocessConfig(confidence=0.5, iou=0.5), boxes_xyxy, scores)
    np.testing.assert_array_equal(found["scores"][0, : found["counts"][0]], np.array([0.9, 0.8, 0.7], np.float32))
    found = run(PostprocessConfig(confidence=0.4, iou=0.49), boxes_xyxy, scores)
    np.testing.assert_array_equal(found["scores"][0, : found["counts"][0]], np.array([0.9, 0.8, 0.5], np.float32))
