"""From a sample as it lies on the disk to one that fits the network, for training and for evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detseg.arrays import DoubleArray, FloatArray
from detseg.augment.color import HsvJitter
from detseg.augment.compose import Fill, Tile, mixup, mosaic_tiles, plan, single_tile
from detseg.augment.copy_paste import copy_paste
from detseg.augment.geometry import BoxFilter, RandomView, paste, project, scaling, translation
from detseg.augment.objects import draw_objects
from detseg.augment.patches import sample_voxel
from detseg.augment.picture import Planned
from detseg.runtime.inputs.geometry import InputSpec, letterbox
from detseg.structures import IGNORE_INDEX, LetterboxTransform, Sample

Load = Callable[[int], Sample]


@dataclass(frozen=True)
class TrainPipeline:
    """Fit, mosaic, random view or crop, copy-paste, mixup, albumentations and color jitter, in this order.

    :class:`~detseg.augment.config.AugmentConfig`, whose ``build`` makes it, says what its numbers mean. ``transform``
    is the part of albumentations; what it gives is fitted to the input size.

    The result is a pure function of the sample's index, the seed and the epoch: all that is random comes from one
    generator that is made from the three.
    """

    mosaic: float
    mixup: float
    copy_paste: float
    rotate_90: float
    balance_classes: float
    fit: tuple[int, int] | None
    view: RandomView
    box_filter: BoxFilter
    fill: Fill
    transform: Callable[[Sample, np.random.Generator], Sample] | None
    color: HsvJitter

    def __call__(
        self,
        load: Load,
        num_samples: int,
        index: int,
        seed: int,
        epoch: int,
        size: tuple[int, int],
        close_mosaic: bool = False,
        partners: Sequence[int] | None = None,
    ) -> Sample:
        """The augmented sample number ``index``, its image exactly ``size`` (height, width): :meth:`plan`, drawn."""
        return self.plan(load, num_samples, index, seed, epoch, size, close_mosaic, partners).draw()

    def plan(
        self,
        load: Load,
        num_samples: int,
        index: int,
        seed: int,
        epoch: int,
        size: tuple[int, int],
        close_mosaic: bool = False,
        partners: Sequence[int] | None = None,
    ) -> Planned:
        """The augmented sample number ``index``, its image of ``size`` (height, width) not drawn yet.

        ``load`` gives the sample of an index below ``num_samples``; mosaic, mixup and copy-paste load others too, of
        ``partners`` where these are given. ``close_mosaic`` turns these off.
        Copy-paste and the transforms of albumentations work on images, which are drawn for them.
        """
        rng = np.random.default_rng([seed, epoch, index])
        partners = range(num_samples) if partners is None else partners
        planned = self._place(load, partners, index, size, close_mosaic, rng)
        # Without copy-paste nothing is drawn for it, so that what a seed gives stays what it was.
        if self.copy_paste and not close_mosaic and rng.random() < self.copy_paste:
            partner = partners[int(rng.integers(len(partners)))]
            other = self._place(load, partners, partner, size, close_mosaic, rng)
            planned = Planned.of(copy_paste(planned.draw(), other.draw(), rng, self.box_filter))
        if not close_mosaic and rng.random() < self.mixup:
            partner = partners[int(rng.integers(len(partners)))]
            planned = mixup(planned, self._place(load, partners, partner, size, close_mosaic, rng), rng)
        if self.transform is not None:
            sample = self.transform(planned.draw(), rng)
            if sample.image.shape[:2] == size:
                planned = Planned.of(sample)
            else:
                middle = translation(size[1] / 2, size[0] / 2)
                planned = plan(single_tile(sample, size), middle, size, self.box_filter, self.fill)
        return replace(planned, picture=replace(planned.picture, shift=self.color.draw(rng)))

    def _place(
        self,
        load: Load,
        partners: Sequence[int],
        index: int,
        size: tuple[int, int],
        close_mosaic: bool,
        rng: np.random.Generator,
    ) -> Planned:
        if not close_mosaic and rng.random() < self.mosaic:
            others = rng.integers(len(partners), size=3)
            samples = [load(index), *(load(partners[int(other)]) for other in others)]
            tiles = mosaic_tiles(samples, [self._turns(rng) for _ in samples], size, rng, self.fit)
        else:
            tiles = single_tile(load(index), self.fit or size, self._turns(rng))
        shown_xy = self._shown_pixel(tiles[0], rng) if self.balance_classes else None
        view = self.view.matrix(size, rng, tiles[0].size, shown_xy)
        return plan(tiles, view, size, self.box_filter, self.fill)

    def needed_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The height and width into which an image is fitted where the view enlarges most: more pixels than that are
        never shown of it in a sample of ``size``."""
        height, width = self.fit or size
        if self.rotate_90:
            height = width = max(height, width)
        # Shear and perspective stretch some places; what they do at most, one after the other.
        stretch = (1 + math.tan(math.radians(self.view.shear))) / (1 - 2 * self.view.perspective)
        factor = self.view.scale[1] * stretch
        return math.ceil(height * factor), math.ceil(width * factor)

    def _shown_pixel(self, tile: Tile, rng: np.random.Generator) -> DoubleArray | None:
        """The middle of a pixel that a crop must show, as x and y on the canvas; None where any place is as good."""
        mask = tile.sample.mask
        if mask is None:
            raise ValueError(
                f"{tile.sample.path}: has no label mask, which balance_classes: {self.balance_classes} needs; "
                "set balance_classes: 0, or give every image a mask"
            )
        if rng.random() >= self.balance_classes:
            return None
        pixel = sample_voxel(mask[None], (IGNORE_INDEX,), rng)
        return None if pixel is None else project(np.array([pixel[2] + 0.5, pixel[1] + 0.5]), tile.to_canvas)

    def _turns(self, rng: np.random.Generator) -> int:
        return int(rng.integers(1, 4)) if rng.random() < self.rotate_90 else 0


