"""Supervisely: a project with ``meta.json`` and folders of images and annotations
(https://developer.supervisely.com/getting-started/supervisely-annotation-format)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detseg.arrays import BoolArray
from detseg.data.entries.outline import rasterize
from detseg.data.entries.parsing import show
from detseg.data.programs.base import (
    AnnotatedImage,
    ProgramFormat,
    by_split,
    folders_in,
    parse_size,
    read_json,
    require_kind,
)
from detseg.data.programs.shapes import Shape, bitmap, box_between, flat, no_object, polygon
from detseg.data.source import files_in
from detseg.run_lengths import RunLengths

_META = "meta.json"
_MAX_DEPTH = 4


class SuperviselyFormat(ProgramFormat):
    """``meta.json`` and, for each data set of the project, ``img/`` and ``ann/`` with a JSON file for each image."""

    name = "supervisely"
    layouts = (
        "a project of Supervisely: meta.json with DATASET/img/ and DATASET/ann/: the split all, or by folders SPLIT/",
    )

    def files(self, root: Path) -> Mapping[str, Sequence[Path]]:
        if not (root / _META).is_file():
            return {}
        found = {}
        for folder in folders_in(root):
            places = _annotated(folder)
            found[folder] = [path for place in places for path in files_in(place / "ann", (".json",))]
        return by_split(root, found)

    def class_names(self, root: Path) -> Sequence[str]:
        meta = require_kind(read_json(root / _META), dict, _META)
        classes = require_kind(meta.get("classes"), list, f"classes in {_META}")
        return [require_kind(one.get("title"), str, "title of a class") for one in classes if isinstance(one, dict)]

    def read(self, path: Path, root: Path) -> Iterator[AnnotatedImage]:
        document = require_kind(read_json(path), dict, "the file")
        objects = require_kind(document.get("objects"), list, "objects")
        stated = document.get("size")
        size = parse_size(stated.get("height"), stated.get("width")) if isinstance(stated, dict) else None
        # In old projects the name of the annotation is without the suffix of the image.
        name = path.name.removesuffix(".json")
        yield AnnotatedImage(name, [path.parent.parent / "img"], size, [_shape(one, size) for one in objects])


def _annotated(folder: Path, depth: int = 0) -> list[Path]:
    """The data sets in ``folder``, which may lie in one another."""
    own = [folder] if (folder / "ann").is_dir() else []
    if depth < _MAX_DEPTH:
        for inner in folders_in(folder):
            if inner.name not in ("ann", "img", "seg", "meta"):
                own += _annotated(inner, depth + 1)
    return own


def _shape(entry: Any, size: tuple[int, int] | None) -> Shape:
    if not isinstance(entry, dict):
        return Shape(None, problem=f"an object must be an object of JSON, got {show(entry)}")
    given = entry.get("classTitle")
    label = given if isinstance(given, str) and given.strip() else None
    kind, points = entry.get("geometryType"), entry.get("points")
    outside, holes = (points.get("exterior"), points.get("interior")) if isinstance(points, dict) else (None, None)
    if kind == "rectangle":
        return box_between(label, flat(outside))
    if kind == "polygon":
        shape = polygon(label, flat(outside))
        return _with_holes(shape, holes, size) if holes and not shape.problem else shape
    if kind == "bitmap":
        mask = entry.get("bitmap")
        origin = mask.get("origin") if isinstance(mask, dict) else None
        if not isinstance(mask, dict) or not isinstance(origin, list) or len(origin) != 2:
            return Shape(label, problem=f"a bitmap must have data and origin, got {show(mask)}")
        return bitmap(label, mask.get("data"), origin[0], origin[1], size, packed=True)
    return no_object(label, kind)


def _with_holes(shape: Shape, holes: Any, size: tuple[int, int] | None) -> Shape:
    """The mask of a polygon without what is in its ``holes``."""
    if size is None:
        return Shape(shape.label, problem="a polygon with holes needs the size of its image, which is not stated")
    cut = [polygon(shape.label, flat(hole)) for hole in holes] if isinstance(holes, list) else []
    if not cut or any(one.problem for one in cut):
        return Shape(shape.label, problem=f"holes must be polygons, got {show(holes)}")

    def pixels(one: Shape) -> BoolArray:
        corners = np.array(one.polygons[0]).reshape(-1, 2)
        return rasterize([corners], *size).to_mask()

    inside = pixels(shape)
    for hole in cut:
        inside &= ~pixels(hole)
    return Shape(shape.label, mask=RunLengths.from_mask(inside))
