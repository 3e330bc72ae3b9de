"""Masks of objects as runs: equal to pycocotools in what they say, small, and refused where they stand for nothing."""

from __future__ import annotations

import re
import tracemalloc
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as official

from detseg.run_lengths import MaskStack, RunLengths, encode, pack_masks


def random_masks(count: int, seed: int = 0) -> list[Any]:
    """Noise, blocks, full and empty ones, of all kinds of sizes."""
    rng = np.random.default_rng(seed)
    masks = []
    for number in range(count):
        height, width = (int(side) for side in rng.integers(1, 40, 2))
        mask = rng.random((height, width)) < (0, 0.03, 0.5, 0.97, 1)[number % 5]
        if number % 3 == 0:
            mask = np.zeros((height, width), bool)
            top, left = int(rng.integers(height)), int(rng.integers(width))
            mask[top : top + int(rng.integers(1, 30)), left : left + int(rng.integers(1, 30))] = True
        masks.append(mask)
    return masks


def as_official(mask: Any) -> dict[str, Any]:
    encoded: dict[str, Any] = official.encode(np.asfortranarray(mask.astype(np.uint8)))
    return encoded


@pytest.mark.parametrize("mask", random_masks(60), ids=lambda mask: "x".join(map(str, mask.shape)))
def test_runs_are_those_of_pycocotools(mask: Any) -> None:
    runs, expected = RunLengths.from_mask(mask), as_official(mask)
    text = runs.to_coco()
    assert (text["size"], text["counts"]) == (list(mask.shape), expected["counts"].decode())
    assert runs.area == official.area(expected) == mask.sum()
    assert runs.box_xywh.tolist() == official.toBbox(expected).tolist()
    assert np.array_equal(runs.to_mask(), mask)
    for form in (text, expected, {"size": text["size"], "counts": runs.counts.tolist()}):
        assert RunLengths.from_coco(form) == runs
    crop, left, top = runs.to_crop()
    whole = np.zeros_like(mask)
    whole[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    assert np.array_equal(whole, mask)
    assert RunLengths.from_crop(crop, left, top, *mask.shape) == runs


def test_many_at_a_time_are_the_same() -> None:
    masks = pack_masks(random_masks(3000, seed=1))
    assert encode(masks) == [mask.to_coco() for mask in masks]
    assert encode([]) == []


def test_large_numbers_survive_the_text() -> None:
    mask = np.zeros((3000, 4000), bool)
    mask[1000, 2000] = mask[7, 3999] = True
    runs = RunLengths.from_mask(mask)
    assert runs.counts.tolist() == [6_001_000, 1, 5_996_006, 1, 2992]
    assert runs.to_coco()["counts"] == as_official(mask)["counts"].decode()
    assert RunLengths.from_coco(runs.to_coco()) == runs


def test_overlaps_and_unions() -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        masks = rng.random((3, 9, 13)) < rng.random((3, 1, 1))
        runs = pack_masks(masks)
        assert np.array_equal(RunLengths.union(runs).to_mask(), masks.any(axis=0))
        overlaps = [[one.intersection(other) for other in runs] for one in runs]
        assert overlaps == np.einsum("ayx,byx->ab", masks.astype(int), masks.astype(int)).tolist()


def test_runs_without_length_are_joined() -> None:
    runs = RunLengths.from_coco({"size": [2, 4], "counts": [1, 2, 0, 1, 0, 0, 2, 0, 2]})
    assert runs.counts.tolist() == [1, 3, 4]
    assert RunLengths.from_intervals(2, 4, np.array([4, 1, 2]), np.array([6, 3, 4])).counts.tolist() == [1, 5, 2]


def test_equal_masks_are_equal_and_others_are_not() -> None:
    one, other = pack_masks(np.eye(4, dtype=bool)[None].repeat(2, axis=0))
    assert (one, hash(one)) == (other, hash(other))
    assert one != RunLengths.from_mask(np.ones((4, 4), bool))
    assert RunLengths.from_mask(np.ones((2, 3), bool)) != RunLengths.from_mask(np.ones((3, 2), bool))
    assert one != "a mask"


def test_three_hundred_objects_of_a_large_image_are_never_dense_at_once() -> None:
    yy, xx = np.ogrid[-300:300, -300:300]
    disk = yy**2 + xx**2 < 290**2
    tracemalloc.start()
    try:
        masks = [RunLengths.from_crop(disk, 10 * number, 5 * number, 2160, 3840) for number in range(300)]
        crops = sum(int(one.to_crop()[0].sum()) for one in masks)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert crops == 300 * disk.sum()
    assert peak < 60e6, "300 dense masks are 2.5 GB"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": [2]}, "size must be [height, width], got [2]"),
        ({"size": [2, -3]}, "size must be [height, width], got [2, -3]"),
        ({"size": [2, 3.0]}, "size must be [height, width], got [2, 3.0]"),
        ({"size": None}, "size must be [height, width], got None"),
        ({"counts": None}, "counts must be a text or lengths of runs, got 'None'"),
        ({"counts": [1, "2"]}, "counts must be a text or lengths of runs"),
        ({"counts": [7, -1]}, "counts must be a text or lengths of runs"),
        ({"counts": [1, 2]}, "counts of 2x3 pixels must add up to them, got 3"),
        ({"counts": []}, "counts of 2x3 pixels must add up to them, got 0"),
        ({"counts": "02"}, "counts of 2x3 pixels must add up to them, got 2"),
        ({"counts": "O"}, "counts must not hold a length below 0"),
        ({"counts": "0\u00e9"}, "counts holds a character that stands for no bits"),
        ({"counts": "1P"}, "counts ends in the middle of a number"),
        ({"counts": "o" * 12 + "0"}, "counts holds a number of more than 64 bits"),
    ],
)
def test_what_stands_for_no_mask_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        RunLengths.from_coco({"size": [2, 3], "counts": [1, 2, 3]} | changes)


