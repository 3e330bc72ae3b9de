"""COCO: one JSON file per split with images, categories and annotations (https://cocodataset.org/#format-data)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from detseg.data.datasets.packed import PackedAnnotations
from detseg.data.entries.outline import box_around, parse_outline
from detseg.data.entries.parsing import as_integer, enumerate_some, show, show_key
from detseg.data.format import DatasetFormat
from detseg.data.formats.coco_cache import open_columns
from detseg.data.formats.coco_columns import MAX_SIDE, CocoColumns
from detseg.data.formats.coco_writing import PREFIX, Entry, write_splits
from detseg.data.records import BoxRecords, SplitRecords
from detseg.data.source import (
    DatasetError,
    DataSource,
    as_there,
    check_class_names,
    exists,
    file_of_image,
    find_existing,
    is_text,
    leaves_root,
)
from detseg.data.split_rule import ALL
from detseg.data.writing import Contents, NewSplits
from detseg.files import read_bytes
from detseg.run_lengths import RunLengths
from detseg.structures import Target

MAX_JSON_BYTES = 8 * 2**30

_NUM_TRIED = 1000
"""Images that are looked for to find the folder of all."""
_LABEL_STUDIO = "result.json"
_ROBOFLOW = "_annotations.coco.json"
_SETTINGS = {"format", "path", "colors"}
_TABLES = ("categories", "images", "annotations")


class CocoFormat(DatasetFormat):
    """Folders as COCO publishes them or as Roboflow exports them, or a YAML that names images and annotations."""

    layouts = (
        "annotations/instances_SPLIT.json with images in SPLIT/, images/SPLIT/, images/ or the folder itself",
        "SPLIT/_annotations.coco.json beside its images",
        "result.json with images in images/, as Label Studio exports it: the split all",
        "a YAML with `format: coco`, `path:` and per split `SPLIT: {images: FOLDER, annotations: FILE}`",
    )

    targets = ("boxes", "instances")

    def splits(self, source: DataSource) -> tuple[str, ...]:
        if source.yaml_path is not None:
            named = source.settings.items()
            return tuple(key for key, value in named if isinstance(value, Mapping) and "annotations" in value)
        official = (path.stem.removeprefix(PREFIX) for path in source.root.glob(f"annotations/{PREFIX}*.json"))
        exported = (path.parent.name for path in source.root.glob(f"*/{_ROBOFLOW}"))
        found = tuple(sorted({*official, *exported}))
        is_undivided = (source.root / _LABEL_STUDIO).is_file() and (source.root / "images").is_dir()
        return found or ((ALL,) if is_undivided or (source.root / _ROBOFLOW).is_file() else ())

    def records(self, source: DataSource, split: str, target: Target) -> BoxRecords:
        if source.yaml_path is not None:
            return _records_of_yaml(source, split, target)
        exported = source.root / split / _ROBOFLOW
        if exported.is_file():
            return coco_records(exported, [exported.parent], split, source.root, target)
        if split == ALL and (source.root / _ROBOFLOW).is_file():
            return coco_records(source.root / _ROBOFLOW, [source.root], split, source.root, target)
        if split == ALL and (source.root / _LABEL_STUDIO).is_file():
            folders = [source.root, source.root / "images"]
            return coco_records(source.root / _LABEL_STUDIO, folders, split, None, target)
        plain = split.rstrip("0123456789").rstrip("_") or split
        folders = [source.root / name for name in (split, f"images/{split}", plain, f"images/{plain}", "images", "")]
        path = source.root / "annotations" / f"{PREFIX}{split}.json"
        return coco_records(path, folders, split, source.root, target)

    def write_splits(self, new: NewSplits, folder: Path) -> tuple[Contents, dict[str, object]]:
        """COCO files with the ids and fields of the old ones."""
        return write_splits(new, folder)


def coco_records(
    path: Path, image_folders: Sequence[Path], split: str, home: Path | None = None, target: Target = "boxes"
) -> BoxRecords:
    """What the COCO file ``path`` says; its images lie in the first of ``image_folders`` that has any of them.

    Labels are positions in the order of category id. Boxes and areas are those of the file, so that an evaluation
    equals pycocotools on it; a missing ``area`` is that of the box, a missing ``iscrowd`` is 0. ``home`` is the folder
    of the whole data set.

    A file as COCO publishes its own is read into arrays at once, see ``open_columns``; any other entry by entry, which
    takes longer and gives the same.
    """
    columns = open_columns(path, MAX_JSON_BYTES, home or path.parent)
    if columns is not None:
        records = _records_of_columns(columns, path, list(dict.fromkeys(image_folders)), split, home, target)
        if records is not None:
            return records
    found = SplitFile(path)
    names: dict[int, str] = {}
    used = {as_integer(entry.get("category_id")) for entry in found.tables["annotations"]}
    groups = _unused_groups(found.tables["categories"], used)
    for entry in found.tables["categories"]:
        if entry["id"] in groups:
            continue
        name = str(entry["name"]) if type(entry.get("name")) in (int, float) else entry.get("name")
        if not isinstance(name, str) or not is_text(name):
            found.reject("D005", f"category {entry['id']}: name must be text, got {show_key(entry, 'name')}")
        else:
            names[entry["id"]] = name
    ids = sorted(names)
    if found.is_complete:
        try:
            check_class_names([names[number] for number in ids], "categories")
        except DatasetError as error:
            found.reject("D005", str(error))
    folders = list(dict.fromkeys(image_folders))
    stated = (entry.get("file_name") for entry in found.tables["images"][:_NUM_TRIED])
    names_of_images = [name for name in stated if isinstance(name, str)]
    root, problem = _folder_of_images(names_of_images, folders)
    if problem and found.is_complete:
        found.reject("D101", problem)
    records = BoxRecords(
        split,
        root=root,
        home=home,
        class_names=[names[number] for number in ids],
        category_ids=ids,
        image_folders=(root,),
        keeps_all=True,
        target=target,
    )
    found.hand_over(records)
    _report_groups(records, path, groups)
    position_of_image = {}
    taken: dict[str, str] = {}
    for entry in found.tables["images"]:
        position_of_image[entry["id"]] = _add_image(records, path, entry, taken)
    _add_annotations(records, path, found.tables["annotations"], position_of_image, ids)
    return records


class SplitFile:
    """The tables of a COCO file, and what is wrong with it before there are records of a split."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rejected: list[tuple[str, str, tuple[int, ...]]] = []
        content = self._read()
        self.is_complete = content is not None
        self.tables = {key: self._identified(key, content.get(key)) if content else [] for key in _TABLES}

    def reject(self, code: str, message: str, *ids: int) -> None:
        """Keep what is to be rejected."""
        self._rejected.append((code, message, ids))

    def hand_over(self, records: SplitRecords) -> None:
        """Reject it in ``records``."""
        for code, message, ids in self._rejected:
            records.reject(code, self.path, message, *ids)

    def _read(self) -> Entry | None:
        try:
            num_bytes = self.path.stat().st_size
            if num_bytes > MAX_JSON_BYTES:
                self.reject("D100", f"{num_bytes:,} bytes, allowed are {MAX_JSON_BYTES:,}; split the file")
                return None
            document = json.loads(read_bytes(self.path))
        except OSError as error:
            self.reject("D100", f"cannot be read: {error.strerror}")
        except json.JSONDecodeError as error:
            self.reject("D100", f"no valid JSON: {error.msg} at line {error.lineno}, column {error.colno}")
        except UnicodeDecodeError as error:
            self.reject("D100", f"no valid JSON: not UTF-8, {error.reason} at byte {error.start}")
        except (ValueError, RecursionError) as error:
            self.reject("D100", f"no valid JSON: {error}")
        else:
            if isinstance(document, dict):
                return document
            message = f"must be an object with images, annotations and categories, got {show(document)}"
            self.reject("D100", message)
        return None

    def _identified(self, key: str, table: object) -> list[Entry]:
        """The entries of a table that have an id, each id once."""
        if not isinstance(table, list):
            self.is_complete = False
            self.reject("D100", f"{key} must be a list, got {'no such key' if table is None else show(table)}")
            return []
        entries: list[Entry] = []
        num_uses: dict[int, int] = defaultdict(int)
        for position, entry in enumerate(table):
            if not isinstance(entry, dict):
                self.reject("D005", f"{key}[{position}]: must be an object, got {show(entry)}")
                continue
            number = as_integer(entry.get("id"))
            if number is None:
                self.reject("D005", f"{key}[{position}]: id must be an integer, got {show_key(entry, 'id')}")
                continue
            entry["id"] = number
            num_uses[number] += 1
            # A second annotation is still a box to look at; a second image or category of that id cannot be told apart.
            if num_uses[number] == 1 or key == "annotations":
                entries.append(entry)
        for number, count in num_uses.items():
            if count > 1:
                ids = (number,) if key == "annotations" else ()
                self.reject("D106", f"{count} entries of {key} have the id {number}; every id must be unique", *ids)
        return entries


