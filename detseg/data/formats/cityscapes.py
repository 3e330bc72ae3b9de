"""Cityscapes in its official tree, with nothing to prepare (https://www.cityscapes-dataset.com).

Images are ``leftImg8bit/SPLIT/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png``, the truth about each is in files of several
kinds, ``gtFine/SPLIT/CITY/CITY_SEQUENCE_FRAME_gtFine_KIND``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from detseg.data.datasets.label_mapping import LabelMapping
from detseg.data.format import DatasetFormat
from detseg.data.formats.cityscapes_boxes import ThingBox, boxes_from_instances, boxes_from_polygons
from detseg.data.formats.cityscapes_labels import CLASSES, LABELS, THINGS
from detseg.data.mask_records import MaskRecords
from detseg.data.records import BoxRecords, SplitRecords
from detseg.data.source import DatasetError, DataSource
from detseg.runtime.media.images import ImageError
from detseg.structures import IGNORE_INDEX, Target

_IMAGES, _TRUTH = "leftImg8bit", "gtFine"
_IMAGE_ENDING = "_leftImg8bit.png"
_SPLITS = ("train", "val", "test")
_SETTINGS = ("format", "path", "boxes", "colors")

_NAMES = tuple(label.name for label in CLASSES)
LABEL_MAPPINGS = {
    "labelIds.png": LabelMapping(
        _NAMES,
        values=tuple(label.label_id for label in CLASSES),
        ignored=tuple(label.label_id for label in LABELS if label.train_id == IGNORE_INDEX and label.label_id >= 0),
    ),
    "labelTrainIds.png": LabelMapping(
        _NAMES, values=tuple(label.train_id for label in CLASSES), ignored=(IGNORE_INDEX,)
    ),
}
"""The kinds of masks, the preferred one first, with what their values mean."""

_BOX_READERS: Mapping[str, tuple[str, Callable[[Path, Path, tuple[int, int]], list[ThingBox]]]] = {
    "instances": ("instanceIds.png", boxes_from_instances),
    "polygons": ("polygons.json", boxes_from_polygons),
}


class CityscapesFormat(DatasetFormat):
    """The official tree; masks of the 19 classes that are evaluated, or boxes of the 8 that are objects, with the masks
    of these where instances are learned."""

    targets = ("masks", "boxes", "instances")
    indivisible = (
        "the splits of cityscapes are official: results compare on no others, and no city is in two of them, as it "
        "would be in splits by image; there is nothing to divide"
    )
    layouts = (
        f"{_IMAGES}/SPLIT/CITY/*{_IMAGE_ENDING} with {_TRUTH}/SPLIT/CITY/*_{_TRUTH}_KIND",
        "a YAML with `format: cityscapes`, `path:` and optionally `boxes: instances` or `boxes: polygons`",
    )

    def splits(self, source: DataSource) -> tuple[str, ...]:
        if source.yaml_path is not None and source.settings.get("format") != "cityscapes":
            return ()
        folder = source.data_root() / _IMAGES
        if not folder.is_dir():
            return ()
        found = {path.name for path in folder.iterdir() if path.is_dir()}
        return (*(name for name in _SPLITS if name in found), *sorted(found.difference(_SPLITS)))

    def records(self, source: DataSource, split: str, target: Target) -> MaskRecords | BoxRecords:
        unknown = [str(key) for key in source.settings if key not in _SETTINGS]
        if unknown:
            raise DatasetError(f"{source.name}: unknown keys {', '.join(unknown)}; allowed are {', '.join(_SETTINGS)}")
        root = source.data_root().absolute()
        images = find_images(root, split)
        if target == "masks":
            return _mask_records(source.name, root, split, images)
        return _box_records(source, root, split, images, target)


def find_images(root: Path, split: str) -> list[Path]:
    """All images of ``split``, by city and name. Raises DatasetError: there are none, or a city is cut off."""
    folder = root / _IMAGES / split
    cities = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            cities.append(path)
        elif path.is_symlink():
            raise DatasetError(f"{path}: a link that leads nowhere; {path.readlink()} does not exist")
    if not cities:
        raise DatasetError(f"{folder}: no cities; the images of {split} lie in a folder for each")
    images = []
    for city in cities:
        of_city = sorted(city.glob(f"*{_IMAGE_ENDING}"))
        if not of_city:
            raise DatasetError(f"{city}: no images; their names end in {_IMAGE_ENDING}")
        images += of_city
    labeled = root / _TRUTH / split
    with_truth = {path.name for path in labeled.iterdir() if path.is_dir()} if labeled.is_dir() else set()
    without_images = sorted(with_truth - {city.name for city in cities})
    if without_images:
        raise DatasetError(f"{labeled / without_images[0]}: there is no {folder / without_images[0]} with its images")
    return images


def truth_file(root: Path, image: Path, kind: str) -> Path:
    """Where the truth about ``image`` is; ``kind`` is the end of the name, such as ``labelIds.png``."""
    city, split = image.parent.name, image.parent.parent.name
    return root / _TRUTH / split / city / f"{image.name.removesuffix(_IMAGE_ENDING)}_{_TRUTH}_{kind}"


def choose_kind(root: Path, images: Sequence[Path], kinds: Sequence[str]) -> str | None:
    """The first of ``kinds`` of which there is any file; None if there is none."""
    return next((kind for kind in kinds if any(truth_file(root, image, kind).is_file() for image in images)), None)


def _mask_records(dataset_name: str, root: Path, split: str, images: Sequence[Path]) -> MaskRecords:
    present = choose_kind(root, images, list(LABEL_MAPPINGS))
    kind = present or next(iter(LABEL_MAPPINGS))
    masks = [truth_file(root, image, kind) for image in images]
    folder = masks[0].parent.parent
    records = MaskRecords(
        split,
        dataset_name=dataset_name,
        root=root,
        pairs=list(zip(images, masks, strict=True)),
        mapping=LABEL_MAPPINGS[kind],
        category_ids=[label.label_id for label in CLASSES],
        is_unlabeled=present is None and split == "test",
        may_be_ignored=split == "test",
    )
    if present is None and split != "test":
        _deny_without_truth(records, root, images[0], kind)
    if records.is_unlabeled:
        records.report("D308", folder, f"{len(images)} images can be predicted, not judged")
    else:
        for mask in sorted(set(folder.glob(f"*/*_{kind}")) - set(masks)):
            records.report("D306", mask, f"{split} has no image of this name")
    return records


def _box_records(source: DataSource, root: Path, split: str, images: Sequence[Path], target: Target) -> BoxRecords:
    wanted = source.settings.get("boxes")
    if wanted not in (None, *_BOX_READERS):
        raise DatasetError(f"{source.name}: boxes: allowed are {' and '.join(_BOX_READERS)}, got {wanted!r}")
    readers = {kind: read for name, (kind, read) in _BOX_READERS.items() if wanted in (None, name)}
    present = choose_kind(root, images, list(readers))
    kind = present or next(iter(readers))
    records = BoxRecords(
        split,
        root=root,
        class_names=[label.name for label in THINGS],
        category_ids=[label.label_id for label in THINGS],
        target=target,
    )
    paths = [truth_file(root, image, kind) for image in images]
    positions = [records.add_image(image, path) for image, path in zip(images, paths, strict=True)]
    if present is not None:
        read = partial(boxes_from_instances, with_masks=True) if target == "instances" else boxes_from_instances
        _add_boxes(records, images, positions, read if readers[kind] is boxes_from_instances else readers[kind])
    elif split == "test":
        records.is_unlabeled = True
        records.report("D308", paths[0].parent.parent, f"{len(images)} images can be predicted, not judged")
    else:
        _deny_without_truth(records, root, images[0], kind)
    return records


def _add_boxes(
    records: BoxRecords,
    images: Sequence[Path],
    positions: Sequence[int],
    read: Callable[[Path, Path, tuple[int, int]], list[ThingBox]],
) -> None:
    def read_or_say_why(path: Path, image: Path, size: tuple[int, int]) -> list[ThingBox] | ValueError:
        try:
            return read(path, image, size)
        except (DatasetError, ImageError) as error:
            return error

    paths = [records.sources[position] for position in positions]
    missing = [number for number, path in enumerate(paths) if not path.is_file()]
    if missing:
        image, path = images[missing[0]], paths[missing[0]]
        kind = path.name.split(f"{_TRUTH}_")[-1]
        records.deny(
            f"{records.root}: {records.name}",
            f"{len(missing)} of {len(images)} images have no {kind}; the first is {image}: {path} was expected",
        )
    with ThreadPoolExecutor() as pool:
        found = pool.map(read_or_say_why, paths, images, map(records.size, positions))
        for position, path, boxes in zip(positions, paths, found, strict=True):
            if isinstance(boxes, ValueError):
                records.reject("D100", path, str(boxes).removeprefix(f"{path}: "))
                continue
            for number, box in enumerate(boxes if records.size(position) != (0, 0) else (), 1):
                records.add_box(
                    position,
                    box.box_xywh,
                    box.label,
                    number,
                    crowd=box.crowd,
                    area=box.area,
                    polygons=[box.polygon] if box.polygon else [],
                    run_length=None if box.mask is None else box.mask.to_coco(),
                )


def _deny_without_truth(records: SplitRecords, root: Path, image: Path, kind: str) -> None:
    """Only the test split may be without truth: it is not public."""
    folder = root / _TRUTH / records.name
    state = "is missing" if not folder.is_dir() else "has no such files"
    records.deny(folder, f"{state}; the truth about {image.name} was expected in {truth_file(root, image, kind)}")
