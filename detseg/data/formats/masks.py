"""Images with masks in folders beside each other, as CamVid is mostly published.

An image and its mask have the same name but for the suffix. A mask holds a number per pixel, or a color.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    read_class_file,
    read_lines,
    relative_candidates,
)
from detseg.data.mask_coding import MAX_CLASSES, MaskCoding, pack_color
from detseg.data.mask_dataset import MaskDataset
from detseg.data.mask_file import MASK_SUFFIXES, read_index_mask
from detseg.runtime.media.images import IMAGE_SUFFIXES
from detseg.structures import VOID, Truth

_SETTINGS = ("format", "path", "names", "void", "colors")
_CLASS_FILE = "classes.txt"
_NUM_LOOKED_AT = 20


class MasksFormat(DatasetFormat):
    """Folders of images and of masks per split, or a YAML that names them."""

    truths = ("masks",)
    layouts = (
        "SPLIT/images/ and SPLIT/masks/, or images/SPLIT/ and masks/SPLIT/, with the class names in classes.txt",
        (
            "a YAML with `format: masks`, `path:`, `names:`, `void:` and, unless the folders are as above, per split "
            "`SPLIT: {images: FOLDER or LIST.txt, masks: FOLDER or LIST.txt}`; `colors:` for color maps"
        ),
    )

    def splits(self, source: Source) -> tuple[str, ...]:
        if source.yaml_path is None:
            return _splits_of_folder(source.root)
        if source.settings.get("format") not in ("masks", None):
            return ()
        named = tuple(
            str(key) for key, value in source.settings.items() if isinstance(value, Mapping) and "masks" in value
        )
        stated = source.settings.get("format") == "masks"
        return named or (_splits_of_folder(source.data_root()) if stated else ())

    def read_split(self, source: Source, split: str, truth: Truth) -> Dataset:
        root = source.data_root().absolute()
        images, masks = find_pairs(source, split)
        coding = read_coding(source, masks, images)
        return MaskDataset(root=root, split=split, images=images, masks=masks, coding=coding)


def find_pairs(source: Source, split: str) -> tuple[list[Path], list[Path]]:
    """The images of ``split`` and, for each, its mask.

    Raises:
        DatasetError: a folder is missing, empty, or has several files of one name, or an image has no mask.
    """
    images_at, masks_at = find_places(source, split)
    where = f"{source.name}: {split}"
    images = list_images(images_at) if images_at.is_dir() else _listed(images_at, source)
    if not images:
        raise DatasetError(f"{where}: no images in {images_at}; suffixes are {', '.join(IMAGE_SUFFIXES)}")
    if not masks_at.is_dir():
        masks = _listed(masks_at, source)
        if len(masks) != len(images):
            raise DatasetError(f"{where}: {images_at} has {len(images)} images, {masks_at} lists {len(masks)} masks")
        return images, masks
    mask_of = _by_stem(list_masks(masks_at))
    if images_at.is_dir():
        _by_stem(images)
    missing = [image for image in images if image.stem not in mask_of]
    if missing:
        raise DatasetError(
            f"{where}: {len(missing)} of {len(images)} images have no mask; the first is {missing[0]}: "
            f"{masks_at / missing[0].stem}{{{','.join(MASK_SUFFIXES)}}} was expected"
        )
    return images, [mask_of[image.stem] for image in images]


def find_places(source: Source, split: str) -> tuple[Path, Path]:
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
        places = [(root / split / "images", root / split / "masks"), (root / "images" / split, root / "masks" / split)]
        existing = [(images, masks) for images, masks in places if images.is_dir() and masks.is_dir()]
        if len(existing) > 1:
            raise DatasetError(f"{where}: both {existing[0][0]} and {existing[1][0]} are there; name one in a YAML")
        images_at, masks_at = existing[0]
    for place in (images_at, masks_at):
        if not place.is_dir() and place.suffix != ".txt":
            raise DatasetError(f"{where}: {place}: expected a folder or a .txt list")
    return images_at.absolute(), masks_at.absolute()


def list_images(folder: Path) -> list[Path]:
    """The files in ``folder`` that have the suffix of an image, sorted."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def list_masks(folder: Path) -> list[Path]:
    """The files in ``folder`` that have the suffix of a mask, sorted."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in MASK_SUFFIXES)


def read_coding(source: Source, masks: Sequence[Path], images: Sequence[Path]) -> MaskCoding:
    """What the values in the masks mean, from ``names``, ``colors`` and ``void`` of the YAML, or from classes.txt.

    Raises:
        DatasetError: they contradict each other, or are missing; then the message says what the first masks hold.
    """
    where = source.name
    named = source.settings.get("names")
    if named is None:
        class_file = source.data_root() / _CLASS_FILE
        if not class_file.is_file():
            raise DatasetError(_ask_for_names(source, masks, images))
        named = list(read_class_file(class_file))
    colors = source.settings.get("colors")
    if colors is not None:
        return _color_coding(named, colors, source.settings.get("void", []), where)
    if isinstance(named, Mapping):
        if not all(_is_byte(value) for value in named):
            raise DatasetError(f"{where}: names: the values must be integers from 0 to 255, got {list(named)}")
        named = {value: named[value] for value in sorted(named)}
        values, named = tuple(named), list(named.values())
    else:
        values = tuple(range(len(named))) if isinstance(named, (list, tuple)) else ()
    class_names = _checked_names(named, where)
    # Who has a class 255, as binary masks do, has not asked for the default.
    default: Any = [] if VOID in values else VOID
    void = source.settings.get("void", default)
    void_values = tuple(void) if isinstance(void, (list, tuple)) else (void,)
    if not all(_is_byte(value) for value in void_values):
        raise DatasetError(f"{where}: void: expected integers from 0 to 255, got {void!r}")
    _check_meanings(class_names, values, void_values, where)
    return MaskCoding(class_names, values, tuple(dict.fromkeys(void_values)))


def _color_coding(named: Any, colors: Any, void: Any, where: str) -> MaskCoding:
    if isinstance(named, Mapping):
        raise DatasetError(f"{where}: names: with colors a list in their order, got a mapping; colors have no values")
    class_names = _checked_names(named, where)
    if not isinstance(colors, list) or not all(map(_is_color, colors)) or len(colors) != len(class_names):
        raise DatasetError(
            f"{where}: colors: expected one [red, green, blue] from 0 to 255 for each of {len(class_names)} names, "
            f"got {colors!r}"
        )
    void_colors = [void] if _is_color(void) else void
    if not isinstance(void_colors, list) or not all(map(_is_color, void_colors)):
        raise DatasetError(f"{where}: void: with colors, expected [red, green, blue] or a list of these, got {void!r}")
    values, void_values = (tuple(map(pack_color, some)) for some in (colors, void_colors))
    _check_meanings(class_names, values, void_values, where, colored=True)
    return MaskCoding(class_names, values, tuple(dict.fromkeys(void_values)), colored=True)


def _checked_names(named: Any, where: str) -> tuple[str, ...]:
    class_names = check_class_names(named, f"{where}: names")
    if len(class_names) > MAX_CLASSES:
        raise DatasetError(f"{where}: names: {len(class_names)} classes, allowed are {MAX_CLASSES} in masks of 8 bits")
    return class_names


def _check_meanings(
    class_names: Sequence[str], values: Sequence[int], void: Sequence[int], where: str, colored: bool = False
) -> None:
    kind = "color" if colored else "value"
    owner: dict[int, str] = {}
    for name, value in zip(class_names, values, strict=True):
        if value in owner:
            raise DatasetError(f"{where}: {owner[value]} and {name} have the same {kind}")
        owner[value] = name
    for value in void:
        if value in owner:
            raise DatasetError(f"{where}: the {kind} of {owner[value]} is also void; a pixel is one or the other")


def _check_keys(source: Source) -> None:
    for key, value in source.settings.items():
        is_split = isinstance(value, Mapping) and set(value) == {"images", "masks"} and key not in _SETTINGS
        if key not in _SETTINGS and not is_split:
            raise DatasetError(
                f"{source.name}: {key}: expected {{images: FOLDER or LIST.txt, masks: FOLDER or LIST.txt}}, got "
                f"{value!r}; other keys are {', '.join(_SETTINGS)}"
            )


def _splits_of_folder(root: Path) -> tuple[str, ...]:
    inner = (folder.parent.name for folder in root.glob("*/masks") if (folder.parent / "images").is_dir())
    outer = (folder.name for folder in root.glob("images/*") if folder.is_dir())
    return tuple(sorted({*inner, *(name for name in outer if (root / "masks" / name).is_dir())}))


def _listed(path: Path, source: Source) -> list[Path]:
    """The files that a list names: relative to the list, else to the data set."""
    files, seen = [], set()
    for line in read_lines(path):
        candidates = [*relative_candidates(line, path.parent), *relative_candidates(line, source.data_root())]
        file = find_existing(candidates, repr(line), str(path)).absolute()
        if file in seen:
            raise DatasetError(f"{path}: {line!r} is listed twice")
        seen.add(file)
        files.append(file)
    return files


def _by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    by_stem: dict[str, Path] = {}
    for path in paths:
        other = by_stem.setdefault(path.stem, path)
        if other != path:
            raise DatasetError(f"{path}: {other.name} has the same name; which mask belongs to which image is unclear")
    return by_stem


def _ask_for_names(source: Source, masks: Sequence[Path], images: Sequence[Path]) -> str:
    chosen = range(0, len(masks), max(1, len(masks) // _NUM_LOOKED_AT))
    found = sorted(set().union(*(np.unique(read_index_mask(masks[i], images[i])).tolist() for i in chosen)))
    root = source.data_root().absolute()
    names = ", ".join(f"{value}: NAME" for value in found if value != VOID)
    return (
        f"{source.name}: the names of the classes are missing; masks hold the values {', '.join(map(str, found))} "
        f"({len(chosen)} of {len(masks)} were read). Write a YAML and give that as the data set:\n"
        f"  format: masks\n  path: {root}\n  names: {{{names}}}\n  void: {VOID}\n"
        f"or, for the values 0, 1, 2, ..., one name per line in {root / _CLASS_FILE}"
    )


def _is_byte(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= 255


def _is_color(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 3 and all(map(_is_byte, value))
