"""Cityscapes in its official tree, with nothing to prepare (https://www.cityscapes-dataset.com).

Images are ``leftImg8bit/SPLIT/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png``, the truth about each is in files of several
kinds, ``gtFine/SPLIT/CITY/CITY_SEQUENCE_FRAME_gtFine_KIND``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from detseg.arrays import ByteArray
from detseg.data.dataset import Dataset, DatasetError, DatasetFormat, Source
from detseg.data.formats.cityscapes_boxes import ThingBox, boxes_from_instances, boxes_from_polygons
from detseg.data.formats.cityscapes_labels import CLASSES, LABELS, THINGS
from detseg.data.mask_coding import MaskCoding
from detseg.data.mask_dataset import MaskDataset, pack_images, require_files
from detseg.data.packed import PackedBuilder
from detseg.structures import VOID, Truth

_IMAGES, _TRUTH = "leftImg8bit", "gtFine"
_IMAGE_ENDING = "_leftImg8bit.png"
_SPLITS = ("train", "val", "test")
_SETTINGS = ("format", "path", "boxes")

_NAMES = tuple(label.name for label in CLASSES)
MASK_CODINGS = {
    "labelIds.png": MaskCoding(
        _NAMES,
        values=tuple(label.label_id for label in CLASSES),
        void=tuple(label.label_id for label in LABELS if label.train_id == VOID and label.label_id >= 0),
    ),
    "labelTrainIds.png": MaskCoding(_NAMES, values=tuple(label.train_id for label in CLASSES), void=(VOID,)),
}
"""The kinds of masks, the preferred one first, with what their values mean."""

_BOX_READERS: Mapping[str, tuple[str, Callable[[Path, Path, tuple[int, int]], list[ThingBox]]]] = {
    "instances": ("instanceIds.png", boxes_from_instances),
    "polygons": ("polygons.json", boxes_from_polygons),
}


class CityscapesFormat(DatasetFormat):
    """The official tree; masks of the 19 classes that are evaluated, or boxes of the 8 that are objects."""

    truths = ("masks", "boxes")
    layouts = (
        f"{_IMAGES}/SPLIT/CITY/*{_IMAGE_ENDING} with {_TRUTH}/SPLIT/CITY/*_{_TRUTH}_KIND",
        "a YAML with `format: cityscapes`, `path:` and optionally `boxes: instances` or `boxes: polygons`",
    )

    def splits(self, source: Source) -> tuple[str, ...]:
        if source.yaml_path is not None and source.settings.get("format") != "cityscapes":
            return ()
        folder = source.data_root() / _IMAGES
        if not folder.is_dir():
            return ()
        found = {path.name for path in folder.iterdir() if path.is_dir()}
        return (*(name for name in _SPLITS if name in found), *sorted(found.difference(_SPLITS)))

    def read_split(self, source: Source, split: str, truth: Truth) -> Dataset:
        unknown = [str(key) for key in source.settings if key not in _SETTINGS]
        if unknown:
            raise DatasetError(f"{source.name}: unknown keys {', '.join(unknown)}; allowed are {', '.join(_SETTINGS)}")
        root = source.data_root().absolute()
        images = find_images(root, split)
        return _read_masks(root, split, images) if truth == "masks" else _read_boxes(source, root, split, images)


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


def _read_masks(root: Path, split: str, images: Sequence[Path]) -> Dataset:
    kind = choose_kind(root, images, list(MASK_CODINGS))
    category_ids = [label.label_id for label in CLASSES]
    if kind is None:
        _accept_without_truth(root, split, images, "labelIds.png")
        return _UnlabeledDataset(
            root=root,
            split=split,
            class_names=_NAMES,
            category_ids=category_ids,
            annotations=pack_images(images, root).build(),
            truth="masks",
        )
    masks = [truth_file(root, image, kind) for image in images]
    require_files(masks, images, kind)
    coding = MASK_CODINGS[kind]
    return MaskDataset(root=root, split=split, images=images, masks=masks, coding=coding, category_ids=category_ids)


def _read_boxes(source: Source, root: Path, split: str, images: Sequence[Path]) -> Dataset:
    wanted = source.settings.get("boxes")
    if wanted not in (None, *_BOX_READERS):
        raise DatasetError(f"{source.name}: boxes: allowed are {' and '.join(_BOX_READERS)}, got {wanted!r}")
    readers = [_BOX_READERS[name] for name in _BOX_READERS if wanted in (None, name)]
    kind = choose_kind(root, images, [kind for kind, _ in readers])
    builder = pack_images(images, root)
    if kind is None:
        _accept_without_truth(root, split, images, readers[0][0])
    else:
        paths = [truth_file(root, image, kind) for image in images]
        require_files(paths, images, kind)
        _add_boxes(builder, images, paths, dict(readers)[kind])
    return Dataset(
        root=root,
        split=split,
        class_names=[label.name for label in THINGS],
        category_ids=[label.label_id for label in THINGS],
        annotations=builder.build(),
    )


def _add_boxes(
    builder: PackedBuilder,
    images: Sequence[Path],
    paths: Sequence[Path],
    read: Callable[[Path, Path, tuple[int, int]], list[ThingBox]],
) -> None:
    sizes = builder.sizes()
    with ThreadPoolExecutor() as pool:
        boxes_of_images = pool.map(read, paths, images, sizes)
        for index, boxes in enumerate(boxes_of_images):
            for box in boxes if sizes[index] != (0, 0) else ():
                builder.add_object(
                    index,
                    box.box_xywh,
                    box.label,
                    crowd=box.crowd,
                    area=box.area,
                    polygons=[box.polygon] if box.polygon else [],
                )


def _accept_without_truth(root: Path, split: str, images: Sequence[Path], kind: str) -> None:
    """Only the test split may be without truth: it is not public."""
    if split != "test":
        folder = root / _TRUTH / split
        state = "is missing" if not folder.is_dir() else "has no such files"
        raise DatasetError(
            f"{folder}: {state}; the truth about {images[0].name} was expected in {truth_file(root, images[0], kind)}"
        )
    warnings.warn(
        f"{root / _IMAGES / split}: {len(images)} images without truth: they can be predicted, not judged", stacklevel=2
    )


class _UnlabeledDataset(Dataset):
    """Images about which nothing is known: every pixel is void."""

    def mask(self, index: int) -> ByteArray:
        return np.full(self.size(index), VOID, np.uint8)

    def mask_path(self, index: int) -> str:
        return str(truth_file(self.home, Path(self.path(index)), "labelIds.png"))

    def read(self, index: int) -> tuple[ByteArray, ByteArray | None]:
        image, _ = super().read(index)
        return image, self.mask(index)
