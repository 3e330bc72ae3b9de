"""Images with masks in folders beside each other, as CamVid is mostly published.

An image and its mask have the same name but for the suffix. A mask holds a number per pixel, or a color.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from detseg.data.datasets.label_mapping import MAX_CLASSES, LabelMapping, pack_color
from detseg.data.datasets.mask_file import MASK_SUFFIXES
from detseg.data.entries.parsing import enumerate_some
from detseg.data.format import DatasetFormat
from detseg.data.formats.mask_tables import read_color_table
from detseg.data.mask_records import MaskRecords
from detseg.data.source import (
    DatasetError,
    DataSource,
    check_class_names,
    exists,
    find_existing,
    images_in,
    read_class_file,
    read_lines,
    relative_candidates,
)
from detseg.data.writing import Contents, NewSplits
from detseg.runtime.media.images import IMAGE_SUFFIXES
from detseg.structures import IGNORE_INDEX, Target

_MEANINGS = ("names", "ignore_index", "colors", "tolerance", "threshold")
_SETTINGS = ("format", "path", "mask_suffix", *_MEANINGS)
_MASK_FOLDERS = ("masks", "labels", "annotations")
"""How folders of masks are called, beside or around those called ``images``."""
_MASK_ENDINGS = ("_labels", "_masks", "annot")
"""What is added to the name of a folder of images for that of their masks, as in copies of CamVid."""
_VOC_IMAGES, _VOC_MASKS, _VOC_LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
_CLASS_FILE = "classes.txt"


class MasksFormat(DatasetFormat):
    """Folders of images and of masks per split, or a YAML that names them."""

    targets = ("masks",)
    layouts = (
        (
            "SPLIT/images/ and SPLIT/masks/, or images/SPLIT/ and masks/SPLIT/ (or labels, annotations), or SPLIT/ and "
            "SPLIT_labels/ (_masks, annot), with the class names in classes.txt, or with their colors in labelmap.txt "
            "or class_dict.csv"
        ),
        "JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/SPLIT.txt, with the class names in classes.txt",
        (
            "a YAML with `format: masks`, `path:`, `names:`, `ignore_index:` and, unless the folders are as above, "
            "per split "
            "`SPLIT: {images: FOLDER or LIST.txt, masks: FOLDER or LIST.txt}`; `colors:` for color maps (a list in the "
            "order of the names, or NAME: [red, green, blue]), `tolerance:` or `threshold:` where edges are smoothed, "
            "`mask_suffix:` where masks are called NAME_mask.png"
        ),
    )

    def splits(self, source: DataSource) -> tuple[str, ...]:
        if source.yaml_path is None:
            return _splits_of_folder(source.root)
        if source.settings.get("format") not in ("masks", None):
            return ()
        named = tuple(
            str(key) for key, value in source.settings.items() if isinstance(value, Mapping) and "masks" in value
        )
        stated = source.settings.get("format") == "masks"
        return named or (_splits_of_folder(source.data_root()) if stated else ())

    def records(self, source: DataSource, split: str, target: Target) -> MaskRecords:
        records = MaskRecords(
            split,
            dataset_name=source.name,
            root=source.data_root().absolute(),
            pairs=(),
            mapping=read_mapping(source),
        )
        images_at, masks_at = find_places(source, split)
        images = _members(records, images_at, source, IMAGE_SUFFIXES)
        if not images:
            message = f"no images in {images_at}; suffixes are {', '.join(IMAGE_SUFFIXES)}"
            records.reject("D309", images_at, message)
        masks = _members(records, masks_at, source, MASK_SUFFIXES)
        suffix = source.settings.get("mask_suffix")
        if suffix is not None and not isinstance(suffix, str):
            raise DatasetError(f"{source.name}: mask_suffix: expected a text such as _mask, got {suffix!r}")
        if masks_at.is_dir():
            records.pairs = _pair(records, images, masks, images_at, masks_at, suffix)
        elif len(masks) == len(images):
            records.pairs = list(zip(images, masks, strict=True))
        else:
            message = f"{images_at} has {len(images)} images, {masks_at} lists {len(masks)} masks"
            records.reject("D100", source.name, message)
        return records

    def write_splits(self, new: NewSplits, folder: Path) -> tuple[Contents, dict[str, object]]:
        """Lists, and what the values mean as the data set says it."""
        contents, settings = super().write_splits(new, folder)
        stated = {key: new.source.settings[key] for key in _MEANINGS if new.source.settings.get(key) is not None}
        if "names" not in stated:
            mapping = read_mapping(new.source)
            assert mapping is not None, "names are known, or the split would have been refused"
            stated = {**mapping.settings(), **stated}
        return contents, {**{key: value for key, value in settings.items() if key not in _MEANINGS}, **stated}


def find_places(source: DataSource, split: str) -> tuple[Path, Path]:
    """Where the images and the masks of ``split`` are: folders, or lists. Raises DatasetError: not found."""
    where = f"{source.name}: {split}"
    _check_keys(source)
    entry = source.settings.get(split)
    if entry is not None:
        images_at, masks_at = (
            find_existing(source.candidates(str(entry[key])), key, where) for key in ("images", "masks")
        )
    else:
        root = source.data_root().absolute()
        existing = _existing_places(root, split)
        if len(existing) > 1:
            raise DatasetError(f"{where}: both {existing[0][0]} and {existing[1][0]} are there; name one in a YAML")
        images_at, masks_at = existing[0]
    for place in (images_at, masks_at):
        if not place.is_dir() and place.suffix != ".txt":
            raise DatasetError(f"{where}: {place}: expected a folder or a .txt list")
    return images_at.absolute(), masks_at.absolute()


def read_mapping(source: DataSource) -> LabelMapping | None:
    """What the values in the masks mean, from ``names``, ``colors``, ``ignore_index``, ``tolerance`` and ``threshold``
    of the YAML, or from classes.txt; None where there are no names. Raises DatasetError: they contradict each other."""
    where = source.name
    named, colors = source.settings.get("names"), source.settings.get("colors")
    if named is None and isinstance(colors, Mapping):
        named = list(colors)
    if named is None:
        class_file = source.data_root() / _CLASS_FILE
        if class_file.is_file():
            named = list(read_class_file(class_file))
        elif (table := read_color_table(source.data_root())) is not None:
            named, colors = table
        else:
            return None
    tolerance = source.settings.get("tolerance", 0)
    if not _is_byte(tolerance) or (tolerance and colors is None):
        allowed = "for each channel of a color, an integer from 0 to 255; class numbers have no nearest one"
        raise DatasetError(f"{where}: tolerance: is for masks with `colors:`, {allowed}; got {tolerance!r}")
    if colors is not None:
        if source.settings.get("threshold") is not None:
            raise DatasetError(f"{where}: threshold: is for gray masks of two classes; with colors, say tolerance")
        mapping = _color_mapping(named, colors, source.settings.get("ignore_index", []), where)
        return replace(mapping, tolerance=tolerance)
    if isinstance(named, Mapping):
        if not all(_is_byte(value) for value in named):
            raise DatasetError(f"{where}: names: the values must be integers from 0 to 255, got {list(named)}")
        named = {value: named[value] for value in sorted(named)}
        values, named = tuple(named), list(named.values())
    else:
        values = tuple(range(len(named))) if isinstance(named, (list, tuple)) else ()
    class_names = _checked_names(named, where)
    threshold = source.settings.get("threshold")
    if threshold is not None:
        if not _is_byte(threshold) or not threshold or len(class_names) != 2 or "ignore_index" in source.settings:
            allowed = "an integer from 1 to 255, for two names and without ignored"
            more = " and ignore_index" if "ignore_index" in source.settings else ""
            received = f"{threshold!r} for {len(class_names)} names{more}"
            raise DatasetError(f"{where}: threshold: expected {allowed}; got {received}")
        return LabelMapping(class_names, values, ignored=(), threshold=threshold)
    # Who has a class 255, as binary masks do, has not asked for the default.
    default: Any = [] if IGNORE_INDEX in values else IGNORE_INDEX
    ignored = source.settings.get("ignore_index", default)
    ignored_values = tuple(ignored) if isinstance(ignored, (list, tuple)) else (ignored,)
    if not all(_is_byte(value) for value in ignored_values):
        raise DatasetError(f"{where}: ignore_index: expected integers from 0 to 255, got {ignored!r}")
    _check_meanings(class_names, values, ignored_values, where)
    return LabelMapping(class_names, values, tuple(dict.fromkeys(ignored_values)))


def _color_mapping(named: Any, colors: Any, ignored: Any, where: str) -> LabelMapping:
    if isinstance(named, Mapping):
        raise DatasetError(f"{where}: names: with colors a list in their order, got a mapping; colors have no values")
    class_names = _checked_names(named, where)
    if isinstance(colors, Mapping):
        missing = [name for name in class_names if name not in colors]
        strange = [str(name) for name in colors if name not in class_names]
        if missing or strange:
            wrong = (
                f"none for {enumerate_some(missing)}" if missing else f"no class is called {enumerate_some(strange)}"
            )
            raise DatasetError(f"{where}: colors: {wrong}; give NAME: [red, green, blue] for each of the names")
        colors = [colors[name] for name in class_names]
    if not isinstance(colors, list) or not all(map(_is_color, colors)) or len(colors) != len(class_names):
        raise DatasetError(
            f"{where}: colors: expected one [red, green, blue] from 0 to 255 for each of {len(class_names)} names, "
            f"got {colors!r}"
        )
    ignored_colors = [ignored] if _is_color(ignored) else ignored
    if not isinstance(ignored_colors, list) or not all(map(_is_color, ignored_colors)):
        raise DatasetError(
            f"{where}: ignore_index: with colors, expected [red, green, blue] or a list of these, got {ignored!r}"
        )
    values, ignored_values = (tuple(map(pack_color, some)) for some in (colors, ignored_colors))
    _check_meanings(class_names, values, ignored_values, where, colored=True)
    return LabelMapping(class_names, values, tuple(dict.fromkeys(ignored_values)), colored=True)


def _checked_names(named: Any, where: str) -> tuple[str, ...]:
    class_names = check_class_names(named, f"{where}: names")
    if len(class_names) > MAX_CLASSES:
        raise DatasetError(f"{where}: names: {len(class_names)} classes, allowed are {MAX_CLASSES} in masks of 8 bits")
    return class_names


def _check_meanings(
    class_names: Sequence[str], values: Sequence[int], ignored: Sequence[int], where: str, colored: bool = False
) -> None:
    kind = "color" if colored else "value"
    owner: dict[int, str] = {}
    for name, value in zip(class_names, values, strict=True):
        if value in owner:
            raise DatasetError(f"{where}: {owner[value]} and {name} have the same {kind}")
        owner[value] = name
    for value in ignored:
        if value in owner:
            raise DatasetError(f"{where}: the {kind} of {owner[value]} is also ignored; a pixel is one or the other")


def _check_keys(source: DataSource) -> None:
    for key, value in source.settings.items():
        is_split = isinstance(value, Mapping) and set(value) == {"images", "masks"} and key not in _SETTINGS
        if key not in _SETTINGS and not is_split:
            raise DatasetError(
                f"{source.name}: {key}: expected {{images: FOLDER or LIST.txt, masks: FOLDER or LIST.txt}}, got "
                f"{value!r}; other keys are {', '.join(_SETTINGS)}"
            )


def _splits_of_folder(root: Path) -> tuple[str, ...]:
    folders = {path.parent.name for path in root.glob("*/images")} | {path.name for path in root.glob("images/*")}
    folders |= {path.name.removesuffix(ending) for ending in _MASK_ENDINGS for path in root.glob(f"*{ending}")} - {""}
    lists = {path.stem for path in root.glob(f"{_VOC_LISTS}/*.txt")}
    return tuple(sorted(name for name in folders | lists if _existing_places(root, name)))


def _existing_places(root: Path, split: str) -> list[tuple[Path, Path]]:
    """Where images and masks of ``split`` are, in all layouts that are there."""
    places = [(root / split / "images", root / split / name) for name in _MASK_FOLDERS]
    places += [(root / split, root / f"{split}{ending}") for ending in _MASK_ENDINGS]
    places += [(root / "images" / split, root / name / split) for name in _MASK_FOLDERS]
    found = [(images, masks) for images, masks in places if images.is_dir() and _holds_masks(masks)]
    listed = root / _VOC_LISTS / f"{split}.txt"
    # A data set with boxes as well is one of another format, unless a YAML says what is meant.
    if listed.is_file() and (root / _VOC_MASKS).is_dir() and not (root / "Annotations").is_dir():
        found.append((listed, root / _VOC_MASKS))
    return found


def _holds_masks(folder: Path) -> bool:
    """Whether ``folder`` is one of masks: by its name, else by the first files in it."""
    if not folder.is_dir():
        return False
    if "masks" in (folder.name, folder.parent.name):
        return True
    return next((path.suffix.lower() in MASK_SUFFIXES for path in folder.rglob("*") if path.is_file()), False)


def _members(records: MaskRecords, place: Path, source: DataSource, suffixes: Sequence[str]) -> list[Path]:
    """The files with ``suffixes`` in a folder and below, or those that a list names."""
    if place.is_dir():
        return [path for path in images_in(place) if path.suffix.lower() in suffixes]
    members: dict[Path, None] = {}
    for line in read_lines(place):
        candidates = [*relative_candidates(line, place.parent), *relative_candidates(line, source.data_root())]
        if place.parent.name == Path(_VOC_LISTS).name:
            images = place.parents[2] / _VOC_IMAGES
            candidates = [images / f"{line}{suffix}" for suffix in (".jpg", *suffixes)]
        found = next((path for path in candidates if exists(path)), None)
        if found is None:
            records.deny(place, f"{line!r} not found; tried {', '.join(map(str, dict.fromkeys(candidates)))}")
        member = (found or candidates[0]).absolute()
        if member in members:
            records.reject("D106", place, f"{line!r} is listed twice")
        members[member] = None
    return list(members)


def _pair(
    records: MaskRecords,
    images: Sequence[Path],
    masks: Sequence[Path],
    images_at: Path,
    masks_at: Path,
    suffix: str | None,
) -> list[tuple[Path, Path]]:
    """Every image with the mask of its name, or where that is expected."""
    # A list may leave images out, and name those of several folders; a folder holds all that there are.
    is_folder = images_at.is_dir()
    name_of = {path: _name(path, images_at if is_folder else path.parent) for path in images}
    masks_by_name = _by_name(records, {path: _name(path, masks_at) for path in masks})
    prefix, suffix = ("", suffix) if suffix is not None else _common_affixes(list(name_of.values()), masks_by_name)
    if is_folder:
        expected_names = {_mask_name(name, prefix, suffix) for name in _by_name(records, name_of)}
        for name, mask in masks_by_name.items():
            if name not in expected_names:
                records.report("D306", mask, f"{records.name} has no image of this name")
    ending = MASK_SUFFIXES[1]
    wanted = {path: _mask_name(name, prefix, suffix) for path, name in name_of.items()}
    return [(path, masks_by_name.get(name) or masks_at / f"{name}{ending}") for path, name in wanted.items()]


def _mask_name(name: str, prefix: str, suffix: str) -> str:
    """What the mask of the image ``name`` is called, in the same folder as that in its own."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{prefix}{base}{suffix}"


