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
from detseg.runtime.tracking.tracker import ByteTracker, TrackerConfig
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


class ScoredRunner(PlaceRunner):
    """Finds a box of each of two classes that scores 0.5, always at one place."""

    def submit(self, images: Sequence[np.ndarray], kept: Any = None) -> Finished:
        boxes = np.array([[0, 0, 20, 40], [30, 0, 50, 40]], np.float32)
        return Finished([Detections(boxes, np.full(2, 0.5, np.float32), np.array([0, 1])) for _ in images])


def chosen_model() -> Model:
    """Boxes of the second class must score 0.6."""
    runner = ScoredRunner()
    remake = lambda settings, tracker: runner  # noqa: E731
    return Model(runner, "detection", ("a", "b"), (1, 2), remake, class_confidences=(0.4, 0.6))


def test_each_class_has_a_confidence_of_its_own() -> None:
    model = chosen_model()
    (found,) = model(image(0))
    assert found.names == ["a"]
    (every,) = model(image(0), confidence=0.1)
    assert every.names == ["a", "b"]
    (other,) = model(image(0), confidence={"a": 0.51, "b": 0.5})
    assert other.names == ["b"]
    with pytest.raises(ValueError, match="no class c; it has a, b"):
        model(image(0), confidence={"c": 0.5})


def test_what_is_sure_enough_for_its_class_is_followed() -> None:
    model = chosen_model()
    for track in (True, detseg.Tracker(), TrackerConfig()):
        found = list(model.predict([image(0), image(0)], track=track))
        assert [one.names for one in found] == [["a"], ["a"]]
        assert [one[0].track_id for one in found] == [1, 1]
    # A tracker that was told from which score on objects are sure takes that.
    found = list(model.predict([image(0), image(0)], track=detseg.Tracker(0.3)))
    assert [one.names for one in found] == [["a", "b"]] * 2


def test_objects_are_forgotten_by_time() -> None:
    """Out of view for five frames: at 25 frames a second for a fifth of a second, at 2 for more than two."""
    for frame_rate, expected in ((25.0, 1), (2.0, 2)):
        tracker = ByteTracker(frame_rate=frame_rate)
        box = Detections(np.array([[0, 0, 20, 40]], np.float32), np.array([0.9], np.float32), np.array([0]))
        nothing = box.select(np.zeros(1, np.bool_))
        ids = [tracker.update(one).track_ids for one in [box, box, *[nothing] * 5, box]]
        assert ids[-1] is not None
        assert ids[-1].tolist() == [expected]


def test_any_overlap_does_where_much_time_has_passed() -> None:
    for frame_rate, expected in ((25.0, [2]), (1.0, [1])):
        tracker = ByteTracker(frame_rate=frame_rate)
        boxes = [np.array([[left, 0, left + 20, 40]], np.float32) for left in (0, 0, 19)]
        found = [Detections(box, np.array([0.9], np.float32), np.array([0])) for box in boxes]
        ids = [tracker.update(one).track_ids for one in found]
        assert ids[-1] is not None
        assert ids[-1].tolist() == expected, "a column of one pixel is an IoU of 1 / 39"
