"""What can be wrong with images and their objects: boxes, and outlines where there are some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from detseg.arrays import BoolArray, DoubleArray, IntArray
from detseg.data.checks.images import Annotated, ImageState, check_images, find_unlisted, inspect_images
from detseg.data.checks.inspection import ClassCounts, Inspection
from detseg.data.checks.outlines import check_outlines
from detseg.data.checks.report import SplitSummary
from detseg.data.datasets.dataset import MIN_BOX_SIDE
from detseg.data.datasets.packed import PackedAnnotations
from detseg.data.findings import Finding
from detseg.data.records import BoxRecords

TOLERANCE = 0.5
"""Pixels that a box may reach outside of its image before it is worth a word: rounding, not a mistake."""


def inspect_boxes(splits: Sequence[BoxRecords], decode: bool, num_threads: int | None = None) -> Inspection:
    """Read every image and look at every box of ``splits``."""
    paths_of = {split.name: split.paths() for split in splits}
    states = inspect_images((path for paths in paths_of.values() for path in paths), decode, num_threads)
    findings: list[Finding] = []
    for split in splits:
        paths = paths_of[split.name]
        upright = [image for image, path in enumerate(paths) if _are_upright(split, image, states[path])]
        findings += check_images(_annotated(split, paths, upright), states, split.name)
        findings += check_boxes(split, paths, upright)
        findings += check_outlines(split, paths, upright)
    names = list(dict.fromkeys(name for split in splits for name in split.class_names))

    def summarize(amounts: Sequence[ClassCounts]) -> SplitSummary:
        boxes, images = Counter(dict.fromkeys(names, 0)), Counter(dict.fromkeys(names, 0))
        for one in amounts:
            boxes.update(one.counts)
            images.update(one.counts.keys())
        return SplitSummary(len(amounts), boxes.total(), dict(boxes), dict(images))

    return Inspection(
        findings,
        {path: state.digest for path, state in states.items()},
        {split.name: count_boxes(split.packed, split.class_names) for split in splits},
        summarize,
        find_unlisted((folder for split in splits for folder in split.image_folders), states),
    )


def count_boxes(packed: PackedAnnotations, class_names: Sequence[str]) -> list[ClassCounts]:
    """The boxes of every class in each image; crowd regions are no objects, and unknown classes no classes."""
    images, counted = _image_of(packed), (packed.labels >= 0) & ~packed.crowd
    counts: list[Counter[str]] = [Counter() for _ in range(len(packed))]
    pairs, numbers = np.unique(np.stack([images, packed.labels])[:, counted], axis=1, return_counts=True)
    for image, label, number in zip(*pairs.tolist(), numbers.tolist(), strict=True):
        counts[image][class_names[label]] = number
    return [ClassCounts(one) for one in counts]


def check_boxes(split: BoxRecords, paths: Sequence[Path], upright: Sequence[int] = ()) -> Iterator[Finding]:
    """The findings D001, D002, D003, D006 and D104 about ``split``, whose images are ``paths``.

    A box is held against the size that its annotation records, because another size is a finding of its own; for the
    images ``upright`` with the sides swapped. Without any size, only boxes that are degenerate or outside of every
    image are found.
    """
    packed = split.packed
    images = _image_of(packed)
    image_heights, image_widths = packed.heights.astype(float), packed.widths.astype(float)
    image_heights[list(upright)], image_widths[list(upright)] = (
        packed.widths[list(upright)],
        packed.heights[list(upright)],
    )
    heights, widths = image_heights[images], image_widths[images]
    unknown = heights == 0
    heights[unknown] = widths[unknown] = np.inf
    xyxy = np.concatenate([packed.boxes_xywh[:, :2], packed.boxes_xywh[:, :2] + packed.boxes_xywh[:, 2:]], axis=1)
    # Without the size of their image, fractions of it say nothing about pixels.
    min_side = np.where(unknown & split.in_fractions, 0, MIN_BOX_SIDE)
    good = np.ones(len(xyxy), bool)
    for row, code, message in _judge(xyxy, packed.boxes_xywh[:, 2:], heights, widths, min_side):
        good[row] = False
        image = int(images[row])
        shown = f"box {_show(xyxy[row])} {message} in {paths[image].name}"
        yield Finding(code, str(split.sources[image]), shown, (int(packed.annotation_ids[row]),), split.name)
    rounded = np.where(unknown[:, None] & split.in_fractions, xyxy, xyxy.round(2))
    for rows in _equal_rows(images, packed.labels, rounded, good):
        if packed.crowd[rows].any():
            continue
        image, label = int(images[rows[0]]), int(packed.labels[rows[0]])
        name = split.class_names[label] if label >= 0 else "an unknown class"
        message = f"{len(rows)} equal boxes {_show(rounded[rows[0]])} of {name} in {paths[image].name}"
        yield Finding(
            "D003", str(split.sources[image]), message, tuple(packed.annotation_ids[rows].tolist()), split.name
        )
    if not split.is_unlabeled:
        for image in np.flatnonzero(np.diff(packed.offsets) == 0).tolist():
            yield Finding("D104", str(paths[image]), f"no box in {split.sources[image].name}", (), split.name)


def _are_upright(split: BoxRecords, image: int, state: ImageState) -> bool:
    """Whether boxes are those of the upright image although the recorded size is that of the pixels as stored: some
    lie outside of this size, and none outside of the other."""
    packed = split.packed
    height, width = int(packed.heights[image]), int(packed.widths[image])
    if not split.states_size[image] or state.size != (width, height) or state.stored_size != (height, width):
        return False
    boxes_xywh = packed.boxes_xywh[packed.rows(image)]
    right, bottom = (boxes_xywh[:, :2] + boxes_xywh[:, 2:]).max(axis=0, initial=0)
    leaves_stored = right > width + TOLERANCE or bottom > height + TOLERANCE
    return bool(leaves_stored and right <= height + TOLERANCE and bottom <= width + TOLERANCE)


def _annotated(split: BoxRecords, paths: Sequence[Path], upright: Sequence[int]) -> list[Annotated]:
    packed, swapped = split.packed, set(upright)
    return [
        Annotated(
            path,
            split.sources[image],
            (int(packed.heights[image]), int(packed.widths[image])) if split.states_size[image] else None,
            "annotation",
            tuple(packed.annotation_ids[packed.rows(image)].tolist()),
            image in swapped,
        )
        for image, path in enumerate(paths)
    ]


def _judge(
    xyxy: DoubleArray, sides: DoubleArray, heights: DoubleArray, widths: DoubleArray, min_side: DoubleArray
) -> Iterator[tuple[int, str, str]]:
    """The row, the code and the message of each box ``[M, 4]`` that is not good, in an image of these sizes ``[M]``."""
    left, top, right, bottom = xyxy.T
    seen_width = np.minimum(right, widths) - np.maximum(left, 0)
    seen_height = np.minimum(bottom, heights) - np.maximum(top, 0)
    overhang = np.max([-left, -top, right - widths, bottom - heights], axis=0, initial=-np.inf)
    degenerate = sides.min(axis=1, initial=np.inf) <= 0
    seen = np.minimum(seen_width, seen_height)
    outside, small = seen <= 0, seen < min_side
    for row in np.flatnonzero(degenerate | outside | small | (overhang > TOLERANCE)).tolist():
        limits = f"the image, {widths[row]:g}x{heights[row]:g}" if heights[row] < np.inf else "any image"
        if degenerate[row]:
            yield row, "D001", f"is {sides[row, 0]:g} wide and {sides[row, 1]:g} high"
        elif outside[row]:
            yield row, "D006", f"lies outside of {limits},"
        elif small[row]:
            size = f"{seen_width[row]:g} wide and {seen_height[row]:g} high"
            yield row, "D001", f"is {size}, less than {min_side[row]:g} pixel,"
        else:
            yield row, "D002", f"reaches {overhang[row]:g} pixels outside of {limits},"


def _equal_rows(images: IntArray, labels: IntArray, xyxy: DoubleArray, chosen: BoolArray) -> Iterator[list[int]]:
    """The rows of each box that is there several times in an image with one label, of those ``chosen``."""
    rows = np.flatnonzero(chosen)
    keys = np.concatenate([images[:, None], labels[:, None], xyxy], axis=1)[rows]
    order = np.lexsort(keys.T[::-1])
    is_new = np.append(True, (np.diff(keys[order], axis=0) != 0).any(axis=1))
    starts = np.flatnonzero(is_new)
    for start, stop in zip(starts, np.append(starts[1:], len(order)), strict=True):
        if stop - start > 1:
            yield sorted(rows[order[start:stop]].tolist())


def _image_of(packed: PackedAnnotations) -> IntArray:
    """The image of each object, ``[M]``."""
    return np.repeat(np.arange(len(packed)), np.diff(packed.offsets))


def _show(xyxy: DoubleArray) -> str:
    return f"({', '.join(f'{side:g}' for side in xyxy)})"
