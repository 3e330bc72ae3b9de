"""The masks of the objects in an image of Pascal VOC: ``SegmentationObject/NAME.png`` holds at every pixel the number
of the object, counted from 1 in the order of the XML file; 0 is the background, 255 the border between objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detseg.data.datasets.mask_file import read_index_mask
from detseg.data.records import BoxRecords
from detseg.data.source import DatasetError
from detseg.run_lengths import RunLengths
from detseg.runtime.media.images import ImageError
from detseg.structures import IGNORE_INDEX


def masks_file(root: Path, annotation: Path) -> Path:
    """Where the masks of the objects of an XML file in the data set at ``root`` are."""
    return root / "SegmentationObject" / f"{annotation.stem}.png"


def object_masks(records: BoxRecords, annotation: Path) -> dict[int, RunLengths]:
    """The masks of the objects of an XML file by their numbers; where they cannot be read, that is rejected."""
    path = masks_file(records.home, annotation)
    try:
        numbers = read_index_mask(path, annotation)
    except (DatasetError, ImageError) as error:
        records.reject("D302", path, str(error).removeprefix(f"{path}: "))
        return {}
    found = np.flatnonzero(np.bincount(numbers.ravel(), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX]).tolist()
    return {number: RunLengths.from_mask(numbers == number) for number in found if number}