def test_runs_that_are_none_are_refused() -> None:
    for counts, words in (([1, 0, 5], "a run must have a length over 0"), ([4], "must add up to them, got 4")):
        with pytest.raises(ValueError, match=words):
            RunLengths(2, 3, np.array(counts))
    with pytest.raises(ValueError, match="the size must not be negative, got -1x3"):
        RunLengths(-1, 3, np.array([6]))
    with pytest.raises(ValueError, match="does not lie in a mask of 4x4"):
        RunLengths.from_crop(np.ones((2, 2), bool), 3, 0, 4, 4)
    with pytest.raises(ValueError, match="crop must be bool, got uint8"):
        RunLengths.from_mask(np.ones((2, 2), np.uint8))  # type: ignore[arg-type]
    small, large = (RunLengths.from_mask(np.ones((side, 2), bool)) for side in (2, 3))
    for refuse in (lambda: small.intersection(large), lambda: RunLengths.union([small, large])):
        with pytest.raises(ValueError, match="masks must have one size"):
            refuse()


def test_a_stack_is_used_like_the_array_of_its_masks() -> None:
    dense = np.random.default_rng(5).random((4, 6, 9)) < 0.3
    dense[2] = False
    stack = MaskStack(pack_masks(dense), 6, 9)
    assert (stack.shape, len(stack)) == (dense.shape, 4)
    assert np.array_equal(stack, dense)
    assert np.asarray(stack).dtype == np.bool_
    assert np.array_equal(np.asarray(stack, np.uint8), dense)
    for index in (1, -1, slice(1, 3), np.array([3, 0]), np.array([True, False, False, True]), np.zeros(0, np.int64)):
        assert np.array_equal(stack[index], dense[index])
    assert all(np.array_equal(mask, expected) for mask, expected in zip(stack, dense, strict=True))
    assert stack.select(np.array([2, 1])).runs == (stack.runs[2], stack.runs[1])
    assert MaskStack((), 6, 9)[np.zeros(0, bool)].shape == (0, 6, 9)
    with pytest.raises(ValueError, match=r"masks must be of 9x6 pixels, got \[\(6, 9\)\]"):
        MaskStack(stack.runs, 9, 6)
