from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detseg.evaluation.doubts import FILE_NAME, doubts_of_boxes, doubts_of_mask, rated, read_doubts, write_doubts
from detseg.structures import Detections, GroundTruth

NAMES = ("cat", "dog")


def truth_of(*boxes: tuple[int, float, float, float, float]) -> GroundTruth:
    """Labels and corners."""
    labels, corners = np.array([box[0] for box in boxes], np.int64), np.array([box[1:] for box in boxes], np.float64)
    corners = corners.reshape(-1, 4)
    sides = corners[:, 2:] - corners[:, :2]
    return GroundTruth(
        1, 200, 200, np.concatenate([corners[:, :2], sides], axis=1), labels, np.zeros(len(boxes), np.bool_),
        sides.prod(axis=1),
    )  # fmt: skip


def found_of(*boxes: tuple[int, float, float, float, float, float]) -> Detections:
    """Labels, scores and corners."""
    rows = np.array(boxes, np.float64).reshape(-1, 6)
    return Detections(rows[:, 2:].astype(np.float32), rows[:, 1].astype(np.float32), rows[:, 0].astype(np.int64))


def test_each_kind_of_doubt_is_told_by_what_is_sure() -> None:
    truth = truth_of((0, 0, 0, 50, 50), (0, 100, 0, 150, 50), (1, 0, 100, 50, 150), (1, 100, 100, 150, 150))
    found = found_of(
        (0, 0.95, 0, 0, 50, 50),  # right
        (1, 0.9, 100, 0, 150, 50),  # labeled cat
        (1, 0.8, 0, 120, 50, 180),  # 30 of 80 rows are shared: badly placed
        (0, 0.7, 160, 160, 190, 190),  # nothing is labeled there
        (0, 0.4, 60, 60, 90, 90),  # nothing either, but who would be sure
        (0, 0.95, 2, 0, 50, 50),  # the first one again: no doubt about a label
    )
    doubts = doubts_of_boxes([("a.jpg", found, truth)], NAMES, np.array([0.25, 0.25]))
    assert [(one.kind, one.annotated, one.found) for one in doubts] == [
        ("other class", "cat", "dog"),
        ("other place", "dog", "dog"),
        ("no label", None, "cat"),
        ("nothing found", "dog", None),
    ]
    assert doubts[0].box_xyxy == (100, 0, 150, 50)
    assert [one.sureness for one in doubts[:3]] == pytest.approx([0.9, 0.8, 0.7])
    # Of two dogs one is touched by something.
    assert doubts[3].sureness == 0.5
    assert doubts[2].words() == "no label where cat was found at (160, 160, 190, 190), sure to 0.70"


def test_who_misses_most_of_a_class_says_nothing_by_missing_one() -> None:
    truth = truth_of((0, 0, 0, 50, 50), (0, 100, 0, 150, 50), (0, 0, 100, 50, 150))
    found = found_of((0, 0.95, 0, 0, 50, 50))
    assert doubts_of_boxes([("a.jpg", found, truth)], NAMES, np.array([0.25, 0.25])) == []


def test_a_confidence_that_is_chosen_higher_makes_fewer_doubts() -> None:
    images = [("a.jpg", found_of((0, 0.7, 0, 0, 20, 20)), truth_of())]
    assert len(doubts_of_boxes(images, NAMES, np.array([0.7, 0.25]) - 1e-6)) == 1
    assert doubts_of_boxes(images, NAMES, np.array([0.75, 0.25])) == []


def test_crowds_and_faint_boxes_are_no_doubts() -> None:
    truth = truth_of((0, 0, 0, 100, 100))
    truth.crowd[:] = True
    assert doubts_of_boxes([("a.jpg", found_of((0, 0.9, 10, 10, 30, 30)), truth)], NAMES, np.array([0.25, 0.25])) == []
    faint = found_of((1, 0.06, 0, 0, 50, 50))
    assert doubts_of_boxes([("a", faint, truth_of((0, 0, 0, 50, 50)))], NAMES, np.array([0.25, 0.25])) == []


def test_regions_of_masks_the_largest_of_what_is_mostly_right_first() -> None:
    truth, found = np.zeros((100, 100), np.uint8), np.zeros((100, 100), np.uint8)
    found[10:30, 10:30] = 1  # 400 pixels
    truth[50:90, 50:60] = 1  # 400 pixels
    found[:, 99] = 1  # a seam
    truth[0:20, 60:90], found[0:20, 60:90] = 255, 1  # not judged
    regions = doubts_of_mask("m.png", found, truth, NAMES)
    assert [share for share, _ in regions] == [0.04, 0.04]
    first, second = rated(regions, {"cat": 0.9, "dog": 0.5})
    assert (first.annotated, first.found, first.box_xyxy) == ("dog", "cat", (50, 50, 60, 90))
    assert (second.annotated, second.found, second.sureness) == ("cat", "dog", 0.5)


def test_they_are_written_and_read(tmp_path: Path) -> None:
    doubts = doubts_of_boxes(
        [("Größe.jpg", found_of((0, 0.7, 0, 0, 20, 20)), truth_of())], NAMES, np.array([0.25, 0.25])
    )
    write_doubts(tmp_path / FILE_NAME, doubts)
    assert read_doubts(tmp_path) == read_doubts(tmp_path / FILE_NAME) == doubts
    (tmp_path / "other.json").write_text('{"label_doubts": [{"file": 1}]}')
    with pytest.raises(ValueError, match="no list of labels in doubt"):
        read_doubts(tmp_path / "other.json")
    with pytest.raises(FileNotFoundError, match="detseg eval MODEL"):
        read_doubts(tmp_path / "none.json")
