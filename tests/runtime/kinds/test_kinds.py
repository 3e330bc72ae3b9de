"""What every kind of results can be asked: other classes, fewer classes, plain data, images."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detseg.run_lengths import RunLengths
from detseg.runtime.drawing.volume import draw_slices
from detseg.runtime.kinds import KINDS, load_kind
from detseg.structures import IGNORE_INDEX, Detections, Instances, LabelMap, LetterboxTransform, Sample
from detseg.volumes import LabelVolume, Volume, VolumeSample, VolumeTransform

NAMES = ("background", "cat", "dog")
IMAGE = np.full((4, 6, 3), 90, np.uint8)
VOLUME = Volume(np.linspace(0, 1, 64, dtype=np.float32).reshape(4, 4, 4), np.diag([1.0, 2.0, 3.0, 1.0]))
BOXES = Detections(
    np.array([[0, 0, 2, 2], [1, 1, 4, 3], [2, 0, 6, 4]], np.float32), np.array([0.9, 0.8, 0.7], np.float32),
    np.array([1, 2, 0]),
)  # fmt: skip
INSTANCES = Instances(
    BOXES.boxes_xyxy, BOXES.scores, BOXES.labels, None,
    tuple(RunLengths.from_crop(np.ones((1, size), bool), 0, size, 4, 6) for size in (1, 2, 3)),
)  # fmt: skip
MASK = LabelMap(np.array([[0, 1, 2, IGNORE_INDEX, 1, 1]] * 4, np.uint8))
LABELS = LabelVolume(np.arange(64, dtype=np.uint8).reshape(4, 4, 4) % 3, VOLUME.affine)
RESULTS: dict[str, tuple[Any, Any]] = {
    "boxes": (IMAGE, BOXES),
    "instances": (IMAGE, INSTANCES),
    "masks": (IMAGE, MASK),
    "volumes": (VOLUME, LABELS),
}


def test_there_is_an_example_of_each() -> None:
    assert RESULTS.keys() == KINDS.keys()


def labels_of(kind: str, result: Any) -> list[int]:
    """The classes of the first three places, or boxes."""
    labels: list[int] = result.labels.tolist() if load_kind(kind).has_boxes else result.labels.ravel().tolist()[:3]
    return labels


@pytest.mark.parametrize(
    ("kind", "kept", "relabeled"),
    [
        ("boxes", [1], [5, 0]),
        ("instances", [1], [5, 0]),
        ("masks", [IGNORE_INDEX, 1, IGNORE_INDEX], [0, 5, IGNORE_INDEX]),
        ("volumes", [0, 1, 0], [0, 5, 0]),
    ],
)
def test_classes_that_are_left_out(kind: str, kept: list[int], relabeled: list[int]) -> None:
    one, (_, result) = load_kind(kind), RESULTS[kind]
    assert labels_of(kind, one.keep(result, np.array([False, True, False]))) == kept
    assert labels_of(kind, one.relabel(result, np.array([0, 5, -1]))) == relabeled


def test_masks_stay_with_their_objects() -> None:
    one = load_kind("instances")
    kept = one.keep(INSTANCES, np.array([True, False, True]))
    assert [mask.area for mask in kept.masks] == [2, 3]
    assert [mask.area for mask in one.relabel(INSTANCES, np.array([2, -1, 0])).masks] == [2, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_plain_data(kind: str) -> None:
    record = load_kind(kind).record(RESULTS[kind][1], NAMES)
    assert json.loads(json.dumps(record)) == record
    found = {
        "boxes": lambda: [one["class"] for one in record["detections"]],
        "instances": lambda: [one["class"] for one in record["detections"]],
        "masks": lambda: {name: one["pixels"] for name, one in record["classes"].items()},
        "volumes": lambda: {name: one["voxels"] for name, one in record["classes"].items()},
    }[kind]()
    expected: dict[str, Any] = {
        "boxes": ["cat", "dog", "background"],
        "instances": ["cat", "dog", "background"],
        "masks": {"background": 4, "cat": 12, "dog": 4},
        "volumes": {"cat": 21, "dog": 21},
    }
    assert found == expected[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_drawn(kind: str) -> None:
    image, result = RESULTS[kind]
    one = load_kind(kind)
    drawn = one.draw(image, result, NAMES)
    assert (drawn.ndim, drawn.dtype) == (3, np.uint8)
    nothing = one.keep(result, np.zeros(3, bool))
    assert drawn.shape != one.draw(image, nothing, NAMES).shape or (drawn != one.draw(image, nothing, NAMES)).any()


def test_training_samples_are_drawn_with_their_targets() -> None:
    sample = Sample(
        IMAGE, np.array([[1, 0, 5, 3]], np.float32), np.array([1]), np.array([False]), 1, "a",
        LetterboxTransform.identity(4, 6), MASK.labels,
    )  # fmt: skip
    masks = load_kind("masks")
    assert np.array_equal(masks.draw_sample(sample, NAMES), masks.draw(IMAGE, MASK, NAMES))
    assert (load_kind("boxes").draw_sample(sample, NAMES) != masks.draw_sample(sample, NAMES)).any()
    shape = (4, 4, 4)
    transform = VolumeTransform((0, 1, 2), (False, False, False), shape, shape, VOLUME.affine)
    patch = VolumeSample(VOLUME.voxels, 1, "v", transform, LABELS.labels)
    volumes = load_kind("volumes")
    # Patches may be mirrored, so that no letter stands for a side.
    without_sides = draw_slices(VOLUME, LABELS, NAMES, has_sides=False)
    assert np.array_equal(volumes.draw_sample(patch, NAMES), without_sides)
    assert not np.array_equal(without_sides, draw_slices(VOLUME, LABELS, NAMES))
    # A patch that is larger than its volume says so.
    smaller = replace(transform, input_shape=(4, 3, 4))
    assert len(volumes.draw_sample(replace(patch, transform=smaller), NAMES)) > len(without_sides)
