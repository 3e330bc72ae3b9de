"""From a volume as a network sees it to an augmented patch for training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from detseg.arrays import FloatArray
from detseg.augment.patches import crop_or_pad, sample_patch_corner
from detseg.structures import IGNORE_INDEX
from detseg.volumes import Shape3, VolumeSample

if TYPE_CHECKING:
    from detseg.augment.volume_intensity import RandomIntensity
    from detseg.augment.volume_warp import RandomWarp

Load = Callable[[int], VolumeSample]


@dataclass(frozen=True)
class VolumeTrainPipeline:
    """A patch of a volume, warped, mirrored and with changed intensities, in this order.

    ``foreground`` is the share of patches with a class in their middle; ``flip`` has a probability for each axis.

    Voxels whose centers lie outside the volume become 0, the mean of an image normalized by z-score, with the label
    ``IGNORE_INDEX``; no others do.

    The result is a pure function of the sample's index, the seed and the epoch. Place, warp, flips and each change of
    intensity have random numbers of their own: another probability for one leaves the others as they were.
    """

    foreground: float
    flip: tuple[float, float, float]
    warp: RandomWarp | None = None
    intensity: RandomIntensity | None = None

    def __call__(
        self,
        load: Load,
        num_samples: int,
        index: int,
        seed: int,
        epoch: int,
        size: Shape3,
        close_mosaic: bool = False,
    ) -> VolumeSample:
        """The augmented patch of ``size`` (depth, height, width) from the volume of ``index``, which ``load`` gives.

        ``num_samples`` and ``close_mosaic`` make no difference.

        Raises:
            ValueError: if the volume has no labels.
        """
        sample = load(index)
        if sample.labels is None:
            raise ValueError(f"{sample.path} has no labels, so it cannot be trained on; take a split with labels")
        for_place, for_warp, for_flips, for_intensity = np.random.default_rng([seed, epoch, index]).spawn(4)
        with _single_thread():
            corner = sample_patch_corner(sample.labels, size, self.foreground, for_place)
            grid = None if self.warp is None else self.warp.grid(size, sample.transform.input_spacing, for_warp)
            if self.warp is None or grid is None:
                image = _each_channel(lambda one: crop_or_pad(one, corner, size, 0), sample.image)
                labels = crop_or_pad(sample.labels, corner, size, IGNORE_INDEX)
            else:
                image, labels = self.warp(sample.image, sample.labels, corner, grid)
            # Counted from the last, so that they are the same with channels before them.
            axes = tuple(axis - 3 for axis in range(3) if for_flips.random() < self.flip[axis])
            # Copies: of an axis of one voxel, `ascontiguousarray` keeps the negative stride, which torch refuses.
            image, labels = np.flip(image, axes).copy(), np.flip(labels, axes).copy()
            if self.intensity is not None:
                change = self.intensity
                image = _each_channel(lambda one: change(one, for_intensity), image)
        return replace(sample, image=image, labels=labels)


def _each_channel(change: Callable[[FloatArray], FloatArray], image: FloatArray) -> FloatArray:
    """Each channel of ``image`` ``[C, D, H, W]`` changed by itself, with random numbers of its own; or the only one."""
    return change(image) if image.ndim == 3 else np.stack([change(channel) for channel in image])


@contextmanager
def _single_thread() -> Iterator[None]:
    """Let torch use one thread, as it does in workers: sums differ in the last bits with the number of threads."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
