"""Counts at lines and in zones of a video: in a table, and on its images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from detseg.arrays import ByteArray
from detseg.runtime.drawing.boxes import line_width_for
from detseg.runtime.drawing.lettering import Lettering
from detseg.runtime.drawing.palette import color_of
from detseg.runtime.sources.frames import Frame
from detseg.runtime.tracking.counting import Counted, ObjectCounter, Place
from detseg.runtime.writers.base import TableFile, csv_lines, or_empty
from detseg.structures import Detections

COLUMNS = ("file", "frame", "time_s", "place", "event", "class", "track_id", "total", "inside")
_FIRST_COLOR = 100
"""Colors of places are those far behind the ones that classes have."""


class CountWriter(TableFile):
    """Writes a CSV with a row for everything that ``counts`` notes: the columns are ``COLUMNS``; ``total`` is how often
    that has happened there in this video, ``inside`` how many objects are in the zone then.

    Raises:
        SaveError: the file cannot be written.
    """

    def __init__(self, path: Path | str, counts: PlaceCounts, class_names: Sequence[str]) -> None:
        super().__init__(Path(path), csv_lines([COLUMNS]))
        self._counts = counts
        self._class_names = tuple(class_names)

    def write(self, frame: Frame, result: Detections) -> None:
        """Count the objects of one frame."""
        rows = []
        for one in self._counts.update(frame, result):
            place = self._counts.places[one.place]
            rows.append(
                [
                    frame.source, or_empty(frame.index), or_empty(frame.time_s), place.name, one.event,
                    self._class_names[one.label], one.track_id, one.total, one.inside if place.kind == "zone" else "",
                ]
            )  # fmt: skip
        if rows:
            self._text.write(csv_lines(rows))


class PlaceCounts:
    """Counts followed objects at ``places``, anew in each video, and draws what has been counted so far."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = tuple(places)
        self.words: dict[str, list[str]] = {}
        """By source, what has been counted at each place."""
        self._counter = ObjectCounter(self.places)
        self._last: Frame | None = None

    def update(self, frame: Frame, result: Detections) -> list[Counted]:
        """What happens in this frame."""
        if self._last is not None and not frame.follows(self._last):
            self._counter.reset()
        self._last = frame
        height, width = frame.pixels.shape[:2]
        happened = self._counter.update(result, width, height)
        self.words[frame.source] = [self._words(number, place) for number, place in enumerate(self.places)]
        return happened

    def draw(self, image: ByteArray) -> ByteArray:
        """``image`` ``[H, W, 3]`` with all places and what has been counted there so far; it is drawn upon."""
        height, width = image.shape[:2]
        line_width = line_width_for(image)
        letters = Lettering(0.32 + 0.085 * line_width, (255, 255, 255))
        for number, place in enumerate(self.places):
            color = color_of(_FIRST_COLOR + number)
            corners = np.round(place.in_pixels(width, height)).astype(np.int32)
            cv2.polylines(image, [corners], place.kind == "zone", color, line_width, cv2.LINE_AA)
            text = self._words(number, place)
            left, top = (int(value) for value in np.clip(corners[0], 0, (width - 1, height - 1)))
            left = max(0, min(left, width - letters.width(text) - 4))
            top = max(0, min(top, height - letters.line))
            plate = image[top : top + letters.line, left : left + letters.width(text) + 4]
            plate[:] = plate // 4
            letters.write(image, text, left + 2, top)
        return image

    def _words(self, number: int, place: Place) -> str:
        totals = self._counter.totals(number)
        if place.kind == "zone":
            return f"{place.name}: {self._counter.inside(number)} inside, {totals.get('enter', 0)} entered"
        return f"{place.name}: {totals.get('forward', 0)} forward, {totals.get('backward', 0)} back"
