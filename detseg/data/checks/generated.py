"""A look at data sets that are computed, not stored: there is nothing but their histograms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detseg.data.checks.boxes import count_boxes
from detseg.data.checks.inspection import Amounts, Inspection
from detseg.data.checks.report import SplitSummary, Summary
from detseg.data.checks.volumes import VolumeState, summarize_volumes
from detseg.data.datasets.volumes import VolumeDataset
from detseg.data.records import GeneratedRecords
from detseg.data.volume_records import VolumePair


def inspect_generated(splits: Sequence[GeneratedRecords]) -> Inspection:
    """Count what is in every image or volume of ``splits``."""
    datasets = {split.name: split.to_dataset() for split in splits}
    amounts: dict[str, Sequence[Amounts]] = {}
    for name, dataset in datasets.items():
        if isinstance(dataset, VolumeDataset):
            amounts[name] = _count_voxels(dataset)
        else:
            amounts[name] = count_boxes(dataset.annotations, dataset.class_names)
    names = splits[0].class_names

    def summarize(some: Sequence[Amounts]) -> Summary:
        if some and isinstance(some[0], VolumeState):
            return summarize_volumes([one for one in some if isinstance(one, VolumeState)], names[1:])
        boxes = {name: sum(one.counts.get(name, 0) for one in some) for name in names}
        images = {name: sum(name in one.counts for one in some) for name in names}
        return SplitSummary(len(some), sum(boxes.values()), boxes, images)

    return Inspection([], {}, amounts, summarize)


def _count_voxels(dataset: VolumeDataset) -> list[VolumeState]:
    states = []
    for index in range(len(dataset)):
        counts = np.bincount(dataset.label_volume(index).labels.ravel(), minlength=len(dataset.class_names)).tolist()
        pair = VolumePair(Path(dataset.path(index)), None)
        num_voxels = dict(zip(dataset.class_names, counts, strict=True))
        states.append(VolumeState(pair, [], dataset.header(index), None, num_voxels))
    return states
