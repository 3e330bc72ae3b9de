"""``detseg check --preview``: batches as training sees them, augmented, with their boxes or masks, as pictures."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from detseg.arrays import ByteArray
from detseg.augment.config import AugmentConfig
from detseg.augment.volume_config import VolumeAugmentConfig
from detseg.data.loading.batch_plan import TrainPlan
from detseg.data.loading.volume_cache import PlacedVolumes
from detseg.data.open import find_source, open_dataset
from detseg.data.source import require_outside
from detseg.data.volumes import VolumeDataset
from detseg.runtime.drawing.boxes import draw_boxes, draw_mask, montage
from detseg.runtime.drawing.labels import draw_labels
from detseg.runtime.drawing.volume import draw_slices
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.media.images import write_image
from detseg.structures import VOID, Sample, Truth
from detseg.volumes import LabelVolume, Volume, VolumeSample

_IMAGE_SIZE = (320, 320)
_PATCH = (64, 64, 64)


def preview(
    path: Path | str,
    output: Path | str,
    format: str | None = None,
    split: str = "train",
    *,
    truth: Truth | None = None,
    config: AugmentConfig | VolumeAugmentConfig | None = None,
    size: tuple[int, ...] | None = None,
    spec: VolumeSpec | None = None,
    seed: int = 0,
    batch_size: int = 16,
    num_batches: int = 4,
    epoch: int = 0,
    close_mosaic: bool = False,
) -> list[Path]:
    """Draw augmented batches of a split as ``output/<split>_<epoch>_<batch>.png``, one sheet per batch; returns these.

    They are the first ``num_batches`` of ``epoch`` in a training with this augmentation, ``size`` (height, width, or
    depth before both), seed and batch size. A data set with fewer images than ``batch_size`` gives one batch of all.
    ``close_mosaic`` shows the last epochs, without mosaic and mixup. ``truth`` is what is learned from; without it, the
    format's first. Masks are tinted where samples have one; the names of crowd regions say so. Of volumes, three planes
    of each patch are drawn; ``spec`` says how volumes are placed, without it by z-score at their median spacing.

    Raises:
        ValueError: ``output`` lies inside the data set, a setting is impossible, or (DatasetError, ImageError) the data
            set or an image cannot be read.
    """
    source = find_source(path)
    folder = require_outside(output, source.data_root()) if source.root.exists() else Path(output).resolve()
    if num_batches < 1:
        raise ValueError(f"num_batches must be at least 1, got {num_batches}")
    dataset = open_dataset(path, split, format, truth)
    load: Callable[[int], Any]
    sides = ("depth", "height", "width") if isinstance(dataset, VolumeDataset) else ("height", "width")
    if size is not None and len(size) != len(sides):
        raise ValueError(f"size must be {', '.join(sides)}, got {'x'.join(map(str, size))}")
    if spec is not None and not isinstance(dataset, VolumeDataset):
        raise ValueError(f"spec is for volumes, but {source.name} has {dataset.truth}; leave it out")
    if isinstance(dataset, VolumeDataset):
        config, size = config or VolumeAugmentConfig(), size or _PATCH
        load = PlacedVolumes(dataset, (spec or VolumeSpec()).completed(dataset.spacings())).load
    else:
        config, size, load = config or AugmentConfig(), size or _IMAGE_SIZE, dataset.load
    if dataset.truth not in config.truths:
        raise ValueError(
            f"augmentation {config.name} makes no samples with {dataset.truth}; name another configuration"
        )
    plan = TrainPlan(
        num_samples=len(dataset),
        batch_size=min(batch_size, max(1, len(dataset))),
        seed=seed,
        size=size,
        stride=1 if dataset.truth == "volumes" else 32,
        multi_scale=config.multi_scale,
        close_mosaic_from=epoch if close_mosaic else None,
    )
    pipeline: Any = config.build()
    pictures = []
    for number, batch in enumerate(islice(plan.epoch(epoch), num_batches)):
        samples = [
            pipeline(load, len(dataset), index, seed, epoch, batch.size, batch.close_mosaic) for index in batch.indices
        ]
        picture = folder / f"{dataset.split}_{epoch:03d}_{number:03d}.png"
        columns = int(np.ceil(np.sqrt(len(samples))))
        cells = [draw_sample(sample, dataset.class_names, dataset.truth) for sample in samples]
        write_image(picture, montage(cells, columns))
        pictures.append(picture)
    return pictures


def draw_sample(sample: Sample | VolumeSample, class_names: tuple[str, ...], truth: Truth = "boxes") -> ByteArray:
    """The image of ``sample`` with its mask, if it has one, and its boxes, or three planes of a volume with outlines;
    ``class_names`` are those of ``truth``."""
    if isinstance(sample, VolumeSample):
        assert sample.labels is not None, "training samples have labels"
        affine = np.diag([*sample.placement.input_spacing, 1.0])
        shown = np.where(sample.labels == VOID, 0, sample.labels).astype(np.uint8)
        return draw_slices(Volume(sample.image, affine), LabelVolume(shown, affine), class_names)
    if truth == "masks":
        assert sample.mask is not None
        return draw_labels(sample.image, sample.mask, class_names)
    image = sample.image if sample.mask is None else draw_mask(sample.image, sample.mask)
    names = [*class_names, *(f"{name} (crowd)" for name in class_names)]
    labels = sample.labels + np.where(sample.crowd, len(class_names), 0)
    return draw_boxes(image, sample.boxes_xyxy, labels, names)
