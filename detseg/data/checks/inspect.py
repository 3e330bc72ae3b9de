"""A look at the files of any data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detseg.data.checks.boxes import inspect_boxes
from detseg.data.checks.generated import inspect_generated
from detseg.data.checks.inspection import Inspection
from detseg.data.checks.masks import inspect_masks
from detseg.data.checks.volumes import inspect_volumes
from detseg.data.mask_records import MaskRecords
from detseg.data.records import BoxRecords, GeneratedRecords, SplitRecords
from detseg.data.volume_records import VolumeRecords


def inspect(splits: Sequence[SplitRecords], decode: bool = True, num_threads: int | None = None) -> Inspection:
    """Read every file of ``splits``, which are of one data set, and look at what it holds.

    ``decode=False`` reads only the headers of images; masks and volumes are always read.
    """
    for split in splits:
        split.read_rest()
    some: Sequence[Any] = splits
    match splits[0]:
        case BoxRecords():
            return inspect_boxes(some, decode, num_threads)
        case MaskRecords():
            return inspect_masks(some, decode, num_threads)
        case VolumeRecords():
            return inspect_volumes(some, num_threads)
        case GeneratedRecords():
            return inspect_generated(some)
    raise AssertionError(f"{type(splits[0]).__name__} cannot be looked at: it is none of detseg's records")
