"""Annotations of a whole data set in a handful of flat arrays.

Python objects per image would be copied into every worker process: reading one touches its reference count, and with it
the memory page that parent and worker shared. Arrays hold no counted objects, so the workers share them for good.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detseg.arrays import BoolArray, ByteArray, DoubleArray, IntArray
from detseg.data.datasets.outlines_in_file import OutlinesInFile
from detseg.data.entries.outline import Segmentation


@dataclass(frozen=True, slots=True)
class PackedStrings:
    """Texts one after the other as UTF-8 in ``buffer``; number ``i`` is ``buffer[offsets[i]:offsets[i + 1]]``."""

    buffer: ByteArray
    offsets: IntArray

    @classmethod
    def pack(cls, texts: Iterable[str]) -> PackedStrings:
        """Packs ``texts`` in their order."""
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(text) for text in encoded], out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    def select(self, rows: IntArray) -> PackedStrings:
        """The texts number ``rows``, in this order."""
        return PackedStrings(self.buffer[_gather(self.offsets, rows)], _cumulative(np.diff(self.offsets)[rows]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        return self.buffer[self.offsets[index] : self.offsets[index + 1]].tobytes().decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class PackedSegmentations:
    """The outlines of ``M`` objects: polygons as points, run-length masks as the JSON they came in.

    ``points`` are float64 pixels x, y, x, y, ...; polygon ``p`` goes from ``polygon_offsets[p]`` to
    ``polygon_offsets[p + 1]`` and object ``m`` has the polygons ``object_offsets[m]`` up to ``object_offsets[m + 1]``.
    """

    points: DoubleArray
    polygon_offsets: IntArray
    object_offsets: IntArray
    run_lengths: PackedStrings

    def __getitem__(self, index: int) -> Segmentation:
        """Polygons as a list of ``[P, 2]`` arrays, a run-length mask as COCO's mapping, None where there is neither."""
        run_length = self.run_lengths[index]
        if run_length:
            decoded: dict[str, Any] = json.loads(run_length)
            return decoded
        polygons = range(self.object_offsets[index], self.object_offsets[index + 1])
        bounds = self.polygon_offsets
        return [self.points[bounds[p] : bounds[p + 1]].reshape(-1, 2) for p in polygons] or None

    def digested(self) -> list[bytes]:
        """What changes when an outline does."""
        columns = (self.points, self.polygon_offsets, self.object_offsets, self.run_lengths.buffer)
        return [np.ascontiguousarray(column).tobytes() for column in columns]

    def select(self, rows: IntArray) -> PackedSegmentations:
        """The outlines of the objects ``rows``, in this order."""
        polygon_rows = _gather(self.object_offsets, rows)
        point_rows = _gather(self.polygon_offsets, polygon_rows)
        return PackedSegmentations(
            points=self.points[point_rows],
            polygon_offsets=_cumulative(np.diff(self.polygon_offsets)[polygon_rows]),
            object_offsets=_cumulative(np.diff(self.object_offsets)[rows]),
            run_lengths=self.run_lengths.select(rows),
        )


