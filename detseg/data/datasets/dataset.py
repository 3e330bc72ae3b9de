"""A split of images in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detseg.arrays import BoolArray, ByteArray, FloatArray, IntArray
from detseg.data.datasets.object_masks import resized
from detseg.data.datasets.packed import PackedAnnotations
from detseg.data.entries.outline import Segmentation, runs_of_outline
from detseg.data.source import DatasetError
from detseg.run_lengths import MaskStack, RunLengths
from detseg.runtime.media.images import ImageError, image_size, read_image, read_reduced
from detseg.structures import IGNORE_INDEX, GroundTruth, LetterboxTransform, Sample, Target

MIN_BOX_SIDE = 1.0
"""Pixels; after clipping, boxes with a shorter side have nothing to learn from and are left out of samples."""


class Dataset:
    """One split: images in a fixed order with their truth, held in packed arrays (see ``PackedAnnotations``).

    ``root`` is the folder that file names are relative to, ``home`` the one of the whole data set, where nothing is
    ever written. ``truth`` says what the classes are those of: the boxes, also where these come with the masks of their
    objects (instances), or the masks; then there are no boxes.
    ``class_names`` are in the order of the labels, ``category_ids`` the numbers of these classes in the files; where a
    format has none, 1, 2, ... ``num_dropped`` boxes are in the files but in no sample, because they are degenerate or
    outside of their image. ``has_masks`` says whether samples come with a mask.
    """

    has_masks = False
    unit = "images"
    class_colors: tuple[tuple[int, int, int], ...] = ()
    """Red, green and blue of each class where the description of the data set says so, else nothing."""

    def __init__(
        self,
        *,
        root: Path,
        split: str,
        class_names: Sequence[str],
        annotations: PackedAnnotations,
        category_ids: Sequence[int] | None = None,
        num_dropped_by_reader: int = 0,
        home: Path | None = None,
        target: Target = "boxes",
    ) -> None:
        self.root = root
        self.home = home or root
        self.split = split
        self.target = target
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids or range(1, len(self.class_names) + 1))
        assert len(self.category_ids) == len(self.class_names)
        self.annotations = annotations
        if target == "masks":
            assert not len(annotations.labels), "classes of masks say nothing about boxes"
            self.has_masks = True
        sizes = np.stack([annotations.widths, annotations.heights], axis=1)
        sizes_of_objects = np.repeat(sizes, np.diff(annotations.offsets), axis=0)
        _, usable = _clip(annotations.boxes_xywh, sizes_of_objects)
        self.num_dropped_by_reader = num_dropped_by_reader
        self.num_dropped = num_dropped_by_reader + int((~usable).sum())

    def __len__(self) -> int:
        return len(self.annotations)

    @property
    def num_objects(self) -> int | None:
        """The number of annotated objects; None where the truth is masks."""
        return None if self.target == "masks" else len(self.annotations.labels)

    def image_id(self, index: int) -> int:
        """The number of image ``index`` in the annotation file; counted from 1 where a format has none."""
        return int(self.annotations.image_ids[index])

    def path(self, index: int) -> str:
        """The file of image ``index``."""
        return str(self.root / self.annotations.names[index])

    def size(self, index: int) -> tuple[int, int]:
        """``(height, width)`` of image ``index`` according to the annotations, (0, 0) where nothing could tell."""
        return int(self.annotations.heights[index]), int(self.annotations.widths[index])

    def annotation_ids(self, index: int) -> IntArray:
        """The numbers of the objects of image ``index`` in the annotation file, in the order of ``ground_truth``."""
        return self.annotations.annotation_ids[self.annotations.rows(index)]

    def difficult(self, index: int) -> BoolArray:
        """Pascal VOC's flag of the objects of image ``index``, in the order of ``ground_truth``; else all False."""
        return self.annotations.difficult[self.annotations.rows(index)]

    def segmentations(self, index: int) -> list[Segmentation]:
        """The outlines of the objects of image ``index``, in the order of ``ground_truth``."""
        rows = self.annotations.rows(index)
        return [self.annotations.segmentations[row] for row in range(rows.start, rows.stop)]

    def object_masks(self, index: int) -> tuple[RunLengths, ...]:
        """The masks of the objects of image ``index``, in the order of ``ground_truth`` and of the size in the
        annotations.

        Raises:
            DatasetError: an object has no outline, or one that cannot be used.
        """
        return self._masks_of(index, self.segmentations(index))

    def _masks_of(self, index: int, outlines: Sequence[Segmentation]) -> tuple[RunLengths, ...]:
        masks = []
        for outline, number in zip(outlines, self.annotation_ids(index).tolist(), strict=True):
            try:
                masks.append(runs_of_outline(outline, *self.size(index)))
            except ValueError as error:
                raise DatasetError(f"{self.path(index)}: the outline of annotation {number}: {error}") from error
        return tuple(masks)

    def ground_truth(self, index: int) -> GroundTruth:
        """What the annotation file says about image ``index``, neither clipped nor rounded; with masks where instances
        are learned. Raises like ``object_masks``."""
        rows = self.annotations.rows(index)
        height, width = self.size(index)
        return GroundTruth(
            image_id=self.image_id(index),
            height=height,
            width=width,
            boxes_xywh=self.annotations.boxes_xywh[rows],
            labels=self.annotations.labels[rows],
            crowd=self.annotations.crowd[rows],
            areas=self.annotations.areas[rows],
            masks=self.object_masks(index) if self.target == "instances" else None,
        )

    def load(self, index: int, enough: tuple[int, int] | None = None) -> Sample:
        """Image ``index`` with its boxes: clipped to the image, without those under ``MIN_BOX_SIDE``, crowd included.
        Where instances are learned, they have masks, and those of which no pixel is in the image are left out.

        Where an image that fits into ``enough`` (height, width) would do, it may be smaller than it is, by a whole
        factor, and its boxes with it.

        Raises:
            ImageError: the image is missing, damaged, or not of the size that the annotations are for.
            DatasetError: an object has no outline, or one that cannot be used.
        """
        rows = self.annotations.rows(index)
        image, mask = self.read_at_least(index, enough)
        height, width = self.size(index)
        input_height, input_width = image.shape[:2]
        transform = LetterboxTransform(input_width / width, input_height / height, 0.0, 0.0, height, width)
        boxes_xyxy, usable = _clip(self.annotations.boxes_xywh[rows], np.array([[width, height]]))
        object_masks = None
        if self.target == "instances":
            masks = [resized(mask, input_height, input_width) for mask in self.object_masks(index)]
            usable &= np.array([mask.area > 0 for mask in masks], np.bool_)
            runs = tuple(masks[row] for row in np.flatnonzero(usable))
            object_masks = MaskStack(runs, input_height, input_width)
        return Sample(
            image=image,
            boxes_xyxy=transform.to_input(boxes_xyxy[usable]),
            labels=self.annotations.labels[rows][usable],
            crowd=self.annotations.crowd[rows][usable],
            image_id=self.image_id(index),
            path=self.path(index),
            transform=transform,
            mask=mask,
            object_masks=object_masks,
        )

    def mask_path(self, index: int) -> str:
        """The file of the mask of image ``index``; that of the image where masks have no files of their own."""
        assert self.has_masks, "only for data sets with masks"
        return self.path(index)

    def mask(self, index: int) -> ByteArray:
        """The mask of image ``index``, ``[H, W]`` uint8 class positions or ``IGNORE_INDEX``, as large as the image
        itself.

        Raises:
            ImageError: the file is missing or damaged.
            DatasetError: it is no mask of this image, or holds what is no class.
        """
        assert self.has_masks, "only for data sets with masks"
        _, mask = self.read(index)
        assert mask is not None
        return mask

    def read(self, index: int) -> tuple[ByteArray, ByteArray | None]:
        """The pixels of image ``index`` and its mask, if it has one, as large. Raises like ``load`` and ``mask``."""
        path = self.path(index)
        image = read_image(path)
        self._require_size(path, (image.shape[0], image.shape[1]), index)
        return image, None

    def read_at_least(self, index: int, enough: tuple[int, int] | None) -> tuple[ByteArray, ByteArray | None]:
        """The same, but an image without a mask may be reduced as :func:`detseg.runtime.media.images.read_reduced`
        does it. What does not read the file of the image itself gives it whole."""
        if enough is None or self.has_masks or type(self).read is not Dataset.read:
            return self.read(index)
        path = self.path(index)
        image, factor = read_reduced(path, enough)
        self._require_size(path, (image.shape[0] * factor, image.shape[1] * factor), index)
        return image, None

    def _require_size(self, path: str, size: tuple[int, int], index: int) -> None:
        if size != self.size(index):
            (height, width), (stated_height, stated_width) = size, self.size(index)
            raise ImageError(
                f"{path}: {width}x{height} pixels, EXIF orientation applied, but its annotations are for "
                f"{stated_width}x{stated_height}; correct them (`detseg check` lists all such images)"
            )

    def check_files(self, index: int, *, whole: bool = False) -> None:
        """Raise what ``read`` would for the header of image ``index`` and for its mask, and ``object_masks`` where
        instances are learned; ``whole``: for its pixels too.

        Raises:
            ImageError, DatasetError: a file cannot be used.
        """
        if self.target == "instances":
            # Polygons always make a mask, and take longer.
            self._masks_of(index, [[] if isinstance(one, list) else one for one in self.segmentations(index)])
        if whole:
            self.read(index)
            return
        path = self.path(index)
        self._require_size(path, image_size(path), index)

    @property
    def needs_truth(self) -> bool:
        """Whether nothing can be measured where no image has truth: masks are judged pixel by pixel, and for objects
        there are still the false ones."""
        return self.target == "masks"

    def has_truth(self, index: int) -> bool:
        """Whether image ``index`` has anything to judge by: an object that is no crowd, or a labeled pixel.

        Raises:
            ImageError, DatasetError: its mask cannot be used.
        """
        if self.target == "masks":
            return bool((self.mask(index) != IGNORE_INDEX).any())
        return not self.annotations.crowd[self.annotations.rows(index)].all()

    def fingerprint(self, index: int) -> str:
        """A text that changes when the pixels of image ``index`` may have changed. Raises ImageError: it is missing."""
        path = Path(self.path(index))
        try:
            status = path.stat()
        except OSError as error:
            raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
        return f"{path.absolute()}|{status.st_mtime_ns}|{status.st_size}"


def _clip(boxes_xywh: Any, sizes: IntArray) -> tuple[FloatArray, BoolArray]:
    """Boxes ``[N, 4]`` clipped to images of ``sizes`` (width, height) as xyxy, and which of them are large enough."""
    corners = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
    clipped = np.clip(corners, 0, np.concatenate([sizes, sizes], axis=1)).astype(np.float32)
    return clipped, (clipped[:, 2:] - clipped[:, :2] >= MIN_BOX_SIDE).all(axis=1)
