from __future__ import annotations

import numpy as np
import pytest

from detseg.exporters.compare_instances import InstanceComparison
from detseg.run_lengths import RunLengths
from detseg.structures import Instances


def objects(*masks: np.ndarray) -> Instances:
    """One object of its own class for each mask ``[200, 200]``, all in the box of 10 to 190."""
    count = len(masks)
    return Instances(
        np.tile(np.array([[10, 10, 190, 190]], np.float32), (count, 1)),
        np.linspace(0.9, 0.5, count, dtype=np.float32),
        np.arange(count),
        None,
        tuple(RunLengths.from_mask(mask) for mask in masks),
    )


def rectangle(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((200, 200), bool)
    mask[top:bottom, left:right] = True
    return mask


WHOLE, HALF, NONE = rectangle(10, 10, 190, 190), rectangle(10, 10, 100, 190), rectangle(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("expected", "found", "ious", "problems"),
    [
        ([WHOLE, HALF], [WHOLE, HALF], [1, 1], []),
        ([WHOLE, HALF], [WHOLE, WHOLE], [1, 0.5], ["1 masks differ in more than 0.5 % of their pixels"]),
        # A whole column, as where the box ends at the centers of its pixels.
        ([WHOLE], [rectangle(11, 10, 190, 190)], [179 / 180], []),
        ([WHOLE], [rectangle(12, 11, 190, 190)], [178 * 179 / 180**2], ["smallest IoU is 0.9834"]),
        ([NONE], [NONE], [1], []),
        ([NONE], [HALF], [0], ["1 masks differ"]),
        ([], [], [], []),
    ],
)
def test_masks_of_the_same_objects_are_compared(expected, found, ious, problems) -> None:
    comparison = InstanceComparison(confidence=0.25, max_detections=300)
    comparison.add(objects(*expected), objects(*found))
    report = comparison.report()
    assert report["boxes"] == len(expected)
    assert report["mean_mask_iou"] == pytest.approx(np.mean(ious) if ious else 1)
    assert report["smallest_mask_iou"] == pytest.approx(min(ious, default=1))
    union = sum(np.logical_or(one, other).sum() for one, other in zip(expected, found, strict=True))
    differing = sum(np.logical_xor(one, other).sum() for one, other in zip(expected, found, strict=True))
    assert report["differing_mask_pixels"] == pytest.approx(differing / union if union else 0)
    told = comparison.problems()
    assert len(told) == len(problems)
    assert all(words in text for words, text in zip(problems, told, strict=True))


def test_boxes_are_compared_as_well() -> None:
    comparison = InstanceComparison(confidence=0.25, max_detections=300)
    comparison.add(objects(WHOLE), Instances.empty())
    assert comparison.problems() == ["1 boxes have no match; 0.00 % have one"]
    assert (comparison.report()["mean_mask_iou"], comparison.report()["boxes"]) == (1.0, 1)
