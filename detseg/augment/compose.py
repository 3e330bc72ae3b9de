"""One image out of one, four or two samples: letterbox, mosaic and mixup, with their boxes and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from detseg.arrays import BoolArray, DoubleArray
from detseg.augment.geometry import BoxFilter, paste, quarter_turns, scaling, seen_piece, transform_boxes, translation
from detseg.augment.objects import choose, draw_objects, fit_boxes, have_object_masks
from detseg.augment.picture import Layer, Picture, Planned, blank
from detseg.structures import LetterboxTransform, Sample


@dataclass(frozen=True, slots=True)
class Fill:
    """What pixels get that no image covers: the gray level ``pad_value``, and in a label mask ``mask_fill``."""

    pad_value: int
    mask_fill: int


@dataclass(frozen=True, slots=True)
class Tile:
    """A sample and where it lies on a canvas whose origin is in its middle: a ``[3, 3]`` matrix."""

    sample: Sample
    to_canvas: DoubleArray

    @property
    def size(self) -> tuple[float, float]:
        """The height and width that the sample has on the canvas."""
        height, width = self.sample.image.shape[:2]
        left, top, right, bottom = transform_boxes(np.array([[0, 0, width, height]]), self.to_canvas)[0]
        return float(bottom - top), float(right - left)


def single_tile(sample: Sample, size: tuple[int, int], turns: int = 0) -> list[Tile]:
    """``sample``, turned by ``turns`` quarters, as large as fits into ``size`` (height, width) and centered."""
    to_canvas, height, width = _fitted(sample, size, turns)
    return [Tile(sample, translation(-width / 2, -height / 2) @ to_canvas)]


def mosaic_tiles(
    samples: Sequence[Sample],
    turns: Sequence[int],
    size: tuple[int, int],
    rng: np.random.Generator,
    fit: tuple[int, int] | None = None,
) -> list[Tile]:
    """Four samples that meet in a random point, at most half the size away from the middle (YOLOv4, 2004.10934).

    Each is as large as fits into ``fit`` (height, width; None: ``size``), so that the canvas is twice that size; the
    view that is drawn of it shows a part.
    """
    center_x, center_y = rng.uniform(-0.5, 0.5, 2) * (size[1], size[0])
    tiles = []
    for quadrant, (sample, count) in enumerate(zip(samples, turns, strict=True)):
        to_canvas, height, width = _fitted(sample, fit or size, count)
        left = center_x - width * (quadrant % 2 == 0)
        top = center_y - height * (quadrant < 2)
        tiles.append(Tile(sample, translation(left, top) @ to_canvas))
    return tiles


def plan(tiles: Sequence[Tile], view: DoubleArray, size: tuple[int, int], box_filter: BoxFilter, fill: Fill) -> Planned:
    """The image of ``size`` (height, width) that ``view`` shows of the tiles, not drawn yet, with the boxes and mask in
    it.

    Each tile goes through a single warp into the image itself: no canvas is ever made, and no pixel is interpolated
    twice. The identity (id and path) is that of the first tile; the transform is that of the new image. Objects with
    masks have boxes around what is left of these, and are left out where that is nothing.

    Raises:
        ValueError: if some of the samples have a label mask, or masks of their objects, and others have none.
    """
    mask = np.full(size, fill.mask_fill, np.uint8) if _have_masks([tile.sample for tile in tiles]) else None
    matrices = [view @ tile.to_canvas for tile in tiles]
    for tile, matrix in zip(tiles, matrices, strict=True):
        if mask is not None and tile.sample.mask is not None:
            paste(mask, tile.sample.mask, matrix, interpolate=False)
    pieces = (seen_piece(tile.sample.image, matrix, size) for tile, matrix in zip(tiles, matrices, strict=True))
    picture = Picture(Layer(size, fill.pad_value, tuple(filter(None, pieces))))
    counts = [len(tile.sample.labels) for tile in tiles]
    boxes_xyxy = np.concatenate([tile.sample.boxes_xyxy for tile in tiles])
    clipped, kept = box_filter.clip(transform_boxes(boxes_xyxy, np.repeat(matrices, counts, axis=0)), size)
    sample = replace(
        tiles[0].sample,
        image=blank(*size),
        boxes_xyxy=clipped[kept],
        labels=np.concatenate([tile.sample.labels for tile in tiles])[kept],
        crowd=np.concatenate([tile.sample.crowd for tile in tiles])[kept],
        transform=LetterboxTransform.identity(*size),
        mask=mask,
        object_masks=None,
    )
    if not have_object_masks([tile.sample for tile in tiles]):
        return Planned(sample, picture)
    keeps = np.split(kept, np.cumsum(counts)[:-1])
    with_masks = replace(sample, object_masks=_draw_masks(tiles, keeps, view, size))
    return Planned(visible_objects(with_masks, box_filter), picture)


def _draw_masks(
    tiles: Sequence[Tile], keeps: Sequence[BoolArray], view: DoubleArray, size: tuple[int, int]
) -> BoolArray:
    """The masks of the objects that each tile keeps, one after the other, in the image ``[N, H, W]``."""
    masks = np.zeros((sum(int(keep.sum()) for keep in keeps), *size), np.bool_)
    first = 0
    for tile, keep in zip(tiles, keeps, strict=True):
        of_tile = tile.sample.object_masks
        assert of_tile is not None
        count = int(keep.sum())
        draw_objects(masks[first : first + count], choose(of_tile, keep), view @ tile.to_canvas)
        first += count
    return masks


def visible_objects(sample: Sample, box_filter: BoxFilter) -> Sample:
    """``sample`` with boxes around what its object masks show, without the objects that do not show enough."""
    masks: BoolArray = np.asarray(sample.object_masks)
    fitted, seen = fit_boxes(sample.boxes_xyxy, masks)
    boxes_xyxy, keep = box_filter.clip(fitted, sample.image.shape[:2])
    keep &= seen
    return replace(
        sample,
        boxes_xyxy=boxes_xyxy[keep],
        labels=sample.labels[keep],
        crowd=sample.crowd[keep],
        object_masks=masks if keep.all() else masks[keep],
    )


def mixup(first_plan: Planned, second_plan: Planned, rng: np.random.Generator) -> Planned:
    """A blend of two samples of one size, with the boxes of both (mixup, 1710.09412).

    The share is drawn from Beta(32, 32), close to one half, so that the objects of both stay visible. Label masks
    cannot be blended: the mask is that of the sample with the larger share. Masks of objects may overlap.

    Raises:
        ValueError: if only one of the samples has a label mask, or masks of its objects.
    """
    first, second = first_plan.sample, second_plan.sample
    _have_masks([first, second])
    object_masks = None
    if have_object_masks([first, second]):
        object_masks = np.concatenate([np.asarray(one.object_masks) for one in (first, second)])
    share = float(rng.beta(32.0, 32.0))
    sample = replace(
        first,
        boxes_xyxy=np.concatenate([first.boxes_xyxy, second.boxes_xyxy]),
        labels=np.concatenate([first.labels, second.labels]),
        crowd=np.concatenate([first.crowd, second.crowd]),
        mask=first.mask if share >= 0.5 else second.mask,
        object_masks=object_masks,
    )
    return Planned(sample, Picture(first_plan.picture.layer, second_plan.picture.layer, share))


def _fitted(sample: Sample, size: tuple[int, int], turns: int) -> tuple[DoubleArray, float, float]:
    """The matrix that turns and scales a sample to fit ``size``, and the height and width it then has."""
    height, width = sample.image.shape[:2]
    turn = quarter_turns(turns, height, width)
    if turns % 2:
        height, width = width, height
    ratio = min(size[0] / height, size[1] / width)
    return scaling(ratio, ratio) @ turn, height * ratio, width * ratio


def _have_masks(samples: Sequence[Sample]) -> bool:
    without = [sample.path for sample in samples if sample.mask is None]
    if without and len(without) < len(samples):
        raise ValueError(f"{without[0]} has no label mask, but an image it is combined with has one; give all or none")
    return not without
