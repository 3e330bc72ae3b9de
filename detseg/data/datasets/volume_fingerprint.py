"""What there is to know of a set of volumes before a network for it is chosen (nnU-Net's "data set fingerprint",
Isensee et al., Nature Methods 2021)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detseg.arrays import DoubleArray, IntArray
from detseg.data.datasets.volumes import VolumeDataset, spacing_toward_ras
from detseg.data.source import DatasetError
from detseg.runtime.inputs.volume_geometry import orientation
from detseg.structures import IGNORE_INDEX


@dataclass(frozen=True)
class Fingerprint:
    """Of ``num_volumes``: ``shapes`` and ``spacings`` ``[N, 3]``, axes toward right, front and top, in voxels and
    millimeters; ``intensities`` of each channel in structures: percentiles 0.5 and 99.5, mean, standard deviation;
    ``shares`` of all voxels by class, and in how many volumes a class is found, ``found_in``."""

    class_names: tuple[str, ...]
    channels: tuple[str, ...]
    shapes: IntArray
    spacings: DoubleArray
    intensities: tuple[tuple[float, float, float, float], ...]
    shares: tuple[float, ...]
    found_in: tuple[int, ...]

    @property
    def num_volumes(self) -> int:
        """How many volumes there are."""
        return len(self.shapes)

    @property
    def num_channels(self) -> int:
        """How many values each voxel has."""
        return max(1, len(self.channels))

    def as_json(self) -> str:
        """All of it, for programs."""
        plain: dict[str, Any] = asdict(self)
        plain |= {"shapes": self.shapes.tolist(), "spacings": self.spacings.round(6).tolist()}
        return json.dumps(plain, indent=1)


def fingerprint_of(dataset: VolumeDataset) -> Fingerprint:
    """Read every volume of ``dataset`` with its labels.

    Raises:
        DatasetError: there are no labels, or no structure anywhere.
        VolumeError: a file is missing or damaged.
    """
    if not len(dataset) or not dataset.has_labels:
        raise DatasetError(f"{dataset.home}: {dataset.split} has no labeled volumes, and a plan is made of these")
    shapes, spacings = [], []
    num_classes = len(dataset.class_names)
    counts, found_in = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    for index in range(len(dataset)):
        labels = dataset.label_volume(index)
        axes, _ = orientation(labels.affine)
        shapes.append([labels.labels.shape[axis] for axis in axes])
        spacings.append(spacing_toward_ras(labels.affine))
        found = np.bincount(labels.labels[labels.labels != IGNORE_INDEX], minlength=num_classes)
        counts += found
        found_in += found > 0
    return Fingerprint(
        class_names=dataset.class_names,
        channels=dataset.channels,
        shapes=np.array(shapes, np.int64),
        spacings=np.array(spacings, np.float64),
        intensities=tuple(dataset.foreground_statistics()),
        shares=tuple((counts / max(1, counts.sum())).tolist()),
        found_in=tuple(found_in.tolist()),
    )
