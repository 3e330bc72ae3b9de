"""Pascal VOC: one XML file per image (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html).

Boxes are ``(xmin, ymin, xmax - xmin, ymax - ymin)``: corners, without VOC's original "+ 1" for inclusive pixels. That
is how today's annotation tools write them, and how other toolkits count them.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from detseg.data.dataset import (
    Dataset,
    DatasetError,
    DatasetFormat,
    Source,
    check_class_names,
    find_existing,
    leaves_root,
    read_class_file,
    read_lines,
)
from detseg.data.packed import PackedBuilder
from detseg.runtime.media.images import IMAGE_SUFFIXES, ImageError, image_size
from detseg.structures import Truth

MAX_XML_BYTES = 64 * 2**20
_SETTINGS = {"format", "path", "names"}
# The lists of one class (aeroplane_train.txt) say 1, 0 or -1 behind each name.
_CLASS_LIST_LINE = re.compile(r"\S+\s+-?[01]$")


class VocFormat(DatasetFormat):
    """The folder of a VOC data set, or a YAML that adds class names or splits to it."""

    layouts = (
        "ImageSets/Main/SPLIT.txt with Annotations/*.xml and JPEGImages/; class names from classes.txt, else all XML",
        "a YAML with `format: voc`, `path:` and optionally `names: [...]` and lists of images, `SPLIT: FILE.txt`",
    )

    def splits(self, source: Source) -> tuple[str, ...]:
        if source.yaml_path is not None and source.settings.get("format") != "voc":
            return ()
        root = source.data_root()
        if not (root / "Annotations").is_dir():
            return ()
        named = tuple(str(key) for key in source.settings if key not in _SETTINGS)
        return named or tuple(path.stem for path in sorted(root.glob("ImageSets/Main/*.txt")) if _lists_images(path))

    def read_split(self, source: Source, split: str, truth: Truth) -> Dataset:
        root = source.data_root()
        list_path = root / "ImageSets" / "Main" / f"{split}.txt"
        if split in source.settings:
            list_path = find_existing(source.candidates(str(source.settings[split])), split, source.name)
        names = source.settings.get("names")
        if names is not None:
            names = check_class_names(names, f"{source.name}: names")
        elif (root / "classes.txt").is_file():
            names = read_class_file(root / "classes.txt")
        return read_voc(root, list_path, split, names)


def read_voc(root: Path, list_path: Path, split: str, class_names: Iterable[str] | None = None) -> Dataset:
    """The images of the data set in ``root`` that the file ``list_path`` lists, numbered from 1 in its order.

    Without ``class_names``, they are those of all files in ``Annotations``, sorted: the same for every split. Boxes
    without width or height are left out and counted; ``difficult`` objects are kept and flagged. An image is the file
    in ``JPEGImages`` with the name in the list, else the one that the XML's ``filename`` names.

    Raises:
        DatasetError: a file is missing, is no annotation, names an unknown class, or has boxes that are no numbers.
    """
    folder = root / "Annotations"
    files = {path.stem: path for path in sorted(folder.glob("*.xml"))} if class_names is None else {}
    parsed = {stem: _parse(path) for stem, path in files.items()}
    if class_names is None:
        found = {_text(item, "name", files[stem]) for stem, tree in parsed.items() for item in tree.iterfind("object")}
        class_names = check_class_names(sorted(found), f"{folder}: the names of the objects")
    class_names = tuple(class_names)
    label_of = {name: label for label, name in enumerate(class_names)}

    images = _Images(root / "JPEGImages")
    builder = PackedBuilder()
    num_dropped = 0
    seen: set[str] = set()
    for line in read_lines(list_path):
        if leaves_root(line) or line in seen:
            raise DatasetError(f"{list_path}: {line!r} {'is listed twice' if line in seen else 'leaves the folder'}")
        seen.add(line)
        path = find_existing([folder / f"{line}.xml"], f"annotation of {line!r}", str(list_path))
        tree = parsed[line] if line in parsed else _parse(path)
        name = images.find(line, tree.findtext("filename"), path)
        image = builder.add_image(len(seen), name, *_size(tree, path, images.folder / name))
        for number, item in enumerate(tree.iterfind("object"), start=1):
            where = f"{path}: object {number}"
            label = label_of.get(_text(item, "name", path))
            if label is None:
                raise DatasetError(f"{where}: class {_text(item, 'name', path)!r}; known are {', '.join(class_names)}")
            left, top, right, bottom = (_corner(item, key, where) for key in ("xmin", "ymin", "xmax", "ymax"))
            if right <= left or bottom <= top:
                num_dropped += 1
                continue
            difficult = (item.findtext("difficult") or "0").strip() not in ("0", "")
            builder.add_object(image, (left, top, right - left, bottom - top), label, difficult=difficult)
    return Dataset(
        root=images.folder,
        home=root,
        split=split,
        class_names=class_names,
        annotations=builder.build(),
        num_dropped_by_reader=num_dropped,
    )


class _SafeBuilder(ET.TreeBuilder):
    """Refuses document types, and with them entities: they can expand without limit or read other files."""

    def doctype(self, name: str, *_: Any) -> None:
        raise DatasetError(f"has a DOCTYPE ({name}), which annotations have no use for; remove it")


class _Images:
    """The files of the folder of images, listed once instead of asked for one by one."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DatasetError(f"{folder}: no such folder; the images of a VOC data set lie there")
        self.folder = folder
        self._names = {path.name for path in folder.iterdir()}
        self._by_stem: dict[str, str] = {}
        for name in sorted(self._names):
            path = Path(name)
            if path.suffix.lower() in IMAGE_SUFFIXES:
                self._by_stem.setdefault(path.stem, name)

    def find(self, stem: str, file_name: str | None, xml_path: Path) -> str:
        """The name of the image; the one that would be expected where there is none, for ``load`` to complain about."""
        if stem in self._by_stem:
            return self._by_stem[stem]
        file_name = (file_name or "").strip() or f"{stem}.jpg"
        if leaves_root(file_name):
            raise DatasetError(f"{xml_path}: filename must stay inside {self.folder}, got {file_name!r}")
        return file_name if file_name in self._names else f"{stem}.jpg"


