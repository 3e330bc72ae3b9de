"""Tracks of hand-made trajectories, with the ids that a person would give."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from detseg.run_lengths import RunLengths
from detseg.runtime.tracking.tracker import ByteTracker, TrackerConfig
from detseg.structures import Detections, Instances

WIDTH, HEIGHT = 20, 40
SURE, UNSURE = 0.5, 0.15
"""Too little to be numbered at once, which most of these tests would not show then."""


def frame(*objects: tuple[float, ...]) -> Detections:
    """Boxes of 20 x 40 pixels, each given as left, top, and perhaps score and class."""
    rows = [(left, top, left + WIDTH, top + HEIGHT) for left, top, *_ in objects]
    scores = [rest[0] if rest else SURE for _, _, *rest in objects]
    labels = [int(rest[1]) if len(rest) > 1 else 0 for _, _, *rest in objects]
    return Detections(
        np.array(rows, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int64)
    )


def tracked(found: Detections) -> list[int]:
    """The numbers that were given."""
    assert found.track_ids is not None
    return found.track_ids[found.track_ids > 0].tolist()


def ids_of(frames: Iterable[Detections], **settings: Any) -> list[list[int]]:
    """The ids in each frame of a video."""
    tracker = ByteTracker(TrackerConfig(**settings))
    return [tracked(tracker.update(detections)) for detections in frames]


def walk(left: float, speed: float, num_frames: int, top: float = 0) -> list[tuple[float, float]]:
    return [(left + speed * step, top) for step in range(num_frames)]


def test_straight_lines() -> None:
    first, second = walk(0, 3, 15), walk(400, -5, 15, top=100)
    assert ids_of(map(frame, first, second)) == [[1, 2]] * 15


def test_ids_follow_the_objects_not_their_order() -> None:
    first, second, third = walk(0, 3, 9), walk(400, -5, 9, top=100), walk(200, 0, 9)
    rows = list(zip(first, second, third, strict=True))
    frames = [frame(*(rows[step][(step + place) % 3] for place in range(3))) for step in range(9)]
    assert ids_of(frames) == [[1, 2, 3], [2, 3, 1], [3, 1, 2]] * 3


def test_boxes_scores_and_labels_are_those_of_the_detections() -> None:
    tracker = ByteTracker()
    tracker.update(frame((0, 0, 0.9, 2), (100, 0, 0.8, 1)))
    detections = frame((103, 1, 0.7, 1), (300, 0, 0.55, 1), (2, 0, 0.5, 2))
    found = tracker.update(detections)
    assert found.track_ids is not None
    assert found.track_ids.tolist() == [2, 0, 1], "the box in the middle is new"
    assert found.track_ids.dtype == np.int64
    assert np.array_equal(found.boxes_xyxy, detections.boxes_xyxy)
    assert np.array_equal(found.scores, detections.scores)
    assert np.array_equal(found.labels, detections.labels)
    assert detections.track_ids is None


@pytest.mark.parametrize(
    ("score", "ids"),
    [(SURE, [1, 0]), (0.25, [1, 0]), (0.24, [1]), (UNSURE, [1]), (0.05, [1])],
)
def test_what_is_sure_stays_without_a_number_where_it_cannot_be_followed(score: float, ids: list[int]) -> None:
    """The second box is in another place in every frame, as what moves far between frames that are looked at."""
    tracker = ByteTracker()
    tracker.update(frame((0, 0)))
    for step in range(5):
        found = tracker.update(frame((0, 0), (100 + 100 * step, 0, score)))
        assert found.track_ids is not None
        assert found.track_ids.tolist() == ids


def test_a_newcomer_counts_when_it_is_seen_twice_running() -> None:
    here, there = (0, 0), (200, 0)
    frames = [frame(here), frame(here, there), frame(here, there), frame(here, there)]
    assert ids_of(frames) == [[1], [1], [1, 2], [1, 2]]


@pytest.mark.parametrize(("score", "ids"), [(0.6, [2]), (0.59, [])])
def test_what_is_very_sure_has_a_number_at_once(score: float, ids: list[int]) -> None:
    here, there = (0, 0), (200, 0, score)
    frames = [frame(here), frame(here, there), frame(here, there), frame(here), frame(here), frame(here, there)]
    assert ids_of(frames) == [[1], [1, *ids], [1, 2], [1], [1], [1, 2]]
    assert ids_of(frames, first_score=1.0) == [[1], [1], [1, 2], [1], [1], [1, 2]]


def test_what_is_seen_once_in_a_slow_video_has_a_number() -> None:
    frames = [frame((150 * step, 0, 0.9)) for step in range(4)]
    assert ids_of(frames) == [[1], [2], [3], [4]]
    assert ids_of(frames, new_score=0.95, high_score=0.95) == [[]] * 4, "what may not begin a track has none"


def test_what_flares_up_gets_no_number() -> None:
    here, flare, there = (0, 0), (200, 0), (300, 0)
    frames = [frame(here), frame(here, flare), frame(here), frame(here, flare), frame(here, there), frame(here, there)]
    assert ids_of(frames) == [[1], [1], [1], [1], [1], [1, 2]]


@pytest.mark.parametrize("speed", [3, 4.5, 7])
@pytest.mark.parametrize("lane", [0, 4])
def test_crossing(speed: float, lane: float) -> None:
    # They meet half way between two frames; there, either box is nearer to where the other one was.
    num_frames = 31
    distance = speed * (num_frames - 2)
    first, second = walk(0, speed, num_frames), walk(distance, -speed, num_frames, top=lane)
    assert first[14][0] < second[14][0]
    assert first[15][0] > second[15][0]
    assert ids_of(map(frame, first, second)) == [[1, 2]] * num_frames
    assert ids_of(map(frame, second, first)) == [[1, 2]] * num_frames


def test_occlusion() -> None:
    # In view, half hidden for 6 frames, hidden for 10, half hidden for 2, in view again: walking all the time.
    scores = [SURE] * 12 + [UNSURE] * 6 + [None] * 10 + [UNSURE] * 2 + [SURE] * 3
    places = walk(0, 3, len(scores))
    frames = [frame() if s is None else frame((*place, s)) for place, s in zip(places, scores, strict=True)]
    assert ids_of(frames) == [[1]] * 18 + [[]] * 12 + [[1]] * 3


def test_sure_detections_are_served_before_unsure_ones() -> None:
    # The unsure box lies exactly where the track is expected, the sure one beside it.
    frames = [frame((0, 0)), frame((0, 0)), frame((4, 0, SURE), (0, 0, UNSURE))]
    tracker = ByteTracker()
    *_, last = [tracker.update(detections) for detections in frames]
    assert tracked(last) == [1]
    assert last.boxes_xyxy[0, 0] == 4


@pytest.mark.parametrize(("score", "ids"), [(SURE, [1]), (0.25, [1]), (0.24, [1]), (0.1, [1]), (0.09, [])])
def test_scores_that_continue_a_track(score: float, ids: list[int]) -> None:
    assert ids_of([frame((0, 0)), frame((0, 0, score)), frame((0, 0))]) == [[1], ids, [1]]


@pytest.mark.parametrize(("score", "ids"), [(0.25, [1]), (0.24, [])])
def test_scores_that_bring_back_what_was_hidden(score: float, ids: list[int]) -> None:
    assert ids_of([frame((0, 0)), frame(), frame((0, 0, score))]) == [[1], [], ids]


@pytest.mark.parametrize(
    ("score", "settings", "ids"),
    [
        (0.25, {}, [[1], [1]]),
        (0.24, {}, [[], []]),
        (0.55, {"high_score": 0.5, "new_score": 0.6}, [[], []]),
        (0.60, {"high_score": 0.5, "new_score": 0.6}, [[1], [1]]),
    ],
)
def test_scores_that_begin_a_track(score: float, settings: dict[str, float], ids: list[list[int]]) -> None:
    assert ids_of([frame((0, 0, score))] * 2, **settings) == ids


def test_a_newcomer_is_not_confirmed_by_an_unsure_detection() -> None:
    frames = [frame(), frame((0, 0)), frame((0, 0, UNSURE)), frame((0, 0)), frame((0, 0))]
    assert ids_of(frames) == [[], [], [], [], [1]]


# Boxes beside each other by d of 20 pixels have an IoU of (20 - d) / (20 + d).
@pytest.mark.parametrize(
    ("left", "score", "ids"),
    [
        (13, SURE, [1]),  # 7 / 33 = 0.21, above 0.2
        (14, SURE, []),  # 6 / 34 = 0.18
        (6, UNSURE, [1]),  # 14 / 26 = 0.54, above 0.5
        (7, UNSURE, []),  # 13 / 27 = 0.48
    ],
)
def test_how_far_boxes_may_jump(left: float, score: float, ids: list[int]) -> None:
    # Seen at rest for many frames, so that it is expected where it was.
    frames = [frame((0, 0))] * 8 + [frame((left, 0, score))]
    assert ids_of(frames, match_iou=0.2) == [[1]] * 8 + [ids]


@pytest.mark.parametrize(("left", "ids"), [(10, [1]), (11, [])])
def test_how_far_a_newcomer_may_jump(left: float, ids: list[int]) -> None:
    # 10 / 30 = 0.33, 9 / 31 = 0.29: the limit is 0.3.
    assert ids_of([frame(), frame((0, 0)), frame((left, 0))], new_match_iou=0.3) == [[], [], ids]


@pytest.mark.parametrize("speed", [18, 30])
def test_a_slow_video(speed: float) -> None:
    # By almost a width from frame to frame: the second box hardly meets the first, and tells how the object moves.
    places = [(18.0 + speed * step, 0.0, 0.9) for step in range(6)]
    assert ids_of([frame((0, 0, 0.9)), *map(frame, places)])[1:] == [[1]] * 6


@pytest.mark.parametrize("max_lost_frames", [0, 1, 5, 30])
def test_reentry(max_lost_frames: int) -> None:
    before, after = [frame((0, 0))] * 3, [frame((0, 0))] * 2
    kept = before + [frame()] * max_lost_frames + after
    assert ids_of(kept, max_lost_frames=max_lost_frames) == [[1]] * 3 + [[]] * max_lost_frames + [[1]] * 2
    forgotten = before + [frame()] * (max_lost_frames + 1) + after
    assert ids_of(forgotten, max_lost_frames=max_lost_frames) == [[1]] * 3 + [[]] * (max_lost_frames + 2) + [[2]]


def test_reentry_where_it_would_have_gone() -> None:
    places = walk(0, 4, 40)
    frames = [frame(place) if step < 15 or step >= 28 else frame() for step, place in enumerate(places)]
    assert ids_of(frames) == [[1]] * 15 + [[]] * 13 + [[1]] * 12


def test_camera_jump() -> None:
    before, after = frame((0, 0), (100, 0), (50, 80)), frame((300, 200), (400, 200), (350, 280))
    assert ids_of([before] * 3 + [after] * 3) == [[1, 2, 3]] * 3 + [[], [4, 5, 6], [4, 5, 6]]
    # Back in time, everything has its old number.
    assert ids_of([before] * 3 + [after] * 3 + [before])[-1] == [1, 2, 3]


def test_camera_shake() -> None:
    shifts = [0, 6, -5, 4, 0, -6, 6]
    frames = [frame((shift, 0), (100 + shift, 0), (50 + shift, 80)) for shift in shifts]
    assert ids_of(frames) == [[1, 2, 3]] * 7


def test_classes_that_cross() -> None:
    # They meet in the very same place in frame 10, and each would fit the other's track there.
    first = [(*place, SURE, 3) for place in walk(0, 5, 21)]
    second = [(*place, SURE, 7) for place in walk(100, -5, 21)]
    assert first[10][:2] == second[10][:2]
    assert ids_of(map(frame, first, second)) == [[1, 2]] * 21
    assert ids_of(map(frame, second, first)) == [[1, 2]] * 21


def test_classes_that_flicker() -> None:
    frames = [frame((0, 0, SURE, label)) for label in (2, 2, 7, 7, 2)]
    assert ids_of(frames) == [[1], [1], [], [2], [1]]
    assert ids_of(frames, class_agnostic=True) == [[1]] * 5


@pytest.mark.parametrize("num_empty", [1, 5])
def test_empty_frames(num_empty: int) -> None:
    empty = [frame()] * num_empty
    assert ids_of(empty) == [[]] * num_empty
    assert ids_of([*empty, frame((0, 0)), frame((0, 0))]) == [[]] * (num_empty + 1) + [[1]]
    assert ids_of([frame((0, 0)), *empty, frame((0, 0))]) == [[1], *[[]] * num_empty, [1]]


def test_nothing_found_is_still_tracked() -> None:
    found = ByteTracker().update(Detections.empty())
    assert found.track_ids is not None
    assert found.track_ids.shape == (0,)


def test_every_fifth_frame() -> None:
    # 2 pixels a frame: 10 from one frame that is looked at to the next.
    tracker = ByteTracker()
    for index in range(0, 100, 5):
        assert tracked(tracker.update(frame((2 * index, 0), (300 - 2 * index, 80)), index)) == [1, 2]


def test_skipped_frames_count() -> None:
    tracker = ByteTracker()
    for index in range(12):
        assert tracked(tracker.update(frame((3 * index, 0)), index)) == [1]
    # 10 frames later it is 30 pixels on: next to its last box, and where its speed has taken it.
    assert tracked(tracker.update(frame((3 * 21, 0)), 21)) == [1]


@pytest.mark.parametrize(("back_at", "ids"), [(20, [1]), (25, [])])
def test_skipped_frames_count_as_unseen(back_at: int, ids: list[int]) -> None:
    tracker = ByteTracker(TrackerConfig(max_lost_frames=10))
    for index in (0, 5, 10):
        assert tracked(tracker.update(frame((0, 0)), index)) == [1]
    for index in range(15, back_at, 5):
        assert tracked(tracker.update(frame(), index)) == []
    # From 10 to 20 there are 9 frames between, to 25 there are 14.
    assert tracked(tracker.update(frame((0, 0)), back_at)) == ids


def test_what_is_in_view_is_looked_for_after_any_number_of_frames() -> None:
    tracker = ByteTracker(TrackerConfig(max_lost_frames=10))
    assert [tracked(tracker.update(frame((0, 0)), index)) for index in (0, 100, 200)] == [[1]] * 3


def test_identical_boxes() -> None:
    assert ids_of([frame((0, 0), (0, 0), (0, 0))] * 6) == [[1, 2, 3]] * 6
    # One of them is missing for a while: the elder keep their numbers, and the third comes back with its own.
    three, two = frame((0, 0), (0, 0), (0, 0)), frame((0, 0), (0, 0))
    assert ids_of([three, three, two, two, three]) == [[1, 2, 3]] * 2 + [[1, 2]] * 2 + [[1, 2, 3]]


def test_the_first_frame_may_be_any() -> None:
    tracker = ByteTracker()
    assert [tracked(tracker.update(frame((0, 0)), index)) for index in (500, 501)] == [[1], [1]]
    assert tracked(tracker.update(frame((0, 0)))) == [1]
    with pytest.raises(ValueError, match=r"^frame 502 was given after frame 502: "):
        tracker.update(frame((0, 0)), 502)


def test_frames_come_in_order() -> None:
    tracker = ByteTracker()
    tracker.update(frame((0, 0)), 5)
    words = (
        "frame 3 was given after frame 5: give a video's frames in their order, numbered from 0, "
        "and call reset() before another video"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        tracker.update(frame((0, 0)), 3)
    assert tracked(tracker.update(frame((0, 0)), 6)) == [1], "a refused frame changes nothing"
    with pytest.raises(ValueError, match=r"^frame -1 was given "):
        ByteTracker().update(frame((0, 0)), -1)


def test_reset_begins_another_video() -> None:
    frames = [frame((0, 0), (100, 0)), frame((0, 0), (100, 0), (200, 0)), frame((0, 0), (200, 0))]
    tracker = ByteTracker()
    first = [tracked(tracker.update(detections)) for detections in frames]
    tracker.reset()
    second = [tracked(tracker.update(detections)) for detections in frames]
    assert first == second == [[1, 2], [1, 2], [1, 3]]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"low_score": 0.3}, "0 <= low_score <= high_score <= new_score <= 1 must hold, got 0.3, 0.25 and 0.25"),
        ({"high_score": 0.6}, "0 <= low_score <= high_score <= new_score <= 1 must hold, got 0.1, 0.6 and 0.25"),
        ({"new_score": 1.5}, "0 <= low_score <= high_score <= new_score <= 1 must hold, got 0.1, 0.25 and 1.5"),
        ({"low_score": -0.1}, "0 <= low_score <= high_score <= new_score <= 1 must hold, got -0.1, 0.25 and 0.25"),
        ({"low_score": np.nan}, "0 <= low_score <= high_score <= new_score <= 1 must hold, got nan, 0.25 and 0.25"),
        ({"first_score": 1.5}, "first_score must be from 0 to 1, got 1.5"),
        ({"match_iou": 1}, "match_iou must be at least 0 and below 1, got 1"),
        ({"low_match_iou": -0.5}, "low_match_iou must be at least 0 and below 1, got -0.5"),
        ({"new_match_iou": np.nan}, "new_match_iou must be at least 0 and below 1, got nan"),
        ({"max_lost_frames": -1}, "max_lost_frames must be at least 0, got -1"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        TrackerConfig(**settings)


def noise(num_frames: int, seed: int) -> list[Detections]:
    """Walkers that come and go, with scores of all kinds, false boxes, and boxes without size or of infinite reach."""
    random = np.random.default_rng(seed)
    starts, speeds = random.uniform(0, 500, (25, 2)), random.normal(0, 3, (25, 2))
    sizes, labels = random.uniform(5, 80, (25, 2)), random.integers(0, 3, 25)
    frames = []
    for step in range(num_frames):
        corners = starts + speeds * step + random.normal(0, 1, (25, 2))
        boxes = np.concatenate([corners, corners + sizes], axis=1)
        boxes[random.random(25) < 0.02, 2:] = 0
        boxes[random.random(25) < 0.02] = (-3e38, -3e38, 3e38, 3e38)
        found = np.argsort(random.random(25))[: random.integers(0, 26)]
        scores = np.sort(random.random(len(found)))[::-1].astype(np.float32)
        frames.append(Detections(boxes[found].astype(np.float32), scores, labels[found]))
    return frames


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_what_holds_of_any_video(class_agnostic: bool) -> None:
    frames = noise(120, seed=class_agnostic)
    tracker = ByteTracker(TrackerConfig(class_agnostic=class_agnostic, max_lost_frames=7))
    last_seen: dict[int, tuple[int, int]] = {}
    for index, detections in enumerate(frames):
        found = tracker.update(detections)
        ids = tracked(found)
        assert len(set(ids)) == len(ids)
        newcomers = sorted(track_id for track_id in ids if track_id not in last_seen)
        assert newcomers == list(range(len(last_seen) + 1, len(last_seen) + 1 + len(newcomers)))
        assert found.track_ids is not None
        for track_id, label in zip(ids, found.labels[found.track_ids > 0].tolist(), strict=True):
            seen_at, class_before = last_seen.get(track_id, (index, label))
            assert index - seen_at <= 8
            assert class_agnostic or label == class_before
            last_seen[track_id] = index, label
        rows = [tuple(row) for row in detections.boxes_xyxy.tolist()]
        shown = [tuple(row) for row in found.boxes_xyxy.tolist()]
        assert set(shown) <= set(rows)
        assert (found.scores >= 0.25).sum() == (detections.scores >= 0.25).sum(), "no sure detection is lost"
    assert len(last_seen) > 20


def test_the_same_video_gives_the_same_ids() -> None:
    frames = noise(60, seed=5)
    assert ids_of(frames) == ids_of(frames)


def test_masks_stay_with_their_objects() -> None:
    """Objects come in another order in each frame; one that is unsure and follows no track is left out."""
    tracker = ByteTracker()
    masks = tuple(RunLengths.from_crop(np.ones((1, size), bool), 0, 0, 10, 10) for size in (1, 2, 3))
    places = ((0.0, 0.0), (200.0, 0.0), (400.0, 0.0, UNSURE))
    for order in ([0, 1], [1, 0], [0, 2, 1]):
        found = frame(*(places[place] for place in order))
        instances = Instances(
            found.boxes_xyxy, found.scores, found.labels, None, tuple(masks[place] for place in order)
        )
        result = tracker.update(instances)
        assert isinstance(result, Instances)
        assert result.track_ids is not None
        assert {int(number): mask.area for number, mask in zip(result.track_ids, result.masks, strict=True)} == {
            1: 1,
            2: 2,
        }
