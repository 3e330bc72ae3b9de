from __future__ import annotations

from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from detseg.losses.segmentation import SegmentationLossConfig
from detseg.runtime.inputs.geometry import InputSpec, transform_of
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.inputs.volume_geometry import transform_of as volume_transform_of
from detseg.runtime.postprocess.config import InfererConfig, PostprocessConfig, WindowsConfig
from detseg.runtime.postprocess.results import (
    best_classes,
    best_voxel_classes,
    detect,
    detections_of_graph,
)
from detseg.structures import LetterboxTransform
from detseg.tasks.semantic import SemanticTaskConfig
from detseg.tasks.volume import VolumeTaskConfig

TWICE = LetterboxTransform(2.0, 2.0, 10.0, 0.0, 50, 40)
"""The original is 40 pixels wide and 50 high, enlarged to twice that and moved to the right by 10."""


def test_boxes_in_pixels_of_the_original() -> None:
    boxes = np.array([[10, 0, 30, 20], [11, 0, 30, 20], [50, 40, 300, 300], [20, 20, 40, 40]], np.float32)
    scores = np.array([[0.9, 0.1], [0.8, 0.7], [0.3, 0.6], [0.2, 0.24]], np.float32)
    settings = PostprocessConfig(confidence=0.25, iou=0.5)
    found = detect(boxes, scores, TWICE, settings)
    assert found.boxes_xyxy.tolist() == [[0, 0, 10, 10], [0.5, 0, 10, 10], [20, 20, 40, 50], [20, 20, 40, 50]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.6, 0.3])
    assert found.labels.tolist() == [0, 1, 1, 0]
    found = detect(boxes, scores, TWICE, PostprocessConfig(0.25, 0.5, max_detections=2, multi_label=False))
    assert (found.labels.tolist(), found.scores.tolist()) == ([0, 1], pytest.approx([0.9, 0.6]))
    found = detect(boxes, scores, TWICE, PostprocessConfig(0.25, 0.5, class_agnostic=True))
    assert found.labels.tolist() == [0, 1]


def test_boxes_of_the_graph() -> None:
    boxes = np.array([[10, 0, 30, 20], [50, 40, 300, 300], [0, 0, 0, 0]], np.float32)
    scores, labels = np.array([0.9, 0.5, 0], np.float32), np.array([1, 0, 0])
    found = detections_of_graph(boxes, scores, labels, 2, TWICE, 2)
    assert found.boxes_xyxy.tolist() == [[0, 0, 10, 10], [20, 20, 40, 50]]
    assert (found.scores.tolist(), found.labels.tolist()) == ([pytest.approx(0.9), 0.5], [1, 0])
    assert found.scores.base is None, "nothing of the padding is kept"
    assert len(detections_of_graph(boxes, scores, labels, 0, TWICE, 2)) == 0
    for count in (-1, 4):
        with pytest.raises(ValueError, match=f"the graph counts {count} boxes and gives 3"):
            detections_of_graph(boxes, scores, labels, count, TWICE, 2)
    with pytest.raises(ValueError, match="labels from 0 to 1 for 1 classes"):
        detections_of_graph(boxes, scores, labels, 2, TWICE, 1)
    with pytest.raises(ValueError, match="labels from -3 to 1 for 2 classes"):
        detections_of_graph(boxes, scores, np.array([1, -3, 0]), 2, TWICE, 2)


