"""CreateML: one JSON file for a folder of images
(https://developer.apple.com/documentation/createml/building-an-object-detector-data-source)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detseg.data.entries.parsing import is_coordinate, show
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
from detseg.data.programs.shapes import Shape

_SIDES = ("x", "y", "width", "height")


class CreateMlFormat(ProgramFormat):
    """A list of ``{image, annotations: [{label, coordinates: {x, y, width, height}}]}``; x and y are the middle."""

    name = "createml"
    targets = ("boxes",)
    layouts = ("a JSON file in CreateML's form beside its images: the split all, or by folders SPLIT/",)

    def files(self, root: Path) -> Mapping[str, Sequence[Path]]:
        places = [root, *folders_in(root)]
        return by_split(
            root, {folder: [one for one in some_files(folder, ".json") if _is_one(one)] for folder in places}
        )

    def read(self, path: Path, root: Path) -> Iterator[AnnotatedImage]:
        for position, entry in enumerate(require_kind(read_json(path), list, "the file")):
            require_kind(entry, dict, f"entry {position}")
            name = require_kind(entry.get("image", entry.get("imagefilename")), str, f"image of entry {position}")
            found = entry.get("annotations", entry.get("annotation"))
            objects = [] if found is None else require_kind(found, list, f"annotations of {name}")
            folders = [path.parent, path.parent / "images"]
            yield AnnotatedImage(name, folders, None, [_shape(one) for one in objects])


def _is_one(path: Path) -> bool:
    # What has no objects in its first part has its name to show for it.
    return path.name.endswith(".createml.json") or (
        begins_with(path, '"coordinates"', '"annotation') and (begins_with(path, '"image') and _is_list(path))
    )


def _is_list(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _shape(entry: Any) -> Shape:
    if not isinstance(entry, dict):
        return Shape(None, problem=f"an annotation must be an object, got {show(entry)}")
    label, place = entry.get("label"), entry.get("coordinates")
    label = label.strip() or None if isinstance(label, str) else None
    values: list[Any] = [place.get(side) for side in _SIDES] if isinstance(place, dict) else []
    if not values or not all(map(is_coordinate, values)):
        return Shape(label, problem=f"coordinates must have numbers x, y, width and height, got {show(place)}")
    middle_x, middle_y, width, height = values
    return Shape(label, (middle_x - width / 2, middle_y - height / 2, width, height))