def _records_of_yaml(source: DataSource, split: str, target: Target) -> BoxRecords:
    for key, value in source.settings.items():
        if key not in _SETTINGS and not (isinstance(value, Mapping) and set(value) == {"images", "annotations"}):
            raise DatasetError(
                f"{source.name}: {key}: expected {{images: FOLDER, annotations: FILE}}, got {value!r}; "
                "other keys are format and path"
            )
    where = f"{source.name}: {split}"
    chosen = source.settings[split]
    annotations = find_existing(source.candidates(str(chosen["annotations"])), "annotations", where)
    images = find_existing(source.candidates(str(chosen["images"])), "images", where)
    return coco_records(annotations, [images], split, source.data_root(), target)


def _records_of_columns(
    columns: CocoColumns, path: Path, folders: Sequence[Path], split: str, home: Path | None, target: Target
) -> BoxRecords | None:
    """The records of a well-formed file; None where names of classes or folders of images are none of the usual."""
    packed, categories = columns.packed, columns.categories
    names = {int(category["id"]): category["name"] for category in categories}
    used = columns.category_ids[np.flatnonzero(np.bincount(packed.labels, minlength=len(names)))]
    groups = _unused_groups(categories, set(used.tolist()))
    ids = [number for number in columns.category_ids.tolist() if number not in groups]
    try:
        check_class_names([names[number] for number in ids], "categories")
    except DatasetError:
        return None
    root, problem = _folder_of_images([packed.names[index] for index in range(min(len(packed), _NUM_TRIED))], folders)
    if problem or _spells_otherwise(packed, root):
        return None
    records = BoxRecords(
        split,
        root=root,
        home=home,
        class_names=[names[number] for number in ids],
        category_ids=ids,
        image_folders=(root,),
        keeps_all=True,
        target=target,
    )
    _report_groups(records, path, groups)
    if groups:
        label_of = np.cumsum(np.isin(columns.category_ids, ids)) - 1
        packed = replace(packed, labels=label_of[packed.labels])
    records.take_over(packed, path)
    return records


