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
from detseg.data.datasets.label_mapping import UNKNOWN, LabelMapping
from detseg.data.datasets.mask_file import describe_missing
from detseg.data.entries.parsing import enumerate_some
from detseg.data.findings import Finding
from detseg.data.mask_records import (
    MaskRecords,
    count_values,
    describe_binary,
    is_binary,
    is_smoothed,
    looks_binary,
    read_values,
)
from detseg.data.source import DatasetError
from detseg.runtime.media.images import ImageError
from detseg.structures import IGNORE_INDEX

_NUM_LISTED = 10
_MANY_VALUES = 8
"""More values than that are not a class that was forgotten."""

Values = Mapping[int, int]
"""Values as they are in a file (colors as 24 bits), each with its number of pixels."""


@dataclass(frozen=True, slots=True)
class MaskState:
    """One mask file; ``size`` is (height, width), None where it cannot be read.

    ``values`` are those of classes where it is known what others stand for; ``num_between`` pixels hold such others.
    ``problem`` is a code with a message, if something is wrong.
    """

    size: tuple[int, int] | None = None
    values: Values = field(default_factory=dict)
    num_between: int = 0
    problem: tuple[str, str] | None = None


def inspect_masks(splits: Sequence[MaskRecords], decode: bool, num_threads: int | None = None) -> Inspection:
    """Read every image and every mask of ``splits``; a split that turns out to have none of the classes where it
    ``may_be_ignored`` becomes one without labels."""
    images = inspect_images((image for split in splits for image, _ in split.pairs), decode, num_threads)
    states = {split.name: _read_masks(split, num_threads) for split in splits}
    found: Counter[int] = Counter()
    for state in (state for of_split in states.values() for state in of_split):
        found.update(state.values)
    mapping = splits[0].mapping
    names: Mapping[int, str]
    ignored: Sequence[int]
    if mapping is None:
        # The values are the names until there are others.
        ignored = () if is_binary(found) or is_smoothed(found) else (IGNORE_INDEX,)
        names = {value: str(value) for value in sorted(set(found).difference(ignored))}
    else:
        names, ignored = dict(zip(mapping.values, mapping.class_names, strict=True)), mapping.ignored
    findings: list[Finding] = []
    amounts: dict[str, list[ClassCounts]] = {}
    for split in splits:
        pairs = list(zip(split.pairs, states[split.name], strict=True))
        entries = [Annotated(image, mask, state.size, f"mask {mask.name}") for (image, mask), state in pairs]
        findings += check_images(entries, images, split.name)
        amounts[split.name] = [_count_pixels(state.values, names, ignored) for _, state in pairs]
        if split.may_be_ignored and pairs and not split.is_unlabeled and not any(a.counts for a in amounts[split.name]):
            split.is_unlabeled = True
            folder = split.pairs[0][1].parent.parent
            split.report("D308", folder, f"{len(pairs)} images can be predicted, not judged")
        elif _is_ignored(split, [state for _, state in pairs], amounts[split.name]):
            message = f"every pixel of all {len(pairs)} masks of {split.name} is ignored"
            findings.append(Finding("D311", split.dataset_name, message, (), split.name))
        if mapping is not None and (num_between := sum(state.num_between for _, state in pairs)):
            num_pixels = sum(sum(state.values.values()) for _, state in pairs)
            split.report("D312", split.root, mapping.describe_in_between(num_between, num_pixels))
        for (_, mask), state in pairs:
            if state.problem is not None and not (split.is_unlabeled and state.problem[0] == "D305"):
                code, message = state.problem
                findings.append(Finding(code, str(mask), message, (), split.name))
    if len(names) == 1 and found:
        only = next(iter(names.values()))
        message = f"{only} is the only class, so there is nothing to tell it from: name the background too"
        findings.append(Finding("D310", splits[0].dataset_name, message))
    elif mapping is not None and looks_binary(mapping, found):
        which = enumerate_some(split.name for split in splits)
        findings.append(Finding("D310", splits[0].dataset_name, describe_binary(mapping, which)))
    if mapping is None:
        findings.append(Finding("D307", str(splits[0].root), _ask_for_names(splits[0], dict(sorted(found.items())))))

    def summarize(amounts: Sequence[ClassCounts]) -> MaskSummary:
        pixels, in_images = (Counter(dict.fromkeys(names.values(), 0)) for _ in range(2))
        for one in amounts:
            pixels.update(one.counts)
            in_images.update(one.counts.keys())
        num_ignored = sum(one.num_ignored for one in amounts)
        return MaskSummary(len(amounts), pixels.total(), num_ignored, dict(pixels), dict(in_images))

    return Inspection(findings, {path: state.digest for path, state in images.items()}, amounts, summarize)


