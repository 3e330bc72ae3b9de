"""New splits of COCO files, with the ids and fields of the old ones."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detseg.data.entries.parsing import as_integer
from detseg.data.records import BoxRecords
from detseg.data.source import DatasetError, file_of_image
from detseg.data.writing import Contents, NewSplits
from detseg.files import read_bytes

PREFIX = "instances_"
Entry = dict[str, Any]


def write_splits(new: NewSplits, folder: Path) -> tuple[Contents, dict[str, object]]:
    """The files by name, and what the YAML beside them says of each split.

    Raises:
        DatasetError: the old files have other categories than one another.
    """
    old = [records for records in new.old if isinstance(records, BoxRecords) and records.sources]
    roots = {records.root for records in old}
    # Images of several folders are named relative to the folder around them.
    common = roots.pop() if len(roots) == 1 else Path(os.path.commonpath([records.root for records in old]))
    documents = _put_together(old, new, common)
    contents = {_file_name(name): json.dumps(part, ensure_ascii=False) + "\n" for name, part in documents.items()}
    images = str(common.resolve())
    return contents, {name: {"images": images, "annotations": str(folder / _file_name(name))} for name in documents}


def _put_together(old: Sequence[BoxRecords], new: NewSplits, common: Path) -> dict[str, Entry]:
    """One document for each new split; where images are not in one folder, they are named from ``common``.

    Ids are kept where no two files share one, else all are new: many programs count from 0 in every file.
    """
    files = [(records, json.loads(read_bytes(records.sources[0]))) for records in old]
    first = files[0][1]
    for records, document in files:
        if document["categories"] != first["categories"]:
            raise DatasetError(
                f"{records.sources[0]}: other categories than in {old[0].sources[0]}; make them equal before splitting"
            )
    new_ids = {key: _share_ids([document[key] for _, document in files]) for key in ("images", "annotations")}
    counts = dict.fromkeys(new_ids, 0)
    parts: dict[str, Entry] = {name: {**first, "images": [], "annotations": []} for name in new.members}
    for records, document in files:
        part_of: dict[int | None, tuple[Entry, int]] = {}
        for entry in document["images"]:
            name = file_of_image(records.root, entry["file_name"]) or entry["file_name"]
            image = records.root / name
            counts["images"] += 1
            number = counts["images"] if new_ids["images"] else entry["id"]
            part = parts[new.split_of[image]]
            part_of[as_integer(entry["id"])] = part, number
            place = name if records.root == common else image.relative_to(common).as_posix()
            part["images"].append({**entry, "id": number, "file_name": place})
        for entry in document["annotations"]:
            counts["annotations"] += 1
            number = counts["annotations"] if new_ids["annotations"] else entry["id"]
            part, image_id = part_of[as_integer(entry["image_id"])]
            part["annotations"].append({**entry, "id": number, "image_id": image_id})
    return parts


def _share_ids(tables: Sequence[Sequence[Entry]]) -> bool:
    ids = [as_integer(entry["id"]) for table in tables for entry in table]
    return len(set(ids)) < len(ids)


def _file_name(split: str) -> str:
    return f"{PREFIX}{split}.json"