@dataclass(frozen=True, slots=True)
class PackedAnnotations:
    """``N`` images and their ``M`` objects; the objects of image ``i`` are rows ``offsets[i]`` to ``offsets[i + 1]``.

    Images: ``image_ids``, ``heights``, ``widths`` ``[N]`` int64, ``names`` file names relative to the root.
    Objects: ``boxes_xywh`` ``[M, 4]`` float64 pixels, ``labels`` ``[M]`` int64 class positions, ``crowd`` and
    ``difficult`` ``[M]`` bool, ``areas`` ``[M]`` float64 square pixels, ``annotation_ids`` ``[M]`` int64.
    """

    image_ids: IntArray
    heights: IntArray
    widths: IntArray
    names: PackedStrings
    offsets: IntArray
    boxes_xywh: DoubleArray
    labels: IntArray
    crowd: BoolArray
    difficult: BoolArray
    areas: DoubleArray
    annotation_ids: IntArray
    segmentations: PackedSegmentations | OutlinesInFile

    def __len__(self) -> int:
        return len(self.image_ids)

    def rows(self, index: int) -> slice:
        """The rows of the objects of image ``index``.

        Raises IndexError where there is no such image: a slice of numpy would silently be empty.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of a data set of {len(self)} images")
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def select(self, keep: BoolArray) -> PackedAnnotations:
        """All images with the objects that ``keep`` ``[M]`` chooses."""
        rows = np.flatnonzero(keep)
        return replace(
            self,
            offsets=_cumulative(keep.astype(np.int64))[self.offsets],
            boxes_xywh=self.boxes_xywh[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            difficult=self.difficult[rows],
            areas=self.areas[rows],
            annotation_ids=self.annotation_ids[rows],
            segmentations=self.segmentations.select(rows),
        )

    def take(self, images: IntArray) -> PackedAnnotations:
        """The ``images`` ``[K]``, in this order, with all their objects."""
        rows = _gather(self.offsets, images)
        return PackedAnnotations(
            image_ids=self.image_ids[images],
            heights=self.heights[images],
            widths=self.widths[images],
            names=self.names.select(images),
            offsets=_cumulative(np.diff(self.offsets)[images]),
            boxes_xywh=self.boxes_xywh[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            difficult=self.difficult[rows],
            areas=self.areas[rows],
            annotation_ids=self.annotation_ids[rows],
            segmentations=self.segmentations.select(rows),
        )

    def renumbered(self) -> PackedAnnotations:
        """The same with objects that are numbered 1, 2, ... in their order."""
        return replace(self, annotation_ids=np.arange(1, len(self.labels) + 1, dtype=np.int64))


class PackedBuilder:
    """Collects images and objects in any order; ``build`` groups the objects by image, keeping their order."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._image_columns = array("q")
        self._object_columns = array("q")
        self._boxes_and_areas = array("d")
        self._points = array("d")
        self._polygon_ends = array("q", [0])
        self._object_polygon_ends = array("q", [0])
        self._run_lengths: dict[int, str] = {}

    @property
    def num_objects(self) -> int:
        """Objects added so far."""
        return len(self._object_columns) // 5

    def add_image(self, image_id: int, name: str, height: int, width: int) -> int:
        """Adds an image and returns its position."""
        self._names.append(name)
        self._image_columns.extend((image_id, height, width))
        return len(self._names) - 1

    def size(self, image: int) -> tuple[int, int]:
        """(height, width) of the image at position ``image``."""
        return self._image_columns[3 * image + 1], self._image_columns[3 * image + 2]

    def add_object(
        self,
        image: int,
        box_xywh: Sequence[float],
        label: int,
        *,
        crowd: bool = False,
        difficult: bool = False,
        area: float | None = None,
        annotation_id: int | None = None,
        polygons: Sequence[Sequence[float]] = (),
        run_length: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds an object to the image at position ``image``.

        ``area`` is that of the box where it is None; ``annotation_id`` then counts from 1. Raises TypeError for a
        polygon with something that is no number in it.
        """
        for polygon in polygons:
            self._points.extend(polygon)
            self._polygon_ends.append(len(self._points))
        self._object_polygon_ends.append(len(self._polygon_ends) - 1)
        if run_length is not None:
            self._run_lengths[self.num_objects] = json.dumps(run_length)
        number = self.num_objects + 1 if annotation_id is None else annotation_id
        self._object_columns.extend((image, label, crowd, difficult, number))
        self._boxes_and_areas.extend(box_xywh)
        self._boxes_and_areas.append(box_xywh[2] * box_xywh[3] if area is None else area)

    def build(self) -> PackedAnnotations:
        """The packed arrays."""
        image_ids, heights, widths = _columns(self._image_columns, 3, np.int64)
        image_of, labels, crowd, difficult, annotation_ids = _columns(self._object_columns, 5, np.int64)
        order = np.argsort(image_of, kind="stable")
        offsets = np.zeros(len(image_ids) + 1, np.int64)
        np.cumsum(np.bincount(image_of, minlength=len(image_ids)), out=offsets[1:])
        x, y, width, height, areas = _columns(self._boxes_and_areas, 5, np.float64)
        return PackedAnnotations(
            image_ids=image_ids,
            heights=heights,
            widths=widths,
            names=PackedStrings.pack(self._names),
            offsets=offsets,
            boxes_xywh=np.stack([x, y, width, height], axis=1)[order],
            labels=labels[order],
            crowd=crowd[order].astype(np.bool_),
            difficult=difficult[order].astype(np.bool_),
            areas=areas[order],
            annotation_ids=annotation_ids[order],
            segmentations=self._segmentations(order),
        )

    def _segmentations(self, order: IntArray) -> PackedSegmentations:
        as_added = PackedSegmentations(
            points=np.array(self._points, np.float64),
            polygon_offsets=np.array(self._polygon_ends, np.int64),
            object_offsets=np.array(self._object_polygon_ends, np.int64),
            run_lengths=PackedStrings.pack(self._run_lengths.get(row, "") for row in range(len(order))),
        )
        return as_added.select(order)


def _columns(flat: array[Any], num_columns: int, dtype: type[np.generic]) -> list[Any]:
    return [np.ascontiguousarray(column) for column in np.array(flat, dtype).reshape(-1, num_columns).T]


def _cumulative(lengths: IntArray) -> IntArray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _gather(offsets: IntArray, order: IntArray) -> IntArray:
    """Positions of the elements of the ragged rows ``order``; row ``r`` is ``offsets[r]`` to ``offsets[r + 1]``."""
    lengths = np.diff(offsets)[order]
    starts_in_result = _cumulative(lengths)[:-1]
    within_row = np.arange(lengths.sum(), dtype=np.int64) - np.repeat(starts_in_result, lengths)
    positions: IntArray = np.repeat(offsets[:-1][order], lengths) + within_row
    return positions