def _is_ignored(split: MaskRecords, states: Sequence[MaskState], amounts: Sequence[ClassCounts]) -> bool:
    """Whether every mask could be read and none holds a class, in a split that is to have some."""
    are_read = bool(states) and not split.is_unlabeled and all(state.size is not None for state in states)
    return are_read and not any(one.counts for one in amounts)


def _read_masks(split: MaskRecords, num_threads: int | None) -> list[MaskState]:
    if split.is_unlabeled:
        return [MaskState() for _ in split.pairs]
    with ThreadPoolExecutor(num_threads or min(8, os.cpu_count() or 1)) as executor:
        return list(executor.map(lambda pair: inspect_mask(pair[0], pair[1], split.mapping), split.pairs))


def _ask_for_names(split: MaskRecords, values: Values) -> str:
    taken = "" if is_binary(values) or is_smoothed(values) else f" ({IGNORE_INDEX} is taken for ignored)"
    return (
        f"masks hold the values {enumerate_some(values)}, which stand for themselves here{taken}; "
        f"to name them, write a YAML and give that as the data set: {'; '.join(split.describe_yaml(values))}; or, for "
        f"the values 0, 1, 2, ..., one name per line in {split.root / 'classes.txt'}"
    )


def _count_pixels(values: Values, names: Mapping[int, str], ignored: Sequence[int]) -> ClassCounts:
    counts = Counter({names[value]: count for value, count in values.items() if value in names})
    return ClassCounts(counts, sum(values.get(value, 0) for value in ignored))


def inspect_mask(image: Path, mask: Path, mapping: LabelMapping | None) -> MaskState:
    """The state of the file ``mask`` with the truth about ``image``."""
    if not mask.is_file():
        return MaskState(problem=("D301", describe_missing(mask, image.name)))
    try:
        pixels = read_values(mask, image, mapping)
    except ImageError as error:
        return MaskState(problem=("D302", str(error).removeprefix(f"{mask}: ")))
    except DatasetError as error:
        return MaskState(problem=("D303", str(error).removeprefix(f"{mask}: ")))
    height, width = pixels.shape
    found, counts = count_values(pixels)
    if mapping is None:
        return MaskState((height, width), dict(zip(found.tolist(), counts.tolist(), strict=True)))
    meanings = mapping.positions(found)
    unknown = meanings == UNKNOWN
    values: Counter[int] = Counter()
    for value, meaning, count in zip(found.tolist(), meanings.tolist(), counts.tolist(), strict=True):
        if meaning == IGNORE_INDEX:
            value = mapping.ignored[0]
        elif meaning != UNKNOWN:
            value = mapping.values[meaning]
        values[value] += count
    num_between = int(counts[mapping.in_between(found)].sum()) if mapping.smooths else 0
    problem = None
    if unknown.any():
        problem = "D304", _describe_unknown(pixels, found[unknown], counts[unknown], mapping)
    elif (meanings == IGNORE_INDEX).all():
        problem = "D305", "every pixel is ignored"
    return MaskState((height, width), values, num_between, problem)


def _describe_unknown(pixels: IntArray | ByteArray, values: IntArray, counts: IntArray, mapping: LabelMapping) -> str:
    """What to say of ``values`` that are neither a class nor ignored, each with its number of pixels."""
    unknown = []
    for value, count in list(zip(values.tolist(), counts.tolist(), strict=True))[:_NUM_LISTED]:
        y, x = np.unravel_index(int((pixels == value).argmax()), pixels.shape)
        amount = f"{count:,} pixel{'' if count == 1 else 's'}"
        unknown.append(f"{mapping.show(value)} ({amount}, the first at x {x}, y {y})")
    more = [f"and {len(values) - _NUM_LISTED} more"] if len(values) > _NUM_LISTED else []
    message = f"neither a class nor ignore_index: {', '.join([*unknown, *more])}; allowed are {mapping.allowed()}"
    if len(values) <= _MANY_VALUES:
        return message
    way_out = ""
    if mapping.colored:
        needed = mapping.tolerance_for(values)
        way_out = f"; or take the nearest color, `tolerance: {needed}` in the YAML (as far as this mask needs)"
    elif len(mapping.values) == 2:
        way_out = "; or divide them, `threshold: 128` in the YAML"
    return (
        f"{message}. So many values are those of smoothed edges: draw masks without anti-aliasing, scale them by the "
        f"nearest pixel, and save them without loss{way_out}"
    )
