"""The files that describe new splits of a data set, in its own format, in a folder of their own."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from detseg.data.checks.locate import voc_class_names, yolo_class_names
from detseg.data.dataset import DatasetError, Source, read_class_file
from detseg.data.records import ImageRecord, SplitRecords

YAML_NAME = "data.yaml"
_MEANINGS = ("names", "colors", "void")

Contents = dict[str, str]
"""The texts of files by their names."""


@dataclass(frozen=True, slots=True)
class Division:
    """The images of the ``old_splits`` of ``source``, and for each the one of the ``new_splits`` that it gets into."""

    source: Source
    old_splits: Sequence[SplitRecords]
    images: Mapping[Path, ImageRecord]
    new_splits: Sequence[str]
    new_split_of: Mapping[Path, str]


def write_division(folder: Path, format_name: str, division: Division) -> None:
    """Make ``folder`` (absent or empty) with ``data.yaml`` and what it names; it appears whole or not at all.

    Raises:
        DatasetError: the old splits cannot be put together.
        OSError: the folder cannot be written.
    """
    contents, settings = WRITERS[format_name](division, folder)
    settings = {"format": format_name, "path": str(division.source.data_root().resolve()), **settings}
    write_split_folder(folder, contents, settings)


def write_split_folder(folder: Path, contents: Contents, settings: Mapping[str, Any]) -> None:
    """Make ``folder`` (absent or empty) with the files of ``contents`` and ``settings`` as ``data.yaml``; it appears
    whole or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    contents = {**contents, YAML_NAME: yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)}
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        # Folders made for a temporary purpose are closed to others; this one is to stay.
        temporary.chmod(0o777 & ~_umask())
        for name, text in contents.items():
            (temporary / name).write_text(text, encoding="utf-8", errors="surrogateescape")
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _coco(division: Division, folder: Path) -> tuple[Contents, dict[str, Any]]:
    places = [(split.images[0].source, split.image_folders[0]) for split in division.old_splits if split.images]
    image_folders = {images for _, images in places}
    # Images of several folders are named relative to the folder around them.
    common = image_folders.pop() if len(image_folders) == 1 else Path(os.path.commonpath([p for _, p in places]))
    documents = [json.loads(path.read_bytes()) for path, _ in places]
    first_path, first = places[0][0], documents[0]
    parts: dict[str, dict[str, Any]] = {}
    for name in division.new_splits:
        parts[name] = {**first, "images": [], "annotations": []}
    owners: dict[tuple[str, int], Path] = {}
    for (annotation_file, images), document in zip(places, documents, strict=True):
        if document["categories"] != first["categories"]:
            raise DatasetError(
                f"{annotation_file}: other categories than in {first_path}; make them equal before splitting"
            )
        part_of: dict[int, dict[str, Any]] = {}
        for entry in document["images"]:
            _claim(owners, "image", entry["id"], annotation_file)
            path = images / entry["file_name"]
            part_of[entry["id"]] = parts[division.new_split_of[path]]
            renamed = {} if images == common else {"file_name": path.relative_to(common).as_posix()}
            part_of[entry["id"]]["images"].append({**entry, **renamed})
        for entry in document["annotations"]:
            _claim(owners, "annotation", entry["id"], annotation_file)
            part_of[entry["image_id"]]["annotations"].append(entry)
    contents = {_coco_name(name): json.dumps(part, ensure_ascii=False) + "\n" for name, part in parts.items()}
    images_text = str(common.resolve())
    return contents, {name: {"images": images_text, "annotations": str(folder / _coco_name(name))} for name in parts}


def _coco_name(split: str) -> str:
    return f"instances_{split}.json"


def _claim(owners: dict[tuple[str, int], Path], kind: str, identifier: int, path: Path) -> None:
    owner = owners.setdefault((kind, identifier), path)
    if owner != path:
        raise DatasetError(
            f"{kind} id {identifier} is in {owner} and in {path}: files that share ids cannot be put together; name "
            f"splits that do not, or renumber one file"
        )


def _voc(division: Division, folder: Path) -> tuple[Contents, dict[str, Any]]:
    folder_of_annotations = division.source.data_root() / "Annotations"

    def stem(path: Path) -> str:
        return division.images[path].source.relative_to(folder_of_annotations).with_suffix("").as_posix()

    contents, settings = _lists(division, folder, stem)
    names = voc_class_names(division.source)
    return contents, settings if names is None else {**settings, "names": list(names)}


def _yolo(division: Division, folder: Path) -> tuple[Contents, dict[str, Any]]:
    contents, settings = _lists(division, folder, str)
    return contents, {**settings, "names": dict(enumerate(yolo_class_names(division.source)))}


def _masks(division: Division, folder: Path) -> tuple[Contents, dict[str, Any]]:
    def mask_of(path: Path) -> str:
        return str(division.images[path].source)

    images, image_lists = _lists(division, folder, str)
    masks, mask_lists = _lists(division, folder, mask_of, "_masks")
    lists = {name: {"images": image_lists[name], "masks": mask_lists[name]} for name in division.new_splits}
    meanings = {
        key: division.source.settings[key] for key in _MEANINGS if division.source.settings.get(key) is not None
    }
    if "names" not in meanings:
        meanings["names"] = list(read_class_file(division.source.data_root() / "classes.txt"))
    return {**images, **masks}, {**meanings, **lists}


def _lists(
    division: Division, folder: Path, line_of: Callable[[Path], str], ending: str = ""
) -> tuple[Contents, dict[str, Any]]:
    lines: dict[str, list[str]] = {name: [] for name in division.new_splits}
    for path, name in division.new_split_of.items():
        lines[name].append(line_of(path))
    contents = {f"{name}{ending}.txt": "\n".join(members) + "\n" for name, members in lines.items()}
    return contents, {name: str(folder / f"{name}{ending}.txt") for name in lines}


WRITERS: Mapping[str, Callable[[Division, Path], tuple[Contents, dict[str, Any]]]] = {
    "coco": _coco,
    "voc": _voc,
    "yolo": _yolo,
    "masks": _masks,
}
"""The formats whose splits can be described, each with what makes the files and the keys of the YAML."""
