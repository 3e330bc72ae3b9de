"""The files that describe new splits of a data set, in a folder of their own."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from detseg.data.entries.outline import Segmentation
from detseg.data.mask_records import MaskRecords
from detseg.data.records import BoxRecords, SplitRecords
from detseg.data.source import DataSource
from detseg.data.volume_records import VolumeRecords
from detseg.files import PARTIAL_PREFIX, save_errors

YAML_NAME = "data.yaml"

Contents = dict[str, str]
"""The texts of files by their names."""


@dataclass(frozen=True)
class NewSplits:
    """The new splits ``names`` of the images or volumes that the ``old`` splits of ``source`` hold: ``members`` of each
    are its files, in their order."""

    source: DataSource
    old: Sequence[SplitRecords]
    members: Mapping[str, Sequence[Path]]

    @cached_property
    def split_of(self) -> dict[Path, str]:
        """The new split of each file; of several, the last."""
        return {path: name for name, paths in self.members.items() for path in paths}


def write_split_folder(folder: Path, contents: Contents, settings: Mapping[str, Any]) -> None:
    """Make ``folder`` (absent or empty) with the files of ``contents`` and ``settings`` as ``data.yaml``; it appears
    whole or not at all.

    Raises:
        detseg.files.SaveError: the folder cannot be written.
    """
    contents = {**contents, YAML_NAME: yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)}
    with save_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=PARTIAL_PREFIX))
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


def lists(
    new: NewSplits, folder: Path, line_of: Callable[[Path], str] = str, ending: str = ""
) -> tuple[Contents, dict[str, str]]:
    """A list of lines for each new split, and where it will lie."""
    contents = {
        f"{name}{ending}.txt": "".join(f"{line_of(path)}\n" for path in members)
        for name, members in new.members.items()
    }
    return contents, {name: str(folder / f"{name}{ending}.txt") for name in new.members}


def write_as_lists(new: NewSplits, folder: Path) -> tuple[Contents, dict[str, object]]:
    """Splits of any format as detseg's own formats have them: boxes as ``coco``, others as lists in a YAML."""
    first = new.old[0]
    if isinstance(first, BoxRecords):
        return _coco_files(new, folder)
    if isinstance(first, MaskRecords):
        return _mask_lists(new, folder)
    assert isinstance(first, VolumeRecords)
    return _volume_lists(new, folder)


def _mask_lists(new: NewSplits, folder: Path) -> tuple[Contents, dict[str, object]]:
    records = [split for split in new.old if isinstance(split, MaskRecords)]
    mask_of = {image: mask for split in records for image, mask in split.pairs}
    images, image_lists = lists(new, folder)
    masks, mask_lists = lists(new, folder, lambda path: str(mask_of[path]), "_masks")
    mapping = records[0].mapping
    assert mapping is not None, "names are known, or the split would have been refused"
    places = {name: {"images": image_lists[name], "masks": mask_lists[name]} for name in new.members}
    return {**images, **masks}, {"format": "masks", **mapping.settings(), **places}


def _volume_lists(new: NewSplits, folder: Path) -> tuple[Contents, dict[str, object]]:
    records = [split for split in new.old if isinstance(split, VolumeRecords)]
    label_of = {pair.image: pair.label for split in records for pair in split.pairs}
    images, image_lists = lists(new, folder, ending="_images")
    labels, label_lists = lists(new, folder, lambda path: str(label_of[path]), "_labels")
    places = {name: {"images": image_lists[name], "labels": label_lists[name]} for name in new.members}
    settings: dict[str, object] = {"format": "nifti", "names": dict(records[0].name_of)}
    if records[0].trust_grid:
        settings["trust_grid"] = True
    if records[0].channels:
        settings["channels"] = list(records[0].channels)
    if records[0].ignored is not None:
        settings["ignore_index"] = records[0].ignored
    return {**images, **labels}, {**settings, **places}


def _coco_files(new: NewSplits, folder: Path) -> tuple[Contents, dict[str, object]]:
    """COCO files, their images named from the folder that all have in common."""
    records = [split for split in new.old if isinstance(split, BoxRecords)]
    common = Path(os.path.commonpath([path.resolve().parent for split in records for path in split.paths()]))
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(records[0].class_names)]
    documents: dict[str, dict[str, list[Any]]] = {
        name: {"images": [], "annotations": [], "categories": categories} for name in new.members
    }
    split_of, seen, num_boxes = new.split_of, set[Path](), 0
    for split in records:
        dataset = split.to_dataset()
        for index in range(len(dataset)):
            path = Path(dataset.path(index))
            if path in seen:
                continue
            seen.add(path)
            document = documents[split_of[path]]
            height, width = dataset.size(index)
            place = path.resolve().relative_to(common).as_posix()
            document["images"].append({"id": len(seen), "file_name": place, "height": height, "width": width})
            truth = dataset.ground_truth(index)
            for row, outline in enumerate(dataset.segmentations(index)):
                num_boxes += 1
                document["annotations"].append(
                    {
                        "id": num_boxes,
                        "image_id": len(seen),
                        "category_id": int(truth.labels[row]) + 1,
                        "bbox": truth.boxes_xywh[row].tolist(),
                        "area": float(truth.areas[row]),
                        "iscrowd": int(truth.crowd[row]),
                        **_segmentation(outline),
                    }
                )
    contents = {_coco_name(name): json.dumps(part, ensure_ascii=False) + "\n" for name, part in documents.items()}
    places = {name: {"images": str(common), "annotations": str(folder / _coco_name(name))} for name in documents}
    return contents, {"format": "coco", **places}


def _segmentation(outline: Segmentation) -> dict[str, Any]:
    """An outline as COCO has it, if there is one."""
    if outline is None:
        return {}
    polygons = outline if isinstance(outline, dict) else [polygon.ravel().tolist() for polygon in outline]
    return {"segmentation": polygons}


def _coco_name(split: str) -> str:
    return f"instances_{split}.json"


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
