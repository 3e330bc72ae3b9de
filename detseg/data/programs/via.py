"""VGG Image Annotator (VIA): a JSON file with the regions of many images
(https://www.robots.ox.ac.uk/~vgg/software/via/)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detseg.data.entries.parsing import enumerate_some, is_coordinate, show
from detseg.data.programs.base import (
    AnnotatedImage,
    ProgramFormat,
    begins_with,
    by_split,
    folders_in,
    read_json,
    require_kind,
    some_files,
)
from detseg.data.programs.shapes import Shape, ellipse, no_object, polygon

_ONLY_CLASS = "object"
"""The class of regions to which no attribute was given: they were drawn to find one kind of thing."""
_USUAL = ("class", "label", "name", "type", "category")


class ViaFormat(ProgramFormat):
    """The regions of images as VIA 1 and 2 save and export them as JSON; the one attribute of regions is their class,
    of several the one that is called class, label, name, type or category. Without any, all are of class ``object``."""

    name = "via"
    layouts = ("a JSON file of VIA (project or export) beside its images: the split all, or by folders SPLIT/",)

    def files(self, root: Path) -> Mapping[str, Sequence[Path]]:
        places = [root, *folders_in(root)]
        return by_split(
            root, {folder: [one for one in some_files(folder, ".json") if _is_one(one)] for folder in places}
        )

    def read(self, path: Path, root: Path) -> Iterator[AnnotatedImage]:
        document = require_kind(read_json(path), dict, "the file")
        entries = require_kind(document.get("_via_img_metadata", document), dict, "_via_img_metadata")
        images = [require_kind(entry, dict, f"entry {key}") for key, entry in entries.items()]
        regions = [_regions(entry) for entry in images]
        attribute = _attribute(path, [one for some in regions for one in some])
        for entry, found in zip(images, regions, strict=True):
            name = require_kind(entry.get("filename"), str, "filename")
            folders = [path.parent, path.parent / "images"]
            yield AnnotatedImage(name, folders, None, [_shape(one, attribute) for one in found])


def _is_one(path: Path) -> bool:
    return begins_with(path, '"_via_img_metadata"') or begins_with(path, '"filename"', '"shape_attributes"')


def _regions(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The regions of an image: a list, in VIA 1 by numbers."""
    found = entry.get("regions") or []
    listed = list(found.values()) if isinstance(found, dict) else require_kind(found, list, "regions")
    return [require_kind(one, dict, "a region") for one in listed]


def _attribute(path: Path, regions: Sequence[Mapping[str, Any]]) -> str | None:
    """The attribute that holds the class, None where no region has any.

    Raises:
        ValueError: it may be one of several.
    """
    counts = Counter(
        key
        for region in regions
        for key, value in (region.get("region_attributes") or {}).items()
        if _text(value) is not None
    )
    usual = [key for key in counts if key.lower() in _USUAL]
    if len(counts) <= 1 or len(usual) == 1:
        return next(iter(usual or counts), None)
    raise ValueError(
        f"any of the attributes {enumerate_some(counts)} of regions may be their class; rename the one that is to "
        "`class`, or export the annotations as COCO"
    )


def _text(value: Any) -> str | None:
    """A class as it is written, chosen from a list, or the only one that is checked."""
    if isinstance(value, dict):
        checked = [str(key) for key, is_checked in value.items() if is_checked]
        return checked[0].strip() if len(checked) == 1 else None
    return value.strip() or None if isinstance(value, str) else None


def _shape(region: Mapping[str, Any], attribute: str | None) -> Shape:
    label = _ONLY_CLASS if attribute is None else _text((region.get("region_attributes") or {}).get(attribute))
    place = region.get("shape_attributes")
    if not isinstance(place, dict):
        return Shape(label, problem=f"shape_attributes must be an object, got {show(place)}")
    kind = place.get("name")
    if kind == "rect":
        box = [place.get(side) for side in ("x", "y", "width", "height")]
        problem = "" if all(map(is_coordinate, box)) else f"a rect must have x, y, width and height, got {show(place)}"
        return Shape(label, box, problem=problem)
    if kind == "polygon":
        xs, ys = place.get("all_points_x"), place.get("all_points_y")
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            return Shape(label, problem=f"all_points_x and all_points_y must be lists of one length, got {show(place)}")
        return polygon(label, [value for point in zip(xs, ys, strict=True) for value in point])
    if kind in ("circle", "ellipse"):
        radii = [place.get("r")] * 2 if kind == "circle" else [place.get("rx"), place.get("ry")]
        turn = place.get("theta", 0.0)
        return ellipse(label, [place.get("cx"), place.get("cy")], radii, turn if is_coordinate(turn) else 0.0)
    return no_object(label, kind)
