"""What exports of programs for annotation have in common: files that list images with shapes, each of a class."""

from __future__ import annotations

import json
import os
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from detseg.data.entries.outline import box_around
from detseg.data.entries.parsing import show
from detseg.data.format import DatasetFormat
from detseg.data.programs.shapes import Shape
from detseg.data.records import BoxRecords
from detseg.data.source import DataSource, as_there, check_class_names, exists, is_hidden, leaves_root, stated_names
from detseg.data.split_rule import ALL
from detseg.files import read_any_text
from detseg.runtime.media.images import IMAGE_SUFFIXES
from detseg.structures import Target

MAX_FILE_BYTES = 2 * 2**30
MAX_SIDE = 2**20

_SPLIT = re.compile(r"(train(ing)?|val(id)?(ation)?|test)[_-]?\d*", re.IGNORECASE)
NUM_LISTED = 1000
"""Entries of a folder that are looked at to find out what is in it; there may be a hundred thousand."""
_NUM_READ = 5
_HEAD_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image as a file describes it: what it is called there, the ``folders`` that it may lie in, its (height, width)
    if that is stated, and its ``shapes``. ``problems`` are what is wrong with its entry; ``subset`` is the split that
    it is said to be in, and ``stem`` what the file is called, but for its suffix, where there is none of that name."""

    name: str
    folders: Sequence[Path]
    size: tuple[int, int] | None = None
    shapes: Sequence[Shape] = ()
    problems: Sequence[str] = ()
    subset: str | None = None
    stem: str = ""


class ProgramFormat(DatasetFormat):
    """A format whose files list images with shapes.

    A class of it says where the files are and reads one of them. The name of the format stands in a YAML's ``format:``;
    without a YAML a folder is enough. Classes are those that ``names:`` or classes.txt lists, else what
    ``class_names`` gives, else those that occur in any split, sorted.
    """

    targets: ClassVar[tuple[Target, ...]] = ("boxes", "instances")
    name: ClassVar[str]

    @abstractmethod
    def files(self, root: Path) -> Mapping[str, Sequence[Path]]:
        """The files of each split; nothing where there are none of this format. It is asked of any folder."""

    @abstractmethod
    def read(self, path: Path, root: Path) -> Iterable[AnnotatedImage]:
        """The images of a file of the data set in ``root``. Raises ValueError: it is none of this program."""

    def class_names(self, root: Path) -> Sequence[str]:
        """The classes that the program lists. Raises ValueError: they cannot be read."""
        return ()

    def splits(self, source: DataSource) -> tuple[str, ...]:
        if source.yaml_path is not None and source.settings.get("format") != self.name:
            return ()
        return tuple(self.files(source.data_root()))

    def records(self, source: DataSource, split: str, target: Target) -> BoxRecords:
        root = source.data_root()
        files = self.files(root)
        stated = stated_names(source)
        images: dict[Path, list[AnnotatedImage]] = {}
        rejected: list[tuple[Path, str]] = []
        listed: Sequence[str] = ()
        try:
            listed = () if stated else self.class_names(root)
        except ValueError as error:
            rejected.append((root, str(error)))
        # Who reads its classes from all files must be able to read them all.
        every = dict.fromkeys(path for paths in files.values() for path in paths)
        for path in files[split] if stated or listed else every:
            try:
                images[path] = list(self.read(path, root))
            except ValueError as error:
                rejected.append((path, str(error)))
        found = sorted({shape.label for some in images.values() for one in some for shape in one.shapes if shape.label})
        names = stated or listed or found
        if names:
            names = check_class_names(names, f"{source.name}: the names of the shapes")
        elif not rejected:
            rejected.append((root, "no shape has a class, so there is nothing to learn"))
        records = BoxRecords(split, root=root, class_names=names, entry="shape", target=target)
        for path, message in rejected:
            records.reject("D100", path, message)
        for path in files[split]:
            for image in images.get(path, ()):
                if image.subset in (None, split):
                    _add_image(records, path, image)
        if not records.sources and not rejected:
            records.reject("D309", root, f"no images of {split} in {', '.join(map(str, files[split]))}")
        return records


def _add_image(records: BoxRecords, source: Path, image: AnnotatedImage) -> None:
    place = _place_of(image, records.root)
    if place is None:
        records.reject("D107", source, f"the image must lie inside {records.root}, got {image.name!r}")
        return
    if place.parent not in records.image_folders:
        records.image_folders += (place.parent,)
    position = records.add_image(place, source, image.size)
    for problem in image.problems:
        records.reject("D005", source, f"{image.name}: {problem}")
    for number, shape in enumerate(image.shapes, 1):
        if shape.left_out:
            records.report("D014", source, f"{image.name}: {shape.left_out}", number)
            continue
        if shape.problem or shape.label is None:
            records.reject("D005", source, f"{image.name}: {shape.problem or 'a shape without a class'}", number)
            continue
        box_xywh = shape.box_xywh
        if box_xywh is None and shape.mask is not None:
            box_xywh = shape.mask.box_xywh.tolist()
        records.add_box(
            position,
            box_around(shape.polygons) if box_xywh is None else box_xywh,
            shape.label,
            number,
            area=None if shape.mask is None else shape.mask.area,
            polygons=shape.polygons,
            run_length=None if shape.mask is None else shape.mask.to_coco(),
        )


def _place_of(image: AnnotatedImage, root: Path) -> Path | None:
    """The file of an image: as it is named, else under the last part of the name, else with another suffix, in the
    first folder that has it; where none has, the one that was expected. None: the name leads out of ``root``."""
    base = image.name.replace("\\", "/").rsplit("/", 1)[-1]
    if not base or "\0" in base:
        return None
    places = [Path(os.path.normpath(folder / as_there(folder, image.name))) for folder in image.folders]
    inside = [place for place in places if place.is_relative_to(root) and ":" not in image.name]
    by_name = [folder / base for folder in image.folders]
    found = next((place for place in [*inside, *by_name] if exists(place)), None)
    if found is not None:
        return found
    is_named = Path(base).suffix.lower() in IMAGE_SUFFIXES
    stem = image.stem or (Path(base).stem if is_named else base)
    others = [folder / f"{stem}{suffix}" for folder in image.folders for suffix in IMAGE_SUFFIXES]
    found = next((place for place in others if exists(place)), None)
    if found is not None:
        return found
    if leaves_root(image.name) and not image.stem:
        return None
    return inside[0] if inside else by_name[0]


def parse_size(height: Any, width: Any) -> tuple[int, int] | None:
    """The (height, width) that a file states, None where it states none that is one: it is then that of the image."""
    sides = (height, width)
    if all(isinstance(one, int | float) and one == int(one) and 1 <= one <= MAX_SIDE for one in sides):
        return int(height), int(width)
    return None


def read_json(path: Path) -> Any:
    """What is in a JSON file. Raises ValueError: it cannot be read, or is none."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes, allowed are {MAX_FILE_BYTES:,}; split the file")
        return json.loads(read_any_text(path))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"no valid JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"no valid JSON: not UTF-8, {error.reason} at byte {error.start}") from error
    except RecursionError as error:
        raise ValueError("no valid JSON: nested too deeply") from error


