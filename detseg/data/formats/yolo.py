"""YOLO: one text file per image, one line ``class cx cy w h`` per object, in fractions of the image's sides.

The YAML is the one that Ultralytics documents (https://docs.ultralytics.com/datasets/detect/). Lines with more numbers
are polygons, ``class x1 y1 x2 y2 ...``: the box is the one around it, and the polygon is kept. Boxes with key points,
``class cx cy w h x1 y1 ...``, are told by ``kpt_shape`` in the YAML.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from detseg.data.datasets.kept_labels import FileStates, keep_labels, load_labels
from detseg.data.entries.key_points import KeyPointDoubts
from detseg.data.entries.parsing import as_integer
from detseg.data.entries.yolo_labels import add_image
from detseg.data.format import DatasetFormat
from detseg.data.records import BoxRecords
from detseg.data.source import (
    DatasetError,
    DataSource,
    check_class_names,
    exists,
    files_in,
    find_existing,
    fold_spelling,
    images_in,
    is_hidden,
    read_class_file,
    read_lines,
    relative_candidates,
)
from detseg.data.split_rule import ALL
from detseg.data.writing import Contents, NewSplits, lists
from detseg.runtime.media.images import IMAGE_SUFFIXES
from detseg.structures import Target

_SPLITS = ("train", "val", "valid", "validation", "test")
_UNLABELED = "test"
"""The split that may be without labels: it is often kept back."""
_CLASS_FILES = ("classes.txt", "obj.names", "labels/classes.txt")
_DARKNET_CLASSES = "_darknet.labels"
"""What Roboflow calls the list of classes that it lays beside images and labels of a split."""
_CVAT = re.compile(r"obj_(.+)_data")
"""The folders in which CVAT lays images of a split with their labels, in its YOLO 1.1."""
_LABEL_SUFFIX = ".txt"
_LABELS_OF = {"images": "labels", "Images": "Labels", "IMAGES": "LABELS"}


class YoloFormat(DatasetFormat):
    """A YAML with ``names`` and a folder or list of images per split, or a folder of images and labels per split."""

    layouts = (
        "a YAML with `names:`, `path:` and per split (train, val, test) a folder of images, a .txt list, or several",
        "images/SPLIT/ and labels/SPLIT/ with the class names in classes.txt",
        "SPLIT/images/ and SPLIT/labels/ with the class names in classes.txt",
        "SPLIT/ with labels beside images, with the class names in _darknet.labels in each",
        "obj_SPLIT_data/ with labels beside images, with the class names in obj.names; one alone is the split all",
        (
            "images/ and labels/, or labels beside images, with the class names in classes.txt, here or in labels/, or "
            "obj.names: the split all"
        ),
    )

    targets = ("boxes", "instances")

    def splits(self, source: DataSource) -> tuple[str, ...]:
        if source.yaml_path is not None:
            return tuple(name for name in _SPLITS if source.settings.get(name)) if "names" in source.settings else ()
        labels, images = source.root / "labels", source.root / "images"
        if labels.is_dir() and images.is_dir():
            labeled = {folder.name for folder in labels.iterdir() if folder.is_dir() and not _holds_images(folder)}
            names = sorted(folder.name for folder in images.iterdir() if folder.is_dir())
            if labeled & set(names):
                return tuple(names)
        if _class_file(source.root) is not None:
            divided = sorted(path.parent.name for path in source.root.glob("*/images") if _is_split(path.parent))
            divided = divided or (list(found) if len(found := _cvat_folders(source.root)) > 1 else [])
            if divided:
                return tuple(divided)
        if next(source.root.glob(f"*/{_DARKNET_CLASSES}"), None) is not None:
            return tuple(sorted(folder.name for folder in source.root.iterdir() if _has_images(folder)))
        # Nobody has divided it yet; who has named its classes means this format.
        undivided = _class_file(source.root) is not None and _has_labels(source.root)
        return (ALL,) if undivided else ()

    def records(self, source: DataSource, split: str, target: Target) -> BoxRecords:
        """The labels of ``.../images/a/b.jpg`` are in ``.../labels/a/b.txt``, or else beside the image. No label file
        means no objects."""
        class_names, where = read_names(source), f"{source.name}: {split}"
        records = BoxRecords(
            split,
            root=source.data_root().absolute(),
            class_names=class_names,
            entry="line",
            in_fractions=True,
            target=target,
        )
        entries: Any = source.settings[split] if source.yaml_path is not None else _folder_of(source.root, split)
        num_key_points = _num_key_values(source)
        doubts = KeyPointDoubts(told="kpt_shape" in source.settings)
        images: dict[Path, Path] = {}
        places: list[Path] = []
        for entry in entries if isinstance(entries, list) else [entries]:
            if not isinstance(entry, str):
                raise DatasetError(f"{where}: expected a folder, a .txt list, or a list of these, got {entry!r}")
            place = find_existing(_candidates(entry, source), repr(entry), where)
            members = _members(records, place)
            for path in members:
                if path in images:
                    records.report("D106", place, f"{path} is listed twice")
                images[path] = label_file(path, records.root)
            if place.is_dir():
                places.append(place)
        images = _find_labels(images)
        used = set(images.values())
        for labels in dict.fromkeys(labels for place in places for labels in _labels_in(place, records.root)):
            if labels not in used:
                records.report("D101", labels, "there is no image for these labels")
        states = FileStates("yolo", records.root, split, target, class_names, num_key_points, doubts.told)
        for path in (path for pair in images.items() for path in pair):
            states.add(path)
        kept_at = states.kept()
        kept = load_labels(kept_at)
        if kept is not None:
            records.take_over_read(kept.packed, list(images.values()), kept.states_size.tolist())
            return records
        num_faults = records.num_faults
        are_labeled = [add_image(records, path, labels, num_key_points, doubts) for path, labels in images.items()]
        doubts.judge(records)
        for labels, count in Counter(records.sources).items():
            if count > 1 and labels.is_file():
                records.report("D106", labels, f"{count} images of this name have these labels")
        if any(are_labeled) and records.num_faults == num_faults:
            keep_labels(kept_at, class_names, records.packed, records.states_size, records.root)
        if not images:
            records.reject("D309", records.root, f"no images of {split}; suffixes are {', '.join(IMAGE_SUFFIXES)}")
        elif not any(are_labeled):
            first = next(iter(images.values()))
            message = f"none of {len(images)} images of {split} has a label file, such as {first}"
            if split == _UNLABELED:
                records.is_unlabeled = True
                records.report("D308", records.root, f"{message}: they can be predicted, not judged")
            else:
                records.reject("D100", records.root, message)
        return records

    def write_splits(self, new: NewSplits, folder: Path) -> tuple[Contents, dict[str, object]]:
        contents, places = lists(new, folder)
        return contents, {**places, "names": dict(enumerate(read_names(new.source)))}


def read_names(source: DataSource) -> tuple[str, ...]:
    """The class names of a YOLO data set. Raises DatasetError: there are none, or they contradict each other."""
    if source.yaml_path is None:
        beside = sorted(source.root.glob(f"*/{_DARKNET_CLASSES}")) if _class_file(source.root) is None else []
        places = [*(source.root / name for name in _CLASS_FILES), *beside]
        listed = read_class_file(find_existing(places, "list of class names, one per line,", source.name))
        for other in beside:
            if read_class_file(other) != listed:
                raise DatasetError(f"{other}: other classes than in {beside[0]}; make the lists equal")
        return listed
    names, where = source.settings["names"], source.name
    if isinstance(names, Mapping):
        if all(as_integer(key) is not None for key in names):
            names = {as_integer(key): name for key, name in names.items()}
        if set(names) != set(range(len(names))):
            raise DatasetError(f"{where}: names: keys must be 0 to {len(names) - 1}, got {', '.join(map(str, names))}")
        names = [names[label] for label in range(len(names))]
    if isinstance(names, list):
        # `names: [0, 1, 2]` is common for digits; a bool is YAML's reading of an unquoted yes or no.
        names = [str(name) if type(name) in (int, float) else name for name in names]
    checked = check_class_names(names, f"{where}: names")
    count = source.settings.get("nc")
    if count is not None and as_integer(count) != len(checked):
        raise DatasetError(f"{where}: nc is {count!r}, but there are {len(checked)} names")
    return checked


def label_file(image_path: Path, root: Path | None = None) -> Path:
    """Where the labels of an image are: the last folder ``images`` (``Images``) in its path replaced by ``labels``.

    Of an image in ``root``, the folders around that do not count.
    """
    return _labels_folder(image_path.parent, root) / f"{image_path.stem}.txt"


@lru_cache(maxsize=1024)
def _labels_folder(folder: Path, root: Path | None) -> Path:
    parts = list(folder.parts)
    first = len(root.parts) if root is not None and folder.is_relative_to(root) else 0
    for position in range(len(parts) - 1, first - 1, -1):
        if parts[position] in _LABELS_OF:
            parts[position] = _LABELS_OF[parts[position]]
            break
    return Path(*parts)


def _class_file(root: Path) -> Path | None:
    return next((root / name for name in _CLASS_FILES if (root / name).is_file()), None)


def _cvat_folders(root: Path) -> dict[str, Path]:
    """The folders of CVAT in ``root`` by split, sorted."""
    found = ((_CVAT.fullmatch(path.name), path) for path in sorted(root.glob("obj_*_data")) if path.is_dir())
    return {match[1]: path for match, path in found if match}


def _has_images(folder: Path) -> bool:
    """Whether images lie in ``folder`` itself."""
    if is_hidden(folder.name) or not folder.is_dir():
        return False
    return any(path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path.name) for path in folder.iterdir())


def _holds_images(folder: Path) -> bool:
    """Whether the labels in ``folder`` are masks."""
    return next((path.suffix.lower() in IMAGE_SUFFIXES for path in folder.rglob("*") if path.is_file()), False)


def _is_split(folder: Path) -> bool:
    """Whether images and labels, which are no masks, lie in folders of their own in ``folder``."""
    images, labels = folder / "images", folder / "labels"
    return images.is_dir() and labels.is_dir() and not is_hidden(folder.name) and not _holds_images(labels)


def _folder_of(root: Path, split: str) -> str:
    """Where the images of ``split`` are, from ``root``."""
    cvat = _cvat_folders(root)
    if split == ALL:
        places = [root / "images" / ALL, root / "images", *cvat.values()]
    else:
        places = [root / "images" / split, cvat.get(split, root / split / "images"), root / split]
    return str(next((place.relative_to(root) for place in places if place.is_dir()), "."))


def _has_labels(root: Path) -> bool:
    """Whether images lie in the folder with labels beside them, or in ``images`` with labels in ``labels``."""
    folder, labels = (root / "images", root / "labels") if (root / "images").is_dir() else (root, root)
    if folder == root and (cvat := list(_cvat_folders(root).values())):
        # CVAT keeps the folders in which images of a task lie.
        stems = {fold_spelling(path.stem) for path in images_in(cvat[0])}
        return any(fold_spelling(path.stem) in stems for path in files_in(cvat[0], (_LABEL_SUFFIX,)))
    if not labels.is_dir():
        return False
    stems = {fold_spelling(path.stem) for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
    texts = (path for path in labels.iterdir() if path.suffix.lower() == _LABEL_SUFFIX)
    return any(fold_spelling(path.stem) in stems for path in texts)


def _num_key_values(source: DataSource) -> int:
    """How many numbers of key points follow a box in each line, which are passed over."""
    shape = source.settings.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(one, int) and one > 0 for one in shape):
        raise DatasetError(f"{source.name}: kpt_shape: expected [number of key points, 2 or 3], got {shape!r}")
    return int(shape[0] * shape[1])


def _candidates(entry: str, source: DataSource) -> list[Path]:
    candidates = source.candidates(entry)
    # Roboflow writes `../train/images` into a YAML that lies beside the folder train.
    return [*candidates, source.data_root() / entry.removeprefix("../")] if entry.startswith("../") else candidates


def _members(records: BoxRecords, place: Path) -> list[Path]:
    """The images in a folder, or those that a list names; these may be missing."""
    if place.is_dir():
        return [path.absolute() for path in images_in(place)]
    if place.suffix != ".txt":
        raise DatasetError(f"{place}: expected a folder of images or a .txt list of images")
    members = []
    for line in read_lines(place):
        places = relative_candidates(line, place.parent)
        # CVAT writes `data/images/...` into a list that lies beside the folder images.
        _, _, inner = line.partition("/")
        if inner and not line.startswith((".", "/")):
            places.append(place.parent / inner)
        found = next((path for path in places if exists(path)), None)
        if found is None:
            records.deny(place, f"image not found; tried {', '.join(map(str, places))}")
        members.append((found or places[0]).absolute())
    return members


def _labels_in(folder: Path, root: Path) -> list[Path]:
    """The label files of the images in ``folder``, if they lie in a folder of their own."""
    labels_folder = label_file(folder.absolute() / "any.jpg", root).parent
    if labels_folder == folder.absolute():
        return []
    return [path for path in files_in(labels_folder, (_LABEL_SUFFIX,)) if path.name not in _CLASS_FILES]


def _find_labels(images: Mapping[Path, Path]) -> dict[Path, Path]:
    """The label file of each image: the one that is expected, else that beside the image, else the only one in either
    folder that differs by the case of letters or the way in which accents are written, and is no other image's."""
    expected = set(images.values())
    alike_in: dict[Path, dict[str, list[Path]]] = {}

    def find(image: Path, labels: Path) -> Path:
        beside = image.with_suffix(_LABEL_SUFFIX)
        for place in dict.fromkeys((labels, beside)):
            if place.exists():
                return place
        for place in dict.fromkeys((labels, beside)):
            if place.parent not in alike_in:
                alike_in[place.parent] = _by_spelling(place.parent)
            found = [path for path in alike_in[place.parent].get(fold_spelling(place.name), ()) if path not in expected]
            if len(found) == 1:
                return found[0]
        return labels

    return {image: find(image, labels) for image, labels in images.items()}


def _by_spelling(folder: Path) -> dict[str, list[Path]]:
    """The label files in ``folder`` by what their names have in common with others."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.suffix.lower() == _LABEL_SUFFIX and not is_hidden(path.name):
            found[fold_spelling(path.name)].append(path)
    return found