def _name(path: Path, folder: Path) -> str:
    """The place of a file in ``folder`` without its suffix, by which images and masks meet."""
    return path.relative_to(folder).with_suffix("").as_posix()


def _common_affixes(names: Sequence[str], masks: Mapping[str, Path]) -> tuple[str, str]:
    """What all masks have before and behind the names of their images, such as ``mask_`` or ``_mask``; nothing where
    any has none."""
    if not names or any(name in masks for name in names):
        return "", ""
    folder, _, base = names[0].rpartition("/")
    candidates = []
    for mask in sorted(masks):
        inside, _, own = mask.rpartition("/")
        before, found, behind = own.partition(base)
        if inside == folder and found:
            candidates.append((before, behind))
    return next((one for one in candidates if all(_mask_name(name, *one) in masks for name in names)), ("", ""))


def _by_name(records: MaskRecords, name_of: Mapping[Path, str]) -> dict[str, Path]:
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path, name in name_of.items():
        by_name[name].append(path)
    for first, *others in by_name.values():
        if others:
            names = enumerate_some(path.name for path in (first, *others))
            records.reject("D106", first, f"{names}: which mask belongs to which image is unclear")
    return {name: same[0] for name, same in by_name.items()}


def _is_byte(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= 255


def _is_color(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 3 and all(map(_is_byte, value))
