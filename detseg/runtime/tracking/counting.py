"""Counting followed objects: which cross a line, and which are inside a zone.

An object is where the center of its box is. It has crossed a line when it is clearly on the other side of it, so that
one that stands on the line, and trembles, is not counted again and again.

Shape legend: N objects, P corners.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from detseg.arrays import DoubleArray
from detseg.structures import Detections

Event = Literal["forward", "backward", "enter", "leave"]
_CLEAR = 0.05
"""How far from a line an object must be to be on one side of it, in roots of the area of its box."""


@dataclass(frozen=True, slots=True)
class Place:
    """A ``line`` between two points, or a ``zone``, a polygon of three corners or more: ``corners`` in pixels, or in
    shares of width and height where ``is_share``. ``name`` is what tables and images call it."""

    kind: Literal["line", "zone"]
    name: str
    corners: tuple[tuple[float, float], ...]
    is_share: bool = False

    def in_pixels(self, width: int, height: int) -> DoubleArray:
        """The corners in an image of this size, ``[P, 2]`` float64."""
        scale = (width, height) if self.is_share else (1, 1)
        return np.array(self.corners, np.float64) * scale


def parse_place(text: str, number: int) -> Place:
    """``line:X,Y,X,Y`` or ``zone:X,Y,X,Y,X,Y,...``, in pixels or, with a percent sign behind each number, in hundredths
    of the image; ``number`` gives it a name, unless it has one: ``line:door=X,Y,X,Y``.

    Raises:
        ValueError: ``text`` says no such thing.
    """
    kind, _, rest = text.partition(":")
    name, equals, numbers = rest.rpartition("=")
    parts = [part.strip() for part in numbers.split(",")]
    is_share = all(part.endswith("%") for part in parts)
    try:
        values = [float(part.removesuffix("%") if is_share else part) / (100 if is_share else 1) for part in parts]
    except ValueError:
        values = []
    corners = tuple(zip(values[::2], values[1::2], strict=False))
    fits = len(corners) == 2 if kind == "line" else kind == "zone" and len(corners) >= 3
    if not fits or len(values) % 2 or not all(map(math.isfinite, values)) or len(set(corners)) != len(corners):
        raise ValueError(
            f"count: expected line:X,Y,X,Y between two points or zone:X,Y,X,Y,X,Y,... around at least three, in pixels "
            f"or all in percent (50%), with a name as in line:door=X,Y,X,Y; got {text!r}"
        )
    known: Literal["line", "zone"] = "line" if kind == "line" else "zone"
    return Place(known, name if equals and name else f"{kind} {number}", corners, is_share)


@dataclass(frozen=True, slots=True)
class Counted:
    """Something that happened at ``place`` (its position among the places): object ``track_id`` of class ``label`` went
    over a line, ``forward`` (from its left to its right, seen from its first point) or ``backward``, or came into a
    zone or left it. ``total`` is how often that has happened there, ``inside`` how many are in the zone now."""

    place: int
    event: Event
    label: int
    track_id: int
    total: int
    inside: int


@dataclass
class _State:
    """What is known of one place in the video so far."""

    totals: dict[Event, int] = field(default_factory=dict)
    seen: dict[int, tuple[float, DoubleArray]] = field(default_factory=dict)
    """Of each object the side it was last clearly on, and where that was."""
    inside: set[int] = field(default_factory=set)


class ObjectCounter:
    """Counts the objects of one video at ``places``: :meth:`update` with each frame, :meth:`reset` before the next
    video. Only objects that have a number count."""

    def __init__(self, places: tuple[Place, ...]) -> None:
        self.places = places
        self.reset()

    def reset(self) -> None:
        """Nothing has been seen."""
        self._states = [_State() for _ in self.places]
        self._labels: dict[int, int] = {}

    def totals(self, place: int) -> dict[Event, int]:
        """How often each thing has happened at this place."""
        return dict(self._states[place].totals)

    def inside(self, place: int) -> int:
        """How many objects are in the zone in this frame."""
        return len(self._states[place].inside)

    def update(self, found: Detections, width: int, height: int) -> list[Counted]:
        """What happens in a frame of this size, in which ``found``, with track ids, was found."""
        ids = np.zeros(len(found), np.int64) if found.track_ids is None else found.track_ids
        rows = np.flatnonzero(ids)
        boxes = found.boxes_xyxy[rows].astype(np.float64)
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        sizes = np.sqrt(np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1))
        objects = list(zip(ids[rows].tolist(), found.labels[rows].tolist(), centers, sizes.tolist(), strict=True))
        self._labels |= {track_id: label for track_id, label, _, _ in objects}
        happened: list[Counted] = []
        for number, (place, state) in enumerate(zip(self.places, self._states, strict=True)):
            corners = place.in_pixels(width, height)
            events: list[tuple[Event, int]] = []
            if place.kind == "zone":
                now = {track_id for track_id, _, center, _ in objects if _is_inside(center, corners)}
                events += [("enter", track_id) for track_id in sorted(now - state.inside)]
                # One that is out of view has left; if it comes back, it enters again.
                events += [("leave", track_id) for track_id in sorted(state.inside - now)]
                state.inside = now
            else:
                for track_id, _, center, size in objects:
                    event = _crossing(state, track_id, center, size, corners)
                    events += [(event, track_id)] if event is not None else []
            happened += [self._note(number, event, track_id) for event, track_id in events]
        return happened

    def _note(self, place: int, event: Event, track_id: int) -> Counted:
        state = self._states[place]
        state.totals[event] = state.totals.get(event, 0) + 1
        return Counted(place, event, self._labels[track_id], track_id, state.totals[event], len(state.inside))


def _crossing(state: _State, track_id: int, center: DoubleArray, size: float, corners: DoubleArray) -> Event | None:
    """Whether the object has gone from one side of the line to the other, between its ends."""
    along = corners[1] - corners[0]
    distance = _cross(along, center - corners[0]) / math.hypot(*along)
    if abs(distance) <= _CLEAR * size:
        return None
    side = math.copysign(1.0, distance)
    before, last = state.seen.get(track_id, (side, center))
    state.seen[track_id] = side, center
    if side == before:
        return None
    step = center - last
    # Where on the line the way leads over it, from 0 to 1.
    share = _cross(last - corners[0], step) / _cross(along, step)
    if not 0 <= share <= 1:
        return None
    return "forward" if side > 0 else "backward"


def _cross(first: DoubleArray, second: DoubleArray) -> float:
    return float(first[0] * second[1] - first[1] * second[0])


def _is_inside(point: DoubleArray, corners: DoubleArray) -> bool:
    """Whether a ray from ``point`` to the right meets the sides of the polygon an odd number of times."""
    x, y = point
    (x1, y1), (x2, y2) = corners.T, np.roll(corners, -1, axis=0).T
    meets = (y1 > y) != (y2 > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x1 + (y - y1) * (x2 - x1) / (y2 - y1)
    return bool((meets & (at > x)).sum() % 2)
