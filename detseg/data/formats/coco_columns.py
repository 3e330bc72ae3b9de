"""A well-formed COCO file as arrays, without an object of Python for each of its entries."""

from __future__ import annotations

import codecs
import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from detseg.arrays import IntArray
from detseg.data.datasets.outlines_in_file import OutlinesInFile
from detseg.data.datasets.packed import PackedAnnotations, PackedStrings
from detseg.data.entries.parsing import MAX_COORDINATE
from detseg.files import open_regular

MAX_SIDE = 1_000_000

_AT_ONCE = 1024
"""Annotations that are objects of Python at one time."""
_KEY = b'"segmentation":'
_LARGEST = 2**63


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    height: int
    width: int


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"null")


class _Document(msgspec.Struct):
    images: list[_Image]
    annotations: list[msgspec.Raw]
    categories: list[dict[str, Any]]


class _UnusualError(Exception):
    """Something that only the careful reader can judge."""


@dataclass(frozen=True)
class CocoColumns:
    """What a COCO file holds: its images with their objects, the labels being positions in ``category_ids``, which are
    in order; the outlines are left in the file."""

    categories: list[dict[str, Any]]
    category_ids: IntArray
    packed: PackedAnnotations


def read_columns(path: Path, max_bytes: int) -> CocoColumns | None:
    """The COCO file ``path`` of at most ``max_bytes``, if it is as COCO publishes its own.

    None for any other, such as one with a box, a size or a name missing, ids twice or of the wrong type, or no file at
    all: of these, a reader that looks at each entry by itself says what is wrong, or takes it as it is meant. Where
    both can read a file, they give the same.
    """
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            if status.st_size > max_bytes:
                return None
            content = file.read()
        document = msgspec.json.decode(content, type=_Document)
        _require_text(content)
        return _columns(content, document, path, status)
    except (OSError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError, OverflowError, _UnusualError):
        return None


def _columns(content: bytes, document: _Document, path: Path, status: os.stat_result) -> CocoColumns:
    category_ids = _category_ids(document.categories)
    images = document.images
    image_ids = _integers(image.id for image in images)
    _require_unique(image_ids)
    heights, widths = (_integers(getattr(image, side) for image in images) for side in ("height", "width"))
    for sides in (heights, widths):
        _require(bool(((sides >= 1) & (sides <= MAX_SIDE)).all()))
    names = [image.file_name for image in images]
    _require_plain(names)
    table = _Table(content)
    for first in range(0, len(document.annotations), _AT_ONCE):
        table.add(document.annotations[first : first + _AT_ONCE])
    document.annotations.clear()
    del content, table.content
    ids, crowd = np.array(table.ids, np.int64), np.array(table.crowd, np.int8)
    _require_unique(ids)
    _require(bool(((crowd == 0) | (crowd == 1)).all()))
    image_of = _positions(np.array(table.images, np.int64), image_ids)
    labels = _positions(np.array(table.categories, np.int64), category_ids)
    boxes_xywh, areas = np.array(table.boxes, np.float64).reshape(-1, 4), np.array(table.areas, np.float64)
    _require(bool((np.abs(boxes_xywh) < MAX_COORDINATE).all()))
    missing = np.isnan(areas)
    areas = np.where(missing, boxes_xywh[:, 2] * boxes_xywh[:, 3], areas)
    _require(bool((missing | ((areas >= 0) & (areas < MAX_COORDINATE**2))).all()))
    order = np.argsort(image_of, kind="stable")
    offsets = np.zeros(len(images) + 1, np.int64)
    np.cumsum(np.bincount(image_of, minlength=len(images)), out=offsets[1:])
    packed = PackedAnnotations(
        image_ids=image_ids,
        heights=heights,
        widths=widths,
        names=PackedStrings.pack(names),
        offsets=offsets,
        boxes_xywh=boxes_xywh[order],
        labels=labels[order],
        crowd=crowd[order] == 1,
        difficult=np.zeros(len(order), np.bool_),
        areas=areas[order],
        annotation_ids=ids[order],
        segmentations=OutlinesInFile(
            path,
            status.st_size,
            status.st_mtime_ns,
            starts=np.array(table.starts, np.int64)[order],
            lengths=np.array(table.lengths, np.int64)[order],
        ),
    )
    return CocoColumns(document.categories, category_ids, packed)


