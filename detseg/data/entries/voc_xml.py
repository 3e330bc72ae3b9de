"""The XML files of Pascal VOC: their objects, with boxes and polygons."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from detseg.data.entries.outline import box_around
from detseg.data.entries.parsing import (
    enumerate_some,
    four_numbers,
    is_coordinate,
    is_integer,
    parse_integer,
    parse_number,
)
from detseg.data.entries.xml_text import parse_xml
from detseg.data.records import BoxRecords
from detseg.data.source import leaves_root
from detseg.files import read_bytes
from detseg.run_lengths import RunLengths

MAX_XML_BYTES = 64 * 2**20

_SIDES = ("xmin", "ymin", "xmax", "ymax")


class Annotation:
    """One XML file: its root element, or the ``problem`` that keeps it from being used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        self.tree = ET.Element("annotation")
        try:
            if path.stat().st_size > MAX_XML_BYTES:
                self.problem = f"is larger than {MAX_XML_BYTES:,} bytes"
                return
            tree = parse_xml(read_bytes(path))
        except OSError as error:
            self.problem = f"cannot be read: {error.strerror}"
        except ET.ParseError as error:
            line, column = error.position
            self.problem = f"no valid VOC annotation: {error} (line {line}, column {column + 1})"
        except (ValueError, LookupError) as error:
            self.problem = f"no valid VOC annotation: {error}"
        else:
            if tree.tag == "annotation":
                self.tree = tree
            else:
                self.problem = f"expected <annotation> as outermost element, got <{tree.tag}>"

    @property
    def file_name(self) -> str:
        """The image that the file names, if any."""
        return (self.tree.findtext("filename") or "").strip()

    def class_names(self) -> set[str]:
        """The names of its objects."""
        return {name for item in self.tree.iterfind("object") if (name := (item.findtext("name") or "").strip())}


def add_image(records: BoxRecords, annotation: Annotation, name: str, masks: Mapping[int, RunLengths]) -> None:
    """Add an image with the boxes of its annotation, and the ``masks`` of its objects by their numbers."""
    path, tree = annotation.path, annotation.tree
    if annotation.problem is not None:
        records.reject("D100", path, annotation.problem)
    if annotation.file_name and leaves_root(annotation.file_name) and not (records.root / name).is_file():
        records.reject("D107", path, f"filename must stay inside {records.root}, got {annotation.file_name!r}")
    texts = [tree.findtext(f"size/{side}") for side in ("height", "width")]
    stated = tuple(parse_integer(text) for text in texts)
    size: tuple[int, int] | None = None
    # Tools that do not know the size write none or zeros; it is then that of the image.
    if not all(value in (None, 0, "") for value in stated):
        height, width = stated
        if is_integer(height) and is_integer(width) and height > 0 and width > 0:
            size = height, width
        else:
            records.reject("D005", path, f"size must be positive integers, got height {texts[0]!r}, width {texts[1]!r}")
    image = records.add_image(name, path, size)
    num_objects = 0
    for number, item in enumerate(tree.iterfind("object"), 1):
        _add_box(records, image, path, item, number, masks.get(number))
        num_objects = number
    beyond = [number for number in masks if number > num_objects]
    if beyond:
        file = masks_file(records.home, path)
        message = f"there are {num_objects} objects, but pixels of number {enumerate_some(beyond)} in {file}"
        records.reject("D009", path, message)


def _add_box(
    records: BoxRecords, image: int, path: Path, item: ET.Element, number: int, mask: RunLengths | None
) -> None:
    label: str | None = (item.findtext("name") or "").strip()
    if not label:
        records.reject("D005", path, "an object without <name>", number)
        label = None
    polygon = _polygon(item) if mask is None else []
    if item.find("bndbox") is None:
        around = box_around([polygon]) if polygon else None if mask is None else mask.box_xywh.tolist()
        if around is None:
            rotated = "; <robndbox> is a rotated one, which is not read" if item.find("robndbox") is not None else ""
            records.reject("D005", path, f"an object without <bndbox>{rotated}", number)
            return
        left, top, right, bottom = around[0], around[1], around[0] + around[2], around[1] + around[3]
    else:
        texts = {side: item.findtext(f"bndbox/{side}") for side in _SIDES}
        corners = four_numbers([parse_number(text) for text in texts.values()])
        if corners is None:
            side, text = next((side, text) for side, text in texts.items() if not is_coordinate(parse_number(text)))
            records.reject("D005", path, f"bndbox/{side} must be a finite number, got {text!r}", number)
            return
        left, top, right, bottom = corners
    difficult = (item.findtext("difficult") or "0").strip() not in ("0", "")
    records.add_box(
        image,
        (left, top, right - left, bottom - top),
        label,
        number,
        difficult=difficult,
        area=None if mask is None else mask.area,
        polygons=[polygon] if polygon else [],
        run_length=None if mask is None else mask.to_coco(),
    )


def _polygon(item: ET.Element) -> list[float]:
    """The corners that Roboflow writes as ``<polygon><x1>, <y1>, <x2>, ...``; none unless there are three."""
    corners: list[float] = []
    for number in count(1):
        x, y = (parse_number(item.findtext(f"polygon/{axis}{number}")) for axis in "xy")
        if x is None or y is None:
            return corners if number > 3 else []
        corners += x, y
    raise AssertionError("numbers do not end")


def masks_file(root: Path, annotation: Path) -> Path:
    """Where the masks of the objects of an XML file in the data set at ``root`` are."""
    return root / "SegmentationObject" / f"{annotation.stem}.png"