def _lists_images(path: Path) -> bool:
    return not any(_CLASS_LIST_LINE.match(line) for line in read_lines(path)[:1])


def _parse(path: Path) -> ET.Element:
    try:
        if path.stat().st_size > MAX_XML_BYTES:
            raise DatasetError(f"is larger than {MAX_XML_BYTES:,} bytes")
        tree = ET.fromstring(path.read_bytes(), ET.XMLParser(target=_SafeBuilder()))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except (ET.ParseError, ValueError, LookupError) as error:
        raise DatasetError(f"{path}: no valid VOC annotation: {error}") from error
    if tree.tag != "annotation":
        raise DatasetError(f"{path}: expected <annotation> as outermost element, got <{tree.tag}>")
    return tree


def _size(tree: ET.Element, path: Path, image_path: Path) -> tuple[int, int]:
    """(height, width) from the annotation, from the image where it says nothing or 0; (0, 0) if that is unreadable."""
    texts = [(tree.findtext(f"size/{key}") or "0").strip() for key in ("height", "width")]
    try:
        height, width = (int(float(text)) for text in texts)
    except (ValueError, OverflowError) as error:
        raise DatasetError(f"{path}: size must be integers, got height {texts[0]!r}, width {texts[1]!r}") from error
    if height > 0 and width > 0:
        return height, width
    try:
        return image_size(image_path)
    except ImageError:
        # `load` says so when its turn comes, and the loader decides what becomes of it.
        return 0, 0


def _corner(item: ET.Element, key: str, where: str) -> float:
    text = item.findtext(f"bndbox/{key}")
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(f"{where}: bndbox/{key} must be a finite number, got {text!r}")
    return value


def _text(item: ET.Element, key: str, path: Path) -> str:
    text = (item.findtext(key) or "").strip()
    if not text:
        raise DatasetError(f"{path}: an object without <{key}>")
    return text