def smooth_scores(num_classes: int, *shape: int) -> np.ndarray:
    """Scores with broad regions, as networks give them."""
    coarse = np.random.default_rng(sum(shape)).normal(0, 2, (1, num_classes, *(side // 4 + 2 for side in shape)))
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return F.interpolate(torch.from_numpy(coarse.astype(np.float32)), size=shape, mode=mode)[0].numpy()


@pytest.mark.parametrize("anchor", ["center", "top_left"])
@pytest.mark.parametrize("size", [(48, 64), (96, 128), (211, 150), (30, 77), (500, 20), (1, 1), (13, 900)])
def test_masks_are_those_of_torch(anchor: Any, size: tuple[int, int]) -> None:
    spec = InputSpec(48, 64, anchor)
    config = SemanticTaskConfig(input=spec, loss=SegmentationLossConfig())
    task = config.build(torch.nn.Identity(), [f"class {number}" for number in range(7)])
    transform = transform_of(*size, spec)
    scores = smooth_scores(7, 48, 64)
    (expected,) = task.results(torch.from_numpy(scores)[None], [transform])
    found = best_classes(scores, transform)
    assert (found.labels.shape, found.labels.dtype) == (size, np.uint8)
    assert np.mean(found.labels == expected.labels) > 0.9999
    assert len(np.unique(found.labels)) > 1 or size == (1, 1)


def test_the_first_of_equal_classes_wins() -> None:
    scores = np.zeros((4, 2, 2), np.float32)
    scores[:, 0, 0] = (1, 2, 2, 0)
    scores[3, 1, 1] = 1e-6
    assert best_classes(scores, LetterboxTransform.identity(2, 2)).labels.tolist() == [[1, 0], [0, 3]]
    assert scores[0, 0, 0] == 1, "the scores stay what they are"
    many = np.zeros((255, 1, 3), np.float32)
    many[254, 0, 1], many[128, 0, 2] = 1, 1
    assert best_classes(many, LetterboxTransform.identity(1, 3)).labels.tolist() == [[0, 254, 128]]
    assert best_classes(np.zeros((1, 2, 2), np.float32), LetterboxTransform.identity(2, 2)).labels.tolist() == [
        [0, 0],
        [0, 0],
    ]


@pytest.mark.parametrize("directions", ["RAS", "LPS", "SAR", "PIL"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 2.0, 0.7), (2.0, 1.5, 3.0)])
def test_label_volumes_are_those_of_torch(directions: str, spacing: tuple[float, float, float]) -> None:
    shape = (12, 17, 9)
    orientation = nibabel.orientations.axcodes2ornt(tuple(directions))
    affine = np.linalg.inv(nibabel.orientations.inv_ornt_aff(orientation, shape))
    affine[:3, :3] *= np.array(spacing)
    spec = VolumeSpec(spacing=(1.0, 1.0, 1.0))
    transform = volume_transform_of(shape, affine, spec)
    scores = smooth_scores(4, *transform.input_shape)
    task = VolumeTaskConfig(input=spec).build(torch.nn.Identity(), ["background", "a", "b", "c"])
    (expected,) = task.results(torch.from_numpy(scores)[None], [transform])
    found = best_voxel_classes(scores, transform)
    assert found.labels.shape == shape
    assert found.labels.flags.c_contiguous
    assert np.array_equal(found.affine, affine)
    assert np.mean(found.labels == expected.labels) > 0.999
    assert len(np.unique(found.labels)) > 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PostprocessConfig(confidence=-0.1), "confidence must lie between 0 and 1, got -0.1"),
        (lambda: PostprocessConfig(iou=float("nan")), "iou must lie between 0 and 1"),
        (lambda: PostprocessConfig(max_detections=0), "max_detections must be at least 1"),
        (lambda: InfererConfig(window=(0, 5)), "window must be a positive height and width"),
        (lambda: InfererConfig(overlap=1.0), "overlap must lie in"),
        (lambda: InfererConfig(scales=()), "scales must be positive"),
        (lambda: WindowsConfig(window=(1, 2, 0)), "window must be a positive depth"),
        (lambda: WindowsConfig(overlap=-0.1), "overlap must lie in"),
        (lambda: WindowsConfig(batch_size=0), "batch_size must be at least 1"),
        (lambda: WindowsConfig(flip_axes=(0, 3)), r"flip_axes must be one or more of .*; got \(0, 3\)"),
        (lambda: WindowsConfig(flip_axes=(1, 1)), "flip_axes must be .* each once"),
        (lambda: WindowsConfig(flip_axes=()), "flip_axes must be one or more"),
    ],
)
def test_settings_that_are_not_allowed(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
