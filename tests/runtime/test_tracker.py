from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import detseg
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.kinds import load_kind
from detseg.runtime.model import Model
from detseg.runtime.runner import Finished
from detseg.runtime.sources.frames import Frame
from detseg.runtime.tracking.tracker import TrackerConfig
from detseg.structures import Detections


class PlaceRunner:
    """Finds one box, as far to the right as the image is bright."""

    spec = InputSpec(64, 64)
    default_batch_size = 1
    max_in_flight = 1
    kind = load_kind("boxes")

    def submit(self, images: Sequence[np.ndarray], kept: Any = None) -> Finished:
        lefts = [float(image[0, 0, 0]) for image in images]
        boxes = [np.array([[left, 0, left + 20, 40]], np.float32) for left in lefts]
        return Finished([Detections(box, np.array([0.5], np.float32), np.array([0])) for box in boxes])


def model_and_trackers() -> tuple[Model, list[TrackerConfig | None]]:
    """A model, and the trackers that its boxes were asked for."""
    runner = PlaceRunner()
    asked: list[TrackerConfig | None] = []

    def remake(settings: Any, tracker: TrackerConfig | None) -> PlaceRunner:
        asked.append(tracker)
        return runner

    return Model(runner, "detection", ("box",), (1,), remake), asked


def image(left: int) -> np.ndarray:
    return np.full((64, 64, 3), left, np.uint8)


def test_a_tracker_keeps_numbers_over_calls() -> None:
    model, asked = model_and_trackers()
    tracker = detseg.Tracker(0.4)
    lefts = [0, 2, 4, 200, 202]
    ids = [next(model.predict(image(left), track=tracker))[0].track_id for left in lefts]
    assert ids == [1, 1, 1, None, 2]
    assert asked == [TrackerConfig(high_score=0.4, new_score=0.4)], "unsure boxes are asked for, once"
    tracker.reset()
    assert [found[0].track_id for found in model.predict([image(7), image(8)], track=tracker)] == [1, 1]
    # Without one, each call is a video of its own.
    assert [next(model.predict(image(left), track=True))[0].track_id for left in (0, 100)] == [1, 1]


def test_a_tracker_begins_anew_with_each_video() -> None:
    tracker = detseg.Tracker(config=TrackerConfig(first_score=0.3))
    found = Detections(np.array([[0, 0, 20, 40]], np.float32), np.array([0.5], np.float32), np.array([0]))
    moved = Detections(found.boxes_xyxy + 100, found.scores, found.labels)
    ids = []
    for source, index, detections in [("a", 0, found), ("a", 1, moved), ("b", 0, moved), ("b", 5, found)]:
        followed = tracker.follow(Frame(image(0), source, index=index), detections)
        assert followed.track_ids is not None
        ids.append(followed.track_ids.tolist())
    assert ids == [[1], [2], [1], [2]]


def test_impossible_trackers() -> None:
    with pytest.raises(ValueError, match="give confidence or config"):
        detseg.Tracker(0.5, config=TrackerConfig())
    with pytest.raises(ValueError, match="low_score <= high_score"):
        detseg.Tracker(1.5)
