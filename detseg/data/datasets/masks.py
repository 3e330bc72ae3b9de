"""A data set whose truth is one mask file per image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detseg.arrays import ByteArray
from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.label_mapping import LabelMapping
from detseg.data.datasets.packed import PackedBuilder, PackedStrings
from detseg.data.source import DatasetError
from detseg.files import open_regular
from detseg.runtime.media.image_header import read_header
from detseg.runtime.media.images import ImageError, image_size
from detseg.structures import IGNORE_INDEX


class MaskDataset(Dataset):
    """``images`` with their ``masks``, numbered from 1 in their order.

    ``mapping`` says what the values in the files mean. ``category_ids`` are its values where None is given, the
    positions if it has colors.
    """

    def __init__(
        self,
        *,
        root: Path,
        split: str,
        images: Sequence[Path],
        masks: Sequence[Path],
        mapping: LabelMapping,
        category_ids: Sequence[int] | None = None,
        home: Path | None = None,
    ) -> None:
        assert len(images) == len(masks)
        if category_ids is None:
            category_ids = range(len(mapping.values)) if mapping.colored else mapping.values
        super().__init__(
            root=root,
            home=home,
            split=split,
            class_names=mapping.class_names,
            category_ids=category_ids,
            annotations=pack_images(images, root).build(),
            target="masks",
        )
        self.mapping = mapping
        self._masks = PackedStrings.pack(_name(path, root) for path in masks)

    def mask_path(self, index: int) -> str:
        self.annotations.rows(index)
        return str(self.root / self._masks[index])

    def mask(self, index: int) -> ByteArray:
        path = self.mask_path(index)
        labels = self.mapping.read(path, self.path(index))
        require_same_size(path, labels.shape[:2], self.path(index), self.size(index))
        return labels

    def read(self, index: int) -> tuple[ByteArray, ByteArray | None]:
        image, _ = super().read(index)
        return image, self.mask(index)

    def check_files(self, index: int, *, whole: bool = False) -> None:
        super().check_files(index, whole=whole)
        if not whole:  # a value may be wrong in a single pixel
            self.mask(index)

    def fingerprint(self, index: int) -> str:
        path = Path(self.mask_path(index))
        try:
            status = path.stat()
        except OSError as error:
            raise ImageError(f"{path}: the mask of {self.path(index)} cannot be read: {error.strerror}") from error
        image = super().fingerprint(index)
        return f"{image}|{path.absolute()}|{status.st_mtime_ns}|{status.st_size}|{self.mapping}"


class UnlabeledDataset(MaskDataset):
    """Images about which nothing is known: every pixel is ignored. No file of a mask is read."""

    def mask(self, index: int) -> ByteArray:
        return np.full(self.size(index), IGNORE_INDEX, np.uint8)

    def fingerprint(self, index: int) -> str:
        return Dataset.fingerprint(self, index)


def pack_images(images: Sequence[Path], root: Path) -> PackedBuilder:
    """The ``images``, numbered from 1, with the sizes in their headers; (0, 0) where there is no readable one.

    ``load`` says what is wrong with those when their turn comes, and the loader decides what becomes of it.
    """
    builder = PackedBuilder()
    for number, path in enumerate(images, start=1):
        try:
            height, width = image_size(path)
        except ImageError:
            height, width = 0, 0
        builder.add_image(number, _name(path, root), height, width)
    return builder


def require_same_size(
    mask_path: Path | str, mask_size: tuple[int, ...], image_path: Path | str, size: tuple[int, int]
) -> None:
    """Raises DatasetError where a mask is not as large as its image; sizes are (height, width), (0, 0) if unknown."""
    if mask_size == size or size == (0, 0):
        return
    message = (
        f"{mask_path}: {mask_size[1]}x{mask_size[0]} pixels, but the image {image_path} has {size[1]}x{size[0]}; "
        "a mask has one value for every pixel of its image"
    )
    if mask_size == size[::-1]:
        with open_regular(image_path) as stream:
            header = read_header(stream)
        if header is not None and header.orientation >= 5:
            message += (
                f". The EXIF orientation {header.orientation} of the image turns it: draw the mask on the upright "
                "image, or store the image without the orientation"
            )
    raise DatasetError(message)


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
