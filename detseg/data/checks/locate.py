"""Which files make up a split of a data set, found as the readers find them, but without refusing what is broken."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from detseg.data.checks.mask_walks import walk_cityscapes, walk_masks
from detseg.data.checks.walks import walk_coco, walk_voc, walk_yolo
from detseg.data.dataset import (
    DatasetError,
    Source,
    find_existing,
    leaves_root,
    read_class_file,
    read_lines,
    relative_candidates,
)
from detseg.data.formats.yolo import label_file
from detseg.data.records import SplitRecords, show
from detseg.runtime.media.images import IMAGE_SUFFIXES
from detseg.structures import Truth


class Walk(NamedTuple):
    """How the records of a split are made, and what they are about."""

    truth: Truth
    make_records: Callable[[Source, str], SplitRecords]


def walk_split(source: Source, format_name: str, split: str) -> SplitRecords:
    """The records and findings of one split of a data set in one of the formats of ``WALKS``.

    Where the files of the split are not found, the only finding is D100.
    """
    walk = WALKS[format_name]
    try:
        return walk.make_records(source, split)
    except DatasetError as error:
        records = SplitRecords(split, truth=walk.truth)
        records.report("D100", source.yaml_path or source.root, str(error))
        return records


def voc_class_names(source: Source) -> tuple[str, ...] | None:
    """The class names that a VOC data set lists, None where those of its objects count. Raises DatasetError."""
    names = source.settings.get("names")
    if isinstance(names, list):
        return tuple(str(name) for name in names)
    listed = source.data_root() / "classes.txt"
    return read_class_file(listed) if listed.is_file() else None


def yolo_class_names(source: Source) -> tuple[str, ...]:
    """The class names that a YOLO data set lists. Raises DatasetError."""
    if source.yaml_path is None:
        return read_class_file(find_existing([source.root / "classes.txt"], "the class names", source.name))
    names: Any = source.settings.get("names")
    if isinstance(names, Mapping):
        names = [names[key] for key in sorted(names, key=lambda key: (str(type(key)), key))]
    if not isinstance(names, list):
        raise DatasetError(f"{source.name}: names must be a list of class names, is {show(names)}")
    return tuple(str(name) for name in names)


def images_in(folder: Path) -> list[Path]:
    """The files in ``folder`` and below that have the suffix of an image, sorted."""
    files = (Path(parent, name) for parent, _, names in os.walk(folder, followlinks=True) for name in names)
    return sorted(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)


def _walk_coco(source: Source, split: str) -> SplitRecords:
    root, where = source.data_root(), f"{source.name}: {split}"
    if source.yaml_path is not None:
        entry = source.settings.get(split)
        if not isinstance(entry, Mapping) or not {"images", "annotations"} <= set(entry):
            raise DatasetError(f"{where}: must be {{images: FOLDER, annotations: FILE}}, is {show(entry)}")
        annotations, images = (
            find_existing(source.candidates(str(entry[key])), key, where) for key in ("annotations", "images")
        )
        return walk_coco(split, annotations, [images])
    exported = root / split / "_annotations.coco.json"
    if exported.is_file():
        return walk_coco(split, exported, [exported.parent])
    plain = split.rstrip("0123456789").rstrip("_") or split
    folders = [root / name for name in (split, f"images/{split}", plain, f"images/{plain}", "images", "")]
    return walk_coco(split, root / "annotations" / f"instances_{split}.json", folders)


def _walk_voc(source: Source, split: str) -> SplitRecords:
    root = source.data_root()
    listed = root / "ImageSets" / "Main" / f"{split}.txt"
    if split in source.settings:
        listed = find_existing(source.candidates(str(source.settings[split])), split, source.name)
    folder = root / "JPEGImages"
    by_stem = {path.stem: path for path in reversed(images_in(folder)) if path.parent == folder}
    pairs: dict[str, tuple[Path, Path]] = {}
    problems: list[tuple[str, str]] = []
    for name in read_lines(listed):
        if leaves_root(name):
            problems.append(("D107", f"{name!r} lies outside {folder}"))
        elif name in pairs:
            problems.append(("D106", f"{name!r} is listed twice"))
        else:
            pairs[name] = by_stem.get(name, folder / f"{name}.jpg"), root / "Annotations" / f"{name}.xml"
    records = walk_voc(split, pairs.values(), voc_class_names(source))
    for code, message in problems:
        records.report(code, listed, message)
    records.image_folders = (folder,)
    return records


def _walk_yolo(source: Source, split: str) -> SplitRecords:
    class_names = yolo_class_names(source)
    if source.yaml_path is None:
        entries: Any = [f"images/{split}"]
    else:
        entries = source.settings.get(split)
    images: list[Path] = []
    repeated: list[tuple[Path, Path]] = []
    orphans: list[Path] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        container, members = _yolo_images(source, split, str(entry))
        known = set(images)
        for path in members:
            if path in known:
                repeated.append((container, path))
            else:
                known.add(path)
                images.append(path)
        if container.is_dir():
            orphans += _labels_without_image(container, members)
    records = walk_yolo(split, images, label_file, class_names)
    for labels in orphans:
        records.report("D101", labels, "there is no image for these labels")
    for container, path in repeated:
        records.report("D106", container, f"{path} is listed twice")
    return records


def _labels_without_image(folder: Path, images: Iterable[Path]) -> list[Path]:
    labels_folder = label_file(folder.absolute() / "any.jpg").parent
    if labels_folder == folder.absolute():
        return []
    expected = {label_file(path) for path in images}
    return [path for path in sorted(labels_folder.rglob("*.txt")) if path not in expected]


def _yolo_images(source: Source, split: str, entry: str) -> tuple[Path, list[Path]]:
    """The folder or list that an entry names, and its images; listed images may be missing."""
    candidates = source.candidates(entry)
    if entry.startswith("../"):
        candidates.append(source.data_root() / entry.removeprefix("../"))
    container = find_existing(candidates, repr(entry), f"{source.name}: {split}")
    if container.is_dir():
        return container, [path.absolute() for path in images_in(container)]
    members = []
    for line in read_lines(container):
        places = relative_candidates(line, container.parent)
        members.append(next((place for place in places if place.exists()), places[0]).absolute())
    return container, members


WALKS: Mapping[str, Walk] = {
    "coco": Walk("boxes", _walk_coco),
    "voc": Walk("boxes", _walk_voc),
    "yolo": Walk("boxes", _walk_yolo),
    "masks": Walk("masks", walk_masks),
    "cityscapes": Walk("masks", walk_cityscapes),
}
"""The formats that can be walked."""
