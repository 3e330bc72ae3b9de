"""COCO: one JSON file per split with images, categories and annotations (https://cocodataset.org/#format-data)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from detseg.data.dataset import (
    Dataset,
    DatasetError,
    DatasetFormat,
    Source,
    check_class_names,
    find_existing,
    leaves_root,
)
from detseg.data.packed import PackedAnnotations, PackedBuilder
from detseg.structures import Truth

MAX_JSON_BYTES = 8 * 2**30
MAX_SIDE = 1_000_000
MAX_COORDINATE = 1e8
"""Beyond this pycocotools crashes on polygons, and no image is so large."""
_MAX_PROBLEMS = 10

_PREFIX = "instances_"
_ROBOFLOW = "_annotations.coco.json"
_SETTINGS = {"format", "path"}


class CocoFormat(DatasetFormat):
    """Folders as COCO publishes them or as Roboflow exports them, or a YAML that names images and annotations."""

    layouts = (
        "annotations/instances_SPLIT.json with images in SPLIT/, images/SPLIT/, images/ or the folder itself",
        "SPLIT/_annotations.coco.json beside its images",
        "a YAML with `format: coco`, `path:` and per split `SPLIT: {images: FOLDER, annotations: FILE}`",
    )

    def splits(self, source: Source) -> tuple[str, ...]:
        if source.yaml_path is not None:
            named = source.settings.items()
            return tuple(key for key, value in named if isinstance(value, Mapping) and "annotations" in value)
        official = (path.stem.removeprefix(_PREFIX) for path in source.root.glob(f"annotations/{_PREFIX}*.json"))
        exported = (path.parent.name for path in source.root.glob(f"*/{_ROBOFLOW}"))
        return tuple(sorted({*official, *exported}))

    def read_split(self, source: Source, split: str, truth: Truth) -> Dataset:
        if source.yaml_path is not None:
            return self._open_yaml(source, split)
        exported = source.root / split / _ROBOFLOW
        if exported.is_file():
            return read_coco(exported, [exported.parent], split, home=source.root)
        plain = split.rstrip("0123456789").rstrip("_") or split
        folders = [source.root / name for name in (split, f"images/{split}", plain, f"images/{plain}", "images", "")]
        return read_coco(source.root / "annotations" / f"{_PREFIX}{split}.json", folders, split, home=source.root)

    def _open_yaml(self, source: Source, split: str) -> Dataset:
        for key, value in source.settings.items():
            if key not in _SETTINGS and not (isinstance(value, Mapping) and set(value) == {"images", "annotations"}):
                raise DatasetError(
                    f"{source.name}: {key}: expected {{images: FOLDER, annotations: FILE}}, got {value!r}; "
                    "other keys are format and path"
                )
        where = f"{source.name}: {split}"
        root = source.data_root()
        chosen = source.settings[split]
        annotations = find_existing(source.candidates(str(chosen["annotations"])), "annotations", where)
        images = find_existing(source.candidates(str(chosen["images"])), "images", where)
        return read_coco(annotations, [images], split, home=root)


def read_coco(path: Path, image_folders: Iterable[Path], split: str, home: Path | None = None) -> Dataset:
    """The data set in the COCO file ``path``; its images lie in the first of ``image_folders`` that has any of them.

    Labels are positions in the order of category id. Boxes and areas of the ground truth are those of the file, so an
    evaluation equals pycocotools on it; a missing ``area`` is that of the box, a missing ``iscrowd`` is 0. ``home`` is
    the folder of the whole data set.

    Raises:
        DatasetError: the file is missing, no JSON, too large, or has records that are malformed, of unknown category or
            image, or use an id twice; the message names file, record and id of up to ten of them. Or no folder has the
            images.
    """
    content = _read_json(path)
    problems = _Problems(path)
    position_of_category, names = _read_categories(content, problems)
    builder = PackedBuilder()
    position_of_image = _read_images(content, builder, problems)
    _read_annotations(content, builder, position_of_category, position_of_image, problems)
    problems.raise_if_any()
    annotations = builder.build()
    _check_points(annotations, path)
    return Dataset(
        root=_folder_of_images(annotations, list(image_folders), path),
        home=home,
        split=split,
        class_names=check_class_names(names, f"{path}: categories"),
        annotations=annotations,
        category_ids=list(position_of_category),
    )


class _Problems:
    """Collects what is wrong with a file, so that one attempt shows more than the first mistake."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.messages: list[str] = []

    def add(self, record: str, message: str) -> None:
        self.messages.append(f"{record}: {message}")
        if len(self.messages) >= _MAX_PROBLEMS:
            self.messages.append("... (`detseg check` lists all)")
            self.raise_if_any()

    def raise_if_any(self) -> None:
        if self.messages:
            raise DatasetError(f"{self.path}: " + "\n  ".join(self.messages))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        num_bytes = path.stat().st_size
        if num_bytes > MAX_JSON_BYTES:
            raise DatasetError(f"{path}: {num_bytes:,} bytes, allowed are {MAX_JSON_BYTES:,}; split the file")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path}: no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: expected an object with images, annotations and categories, got {_show(content)}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            received = _show(content[key]) if key in content else "no such key"
            raise DatasetError(f"{path}: {key} must be a list, got {received}")
    return content