@dataclass(frozen=True)
class PlanPipeline:
    """``pipeline`` without the drawing: samples are :class:`~detseg.augment.picture.Planned`."""

    pipeline: TrainPipeline

    def __call__(self, *arguments: Any) -> Planned:
        """See :meth:`TrainPipeline.plan`."""
        return self.pipeline.plan(*arguments)

    def needed_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """See :meth:`TrainPipeline.needed_size`."""
        return self.pipeline.needed_size(size)


class EvalPipeline:
    """The letterbox of ``spec`` for an image with its boxes and masks; nothing is random.

    The transform of the result leads back to the image as it was. Mask pixels outside the image get ``mask_fill``.
    """

    def __init__(self, spec: InputSpec, mask_fill: int = 255) -> None:
        self.spec = spec
        self.mask_fill = mask_fill

    def __call__(self, sample: Sample) -> Sample:
        """``sample`` in network input pixels.

        Raises:
            ValueError: if the sample was already placed in a network input.
        """
        if sample.transform != LetterboxTransform.identity(*sample.image.shape[:2]):
            raise ValueError(f"{sample.path}: already placed in a network input ({sample.transform}); load it again")
        image, transform = letterbox(sample.image, self.spec)
        to_input = translation(transform.offset_x, transform.offset_y) @ scaling(transform.scale_x, transform.scale_y)
        mask = object_masks = None
        if sample.mask is not None:
            mask = np.full(image.shape[:2], self.mask_fill, np.uint8)
            paste(mask, sample.mask, to_input, interpolate=False)
        if sample.object_masks is not None:
            object_masks = np.zeros((len(sample.object_masks), *image.shape[:2]), np.bool_)
            draw_objects(object_masks, sample.object_masks, to_input)
        boxes: FloatArray = transform.to_input(sample.boxes_xyxy).astype(np.float32)
        return replace(sample, image=image, boxes_xyxy=boxes, mask=mask, transform=transform, object_masks=object_masks)
