"""The objects in an image of Cityscapes, from its map of instances or from its polygons, with their outlines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.data.datasets.mask_file import read_instance_mask
from detseg.data.datasets.masks import require_same_size
from detseg.data.formats.cityscapes_labels import LABELS, THINGS
from detseg.data.source import DatasetError
from detseg.files import read_bytes
from detseg.run_lengths import RunLengths

MAX_JSON_BYTES = 64 * 2**20

_PER_LABEL = 1000
_UNKNOWN, _OTHER, _INSTANCE = range(3)
_POSITION_OF_ID = {label.label_id: position for position, label in enumerate(THINGS)}
_POSITION_OF_NAME = {label.name: position for position, label in enumerate(THINGS)}
_NAMES = {label.name for label in LABELS}
_NUM_IDS = (LABELS[-1].label_id + 1) * _PER_LABEL


class ThingBox(NamedTuple):
    """An object: ``label`` is a position in ``THINGS``; ``crowd`` marks a group whose members were not told apart."""

    label: int
    box_xywh: tuple[float, float, float, float]
    crowd: bool
    area: float
    polygon: tuple[float, ...] = ()
    mask: RunLengths | None = None


def boxes_from_instances(path: Path, image: Path, size: tuple[int, int], with_masks: bool = False) -> list[ThingBox]:
    """The boxes of the visible pixels in an ``instanceIds`` file, and their masks if asked for, in the order of their
    numbers.

    A number from 1000 on is label id * 1000 + a count; a smaller one is a label id, and for the class of a thing a
    group, of which each connected region is a box of its own. ``size`` is (height, width) of the image.

    Raises:
        ImageError: the file is missing or damaged.
        DatasetError: it is of another size than the image, or holds a number without a meaning.
    """
    ids = read_instance_mask(path, image)
    require_same_size(path, ids.shape[:2], image, size)
    meanings = _meanings()
    unknown = (ids < 0) | (ids >= _NUM_IDS)
    if not unknown.any():
        unknown = meanings[ids] == _UNKNOWN
    if unknown.any():
        y, x = np.unravel_index(int(unknown.argmax()), unknown.shape)
        raise DatasetError(
            f"{path}: value {ids[y, x]}, first at x {x}, y {y}, {int((ids == ids[y, x]).sum()):,} pixels, is no "
            f"instance; allowed are the label ids 0 to {_NUM_IDS // _PER_LABEL - 1} and, for things (24 to 33), label "
            f"id * {_PER_LABEL} + a count"
        )
    boxes = []
    # The pixels of objects, sorted by object; within one they stay in the order of their rows.
    ys, xs = np.nonzero(meanings[ids] == _INSTANCE)
    ids_of_pixels = ids[ys, xs]
    order = np.argsort(ids_of_pixels, kind="stable")
    ys, xs, ids_of_pixels = ys[order], xs[order], ids_of_pixels[order]
    found, starts = np.unique(ids_of_pixels, return_index=True)
    if len(found):
        lefts, rights = np.minimum.reduceat(xs, starts), np.maximum.reduceat(xs, starts)
        ends = np.append(starts[1:], len(ys))
        for number, left, right, start, end in zip(found, lefts, rights, starts, ends, strict=True):
            top, bottom = int(ys[start]), int(ys[end - 1])
            box_xywh = (float(left), float(top), float(right - left + 1), float(bottom - top + 1))
            mask = _runs(ids, number, box_xywh) if with_masks else None
            label = _POSITION_OF_ID[int(number) // _PER_LABEL]
            boxes.append(ThingBox(label, box_xywh, False, float(end - start), mask=mask))
    present = np.bincount(ids.ravel(), minlength=_PER_LABEL)
    for label_id, label in _POSITION_OF_ID.items():
        if present[label_id]:
            of_class = (ids == label_id).astype(np.uint8)
            _, region_of, regions, _ = cv2.connectedComponentsWithStats(of_class, connectivity=8)
            for region, (left, top, width, height, area) in enumerate(regions[1:].tolist(), 1):
                box_xywh = (left, top, width, height)
                mask = _runs(region_of, region, box_xywh) if with_masks else None
                boxes.append(ThingBox(label, box_xywh, True, area, mask=mask))
    return boxes


def _runs(numbers: NDArray[np.int32], number: int, box_xywh: tuple[float, ...]) -> RunLengths:
    """The pixels of ``number`` in the map ``numbers``, all of which lie in the box."""
    left, top, width, height = (int(side) for side in box_xywh)
    crop = numbers[top : top + height, left : left + width] == number
    return RunLengths.from_crop(crop, left, top, *numbers.shape)


def boxes_from_polygons(path: Path, image: Path, size: tuple[int, int]) -> list[ThingBox]:
    """The extents of the polygons in a ``polygons.json`` file, in its order, clipped to the image.

    Corners are pixels, so a box reaches one further. Names that end in ``group`` are groups; what is ``deleted`` is
    left out. What lies in front of an object is not taken away from it. ``size`` is (height, width) of the image.

    Raises:
        DatasetError: the file is missing or malformed, is for another size, or has an unknown label.
    """
    content = _read_json(path, image)
    stated = (content.get("imgHeight"), content.get("imgWidth"))
    if stated != size and size != (0, 0):
        raise DatasetError(
            f"{path}: is for an image of {stated[1]}x{stated[0]} pixels, but {image} has {size[1]}x{size[0]}"
        )
    objects = content.get("objects")
    if not isinstance(objects, list):
        raise DatasetError(f"{path}: objects must be a list, got {str(objects)[:80]!r}")
    boxes = []
    for number, entry in enumerate(objects):
        where = f"{path}: objects[{number}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("label"), str) or not _is_polygon(entry):
            raise DatasetError(f"{where}: expected {{label, polygon: [[x, y], ...]}}, got {str(entry)[:80]}")
        if entry.get("deleted"):
            continue
        name, is_group = entry["label"], False
        if name not in _NAMES:
            name, is_group = name.removesuffix("group"), name.endswith("group")
        if name not in _NAMES:
            raise DatasetError(f"{where}: unknown label {entry['label']!r}; allowed are {', '.join(sorted(_NAMES))}")
        if name in _POSITION_OF_NAME:
            boxes.append(_box_of_polygon(_POSITION_OF_NAME[name], entry["polygon"], is_group, size))
    return boxes


@cache
def _meanings() -> NDArray[np.uint8]:
    """Which numbers in an instanceIds file are instances of ``THINGS``, which have another meaning, and which none."""
    meanings = np.full(_NUM_IDS, _UNKNOWN, np.uint8)
    meanings[: _NUM_IDS // _PER_LABEL] = _OTHER
    for label in LABELS:
        if label.is_thing:
            first = label.label_id * _PER_LABEL
            meanings[first : first + _PER_LABEL] = _INSTANCE if label.label_id in _POSITION_OF_ID else _OTHER
    return meanings


def _box_of_polygon(label: int, polygon: Sequence[Sequence[float]], crowd: bool, size: tuple[int, int]) -> ThingBox:
    points = np.array(polygon, np.float64)
    height, width = size
    left, top = np.maximum(points.min(axis=0), 0)
    right, bottom = np.minimum(points.max(axis=0) + 1, (width, height))
    x, y = points.T
    area = abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    box_xywh = (float(left), float(top), float(right - left), float(bottom - top))
    return ThingBox(label, box_xywh, crowd, area, tuple(points.ravel().tolist()))


def _read_json(path: Path, image: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise DatasetError(f"{path}: is larger than {MAX_JSON_BYTES:,} bytes")
        content = json.loads(read_bytes(path))
    except OSError as error:
        raise DatasetError(f"{path}: the polygons of {image} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path}: no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: expected an object with imgHeight, imgWidth and objects, got {str(content)[:80]}")
    return content


def _is_polygon(entry: dict[str, Any]) -> bool:
    points = entry.get("polygon")
    return (
        isinstance(points, list)
        and len(points) >= 3
        and all(isinstance(point, list) and len(point) == 2 and all(map(_is_coordinate, point)) for point in points)
    )


def _is_coordinate(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e8
