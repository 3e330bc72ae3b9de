"""CVAT for images 1.1: one XML file for many images (https://docs.cvat.ai/docs/other/xml_format)."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detseg.data.entries.parsing import is_coordinate, parse_number, show
from detseg.data.programs.base import (
    MAX_FILE_BYTES,
    AnnotatedImage,
    ProgramFormat,
    begins_with,
    by_split,
    folders_in,
    parse_size,
    some_files,
)
from detseg.data.programs.shapes import Shape, ellipse, no_object, polygon, turned_box
from detseg.data.split_rule import ALL
from detseg.files import open_regular, read_bytes
from detseg.run_lengths import RunLengths

_SUBSET = re.compile(rb'<image\s[^>]*?\bsubset="([^"]*)"')
_PART_BYTES = 2**20
_NO_OBJECTS = ("points", "polyline", "skeleton", "cuboid", "tag")
_SHAPES = ("box", "polygon", "mask", "ellipse", *_NO_OBJECTS)


class CvatFormat(ProgramFormat):
    """``annotations.xml`` with images in ``images/``, in folders of subsets there, or beside it."""

    name = "cvat"
    layouts = (
        (
            "an XML file of CVAT (CVAT for images 1.1) with images in images/ or beside it: its subsets, or else "
            "the split all, or by folders SPLIT/"
        ),
    )

    def files(self, root: Path) -> Mapping[str, Sequence[Path]]:
        places = [root, *folders_in(root)]
        found = by_split(
            root, {folder: [one for one in some_files(folder, ".xml") if is_cvat(one)] for folder in places}
        )
        if list(found) != [ALL]:
            return found
        subsets = sorted({_name(subset) for path in found[ALL] for subset in _subsets(path)})
        return dict.fromkeys(subsets, found[ALL]) if subsets else found

    def class_names(self, root: Path) -> Sequence[str]:
        names: list[str] = []
        for paths in dict.fromkeys(tuple(paths) for paths in self.files(root).values()):
            for path in paths:
                names += [name for name in _parse(path).labels if name not in names]
        return names

    def read(self, path: Path, root: Path) -> Iterator[AnnotatedImage]:
        parsed = _parse(path)
        if parsed.has_tracks and not parsed.images:
            raise ValueError(
                "these are tracks in a video; export them as CVAT for images 1.1, and the frames as images with them"
            )
        has_subsets = any("subset" in attributes for attributes, _ in parsed.images)
        for attributes, shapes in parsed.images:
            subset = attributes.get("subset", "")
            folders = [path.parent / "images" / subset, path.parent / "images", path.parent / subset, path.parent]
            size = parse_size(parse_number(attributes.get("height")), parse_number(attributes.get("width")))
            yield AnnotatedImage(
                attributes.get("name", ""),
                list(dict.fromkeys(folders)),
                size,
                [_shape(kind, own, size) for kind, own in shapes],
                subset=_name(subset) if has_subsets else None,
            )


class _Builder:
    """Collects images with their shapes while an XML file is read; refuses document types, and with them entities: they
    can expand without limit or read other files."""

    def __init__(self) -> None:
        self.images: list[tuple[dict[str, str], list[tuple[str, dict[str, str]]]]] = []
        self.labels: list[str] = []
        self.has_tracks = False
        self._path: list[str] = []
        self._text = ""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        inside = self._path[-1:] == ["image"]
        if not self._path and tag != "annotations":
            raise ValueError(f"expected <annotations> as outermost element, got <{tag}>")
        self._path.append(tag)
        self._text = ""
        if tag == "image" and len(self._path) == 2:
            self.images.append((attributes, []))
        elif tag == "track":
            self.has_tracks = True
        elif inside and tag in _SHAPES:
            self.images[-1][1].append((tag, attributes))

    def data(self, text: str) -> None:
        if self._path[-1:] == ["name"]:
            self._text += text

    def end(self, tag: str) -> None:
        if tag == "name" and self._path[-2:-1] == ["label"] and self._text.strip():
            self.labels.append(self._text.strip())
        self._path.pop()

    def doctype(self, name: str, *_: Any) -> None:
        raise ValueError(f"has a DOCTYPE ({name}), which annotations have no use for; remove it")

    def close(self) -> _Builder:
        return self


def is_cvat(path: Path) -> bool:
    """Whether an XML file begins as those of CVAT do."""
    return begins_with(path, "<annotations>") and begins_with(path, "<version>1.")


def _parse(path: Path) -> _Builder:
    """Raises ValueError: it cannot be read, or is no such file."""
    parser = ET.XMLParser(target=_Builder())
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes, allowed are {MAX_FILE_BYTES:,}; split the file")
        with open_regular(path) as stream:
            while part := stream.read(_PART_BYTES):
                parser.feed(part)
        built = parser.close()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except ET.ParseError as error:
        line, column = error.position
        raise ValueError(f"no valid XML: {error} (line {line}, column {column + 1})") from error
    assert isinstance(built, _Builder)
    return built


def _subsets(path: Path) -> set[str]:
    try:
        return {one.decode("utf-8", "replace") for one in _SUBSET.findall(read_bytes(path))}
    except OSError:
        return set()


def _name(subset: str) -> str:
    """What a subset is called as a split: CVAT proposes Train, Test and Validation."""
    return subset.lower() or "default"


def _shape(kind: str, attributes: Mapping[str, str], size: tuple[int, int] | None) -> Shape:
    label = attributes.get("label", "").strip() or None
    if kind in _NO_OBJECTS:
        return no_object(label, kind)

    def numbers(*names: str) -> list[float | None]:
        return [parse_number(attributes.get(name)) for name in names]

    turn = parse_number(attributes.get("rotation", "0")) or 0.0
    if kind == "box":
        return turned_box(label, numbers("xtl", "ytl", "xbr", "ybr"), turn)
    if kind == "polygon":
        pairs = attributes.get("points", "").replace(";", ",").split(",")
        return polygon(label, [parse_number(text) for text in pairs])
    if kind == "ellipse":
        return ellipse(label, numbers("cx", "cy"), numbers("rx", "ry"), float(np.deg2rad(turn)))
    return _mask(label, attributes, numbers("left", "top", "width", "height"), size)


def _mask(
    label: str | None, attributes: Mapping[str, str], place: Sequence[float | None], size: tuple[int, int] | None
) -> Shape:
    """The mask whose runs outside and inside in turn go along the rows of a rectangle."""
    runs = [parse_number(text) for text in attributes.get("rle", "").split(",")]
    if size is None or not all(map(is_coordinate, [*place, *runs])):
        return Shape(label, problem=f"a mask must have rle, left, top, width and height, got {show(dict(attributes))}")
    left, top, width, height = (int(one or 0) for one in place)
    lengths = np.array(runs).astype(np.int64)
    if width < 1 or height < 1 or (lengths < 0).any() or lengths.sum() != width * height:
        message = f"the runs of a mask of {width}x{height} pixels must add up to them, got {lengths.sum()}"
        return Shape(label, problem=message)
    inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)
    # Rounding may leave a row or column beyond the image.
    first_x, first_y = max(0, -left), max(0, -top)
    inside = inside[first_y : max(first_y, size[0] - top), first_x : max(first_x, size[1] - left)]
    return Shape(label, mask=RunLengths.from_crop(inside, max(0, left), max(0, top), *size))