def require_kind(value: Any, kind: type, what: str) -> Any:
    """``value``, if it is of ``kind`` as JSON has it. Raises ValueError."""
    if not isinstance(value, kind):
        words = {"dict": "an object", "list": "a list", "str": "text"}
        raise ValueError(f"{what} must be {words[kind.__name__]}, got {show(value)}")
    return value


def some_files(folder: Path, suffix: str) -> list[Path]:
    """Some of the files in ``folder`` whose names end in ``suffix``, sorted."""
    try:
        with os.scandir(folder) as entries:
            names = [one.name for one in islice(entries, NUM_LISTED) if one.name.lower().endswith(suffix)]
    except OSError:
        return []
    return [folder / name for name in sorted(names) if not is_hidden(name) and (folder / name).is_file()]


def some_have(folder: Path, suffix: str, *words: str) -> bool:
    """Whether one of a few files in ``folder`` has all of ``words`` in its beginning."""
    return any(begins_with(path, *words) for path in some_files(folder, suffix)[:_NUM_READ])


def begins_with(path: Path, *words: str) -> bool:
    """Whether a file has all of ``words`` in its first part."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES).decode("utf-8", "replace")
    except OSError:
        return False
    return all(word in head for word in words)


def folders_in(root: Path, num_entries: int | None = None) -> list[Path]:
    """The folders in ``root``, sorted; of its first ``num_entries`` where that is given."""
    try:
        with os.scandir(root) as entries:
            names = [one.name for one in islice(entries, num_entries) if not is_hidden(one.name) and one.is_dir()]
    except OSError:
        return []
    return [root / name for name in sorted(names)]


def by_split(root: Path, files_of: Mapping[Path, Sequence[Path]]) -> dict[str, list[Path]]:
    """The files in ``root`` and in folders of it by split: those are the folders where any is called like one, else
    all files are one, which nobody has divided yet."""
    folders = {folder: paths for folder, paths in files_of.items() if paths}
    if any(folder != root and _SPLIT.fullmatch(folder.name) for folder in folders):
        return {folder.name: list(paths) for folder, paths in folders.items() if folder != root}
    return {ALL: [path for paths in folders.values() for path in paths]} if folders else {}