class _Table:
    """The annotations of a file, row by row."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._position = 0
        self._decoder = msgspec.json.Decoder(list[_Annotation])
        self.ids, self.images, self.categories, self.crowd = array("q"), array("q"), array("q"), array("b")
        self.boxes, self.areas = array("d"), array("d")
        self.starts, self.lengths = array("q"), array("q")

    def add(self, entries: Sequence[msgspec.Raw]) -> None:
        """Adds the next annotations of the file."""
        decoded = self._decoder.decode(b"[" + b",".join(entries) + b"]")
        self.ids.extend([entry.id for entry in decoded])
        self.images.extend([entry.image_id for entry in decoded])
        self.categories.extend([entry.category_id for entry in decoded])
        self.crowd.extend([entry.iscrowd or 0 for entry in decoded])
        self.areas.extend([np.nan if entry.area is None else entry.area for entry in decoded])
        self.boxes.extend(chain.from_iterable([entry.bbox for entry in decoded]))
        outlines = [bytes(entry.segmentation) for entry in decoded]
        lengths = [0 if outline in (b"null", b"[]") else len(outline) for outline in outlines]
        self.lengths.extend(lengths)
        self.starts.extend(map(self._find, outlines, lengths))

    def _find(self, outline: bytes, length: int) -> int:
        """Where these very bytes are, not before what was found last: after the next key as it is usually written, or
        anywhere."""
        if not length:
            return self._position
        content = self.content
        start = content.find(_KEY, self._position) + len(_KEY)
        if content.startswith(b" ", start):
            start += 1
        if not content.startswith(outline, start):
            start = content.find(outline, self._position)
            _require(start >= 0)
        self._position = start + length
        return start


def _category_ids(categories: Sequence[dict[str, Any]]) -> IntArray:
    names = [category.get("name") for category in categories]
    _require(all(isinstance(name, str) for name in names))
    _require(all(type(category.get("id")) is int for category in categories))
    ids = _integers(category["id"] for category in categories)
    _require_unique(ids)
    return np.sort(ids)


def _integers(values: Iterable[int]) -> IntArray:
    return np.array(array("q", values), np.int64)


def _positions(values: IntArray, among: IntArray) -> IntArray:
    """Where each of ``values`` is in ``among``."""
    order = np.argsort(among, kind="stable")
    if not len(values):
        return np.empty(0, np.int64)
    _require(len(among) > 0)
    positions: IntArray = order[np.minimum(np.searchsorted(among, values, sorter=order), len(among) - 1)]
    _require(bool((among[positions] == values).all()))
    return positions


def _require(condition: bool) -> None:
    if not condition:
        raise _UnusualError


def _require_unique(ids: IntArray) -> None:
    in_order = np.sort(ids)
    _require(bool((in_order[1:] > in_order[:-1]).all()) and (not len(ids) or int(in_order[0]) > -_LARGEST))


def _require_plain(names: Sequence[str]) -> None:
    """That no name of a file is empty, leads elsewhere or has backslashes."""
    joined = "/".join(names)
    _require(not any(part in joined for part in ("\\", "\0", "..")))
    _require(not any(name[:1] in ("", "/") or name[1:2] == ":" for name in names))


def _require_text(content: bytes) -> None:
    """That the file is UTF-8, in what was not decoded too."""
    if content.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    for first in range(0, len(content), 2**20):
        decoder.decode(content[first : first + 2**20])
    decoder.decode(b"", final=True)
