"""Writers of boxes: COCO results, CSV, YOLO text files. They take one image at a time and keep none."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from detseg.arrays import IntArray
from detseg.files import atomic_path, write_text
from detseg.runtime.sources.frames import Frame
from detseg.runtime.writers.base import FolderWriter, TableFile, csv_lines, or_empty, rounded
from detseg.runtime.writers.growing import GrowingJson
from detseg.structures import Detections

COLUMNS = (
    "file", "frame", "time_s", "class", "score", "left", "top", "right", "bottom", "track_id",
)  # fmt: skip


class CocoWriter:
    """Writes detections as a COCO results file, as pycocotools' ``loadRes`` reads it.

    ``path`` gets a list of ``image_id, category_id, bbox, score``, of tracked objects also ``track_id``; beside it
    ``<stem>_images.json`` lists ``id, file_name, height, width`` of every image, those without detections too, and of
    frames of videos ``frame_index`` and ``time_s``. Image ids count from 1 unless given. ``category_ids[label]`` is the
    id of a class, by default ``label + 1``. ``to_records`` makes the entries of one image, as does
    :func:`detections_to_coco`.

    Entries go to ``<stem>.unfinished.jsonl`` and ``<stem>_images.unfinished.jsonl``, line by line, of which both files
    are made when the writer is closed. If its ``with`` block ends in an exception, the lines stay, and so do files of
    an earlier run.

    Raises:
        ValueError: the numbers of category ids and classes differ.
        SaveError: the files cannot be written.
    """

    def __init__(
        self,
        path: Path | str,
        class_names: Sequence[str],
        category_ids: Sequence[int] | None = None,
        to_records: Callable[[int, Any, Sequence[int]], list[dict[str, Any]]] | None = None,
        *,
        goes_on: bool = False,
    ) -> None:
        path = Path(path)
        self._to_records = to_records or detections_to_coco
        self.category_ids = tuple(range(1, len(class_names) + 1) if category_ids is None else category_ids)
        if len(self.category_ids) != len(class_names):
            raise ValueError(
                f"got {len(self.category_ids)} category ids for {len(class_names)} classes; one each is needed"
            )
        self._files = ExitStack()
        self._results = self._files.enter_context(GrowingJson(path, goes_on=goes_on))
        images = path.with_name(f"{path.stem}_images.json")
        self._images = self._files.enter_context(GrowingJson(images, goes_on=goes_on))
        self._num_images = self._images.count()

    def write(self, frame: Frame, detections: Detections, image_id: int | None = None) -> None:
        """Take the detections of one image."""
        self._num_images += 1
        image_id = self._num_images if image_id is None else image_id
        height, width = frame.pixels.shape[:2]
        about: dict[str, Any] = {"id": image_id, "file_name": frame.source, "height": height, "width": width}
        if frame.index is not None:
            about |= {"frame_index": frame.index, "time_s": frame.time_s}
        self._images.append(about)
        self._results.append(*self._to_records(image_id, detections, self.category_ids))

    def close(self) -> None:
        """Complete both files."""
        self.__exit__(None, None, None)

    def end_source(self) -> None:
        """The files hold all sources."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)


def detections_to_coco(image_id: int, detections: Detections, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The detections of one image as COCO result records, in their order.

    Boxes become (left, top, width, height) and, like scores, the doubles that stand for the float32 values. JSON keeps
    a double exactly, so a file written by :func:`write_results` gives back these very numbers.

    ``category_ids``: the data set's id of each class position.

    Raises:
        ValueError: a label is no class position.
    """
    num_classes = len(category_ids)
    strange = detections.labels[(detections.labels < 0) | (detections.labels >= num_classes)]
    if len(strange):
        raise ValueError(f"image {image_id}: detection with label {strange[0]}; allowed are 0 to {num_classes - 1}")
    boxes_xywh = detections.boxes_xyxy.astype(np.float64)
    boxes_xywh[:, 2:] -= boxes_xywh[:, :2]
    rows = zip(boxes_xywh.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)
    records: list[dict[str, Any]] = [
        {"image_id": int(image_id), "category_id": int(category_ids[label]), "bbox": box_xywh, "score": score}
        for box_xywh, score, label in rows
    ]
    if detections.track_ids is not None:
        _add_track_ids(records, detections.track_ids)
    return records


def write_results(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Write COCO result records to ``path``, whole or not at all; pycocotools' ``loadRes`` reads the file.

    Raises:
        SaveError: the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        # dumps, not dump: only the former uses the fast encoder
        file.write(json.dumps(list(results), allow_nan=False))


class CsvWriter(TableFile):
    """Writes a CSV with a row for every object: the columns are ``COLUMNS``, boxes in pixels of the image. ``frame``
    and ``time_s`` are those of videos, ``track_id`` that of tracked objects; elsewhere they are empty.

    Raises:
        SaveError: the file cannot be written.
    """

    def __init__(self, path: Path | str, class_names: Sequence[str], *, goes_on: bool = False) -> None:
        super().__init__(Path(path), csv_lines([COLUMNS]), goes_on=goes_on)
        self._class_names = tuple(class_names)

    def write(self, frame: Frame, result: Detections) -> None:
        """Take the objects of one image."""
        place = [frame.source, or_empty(frame.index), or_empty(frame.time_s)]
        rows = [
            [*place, box["class"], box["score"], *box["box_xyxy"], or_empty(box.get("track_id"))]
            for box in box_records(result, self._class_names)
        ]
        self._text.write(csv_lines(rows))


class YoloWriter(FolderWriter):
    """Writes ``NAME.txt`` for every image into ``folder``: for each object its class, center x, center y, width and
    height as shares of the image, its score and, if it is tracked, its number. An image without objects gets an empty
    file.

    Raises:
        ValueError: ``folder`` holds one of the ``sources``.
    """

    def write(self, frame: Frame, result: Detections) -> None:
        """Write one file."""
        height, width = frame.pixels.shape[:2]
        left, top, right, bottom = result.boxes_xyxy.astype(np.float64).T / [[width], [height], [width], [height]]
        columns = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top, result.scores.astype(np.float64)]
        tracks = result.track_ids
        lines = [
            " ".join([str(label), *(f"{column[row]:.6f}" for column in columns)])
            + (f" {tracks[row]}" if tracks is not None and tracks[row] else "")
            for row, label in enumerate(result.labels.tolist())
        ]
        path = self._output.path_for(frame, ".txt")
        write_text(path, "".join(f"{line}\n" for line in lines))
        self._output.written(path, frame)


def box_records(result: Detections, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """The objects as plain data."""
    rows = zip(result.labels.tolist(), result.scores.tolist(), result.boxes_xyxy.tolist(), strict=True)
    records: list[dict[str, Any]] = [
        {
            "class": class_names[label],
            "class_index": label,
            "score": rounded(score),
            "box_xyxy": [rounded(side) for side in box],
        }
        for label, score, box in rows
    ]
    if result.track_ids is not None:
        _add_track_ids(records, result.track_ids)
    return records


def _add_track_ids(records: Sequence[dict[str, Any]], track_ids: IntArray) -> None:
    for record, track_id in zip(records, track_ids.tolist(), strict=True):
        if track_id:
            record["track_id"] = track_id
