"""What can be wrong with images and their masks, which are read in threads, whole: a value may be wrong in a single
pixel."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from detseg.arrays import ByteArray, IntArray
from detseg.data.checks.images import Annotated, check_images, inspect_images
from detseg.data.checks.inspection import ClassCounts, Inspection
from detseg.data.checks.report import MaskSummary
from detseg.data.datasets.label_mapping import LabelMapping, pack_colors
from detseg.data.datasets.mask_file import describe_missing, read_color_mask, read_index_mask
from detseg.data.findings import Finding
from detseg.data.mask_records import MaskRecords, is_binary
from detseg.data.parsing import enumerate_some
from detseg.data.source import DatasetError
from detseg.runtime.media.images import ImageError
from detseg.structures import VOID

_MANY_VALUES = 8
"""More values than that are not a class that was forgotten."""

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


def inspect_masks(splits: Sequence[MaskRecords], decode: bool, num_threads: int | None = None) -> Inspection:
    """Read every image and every mask of ``splits``; a split that turns out to have none of the classes where it
    ``may_be_void`` becomes one without labels."""
    images = inspect_images((image for split in splits for image, _ in split.pairs), decode, num_threads)
    states = {split.name: _read_masks(split, num_threads) for split in splits}
    found = {value for of_split in states.values() for state in of_split for value in state.values}
    mapping = splits[0].mapping
    names: Mapping[int, str]
    void: Sequence[int]
    if mapping is None:
        # The values are the names until there are others.
        void = () if is_binary(found) else (VOID,)
        names = {value: str(value) for value in sorted(found.difference(void))}
    else:
        names, void = mapping.name_of, mapping.void
    findings: list[Finding] = []
    amounts: dict[str, list[ClassCounts]] = {}
    for split in splits:
        pairs = list(zip(split.pairs, states[split.name], strict=True))
        entries = [Annotated(image, mask, state.size, f"mask {mask.name}") for (image, mask), state in pairs]
        findings += check_images(entries, images, split.name)
        amounts[split.name] = [_count_pixels(state.values, names, void) for _, state in pairs]
        if split.may_be_void and pairs and not split.is_unlabeled and not any(a.counts for a in amounts[split.name]):
            split.is_unlabeled = True
            folder = split.pairs[0][1].parent.parent
            split.report("D308", folder, f"{len(pairs)} images can be predicted, not judged")
        elif _is_void(split, [state for _, state in pairs], amounts[split.name]):
            message = f"every pixel of all {len(pairs)} masks of {split.name} is void"
            findings.append(Finding("D311", split.dataset_name, message, (), split.name))
        for (_, mask), state in pairs:
            if state.problem is not None and not (split.is_unlabeled and state.problem[0] == "D305"):
                code, message = state.problem
                findings.append(Finding(code, str(mask), message, (), split.name))
    if len(set(names.values())) == 1 and found:
        only = next(iter(names.values()))
        message = f"{only} is the only class, so there is nothing to tell it from: name the background too"
        findings.append(Finding("D310", splits[0].dataset_name, message))
    if mapping is None:
        findings.append(Finding("D307", str(splits[0].root), _ask_for_names(splits[0], sorted(found))))

    def summarize(amounts: Sequence[ClassCounts]) -> MaskSummary:
        pixels, in_images = (Counter(dict.fromkeys(names.values(), 0)) for _ in range(2))
        for one in amounts:
            pixels.update(one.counts)
            in_images.update(one.counts.keys())
        num_void = sum(one.num_void for one in amounts)
        return MaskSummary(len(amounts), pixels.total(), num_void, dict(pixels), dict(in_images))

    return Inspection(findings, {path: state.digest for path, state in images.items()}, amounts, summarize)


def _is_void(split: MaskRecords, states: Sequence[MaskState], amounts: Sequence[ClassCounts]) -> bool:
    """Whether every mask could be read and none holds a class, in a split that is to have some."""
    are_read = bool(states) and not split.is_unlabeled and all(state.size is not None for state in states)
    return are_read and not any(one.counts for one in amounts)


def _read_masks(split: MaskRecords, num_threads: int | None) -> list[MaskState]:
    if split.is_unlabeled:
        return [MaskState() for _ in split.pairs]
    with ThreadPoolExecutor(num_threads or min(8, os.cpu_count() or 1)) as executor:
        return list(executor.map(lambda pair: inspect_mask(pair[0], pair[1], split.mapping), split.pairs))


def _ask_for_names(split: MaskRecords, values: Sequence[int]) -> str:
    taken = "" if is_binary(values) else f" ({VOID} is taken for void)"
    return (
        f"masks hold the values {enumerate_some(values)}, which stand for themselves here{taken}; "
        f"to name them, write a YAML and give that as the data set: {'; '.join(split.describe_yaml(values))}; or, for "
        f"the values 0, 1, 2, ..., one name per line in {split.root / 'classes.txt'}"
    )


def _count_pixels(values: Values, names: Mapping[int, str], void: Sequence[int]) -> ClassCounts:
    counts: Counter[str] = Counter()
    for value, count in values.items():
        if value in names:
            counts[names[value]] += count
    return ClassCounts(counts, sum(values.get(value, 0) for value in void))


def inspect_mask(image: Path, mask: Path, mapping: LabelMapping | None) -> MaskState:
    """The state of the file ``mask`` with the truth about ``image``."""
    if not mask.is_file():
        return MaskState(problem=("D301", describe_missing(mask, image.name)))
    pixels: IntArray | ByteArray
    try:
        if mapping is not None and mapping.colored:
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
    if mapping is None:
        return MaskState((height, width), values)
    known = {*mapping.name_of, *mapping.void}
    unknown = []
    for value in sorted(set(values) - known):
        y, x = np.unravel_index(int((pixels == value).argmax()), pixels.shape)
        amount = f"{values[value]:,} pixel{'' if values[value] == 1 else 's'}"
        unknown.append(f"{mapping.show(value)} ({amount}, the first at x {x}, y {y})")
    if unknown:
        listed = ", ".join([*unknown[:10], *([f"and {len(unknown) - 10} more"] if len(unknown) > 10 else [])])
        message = f"neither a class nor void: {listed}; allowed are {mapping.allowed()}"
        if len(unknown) > _MANY_VALUES:
            message += (
                ". So many values are those of smoothed edges: draw masks without anti-aliasing, scale them by the "
                "nearest pixel, and save them without loss"
            )
        return MaskState((height, width), values, ("D304", message))
    if not set(values) & set(mapping.name_of):
        return MaskState((height, width), values, ("D305", "every pixel is void"))
    return MaskState((height, width), values)