def _records(content: dict[str, Any], kind: str, problems: _Problems) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The records with a valid id of their own, each with its name in messages."""
    seen: set[int] = set()
    for position, record in enumerate(content[kind]):
        if not isinstance(record, dict):
            problems.add(f"{kind}[{position}]", f"expected an object, got {_show(record)}")
        elif not _is_id(record.get("id")):
            problems.add(f"{kind}[{position}]", f"id must be an integer, got {_show_key(record, 'id')}")
        elif record["id"] in seen:
            problems.add(f"{kind}[{position}] (id {record['id']})", "the id is used before; every id must be unique")
        else:
            seen.add(record["id"])
            yield f"{kind}[{position}] (id {record['id']})", record["id"], record


def _read_categories(content: dict[str, Any], problems: _Problems) -> tuple[dict[int, int], list[str]]:
    names = {}
    for where, number, record in _records(content, "categories", problems):
        if not isinstance(record.get("name"), str):
            problems.add(where, f"name must be text, got {_show_key(record, 'name')}")
        names[number] = record.get("name", "")
    ordered = sorted(names)
    return {number: position for position, number in enumerate(ordered)}, [names[number] for number in ordered]


def _read_images(content: dict[str, Any], builder: PackedBuilder, problems: _Problems) -> dict[int, int]:
    positions = {}
    for where, number, record in _records(content, "images", problems):
        name, height, width = record.get("file_name"), record.get("height"), record.get("width")
        if not isinstance(name, str):
            problems.add(where, f"file_name must be text, got {_show_key(record, 'file_name')}")
        elif leaves_root(name):
            problems.add(where, f"file_name must stay inside the folder of images, got {name!r}")
        elif not _is_side(height) or not _is_side(width):
            received = f"{_show_key(record, 'height')} and {_show_key(record, 'width')}"
            problems.add(where, f"height and width must be integers from 1 to {MAX_SIDE:,}, got {received}")
        else:
            positions[number] = builder.add_image(number, name, height, width)
            continue
        positions[number] = -1
    return positions


def _read_annotations(
    content: dict[str, Any],
    builder: PackedBuilder,
    position_of_category: dict[int, int],
    position_of_image: dict[int, int],
    problems: _Problems,
) -> None:
    for where, number, record in _records(content, "annotations", problems):
        image, category = record.get("image_id"), record.get("category_id")
        box, area, crowd = record.get("bbox"), record.get("area"), record.get("iscrowd", 0)
        outline = record.get("segmentation")
        if not _is_id(image) or image not in position_of_image:
            problems.add(where, f"image_id must be the id of one of the images, got {_show_key(record, 'image_id')}")
        elif not _is_id(category) or category not in position_of_category:
            received = _show_key(record, "category_id")
            problems.add(where, f"category_id must be one of {_show(list(position_of_category))}, got {received}")
        elif not (isinstance(box, list) and len(box) == 4 and all(map(_is_coordinate, box))):
            problems.add(where, f"bbox must be 4 finite numbers x, y, width, height, got {_show_key(record, 'bbox')}")
        elif area is not None and not (_is_number(area) and abs(area) < MAX_COORDINATE**2):
            problems.add(where, f"area must be a finite number, got {_show(area)}")
        elif crowd not in (0, 1):
            problems.add(where, f"iscrowd must be 0 or 1, got {_show(crowd)}")
        elif not _is_outline(outline):
            problems.add(where, f"segmentation must be lists of x, y, ... or {{counts, size}}, got {_show(outline)}")
        elif position_of_image[image] >= 0:
            try:
                builder.add_object(
                    position_of_image[image],
                    box,
                    position_of_category[category],
                    crowd=bool(crowd),
                    area=area,
                    annotation_id=number,
                    polygons=outline if isinstance(outline, list) else (),
                    run_length=outline if isinstance(outline, dict) else None,
                )
            except (TypeError, OverflowError) as error:
                problems.add(where, f"segmentation must hold numbers only: {error}")


def _is_outline(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(polygon, list) and len(polygon) % 2 == 0 for polygon in value)
    return value is None or (isinstance(value, dict) and {"counts", "size"} <= set(value))


def _check_points(annotations: PackedAnnotations, path: Path) -> None:
    packed = annotations.segmentations
    wrong = np.flatnonzero(~(np.abs(packed.points) < MAX_COORDINATE))
    if len(wrong):
        polygon = np.searchsorted(packed.polygon_offsets, wrong[0], side="right") - 1
        row = np.searchsorted(packed.object_offsets, polygon, side="right") - 1
        raise DatasetError(
            f"{path}: annotations (id {annotations.annotation_ids[row]}): segmentation must hold finite numbers under "
            f"{MAX_COORDINATE:g}, got {packed.points[wrong[0]]}"
        )


def _folder_of_images(annotations: PackedAnnotations, folders: list[Path], path: Path) -> Path:
    existing = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
    # Some images may be missing, which is for `detseg check` to say; so more than one name is tried.
    names = [annotations.names[index] for index in range(min(len(annotations), 1000))]
    for folder in existing:
        if not names or any((folder / name).is_file() for name in names):
            return folder
    example = f" (as {names[0]})" if names else ""
    raise DatasetError(f"{path}: its images{example} not found; tried {', '.join(map(str, dict.fromkeys(folders)))}")


def _is_id(value: Any) -> TypeGuard[int]:
    return type(value) is int and abs(value) < 2**63


def _is_side(value: Any) -> TypeGuard[int]:
    return type(value) is int and 1 <= value <= MAX_SIDE


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) is float or type(value) is int


def _is_coordinate(value: Any) -> TypeGuard[float]:
    return _is_number(value) and abs(value) < MAX_COORDINATE


def _show_key(record: dict[str, Any], key: str) -> str:
    return _show(record[key]) if key in record else "no such key"


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
