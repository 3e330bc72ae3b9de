"""What can be wrong with mask files. They are read in threads, whole: a value may be wrong in a single pixel."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from detseg.arrays import ByteArray, IntArray
from detseg.data.dataset import DatasetError
from detseg.data.mask_coding import MaskCoding, pack_colors
from detseg.data.mask_file import read_color_mask, read_index_mask
from detseg.runtime.media.images import ImageError

Values = Mapping[int, int]
"""Values as they are in a file (colors as 24 bits), each with its number of pixels."""


@dataclass(frozen=True, slots=True)
class MaskState:
    """One mask file; ``size`` is (height, width), None where it cannot be read.

    ``problem`` is a code with a message, if something is wrong.
    """

    size: tuple[int, int] | None = None
    values: Values = field(default_factory=dict)
    problem: tuple[str, str] | None = None


def inspect_masks(pairs: Iterable[tuple[Path, Path]], coding: MaskCoding | None) -> list[MaskState]:
    """The states of the masks in ``pairs`` of image and mask; without ``coding``, any number may be in a mask."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as executor:
        return list(executor.map(lambda pair: inspect_mask(pair[0], pair[1], coding), pairs))


def inspect_mask(image: Path, mask: Path, coding: MaskCoding | None) -> MaskState:
    """The state of the file ``mask`` with the truth about ``image``."""
    if not mask.is_file():
        return MaskState(problem=("D301", f"there is no such file; the mask of {image.name} was expected there"))
    pixels: IntArray | ByteArray
    try:
        if coding is not None and coding.colored:
            pixels = pack_colors(read_color_mask(mask, image))
            found, counts = np.unique(pixels, return_counts=True)
        else:
            pixels = read_index_mask(mask, image)
            occurrences = np.bincount(pixels.ravel(), minlength=256)
            found = np.flatnonzero(occurrences)
            counts = occurrences[found]
    except ImageError as error:
        return MaskState(problem=("D302", str(error).removeprefix(f"{mask}: ")))
    except DatasetError as error:
        return MaskState(problem=("D303", str(error).removeprefix(f"{mask}: ")))
    height, width = pixels.shape
    values = dict(zip(found.tolist(), counts.tolist(), strict=True))
    if coding is None:
        return MaskState((height, width), values)
    known = {*coding.values, *coding.void}
    unknown = []
    for value in sorted(set(values) - known):
        y, x = np.unravel_index(int((pixels == value).argmax()), pixels.shape)
        amount = f"{values[value]:,} pixel{'' if values[value] == 1 else 's'}"
        unknown.append(f"{coding.show(value)} ({amount}, the first at x {x}, y {y})")
    if unknown:
        listed = ", ".join([*unknown[:10], *([f"and {len(unknown) - 10} more"] if len(unknown) > 10 else [])])
        message = f"neither a class nor void: {listed}; allowed are {coding.allowed()}"
        return MaskState((height, width), values, ("D304", message))
    if not set(values) & set(coding.values):
        return MaskState((height, width), values, ("D305", "every pixel is void"))
    return MaskState((height, width), values)
