"""``detseg check --preview``: batches as training sees them, augmented, with their boxes or masks, as images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np

from detseg.augment import AUGMENTS
from detseg.config import load_entry
from detseg.data.loading.batch_plan import TrainPlan
from detseg.data.open import find_source, open_dataset
from detseg.data.source import require_outside
from detseg.engine.samples import as_samples
from detseg.engine.settings import AugmentConfig
from detseg.models.base import ModelConfig
from detseg.runtime.drawing.boxes import montage
from detseg.runtime.drawing.palette import stored_palette
from detseg.runtime.kinds import load_kind
from detseg.runtime.media.images import write_image
from detseg.structures import Target
from detseg.tasks import TASKS
from detseg.tasks.base import TaskConfig
from detseg.tasks.model_file import ModelFileConfig


@dataclass(frozen=True)
class _Defaults:
    """The size of samples, what their sides are multiples of, and settings of the augmentation, where no configuration
    says."""

    size: tuple[int, ...]
    stride: int
    augment: Mapping[str, Any] = field(default_factory=dict)


_DEFAULTS: dict[Target, _Defaults] = {
    "boxes": _Defaults((320, 320), 32),
    "instances": _Defaults((320, 320), 32),
    # Networks for masks are trained on single images.
    "masks": _Defaults((320, 320), 1, {"mosaic": 0.0, "translate": 0.0, "crop": True, "scale": (0.5, 2.0)}),
    "volumes": _Defaults((64, 64, 64), 1),
}

_NUM_BATCHES = 4
SHEETS = tuple(f"train_000_{number:03d}.png" for number in range(_NUM_BATCHES))
"""What the images of a data set are called if nothing else is asked for."""


def preview(
    path: Path | str,
    output: Path | str,
    format: str | None = None,
    split: str = "train",
    *,
    target: Target | None = None,
    config: AugmentConfig | None = None,
    task: TaskConfig | None = None,
    model: ModelConfig | None = None,
    size: tuple[int, ...] | None = None,
    seed: int = 0,
    batch_size: int = 16,
    num_batches: int = _NUM_BATCHES,
    epoch: int = 0,
    close_mosaic: bool = False,
) -> list[Path]:
    """Draw augmented batches of a split as ``output/<split>_<epoch>_<batch>.png``, one sheet per batch; returns these.

    They are the first ``num_batches`` of ``epoch`` in a training with this augmentation, ``size`` (height, width, or
    depth before both), seed and batch size. A data set with fewer images than ``batch_size`` gives one batch of all.
    ``close_mosaic`` shows the last epochs, without mosaic and mixup. ``truth`` is what is learned from; without it, the
    format's first. Masks are tinted where samples have one; the names of crowd regions say so. Of volumes, three planes
    of each patch are drawn; ``task`` says how volumes are placed, without it by z-score at their median spacing. With
    ``task`` and ``model``, sizes are multiples of the stride of that model.

    Raises:
        ValueError: ``output`` lies inside the data set, a setting is impossible, or (DatasetError, ImageError) the data
            set or an image cannot be read.
    """
    source = find_source(path)
    folder = require_outside(output, source.data_root()) if source.root.exists() else Path(output).resolve()
    if num_batches < 1:
        raise ValueError(f"num_batches must be at least 1, got {num_batches}")
    dataset = open_dataset(path, split, format, target)
    defaults = _DEFAULTS[dataset.target]
    sides = ("depth", "height", "width")[-len(defaults.size) :]
    if size is not None and len(size) != len(sides):
        raise ValueError(f"size must be {', '.join(sides)}, got {'x'.join(map(str, size))}")
    if config is None:
        first: Any = _first_for(AUGMENTS, lambda one: dataset.target in one.targets)
        config = cast(AugmentConfig, replace(first, **defaults.augment))
    if dataset.target not in config.targets:
        raise ValueError(
            f"augmentation {config.name} makes no samples with {dataset.target}; name another configuration"
        )
    stride = defaults.stride
    if task is not None and model is not None:
        _, built = ModelFileConfig(model, task.adapted_to(dataset), dataset.class_names, dataset.category_ids).build()
        stride = built.stride
    task = task or _first_for(TASKS, lambda one: dataset.target == one.target)
    samples_of = as_samples(dataset, task.adapted_to(dataset).input)
    plan = TrainPlan(
        num_samples=len(dataset),
        batch_size=min(batch_size, max(1, len(dataset))),
        seed=seed,
        size=size or defaults.size,
        stride=stride,
        multi_scale=config.multi_scale,
        close_mosaic_from=epoch if close_mosaic else None,
        neighborhood=config.neighborhood,
    )
    pipeline, kind = config.build(), load_kind(dataset.target)
    palette = stored_palette(dataset.class_colors, dataset.class_names)
    images = []
    for number, batch in enumerate(islice(plan.epoch(epoch), num_batches)):
        samples = [
            pipeline(samples_of.load, len(dataset), index, seed, epoch, batch.size, batch.close_mosaic, *partners)
            for index, *partners in zip(batch.indices, *([batch.partners] if batch.partners else []), strict=True)
        ]
        image = folder / f"{dataset.split}_{epoch:03d}_{number:03d}.png"
        columns = int(np.ceil(np.sqrt(len(samples))))
        cells = [kind.draw_sample(sample, dataset.class_names, palette) for sample in samples]
        write_image(image, montage(cells, columns))
        images.append(image)
    return images


def _first_for(table: Mapping[str, str], fits: Callable[[Any], bool]) -> Any:
    """The first configuration of ``table`` that ``fits``, as it is without settings."""
    entries = (load_entry(table, name) for name in table)
    return next(entry for entry in entries if fits(entry))()
