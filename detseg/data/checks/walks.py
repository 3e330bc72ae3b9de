"""Annotations as they stand in the files: what the strict readers refuse, these walks report and pass by.

Each ``walk_*`` function reads one split of one format into image records and findings. It raises for nothing that a
file may hold. Where a box cannot be understood at all (no four finite numbers), there is a finding and no box.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from detseg.data.dataset import leaves_root
from detseg.data.formats.coco import MAX_COORDINATE
from detseg.data.formats.yolo import TOLERANCE
from detseg.data.records import (
    BoxRecord,
    ImageRecord,
    SplitRecords,
    enumerate_some,
    four_numbers,
    is_coordinate,
    is_integer,
    parse_integer,
    parse_number,
    show,
)


def walk_coco(name: str, annotations: Path, folders: Sequence[Path]) -> SplitRecords:
    """A COCO file; its images lie in the first of ``folders`` that has any of them."""
    split = SplitRecords(name)
    document = _read_json(split, annotations)
    if document is None:
        return split
    tables: dict[str, list[dict[str, Any]]] = {}
    for key in ("categories", "images", "annotations"):
        tables[key] = _identified(split, annotations, key, document.get(key))
    names: dict[int, str] = {}
    for entry in tables["categories"]:
        if isinstance(entry.get("name"), str):
            names[entry["id"]] = entry["name"]
        else:
            split.report("D005", annotations, f"category {entry['id']}: name is {show(entry.get('name'))}, not a text")
    split.class_names = tuple(names[key] for key in sorted(names))
    images = _folder_of_images(tables["images"], folders)
    split.image_folders = (images,)
    records: dict[int, ImageRecord] = {}
    for entry in tables["images"]:
        record = _coco_image(split, annotations, images, entry)
        if record is not None:
            records[entry["id"]] = record
    split.images = list(records.values())
    known_images = {entry["id"] for entry in tables["images"]}
    unknown: dict[str, list[int]] = defaultdict(list)
    for entry in tables["annotations"]:
        identifier, image_id, category = entry["id"], entry.get("image_id"), entry.get("category_id")
        if not is_integer(image_id) or image_id not in known_images:
            split.report("D005", annotations, f"image_id {show(image_id)} is the id of no image", identifier)
            continue
        known = names.get(category) if is_integer(category) else None
        if known is None:
            unknown[show(category)].append(identifier)
        for message in _coco_field_problems(entry):
            split.report("D005", annotations, message, identifier)
        xywh = four_numbers(entry.get("bbox"))
        if xywh is None:
            split.report(
                "D005",
                annotations,
                f"bbox is {show(entry.get('bbox'))}, not four numbers of a sensible size",
                identifier,
            )
        elif image_id in records:
            left, top, width, height = xywh
            box = (left, top, left + width, top + height)
            records[image_id].boxes.append(BoxRecord(identifier, known, box, entry.get("iscrowd") in (1, True)))
    for received, identifiers in unknown.items():
        message = f"category_id {received} is the id of no category; known are {enumerate_some(sorted(names))}"
        split.report("D004", annotations, message, *identifiers)
    return split


def _folder_of_images(entries: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> Path:
    names = [str(entry.get("file_name")) for entry in entries[:1000]]
    safe_names = [name for name in names if not leaves_root(name)]
    existing = [folder for folder in folders if folder.is_dir()]
    filled = (folder for folder in existing if any((folder / name).is_file() for name in safe_names))
    return next(filled, (existing or list(folders))[0])


def _coco_field_problems(entry: Mapping[str, Any]) -> Iterator[str]:
    area, crowd, outline = entry.get("area"), entry.get("iscrowd", 0), entry.get("segmentation")
    if area is not None and not (isinstance(area, int | float) and abs(area) < math.inf):
        yield f"area is {show(area)}, not a finite number"
    if crowd not in (0, 1):
        yield f"iscrowd is {show(crowd)}, allowed are 0 and 1"
    polygons = outline if isinstance(outline, list) else []
    is_mask = isinstance(outline, dict) and {"counts", "size"} <= set(outline)
    if not (outline is None or is_mask or isinstance(outline, list)):
        yield f"segmentation is {show(outline)}, neither polygons nor counts and size"
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) % 2 or not all(map(is_coordinate, polygon)):
            yield f"segmentation holds {show(polygon)}, not pairs of numbers under {MAX_COORDINATE:g}"


def _read_json(split: SplitRecords, path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        split.report("D100", path, f"cannot be read: {error.strerror}")
    except json.JSONDecodeError as error:
        split.report("D100", path, f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}")
    except UnicodeDecodeError as error:
        split.report("D100", path, f"not UTF-8: {error.reason} at byte {error.start}")
    except ValueError as error:
        split.report("D100", path, f"not JSON: {error}")
    except RecursionError:
        split.report("D100", path, "nested too deeply for a COCO file")
    else:
        if isinstance(document, dict):
            return document
        split.report("D100", path, f"holds a {type(document).__name__}, a COCO file is an object with images, ...")
    return None


def _identified(split: SplitRecords, path: Path, key: str, table: object) -> list[dict[str, Any]]:
    """The entries of a COCO table that have an id, each id once."""
    if not isinstance(table, list):
        split.report("D100", path, f"{key} is {show(table)}, must be a list")
        return []
    entries: list[dict[str, Any]] = []
    num_uses: dict[int, int] = defaultdict(int)
    for position, entry in enumerate(table):
        if not isinstance(entry, dict) or not is_integer(entry.get("id")):
            split.report("D005", path, f"{key}[{position}]: must be an object with an integer id, is {show(entry)}")
            continue
        num_uses[entry["id"]] += 1
        # A second annotation is still a box to look at; a second image or category of that id cannot be told apart.
        if num_uses[entry["id"]] == 1 or key == "annotations":
            entries.append(entry)
    for identifier, count in num_uses.items():
        if count > 1:
            ids = (identifier,) if key == "annotations" else ()
            split.report("D106", path, f"{count} entries of {key} have the id {identifier}", *ids)
    return entries


def _coco_image(split: SplitRecords, source: Path, folder: Path, entry: Mapping[str, Any]) -> ImageRecord | None:
    file_name = entry.get("file_name")
    if not isinstance(file_name, str):
        split.report("D005", source, f"image {entry['id']}: file_name is {show(file_name)}, not the name of a file")
        return None
    if leaves_root(file_name):
        split.report("D107", source, f"image {entry['id']}: {file_name!r} lies outside {folder}")
        return None
    size = (entry.get("height"), entry.get("width"))
    return ImageRecord(
        folder / file_name, source, _recorded_size(split, source, f"image {entry['id']} ({file_name})", size)
    )


def _recorded_size(split: SplitRecords, source: Path, what: str, size: tuple[Any, Any]) -> tuple[int, int] | None:
    height, width = size
    if is_integer(height) and is_integer(width) and height > 0 and width > 0:
        return height, width
    message = f"{what}: height and width must be positive integers, are {show(height)} and {show(width)}"
    split.report("D005", source, message)
    return None


def walk_voc(name: str, images: Iterable[tuple[Path, Path]], class_names: Sequence[str] | None) -> SplitRecords:
    """Pairs of image and XML file; ``class_names`` are the allowed names, None where every name is a class."""
    split = SplitRecords(name, tuple(class_names or ()))
    for path, source in images:
        record = ImageRecord(path, source)
        split.images.append(record)
        try:
            root = ET.fromstring(source.read_bytes())
        except OSError as error:
            split.report("D100", source, f"cannot be read: {error.strerror}")
            continue
        except ET.ParseError as error:
            line, column = error.position
            split.report("D100", source, f"not XML: {error} (line {line}, column {column + 1})")
            continue
        except (ValueError, LookupError) as error:
            split.report("D100", source, f"not XML: {error}")
            continue
        if root.tag != "annotation":
            split.report("D100", source, f"the outermost element is <{root.tag}>, must be <annotation>")
            continue
        named = (root.findtext("filename") or "").strip()
        if not path.is_file() and not leaves_root(named) and (path.parent / named).is_file():
            record.path = path.parent / named
        size = (parse_integer(root.findtext("size/height")), parse_integer(root.findtext("size/width")))
        # Tools that do not know the size write none or zeros; the readers then take it from the image.
        if not all(value in (None, 0) for value in size):
            record.recorded_size = _recorded_size(split, source, "size", size)
        for position, element in enumerate(root.iterfind("object"), 1):
            box = _voc_box(split, source, element, position, class_names)
            if box is not None:
                record.boxes.append(box)
    return split


def _voc_box(
    split: SplitRecords,
    source: Path,
    element: ET.Element,
    position: int,
    class_names: Collection[str] | None,
) -> BoxRecord | None:
    category: str | None = (element.findtext("name") or "").strip()
    if not category:
        split.report("D005", source, "the object has no name", position)
        category = None
    elif class_names is not None and category not in class_names:
        split.report("D004", source, f"{category!r} is no class; known are {enumerate_some(class_names)}", position)
        category = None
    texts = [element.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    xyxy = four_numbers([parse_number(text) for text in texts])
    if xyxy is None:
        split.report(
            "D005", source, f"xmin, ymin, xmax, ymax are {show(texts)}, not four numbers of a sensible size", position
        )
        return None
    return BoxRecord(position, category, xyxy)


def walk_yolo(
    name: str, images: Iterable[Path], label_path: Callable[[Path], Path], class_names: Sequence[str]
) -> SplitRecords:
    """Images and the text files that belong to them; an image without a text file has no objects."""
    split = SplitRecords(name, tuple(class_names))
    for path in images:
        source = label_path(path)
        record = ImageRecord(path, source, in_fractions=True)
        split.images.append(record)
        try:
            text = source.read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        except OSError as error:
            split.report("D100", source, f"cannot be read: {error.strerror}")
            continue
        except UnicodeDecodeError as error:
            split.report("D100", source, f"not UTF-8: {error.reason} at byte {error.start}")
            continue
        for number, line in enumerate(text.splitlines(), 1):
            box = _yolo_box(split, source, line, number) if line.strip() else None
            if box is not None:
                record.boxes.append(box)
    return split


def _yolo_box(split: SplitRecords, source: Path, line: str, number: int) -> BoxRecord | None:
    fields = line.split()
    is_box, is_polygon = len(fields) == 5, len(fields) >= 7 and len(fields) % 2 == 1
    values = [value for value in map(parse_number, fields) if value is not None]
    if not (is_box or is_polygon) or len(values) < len(fields):
        message = f"{show(line)}: must be a class and four numbers (center x, center y, width, height) or a polygon"
        split.report("D005", source, message, number)
        return None
    label, *numbers = values
    outside = [
        text for text, value in zip(fields[1:], numbers, strict=True) if not -TOLERANCE <= value <= 1 + TOLERANCE
    ]
    if outside:
        split.report(
            "D005", source, f"{', '.join(outside)}: allowed are fractions of the image's sides, 0 to 1", number
        )
        return None
    if is_box:
        x, y, width, height = numbers
        xyxy = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    else:
        xyxy = (min(numbers[0::2]), min(numbers[1::2]), max(numbers[0::2]), max(numbers[1::2]))
    if label != int(label) or not 0 <= label < len(split.class_names):
        message = f"class {fields[0]} is unknown; allowed are 0 to {len(split.class_names) - 1}"
        split.report("D004", source, message, number)
        return BoxRecord(number, None, xyxy)
    return BoxRecord(number, split.class_names[int(label)], xyxy)