def _spells_otherwise(packed: PackedAnnotations, root: Path) -> bool:
    """Whether the files of some images are called otherwise than in the annotations."""
    names = (packed.names[index] for index in range(len(packed)))
    return any(as_there(root, name) != name for name in names)


def _report_groups(records: BoxRecords, path: Path, groups: Mapping[int, str]) -> None:
    for number, name in groups.items():
        message = f"category {number}, {name!r}, has no annotations and is the supercategory of others"
        records.report("D008", path, message)


def _folder_of_images(names: Sequence[str], folders: Sequence[Path]) -> tuple[Path, str]:
    """The folder that the images called ``names`` are in, and what is wrong where there is none."""
    existing = [folder for folder in folders if folder.is_dir()]
    # Some images may be missing, which a check says; so more than one name is tried.
    names = [name for name in names if is_text(name, is_path=True)]
    for folder in existing:
        found = (file_of_image(folder, name) for name in names)
        if not names or any(name is not None and exists(folder / name) for name in found):
            return folder, ""
    example = f" (as {names[0]})" if names else ""
    return (existing or list(folders))[0], f"its images{example} not found; tried {', '.join(map(str, folders))}"


def _add_image(records: BoxRecords, path: Path, entry: Entry, taken: dict[str, str]) -> int | None:
    """The position of the image, None where the entry names no file; ``taken`` are the names in the entries before, by
    the files that they stand for."""
    name, sides = entry.get("file_name"), [entry.get(key) for key in ("height", "width")]
    if not isinstance(name, str) or not is_text(name, is_path=True):
        records.reject("D005", path, f"image {entry['id']}: file_name must be text, got {show_key(entry, 'file_name')}")
        return None
    stated, name = name, file_of_image(records.root, name)
    if name is None:
        message = f"file_name must stay inside {records.root}, got {stated!r}, and no file there is called like its end"
        records.reject("D107", path, f"image {entry['id']}: {message}")
        return None
    before = taken.setdefault(name, stated)
    if before != stated and (leaves_root(before) or leaves_root(stated)):
        records.reject("D107", path, f"image {entry['id']}: {stated!r} and {before!r} would both be the file {name}")
        return None
    known = [side for side in map(_as_side, sides) if side is not None]
    if len(known) == 2:
        return records.add_image(name, path, (known[0], known[1]), entry["id"])
    # What the file does not know, the image does.
    if any(side and _as_side(side) is None for side in sides):
        received = f"{show_key(entry, 'height')} and {show_key(entry, 'width')}"
        message = f"height and width must be integers from 1 to {MAX_SIDE:,}, got {received}"
        records.reject("D005", path, f"image {entry['id']} ({name}): {message}")
    return records.add_image(name, path, None, entry["id"])


