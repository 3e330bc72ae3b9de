"""From a data set to what the loaders read: images as they are, volumes in the network's grid; cached if asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from detseg.augment.pipeline import EvalPipeline
from detseg.data.dataset import Dataset
from detseg.data.loading.cache import CachedDataset
from detseg.data.loading.volume_cache import PlacedVolumes
from detseg.data.volumes import VolumeDataset
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec

Samples = Dataset | PlacedVolumes


def as_samples(
    dataset: Dataset | VolumeDataset,
    spec: InputSpec | VolumeSpec,
    cache: Literal["none", "ram", "disk"] = "none",
    max_side: int | None = None,
) -> Samples:
    """``dataset`` as the loaders read it over and over; ``cache`` keeps decoded images, or placed volumes.

    ``max_side`` reduces cached images to so many pixels on the longer side; volumes have the spacing of ``spec``.

    Raises:
        CacheError: the cache cannot be made as asked for.
        ValueError: the spacing for volumes is not known.
    """
    if isinstance(dataset, VolumeDataset):
        assert isinstance(spec, VolumeSpec)
        if spec.spacing is None:
            raise ValueError(
                "task.input.spacing is null: it is taken from the training set when training begins; evaluate with the "
                "config.yaml in the folder of the run, or with its .safetensors file alone"
            )
        return PlacedVolumes(dataset, spec, cache)
    return dataset if cache == "none" else CachedDataset(dataset, cache, max_side)


def eval_placing(spec: InputSpec | VolumeSpec) -> Callable[[Any], Any] | None:
    """What the evaluation loader still has to do to a sample: letterbox an image; a volume is placed already."""
    return EvalPipeline(spec) if isinstance(spec, InputSpec) else None
