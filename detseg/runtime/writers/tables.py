"""Writers of results as text, a line per object or per image. They take one image at a time and keep none."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from detseg.files import atomic_path, write_text
from detseg.runtime.drawing.labels import classes_in
from detseg.runtime.media.frames import Frame
from detseg.runtime.writers.mask_rle import encode_rle
from detseg.runtime.writers.output_folder import OutputFolder
from detseg.structures import Detections, LabelMap

COLUMNS = (
    "file", "frame", "time_s", "class", "score", "left", "top", "right", "bottom", "track_id",
)  # fmt: skip


class _TextFile:
    """A file that appears when its ``with`` block is left, unless that ends in an exception."""

    def __init__(self, path: Path) -> None:
        self._files = ExitStack()
        temporary = self._files.enter_context(atomic_path(path))
        # A file name that is not UTF-8 must not cost the results.
        opened = temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        self._text: IO[str] = self._files.enter_context(opened)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)


class CsvWriter(_TextFile):
    """Writes a CSV with a row for every object: the columns are ``COLUMNS``, boxes in pixels of the image. ``frame``
    and ``time_s`` are those of videos, ``track_id`` that of tracked objects; elsewhere they are empty.

    Raises:
        SaveError: the file cannot be written.
    """

    def __init__(self, path: Path | str, class_names: Sequence[str]) -> None:
        super().__init__(Path(path))
        self._class_names = tuple(class_names)
        self._csv = csv.writer(self._text, lineterminator="\n")
        self._csv.writerow(COLUMNS)

    def write(self, frame: Frame, result: Detections) -> None:
        """Take the objects of one image."""
        place = [frame.source, _or_empty(frame.index), _or_empty(frame.time_s)]
        for box in _records(result, self._class_names):
            row = [box["class"], box["score"], *box["box_xyxy"], _or_empty(box.get("track_id"))]
            self._csv.writerow([*place, *row])


class JsonLinesWriter(_TextFile):
    """Writes a JSON object per image, each in a line of its own: ``file``, ``height``, ``width``, of frames of videos
    ``frame`` and ``time_s``, and what was found.

    Boxes: ``detections``, a list of ``class``, ``class_index``, ``score``, ``box_xyxy`` in pixels and, of tracked
    objects, ``track_id``. Masks: ``classes``, by name the number of ``pixels`` and the mask as COCO's compressed
    ``rle``.

    Raises:
        SaveError: the file cannot be written.
    """

    def __init__(self, path: Path | str, class_names: Sequence[str]) -> None:
        super().__init__(Path(path))
        self._class_names = tuple(class_names)

    def write(self, frame: Frame, result: Detections | LabelMap) -> None:
        """Take the result of one image."""
        height, width = frame.pixels.shape[:2]
        line: dict[str, Any] = {"file": frame.source, "height": height, "width": width}
        if frame.index is not None:
            line |= {"frame": frame.index, "time_s": _rounded(frame.time_s or 0.0)}
        if isinstance(result, Detections):
            line["detections"] = _records(result, self._class_names)
        else:
            line["classes"] = {self._class_names[label]: _mask(result, label) for label in classes_in(result.labels)}
        self._text.write(json.dumps(line, allow_nan=False) + "\n")


class YoloWriter:
    """Writes ``NAME.txt`` for every image into ``folder``: for each object its class, center x, center y, width and
    height as shares of the image, its score and, if it is tracked, its number. An image without objects gets an empty
    file.

    Raises:
        ValueError: ``folder`` holds one of the ``sources``.
    """

    def __init__(self, folder: Path | str, sources: Iterable[Path | str] = ()) -> None:
        self._output = OutputFolder(folder, sources)

    def write(self, frame: Frame, result: Detections) -> None:
        """Write one file."""
        height, width = frame.pixels.shape[:2]
        left, top, right, bottom = result.boxes_xyxy.astype(np.float64).T / [[width], [height], [width], [height]]
        columns = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top, result.scores.astype(np.float64)]
        tracks = result.track_ids
        lines = [
            " ".join([str(label), *(f"{column[row]:.6f}" for column in columns)])
            + ("" if tracks is None else f" {tracks[row]}")
            for row, label in enumerate(result.labels.tolist())
        ]
        write_text(self._output.path_for(frame, ".txt"), "".join(f"{line}\n" for line in lines))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to do: every file is complete when it is written."""


def _records(result: Detections, class_names: Sequence[str]) -> list[dict[str, Any]]:
    rows = zip(result.labels.tolist(), result.scores.tolist(), result.boxes_xyxy.tolist(), strict=True)
    records: list[dict[str, Any]] = [
        {
            "class": class_names[label],
            "class_index": label,
            "score": _rounded(score),
            "box_xyxy": [_rounded(side) for side in box],
        }
        for label, score, box in rows
    ]
    if result.track_ids is not None:
        for record, track_id in zip(records, result.track_ids.tolist(), strict=True):
            record["track_id"] = track_id
    return records


def _mask(result: LabelMap, label: int) -> dict[str, Any]:
    mask = result.labels == label
    return {"pixels": int(mask.sum()), "rle": encode_rle(mask)}


def _or_empty(value: float | None) -> float | str:
    return "" if value is None else _rounded(value)


def _rounded(value: float) -> float:
    """Without the digits that a float32 does not have."""
    return value if isinstance(value, int) else float(f"{value:.7g}")
