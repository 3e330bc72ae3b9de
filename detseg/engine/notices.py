"""What a configuration does to a data set that its owner may not have meant, said before training begins."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np

from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.volumes import VolumeDataset
from detseg.data.loading.volume_cache import PlacedVolumes
from detseg.data.source import DatasetError
from detseg.engine.samples import Samples
from detseg.engine.settings import RunConfig
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.volumes.nifti_header import VolumeError

OPPOSITES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "left and right": (("left", "right"), ("l", "r"), ("lt", "rt"), ("lh", "rh")),
    "front and back": (("anterior", "posterior"), ("front", "back"), ("ventral", "dorsal")),
    "top and bottom": (("superior", "inferior"), ("upper", "lower"), ("top", "bottom"), ("up", "down")),
}
"""Words that a mirror image makes untrue, by what is mirrored."""

LARGE_REDUCTION = 4.0
"""A small object of 32 pixels becomes one of 8, about the least that networks with a stride of 8 can tell apart."""

_SHORTEST_INSIDE = 4
_NUM_SHOWN = 3


def warn_of_mirroring(config: RunConfig, class_names: Sequence[str]) -> Iterator[str]:
    """A text for each axis that the augmentation mirrors although classes differ by side."""
    for side, setting in config.augment.mirrors.items():
        pairs = opposite_names(class_names, side)
        if pairs:
            shown = ", ".join(f"{one!r} and {other!r}" for one, other in pairs[:_NUM_SHOWN])
            yield (
                f"the names of the classes {shown} differ by {side}, and the augmentation mirrors {side}: a mirrored "
                f"{pairs[0][0]!r} looks like {pairs[0][1]!r} and keeps its name, so they cannot be told apart; set "
                f"{setting} if the names mean that"
            )


def opposite_names(class_names: Sequence[str], side: str) -> list[tuple[str, str]]:
    """The pairs of names that are equal but for the words that ``side``, a key of ``OPPOSITES``, exchanges."""
    other_of = {word: other for pair in OPPOSITES[side] for word, other in (pair, pair[::-1])}
    inside = re.compile("|".join(word for word in other_of if len(word) >= _SHORTEST_INSIDE))

    def exchange(word: str) -> str:
        # Long words count inside of others too, as in "lefthand"; "bright" has no "bleft" for a partner.
        return other_of.get(word) or inside.sub(lambda match: other_of[match[0]], word)

    words_of = {name: _words(name) for name in class_names}
    name_of = {"".join(words): name for name, words in words_of.items()}
    pairs = []
    for name, words in words_of.items():
        partner = name_of.get("".join(map(exchange, words)), name)
        if partner != name and (partner, name) not in pairs:
            pairs.append((name, partner))
    return pairs


def _words(name: str) -> list[str]:
    """``"LeftKidney_2"`` -> ``["left", "kidney", "2"]``."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_a-zA-Z]+", name)]


def warn_of_vanishing(samples: Samples, spec: InputSpec | VolumeSpec, num_threads: int | None = None) -> Iterator[str]:
    """A text for each class that is in labels of volumes and not in what the network learns from, the same on the grid
    of ``spec``: such structures are thinner than its voxels. What cannot be read is left to the loader."""
    if spec.one_size:
        return
    volumes = cast(PlacedVolumes, samples)

    def lost(index: int) -> list[int]:
        try:
            return volumes.lost_classes(index)
        except (VolumeError, DatasetError):
            return []

    files_of: dict[int, list[str]] = {}
    with ThreadPoolExecutor(num_threads or min(4, os.cpu_count() or 1)) as pool:
        for index, labels in enumerate(pool.map(lost, range(len(volumes)))):
            for label in labels:
                files_of.setdefault(label, []).append(volumes.path(index))
    spacing = "x".join(f"{step:g}" for step in cast(VolumeSpec, spec).spacing or ())
    for label, files in sorted(files_of.items()):
        yield (
            f"{volumes.class_names[label]!r} vanishes in {len(files)} of {len(volumes)} volumes of {volumes.split} at "
            f"the spacing of training, {spacing} mm, and cannot be learned there; the first is {files[0]}: set a "
            "smaller task.input.spacing"
        )


def notice_of_size(config: RunConfig, dataset: Dataset | VolumeDataset) -> str:
    """What to say of images that become much smaller; nothing where they do not."""
    fitted = config.augment.fitted_size(config.task.train_size)
    if fitted is None:
        return ""
    images = cast(Dataset, dataset).annotations
    heights, widths = images.heights, images.widths
    known = (heights > 0) & (widths > 0)
    if not known.any():
        return ""
    height, width = int(np.median(heights[known])), int(np.median(widths[known]))
    reduction = max(height / fitted[0], width / fitted[1])
    if reduction < LARGE_REDUCTION:
        return ""
    tile = f"[{config.task.train_size[0]},{config.task.train_size[1]}]"
    way_out = f"set a larger task.input, or learn from tiles: data.tiles={tile}, and --tiles in eval and predict"
    # A task says this where it can look at images in tiles.
    if (tile_settings := getattr(config.task, "tile_settings", None)) is not None:
        way_out = f"set a larger task.input, or train and predict in tiles: {' '.join(tile_settings((height, width)))}"
    return (
        f"images of {dataset.split} are {height}x{width} (height x width, median) and are reduced {reduction:.1f} "
        f"times to fit {fitted[0]}x{fitted[1]}: what is {round(8 * reduction)} pixels wide becomes 8. If that is too "
        f"small, {way_out}"
    )
