"""LabelMe: a JSON file for each image, beside it or in a folder of its own (https://github.com/wkentaro/labelme)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detseg.data.entries.parsing import is_coordinate, show
from detseg.data.programs.base import (
    NUM_LISTED,
    AnnotatedImage,
    ProgramFormat,
    by_split,
    folders_in,
    parse_size,
    read_json,
    require_kind,
    some_have,
)
from detseg.data.programs.shapes import Shape, bitmap, box_between, ellipse, flat, no_object, polygon
from detseg.data.source import files_in

_SUFFIX = ".json"


class LabelMeFormat(ProgramFormat):
    """JSON files with ``shapes``, in any folders. Shapes of one ``group_id`` are objects of their own."""

    name = "labelme"
    layouts = (
        (
            "JSON files of LabelMe beside images, or in a folder of their own with the images in images/: the split "
            "all, or by folders SPLIT/"
        ),
    )

    def files(self, root: Path) -> Mapping[str, Sequence[Path]]:
        folders = folders_in(root)
        if not any(some_have(folder, _SUFFIX, '"shapes"', '"points"') for folder in _looked_at(root, folders)):
            return {}
        inner = {folder: files_in(folder, (_SUFFIX,)) for folder in folders}
        own = [path for path in files_in(root, (_SUFFIX,)) if path.parent == root]
        return by_split(root, {root: own, **inner})

    def read(self, path: Path, root: Path) -> Iterator[AnnotatedImage]:
        document = require_kind(read_json(path), dict, "the file")
        shapes = require_kind(document.get("shapes"), list, "shapes")
        size = parse_size(document.get("imageHeight"), document.get("imageWidth"))
        given = document.get("imagePath")
        name = given if isinstance(given, str) and given else f"{path.stem}.jpg"
        # The name may be out of date where files were renamed together; those beside each other belong together.
        folders = [path.parent, path.parent / "images"]
        if path.parent != root:
            folders += [path.parent.parent / "images", path.parent.parent]
            if path.parent.parent != root:
                folders.append(path.parent.parent.parent / "images" / path.parent.name)
        yield AnnotatedImage(name, folders, size, [_shape(one, size) for one in shapes], stem=path.stem)


def _looked_at(root: Path, folders: Sequence[Path]) -> Iterator[Path]:
    yield root
    for folder in folders:
        yield folder
        yield from folders_in(folder, NUM_LISTED)[:5]


def _shape(entry: Any, size: tuple[int, int] | None) -> Shape:
    if not isinstance(entry, dict):
        return Shape(None, problem=f"a shape must be an object, got {show(entry)}")
    given = entry.get("label")
    label = given.strip() or None if isinstance(given, str) else None
    # Old versions know polygons only, and do not say so.
    kind, points = entry.get("shape_type") or "polygon", flat(entry.get("points"))
    if kind == "rectangle":
        # Some programs that write this form give all four corners.
        corners = points if len(points) != 8 or not all(map(is_coordinate, points)) else _ends(points)
        return box_between(label, corners)
    if kind == "polygon":
        return polygon(label, points)
    if kind == "circle":
        if len(points) != 4 or not all(map(is_coordinate, points)):
            return Shape(label, problem=f"a circle must have a center and a point on it, got {show(points)}")
        radius = math.hypot(points[2] - points[0], points[3] - points[1])
        return ellipse(label, points[:2], [radius, radius])
    if kind == "mask":
        if len(points) != 4 or not all(map(is_coordinate, points)):
            return Shape(label, problem=f"a mask must have two corners, got {show(points)}")
        return bitmap(label, entry.get("mask"), points[0], points[1], size, packed=False)
    return no_object(label, kind)


def _ends(points: Sequence[float]) -> list[float]:
    return [min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])]
