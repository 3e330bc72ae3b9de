from __future__ import annotations

import numpy as np
import pytest
import torch

from detseg.exporters.compare_labels import LabelComparison, VolumeComparison
from detseg.structures import LabelMap
from detseg.volumes import LabelVolume


def test_pixels_of_all_images_count_together() -> None:
    comparison = LabelComparison()
    mask = np.arange(24, dtype=np.uint8).reshape(4, 6)
    other = mask.copy()
    other[0, :3] = 99
    comparison.add(LabelMap(mask), LabelMap(mask.copy()))
    assert comparison.problems() == []
    comparison.add(LabelMap(mask), LabelMap(other))
    assert comparison.report()["equal_pixels"] == 45 / 48
    assert comparison.problems() == ["93.750 % of the pixels have the same class, allowed are 99.9 %"]


def test_one_pixel_in_a_thousand_is_allowed() -> None:
    mask = np.zeros((100, 100), np.uint8)
    for num_changed, num_problems in ((10, 0), (11, 1)):
        other = mask.copy()
        other.reshape(-1)[:num_changed] = 1
        comparison = LabelComparison()
        comparison.add(LabelMap(mask), LabelMap(other))
        assert len(comparison.problems()) == num_problems


def test_the_largest_difference_of_a_logit_is_kept() -> None:
    comparison = LabelComparison()
    logits = torch.zeros(1, 2, 3, 3)
    for difference in (0.25, -0.5, 0.125):
        found = logits.numpy().copy()
        found[0, 1, 2, 2] += difference
        comparison.add_outputs(logits, found)
    assert comparison.report()["largest_logit_difference"] == 0.5


def labels(*values: int) -> LabelVolume:
    return LabelVolume(np.array(values, np.uint8).reshape(1, 2, -1), np.eye(4))


def test_dice_between_both_for_each_class() -> None:
    comparison = VolumeComparison(("background", "one", "two", "absent"))
    comparison.add(labels(0, 1, 1, 1, 2, 2), labels(0, 1, 1, 0, 2, 2))
    assert comparison.report()["volumes"] == 1
    # 2 * 2 / (3 + 2); 2 * 2 / (2 + 2); nobody found the last one.
    assert comparison.report()["dice"] == pytest.approx({"one": 0.8, "two": 1.0, "absent": 1.0})
    assert comparison.problems() == ["Dice of one between both is 0.80000, allowed is more than 0.999"]


def test_volumes_count_together() -> None:
    comparison = VolumeComparison(("background", "one"))
    comparison.add(labels(1, 1, 1, 1), labels(1, 1, 1, 1))
    comparison.add(labels(1, 0, 0, 0), labels(0, 0, 0, 0))
    assert comparison.report()["dice"]["one"] == pytest.approx(8 / 9)