def _as_side(value: object) -> int | None:
    """The length of a side, which some programs write as 64.0; None if it is none."""
    side = None if isinstance(value, str) else as_integer(value)
    return side if side is not None and 1 <= side <= MAX_SIDE else None


def _unused_groups(categories: Sequence[Entry], used: Container[int | None]) -> dict[int, str]:
    """The category that Roboflow writes into every file: number 0, without annotations and without a supercategory, but
    that of others. It may have the name of one of these. ``used`` are the ids of those that have annotations."""
    groups = {entry.get("supercategory") for entry in categories if entry["id"]}
    return {
        entry["id"]: entry["name"]
        for entry in categories
        if entry["id"] == 0 and entry["id"] not in used and entry.get("supercategory") in (None, "", "none")
        if isinstance(entry.get("name"), str) and entry["name"] in groups
    }


def _add_annotations(
    records: BoxRecords,
    path: Path,
    entries: Sequence[Entry],
    position_of_image: Mapping[int, int | None],
    category_ids: Sequence[int],
) -> None:
    label_of = {number: label for label, number in enumerate(category_ids)}
    unknown: dict[str, list[int]] = defaultdict(list)
    for entry in entries:
        number, image_id = entry["id"], as_integer(entry.get("image_id"))
        if image_id is None or image_id not in position_of_image:
            message = f"image_id must be the id of one of the images, got {show_key(entry, 'image_id')}"
            records.reject("D005", path, message, number)
            continue
        category = as_integer(entry.get("category_id"))
        label = None if category is None else label_of.get(category)
        if label is None:
            unknown[show_key(entry, "category_id")].append(number)
        crowd = entry.get("iscrowd") or 0
        is_crowd = crowd if isinstance(crowd, bool) else as_integer(crowd)
        if is_crowd not in (0, 1):
            records.reject("D005", path, f"iscrowd must be 0 or 1, got {show(crowd)}", number)
        polygons, run_length, problem = parse_outline(entry.get("segmentation"))
        if problem:
            records.report("D007", path, problem, number)
        image = position_of_image[image_id]
        if image is not None:
            records.add_box(
                image,
                entry.get("bbox") or _box_of_outline(polygons, run_length) or entry.get("bbox"),
                label,
                number,
                crowd=is_crowd == 1,
                area=entry.get("area"),
                polygons=polygons,
                run_length=run_length,
            )
    for received, numbers in unknown.items():
        message = f"category_id must be one of {enumerate_some(category_ids)}, got {received}"
        records.reject("D004", path, message, *numbers)


def _box_of_outline(polygons: Sequence[Sequence[float]], run_length: Entry | None) -> list[float] | None:
    """Left, top, width and height of an object of which the file says the outline alone."""
    if run_length is None:
        return box_around(polygons)
    try:
        box_xywh: list[float] = RunLengths.from_coco(run_length).box_xywh.tolist()
    except ValueError:
        return None
    return box_xywh
