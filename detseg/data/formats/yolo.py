"""YOLO: one text file per image, one line ``class cx cy w h`` per object, in fractions of the image's sides.

The YAML is the one that Ultralytics documents (https://docs.ultralytics.com/datasets/detect/). Lines with more numbers
are polygons, ``class x1 y1 x2 y2 ...``: the box is the one around it, and the polygon is kept.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detseg.data.dataset import (
    Dataset,
    DatasetError,
    DatasetFormat,
    Source,
    check_class_names,
    find_existing,
    read_class_file,
    read_lines,
    relative_candidates,
)
from detseg.data.packed import PackedBuilder
from detseg.runtime.media.images import IMAGE_SUFFIXES, ImageError, image_size
from detseg.structures import Truth

TOLERANCE = 0.01
"""How far outside 0 to 1 a number may lie: some tools round carelessly at the border. The box is clipped later."""

_SPLITS = ("train", "val", "test")


class YoloFormat(DatasetFormat):
    """A YAML with ``names`` and a folder or list of images per split, or a folder of images and labels per split."""

    layouts = (
        "a YAML with `names:`, `path:` and per split (train, val, test) a folder of images, a .txt list, or several",
        "images/SPLIT/ and labels/SPLIT/ with the class names in classes.txt",
    )

    def splits(self, source: Source) -> tuple[str, ...]:
        if source.yaml_path is not None:
            return tuple(name for name in _SPLITS if source.settings.get(name)) if "names" in source.settings else ()
        labels, images = source.root / "labels", source.root / "images"
        if not labels.is_dir() or not images.is_dir():
            return ()
        labeled = {folder.name for folder in labels.iterdir() if folder.is_dir()}
        names = sorted(folder.name for folder in images.iterdir() if folder.is_dir())
        return tuple(names) if labeled & set(names) else ()

    def read_split(self, source: Source, split: str, truth: Truth) -> Dataset:
        if source.yaml_path is None:
            path = find_existing([source.root / "classes.txt"], "list of class names, one per line,", source.name)
            return read_yolo(_images_in(source.root / "images" / split), source.root, split, read_class_file(path))
        if "kpt_shape" in source.settings:
            raise DatasetError(f"{source.name}: kpt_shape: key points are not supported, only boxes and polygons")
        names = _class_names(source.settings, source.name)
        where = f"{source.name}: {split}"
        entries = source.settings[split]
        images: list[Path] = []
        for entry in entries if isinstance(entries, list) else [entries]:
            if not isinstance(entry, str):
                raise DatasetError(f"{where}: expected a folder, a .txt list, or a list of these, got {entry!r}")
            images += _images_of(find_existing(_candidates(entry, source), repr(entry), where))
        return read_yolo(images, source.data_root(), split, names)


def read_yolo(images: Sequence[Path], root: Path, split: str, class_names: Sequence[str]) -> Dataset:
    """The ``images`` with the boxes of their label files, numbered from 1 in their order.

    The labels of ``.../images/a/b.jpg`` are in ``.../labels/a/b.txt``; without a folder ``images``, beside the image.
    No label file means no objects. Boxes without width or height are left out and counted.

    Raises:
        DatasetError: no images or no labels at all, or a line that is malformed, names an unknown class or has numbers
            outside of 0 to 1; the message names file and line.
    """
    if not images:
        raise DatasetError(f"{root}: no images for the split {split}; suffixes are {', '.join(IMAGE_SUFFIXES)}")
    builder = PackedBuilder()
    num_dropped = num_labeled = 0
    root = root.absolute()
    for number, path in enumerate(images, start=1):
        path = path.absolute()
        try:
            height, width = image_size(path)
        except ImageError:
            # `load` says so when its turn comes, and the loader decides what becomes of it.
            height, width = 0, 0
        name = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
        image = builder.add_image(number, name, height, width)
        label_path = label_file(path)
        if not label_path.is_file():
            continue
        num_labeled += 1
        for label, values in _read_labels(label_path, class_names) if height else ():
            left, top, right, bottom = _corners(values)
            if right <= left or bottom <= top:
                num_dropped += 1
                continue
            box_xywh = (left * width, top * height, (right - left) * width, (bottom - top) * height)
            polygon = [value * (width, height)[axis % 2] for axis, value in enumerate(values)]
            builder.add_object(image, box_xywh, label, polygons=[polygon] if len(values) > 4 else [])
    if not num_labeled:
        expected = label_file(images[0].absolute())
        raise DatasetError(f"{root}: none of {len(images)} images of {split} has a label file, such as {expected}")
    return Dataset(
        root=root,
        split=split,
        class_names=class_names,
        annotations=builder.build(),
        num_dropped_by_reader=num_dropped,
    )


def label_file(image_path: Path) -> Path:
    """Where the labels of an image are: the last folder ``images`` in its path replaced by ``labels``, suffix .txt."""
    parts = list(image_path.parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _read_labels(path: Path, class_names: Sequence[str]) -> Iterator[tuple[int, list[float]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as text: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        where = f"{path}:{number}"
        if len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
            raise DatasetError(
                f"{where}: expected `class cx cy w h` or `class x1 y1 x2 y2 x3 y3 ...`, got {len(fields)} numbers: "
                f"{line.strip()[:80]!r}"
            )
        label, *values = (_number(field, where) for field in fields)
        if not (label.is_integer() and 0 <= label < len(class_names)):
            raise DatasetError(f"{where}: class {fields[0]}, allowed are integers from 0 to {len(class_names) - 1}")
        for field, value in zip(fields[1:], values, strict=True):
            if not -TOLERANCE <= value <= 1 + TOLERANCE:
                raise DatasetError(f"{where}: {field}, allowed are 0 to 1 (fractions of the image's width and height)")
        yield int(label), values


def _corners(values: list[float]) -> tuple[float, float, float, float]:
    if len(values) == 4:
        center_x, center_y, width, height = values
        return center_x - width / 2, center_y - height / 2, center_x + width / 2, center_y + height / 2
    x, y = values[::2], values[1::2]
    return min(x), min(y), max(x), max(y)


def _number(field: str, where: str) -> float:
    try:
        value = float(field)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(f"{where}: {field[:80]!r}, allowed are finite numbers")
    return value


def _class_names(settings: Mapping[str, Any], where: str) -> tuple[str, ...]:
    names = settings["names"]
    if isinstance(names, Mapping):
        if set(names) != set(range(len(names))):
            raise DatasetError(f"{where}: names: keys must be 0 to {len(names) - 1}, got {', '.join(map(str, names))}")
        names = [names[label] for label in range(len(names))]
    if isinstance(names, list):
        # `names: [0, 1, 2]` is common for digits; a bool is YAML's reading of an unquoted yes or no.
        names = [str(name) if type(name) in (int, float) else name for name in names]
    checked = check_class_names(names, f"{where}: names")
    count = settings.get("nc")
    if count is not None and count != len(checked):
        raise DatasetError(f"{where}: nc is {count!r}, but there are {len(checked)} names")
    return checked


def _candidates(entry: str, source: Source) -> list[Path]:
    candidates = source.candidates(entry)
    # Roboflow writes `../train/images` into a YAML that lies beside the folder train.
    return [*candidates, source.data_root() / entry.removeprefix("../")] if entry.startswith("../") else candidates


def _images_of(path: Path) -> list[Path]:
    if path.is_dir():
        return _images_in(path)
    if path.suffix != ".txt":
        raise DatasetError(f"{path}: expected a folder of images or a .txt list of images")
    return [find_existing(relative_candidates(line, path.parent), "image", str(path)) for line in read_lines(path)]


def _images_in(folder: Path) -> list[Path]:
    files = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sorted(file for file in files if file.suffix.lower() in IMAGE_SUFFIXES)
