"""From a data set to what the loaders read: images as they are, volumes in the network's grid; cached if asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from detseg.augment.pipeline import EvalPipeline
from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.volumes import VolumeDataset
from detseg.data.loading.cache import CachedDataset
from detseg.data.loading.volume_cache import PlacedVolumes
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.volumes.volume_cases import case_name

Samples = Dataset | PlacedVolumes
CacheMode = Literal["none", "ram", "disk"]


def as_samples(
    dataset: Dataset | VolumeDataset,
    spec: InputSpec | VolumeSpec,
    cache: CacheMode = "none",
    max_side: int | None = None,
) -> Samples:
    """``dataset`` as the loaders read it over and over; ``cache`` keeps decoded images, or placed volumes.

    ``max_side`` reduces cached images to so many pixels on the longer side; volumes have the spacing of ``spec``.

    Raises:
        CacheError: the cache cannot be made as asked for.
        ValueError: the spacing for volumes is not known.
    """
    if spec.one_size:
        images = cast(Dataset, dataset)
        return images if cache == "none" else CachedDataset(images, cache, max_side)
    return _placed(cast(VolumeDataset, dataset), cast(VolumeSpec, spec), cache)


def _placed(dataset: VolumeDataset, spec: VolumeSpec, cache: CacheMode) -> PlacedVolumes:
    if spec.spacing is None:
        raise ValueError(
            "task.input.spacing is null: it is taken from the training set when training begins; evaluate with the "
            "config.yaml in the folder of the run, or with its .safetensors file alone"
        )
    return PlacedVolumes(dataset, spec, cache)


def for_channels(model: Any, spec: InputSpec | VolumeSpec) -> Any:
    """The configuration of a ``model`` for as many channels as ``spec`` has, where it can have several.

    Raises:
        ValueError: another number is set.
    """
    if spec.one_size or not hasattr(model, "in_channels"):
        return model
    num_channels = cast(VolumeSpec, spec).num_channels
    if model.in_channels not in (1, num_channels):
        raise ValueError(
            f"model.in_channels is {model.in_channels}, but the volumes have {num_channels} channels; leave it out"
        )
    return model if model.in_channels == num_channels else replace(model, in_channels=num_channels)


def file_names(samples: Samples) -> dict[int, str]:
    """The name of the file of each image or volume, by its id; of volumes whose channels lie in several that of the
    case."""
    num_channels = getattr(samples, "num_channels", 1)

    def name(path: str) -> str:
        return Path(path).name if num_channels == 1 else case_name(path, num_channels)

    return {samples.image_id(index): name(samples.path(index)) for index in range(len(samples))}


def eval_placing(spec: InputSpec | VolumeSpec) -> Callable[[Any], Any] | None:
    """What the evaluation loader still has to do to a sample: letterbox an image; a volume is placed already."""
    return EvalPipeline(cast(InputSpec, spec)) if spec.one_size else None
