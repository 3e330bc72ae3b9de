"""A split of large images as one of the tiles that they are cut into, so that small objects are learned at full
resolution.

The tiles of an image are those that prediction looks at with the same size and overlap. What an image says of itself is
cut along with it: masks pixel by pixel, boxes at the edges, and of an object with a mask the box goes around what is
left of that. An object of which a tile shows less than ``LEAST_SHARE``, of its pixels or of the area of its box, is
left out there, unless that fills as much of the tile: something larger than a tile is in all that it reaches into. So
is what is left of a cut object by less than ``MIN_SIDE`` pixels of width or height. Crowd regions are never left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from detseg.arrays import BoolArray, ByteArray, DoubleArray
from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.packed import PackedAnnotations, PackedBuilder
from detseg.data.datasets.volumes import VolumeDataset
from detseg.data.source import DatasetError
from detseg.run_lengths import RunLengths
from detseg.runtime.postprocess.tiles import Tile, tiles_of

LEAST_SHARE = 0.1
MIN_SIDE = 2.0


class ImageTiles(Dataset):
    """The tiles of ``size`` (height, width) of all images of ``dataset``, image after image and row by row, numbered
    from 1; neighbors share at least ``overlap`` of a tile. An image that is smaller than a tile is one itself.

    Files are those of the images: each is decoded anew for its tiles, unless several are asked for in a row, as a cache
    does.
    """

    def __init__(self, dataset: Dataset, size: tuple[int, int], overlap: float) -> None:
        annotations, parents, tiles = _cut(dataset, size, overlap)
        super().__init__(
            root=dataset.root,
            home=dataset.home,
            split=dataset.split,
            class_names=dataset.class_names,
            category_ids=dataset.category_ids,
            annotations=annotations,
            num_dropped_by_reader=dataset.num_dropped_by_reader,
            target=dataset.target,
        )
        self.has_masks = dataset.has_masks
        self._dataset = dataset
        self._parents = np.array(parents, np.int64)
        self._tiles = np.array(tiles, np.int64).reshape(-1, 4)
        self._last: tuple[int, ByteArray, ByteArray | None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    def tile(self, index: int) -> Tile:
        """Where tile ``index`` lies in its image."""
        return Tile(*self._tiles[index].tolist())

    def path(self, index: int) -> str:
        return self._dataset.path(self._parent(index))

    def mask_path(self, index: int) -> str:
        return self._dataset.mask_path(self._parent(index))

    def read(self, index: int) -> tuple[ByteArray, ByteArray | None]:
        parent, tile = self._parent(index), self.tile(index)
        last = self._last
        if last is None or last[0] != parent:
            last = self._last = (parent, *self._dataset.read(parent))
        _, image, mask = last
        return _part(image, tile), None if mask is None else _part(mask, tile)

    def check_files(self, index: int, *, whole: bool = False) -> None:
        self._dataset.check_files(self._parent(index), whole=whole)

    def fingerprint(self, index: int) -> str:
        return f"{self._dataset.fingerprint(self._parent(index))}|{self.tile(index)}"

    def _parent(self, index: int) -> int:
        self.annotations.rows(index)
        return int(self._parents[index])


def in_tiles(dataset: Dataset | VolumeDataset, size: tuple[int, int] | None, overlap: float) -> Dataset | VolumeDataset:
    """``dataset`` in tiles of ``size``; None: as it is.

    Raises:
        DatasetError: it holds volumes.
    """
    if size is None:
        return dataset
    if not isinstance(dataset, Dataset):
        raise DatasetError(
            f"{dataset.home}: data.tiles is for images; of volumes patches are learned from, of the size task.patch"
        )
    return ImageTiles(dataset, size, overlap)


def _part(pixels: ByteArray, tile: Tile) -> ByteArray:
    return pixels[tile.top : tile.bottom, tile.left : tile.right].copy()


def _cut(dataset: Dataset, size: tuple[int, int], overlap: float) -> tuple[PackedAnnotations, list[int], list[Tile]]:
    """What is known of each tile, the position of its image, and where it lies there."""
    builder, parents = PackedBuilder(), []
    tiles: list[Tile] = []
    for parent in range(len(dataset)):
        height, width = dataset.size(parent)
        objects = _Objects(dataset, parent)
        # Of an image without a known size reading says what is wrong.
        for tile in tiles_of(height, width, size, overlap) if height and width else [Tile(0, 0, 0, 0)]:
            name = dataset.annotations.names[parent]
            position = builder.add_image(len(tiles) + 1, name, tile.bottom - tile.top, tile.right - tile.left)
            objects.add_to(builder, position, tile)
            parents.append(parent)
            tiles.append(tile)
    return builder.build(), parents, tiles


class _Objects:
    """The objects of an image, and what a tile shows of them."""

    def __init__(self, dataset: Dataset, index: int) -> None:
        packed = dataset.annotations
        rows = packed.rows(index)
        corners = packed.boxes_xywh[rows].copy()
        corners[:, 2:] += corners[:, :2]
        height, width = dataset.size(index)
        self._boxes: DoubleArray = np.clip(corners, 0, [width, height, width, height])
        self._labels, self._areas = packed.labels[rows], packed.areas[rows]
        self._crowd, self._difficult = packed.crowd[rows], packed.difficult[rows]
        self._masks: tuple[RunLengths, ...] | None = None
        if dataset.target == "instances":
            self._masks = dataset.object_masks(index)

    def add_to(self, builder: PackedBuilder, position: int, tile: Tile) -> None:
        """Add what ``tile`` shows to the image at ``position``."""
        low, high = np.array([tile.left, tile.top] * 2), np.array([tile.right, tile.bottom] * 2)
        parts = np.clip(self._boxes, low, high)
        sides = parts[:, 2:] - parts[:, :2]
        for row in np.flatnonzero((sides > 0).all(axis=1)).tolist():
            is_cut = bool((parts[row] != self._boxes[row]).any())
            box, run_length, area = parts[row] - low, None, float(self._areas[row])
            whole = self._boxes[row, 2:] - self._boxes[row, :2]
            part_area, whole_area = float(sides[row].prod()), float(whole.prod())
            if self._masks is not None:
                mask = _moved(self._masks[row], tile)
                part_area, whole_area = float(mask.area), float(self._masks[row].area)
                if not mask.area:
                    continue
                run_length = mask.to_coco()
                if is_cut:
                    left, top, mask_width, mask_height = mask.box_xywh
                    box = np.array([left, top, left + mask_width, top + mask_height])
            if is_cut:
                large_enough = part_area >= LEAST_SHARE * min(whole_area, float((high - low)[:2].prod()))
                if not self._crowd[row] and not (large_enough and (box[2:] - box[:2] >= MIN_SIDE).all()):
                    continue
                # Where only boxes are known, the object is taken to fill its box evenly.
                area = part_area if self._masks is not None else area * part_area / whole_area
            builder.add_object(
                position,
                [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
                int(self._labels[row]),
                crowd=bool(self._crowd[row]),
                difficult=bool(self._difficult[row]),
                area=area,
                run_length=run_length,
            )


def _moved(mask: RunLengths, tile: Tile) -> RunLengths:
    """The part of ``mask`` that lies in ``tile``, in its pixels."""
    crop, left, top = mask.to_crop()
    first_row, first_column = max(0, tile.top - top), max(0, tile.left - left)
    inside: BoolArray = crop[first_row : max(0, tile.bottom - top), first_column : max(0, tile.right - left)]
    height, width = tile.bottom - tile.top, tile.right - tile.left
    if not inside.size:
        return RunLengths.from_intervals(height, width, np.zeros(0, np.int64), np.zeros(0, np.int64))
    return RunLengths.from_crop(inside, left + first_column - tile.left, top + first_row - tile.top, height, width)
