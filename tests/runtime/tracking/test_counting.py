from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from detseg.runtime.tracking.counting import ObjectCounter, Place, parse_place
from detseg.structures import Detections

DOWN = Place("line", "door", ((0.0, 50.0), (100.0, 50.0)))
SQUARE = Place("zone", "yard", ((20.0, 20.0), (80.0, 20.0), (80.0, 80.0), (20.0, 80.0)))


def frame(*centers: tuple[int, float, float], label: int = 1) -> Detections:
    """Boxes of 20 x 20 pixels of these tracks about these centers."""
    boxes = np.array([(x - 10, y - 10, x + 10, y + 10) for _, x, y in centers], np.float32).reshape(-1, 4)
    count = len(centers)
    ids = np.array([one for one, _, _ in centers], np.int64)
    return Detections(boxes, np.full(count, 0.9, np.float32), np.full(count, label), ids)


def events(place: Place, frames: Sequence[Detections]) -> list[list[tuple[str, int]]]:
    counter = ObjectCounter((place,))
    return [[(one.event, one.track_id) for one in counter.update(found, 100, 100)] for found in frames]


def walk(track_id: int, *places: tuple[float, float]) -> list[Detections]:
    return [frame((track_id, x, y)) for x, y in places]


def test_a_line_is_crossed_in_both_directions() -> None:
    # From above to below is from the left of a line that goes to the right, as one walks along it.
    assert events(DOWN, walk(7, (50, 30), (50, 45), (50, 60), (50, 70), (50, 40))) == [
        [], [], [("forward", 7)], [], [("backward", 7)],
    ]  # fmt: skip


def test_who_stands_on_the_line_is_not_counted_again_and_again() -> None:
    # 5% of 20 pixels to either side.
    trembling = walk(7, (50, 40), (50, 50.9), (50, 49.1), (50, 50.9), (50, 50), (50, 49))
    assert events(DOWN, trembling) == [[]] * 6
    assert events(DOWN, [*trembling, *walk(7, (50, 52))])[-1] == [("forward", 7)]


def test_a_line_has_ends() -> None:
    short = Place("line", "gate", ((40.0, 50.0), (60.0, 50.0)))
    assert events(short, walk(1, (50, 30), (50, 70)))[-1] == [("forward", 1)]
    assert events(short, walk(1, (30, 30), (30, 70)))[-1] == []
    # Around the end and back over the line.
    assert events(short, walk(1, (30, 30), (30, 70), (50, 70), (50, 30)))[-1] == [("backward", 1)]
    # Slanting, from beside the line through it.
    assert events(short, walk(1, (30, 30), (70, 70)))[-1] == [("forward", 1)]


def test_who_was_hidden_at_the_line_is_counted() -> None:
    frames = [*walk(3, (50, 30)), frame(), frame(), *walk(3, (50, 70))]
    assert events(DOWN, frames) == [[], [], [], [("forward", 3)]]


def test_who_appears_beyond_the_line_has_not_crossed_it() -> None:
    assert events(DOWN, [*walk(3, (50, 30)), *walk(4, (50, 70))]) == [[], []]


def test_a_zone_is_entered_and_left() -> None:
    frames = [frame((1, 10, 50)), frame((1, 30, 50), (2, 50, 50)), frame((1, 90, 50), (2, 50, 50)), frame()]
    assert events(SQUARE, frames) == [[], [("enter", 1), ("enter", 2)], [("leave", 1)], [("leave", 2)]]


def test_a_zone_may_have_dents() -> None:
    # The letter L: its notch at the upper right is outside.
    corners = ((0.0, 0.0), (50.0, 0.0), (50.0, 50.0), (100.0, 50.0), (100.0, 100.0), (0.0, 100.0))
    counter = ObjectCounter((Place("zone", "L", corners),))
    counter.update(frame((1, 25, 25), (2, 75, 25), (3, 75, 75), (4, 25, 75)), 100, 100)
    assert counter.inside(0) == 3


def test_totals_and_shares_of_the_image() -> None:
    counter = ObjectCounter((Place("line", "door", ((0.0, 0.5), (1.0, 0.5)), is_share=True), SQUARE))
    counter.update(frame((1, 50, 30), (2, 60, 30)), 100, 100)
    (first, second) = counter.update(frame((1, 50, 70), (2, 60, 70)), 100, 100)
    assert (first.event, first.total, second.total, second.label) == ("forward", 1, 2, 1)
    assert (counter.totals(0), counter.totals(1), counter.inside(1)) == ({"forward": 2}, {"enter": 2}, 2)
    counter.reset()
    assert (counter.totals(0), counter.inside(1)) == ({}, 0)


def test_without_a_number_nobody_counts() -> None:
    assert events(SQUARE, [frame((0, 50, 50))]) == [[]]
    found = frame((1, 50, 50))
    assert events(SQUARE, [Detections(found.boxes_xyxy, found.scores, found.labels)]) == [[]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("line:0,50,100,50", Place("line", "line 3", ((0.0, 50.0), (100.0, 50.0)))),
        ("line:door=0%, 50%, 100%, 50%", Place("line", "door", ((0.0, 0.5), (1.0, 0.5)), is_share=True)),
        ("zone:0,0,9,0,9,9", Place("zone", "zone 3", ((0.0, 0.0), (9.0, 0.0), (9.0, 9.0)))),
    ],
)
def test_places_in_words(text: str, expected: Place) -> None:
    assert parse_place(text, 3) == expected


@pytest.mark.parametrize(
    "text",
    ["line", "zone:", "line:1,2,3", "line:1,2,3,4,5,6", "zone:1,2,3,4", "area:1,2,3,4", "line:1%,2,3%,4",
     "line:a,2,3,4", "line:nan,2,3,4", "line:5,5,5,5", "zone:0,0,9,0,9,9,4"],
)  # fmt: skip
def test_places_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected line:X,Y,X,Y between two points or zone:"):
        parse_place(text, 1)
