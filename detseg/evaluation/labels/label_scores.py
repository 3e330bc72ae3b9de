"""How well the mask of one image, or the labels of one volume, agree with the truth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from detseg.arrays import ByteArray
from detseg.evaluation.labels.miou import SegmentationEvaluator
from detseg.structures import IGNORE_INDEX, LabelMap
from detseg.volumes import LabelVolume


def mask_scores(result: LabelMap, truth: ByteArray, class_names: Sequence[str]) -> dict[str, float]:
    """The IoU of each class that one image holds, in truth or result. Empty where nothing can be judged."""
    pairs = _common_pixels([(result.labels, truth)], class_names)
    return {name: both / (total - both) for name, both, total in pairs}


def volume_scores(result: LabelVolume, truth: LabelVolume, class_names: Sequence[str]) -> dict[str, float]:
    """The Dice of each class that one volume holds, in truth or result, without class 0, the background. Empty where
    nothing can be judged."""
    # Slice by slice, as counting takes many times the memory of what is counted.
    pairs = _common_pixels(zip(result.labels, truth.labels, strict=True), class_names)
    return {name: 2 * both / total for name, both, total in pairs if name != class_names[0]}


def _common_pixels(
    slices: Iterable[tuple[ByteArray, ByteArray]], class_names: Sequence[str]
) -> list[tuple[str, int, int]]:
    """Of each class that is there, in the found labels or the true ones: how many pixels have it in both, and how many
    in either, counted for each."""
    counter = SegmentationEvaluator(class_names)
    is_judged = False
    for position, (found_slice, true_slice) in enumerate(slices):
        is_judged = is_judged or bool((true_slice != IGNORE_INDEX).any())
        counter.update(position, LabelMap(found_slice), true_slice)
    if not is_judged:
        return []
    counts = counter.confusion_matrix()
    both, true, found = counts.diagonal(), counts.sum(axis=1), counts[:, :-1].sum(axis=0)
    columns = zip(class_names, both.tolist(), (true + found).tolist(), strict=False)
    return [(name, overlap, total) for name, overlap, total in columns if total]
