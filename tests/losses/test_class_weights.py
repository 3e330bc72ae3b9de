from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from detseg.arrays import ByteArray
from detseg.losses.class_weights import WEIGHT_RULES, class_histogram, enet_weights, median_frequency_weights
from detseg.structures import IGNORE_INDEX

MASKS: list[ByteArray] = [
    np.array([[0, 0, 0, 1], [0, 0, 0, IGNORE_INDEX]], np.uint8),
    np.array([[1, 1], [2, 2]], np.uint8),
    np.array([[IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX]], np.uint8),
]
NUM_CLASSES = 4  # class 3 never occurs


def test_histogram() -> None:
    histogram = class_histogram(MASKS, NUM_CLASSES)
    assert histogram.pixels.tolist() == [6, 3, 2, 0]
    assert histogram.images.tolist() == [1, 2, 1, 0]
    assert histogram.pixels_of_images.tolist() == [7, 11, 4, 0]
    assert histogram.num_images == 3
    assert histogram.pixels.dtype == np.int64


def test_histograms_add_up() -> None:
    whole = class_histogram(MASKS, NUM_CLASSES)
    total = class_histogram([], NUM_CLASSES)
    for mask in MASKS:
        total += class_histogram([mask], NUM_CLASSES)
    for name in ("pixels", "images", "pixels_of_images"):
        assert np.array_equal(getattr(total, name), getattr(whole, name))
    assert total.num_images == 3


def test_the_last_class_that_fits() -> None:
    histogram = class_histogram([np.array([[254, IGNORE_INDEX]], np.uint8)], 255)
    assert np.flatnonzero(histogram.pixels).tolist() == [254]


def test_classes_beyond_the_highest_label_are_counted_too() -> None:
    assert class_histogram([np.zeros((2, 3), np.uint8)], 255).pixels.tolist() == [6, *[0] * 254]


def test_unknown_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="label 13 in the mask, allowed 0 to 10 and 255"):
        class_histogram([np.array([[10, 13, 200, IGNORE_INDEX]], np.uint8)], 11)


def test_enet() -> None:
    weights = enet_weights(class_histogram(MASKS, NUM_CLASSES))
    assert weights.tolist() == pytest.approx([*(1 / math.log(1.02 + share / 11) for share in (6, 3, 2)), 0])
    assert weights.dtype == np.float64
    other = enet_weights(class_histogram(MASKS, NUM_CLASSES), c=2)
    assert other[0] == pytest.approx(1 / math.log(2 + 6 / 11))
    with pytest.raises(ValueError, match="c must be above 1"):
        enet_weights(class_histogram(MASKS, NUM_CLASSES), c=1.0)


def test_a_single_pixel_is_enough_for_a_weight() -> None:
    histogram = class_histogram([np.array([[0, 1, 1, 1]], np.uint8)], 2)
    assert enet_weights(histogram).tolist() == pytest.approx([1 / math.log(1.27), 1 / math.log(1.77)])


def test_median_frequency() -> None:
    # Frequencies 6/7, 3/11 and 2/4; the median of these three is 1/2.
    weights = median_frequency_weights(class_histogram(MASKS, NUM_CLASSES))
    assert weights.tolist() == pytest.approx([7 / 12, 11 / 6, 1, 0])


def test_the_median_of_an_even_number_of_classes_lies_between_two() -> None:
    # Frequencies 1/4 and 3/4.
    weights = median_frequency_weights(class_histogram([np.array([[0, 1, 1, 1]], np.uint8)], 2))
    assert weights.tolist() == pytest.approx([2, 2 / 3])


@pytest.mark.parametrize("rule", WEIGHT_RULES.values(), ids=WEIGHT_RULES)
def test_ignored_only_gives_no_weights(rule) -> None:
    with pytest.raises(ValueError, match="no labeled pixel in 1 masks"):
        rule(class_histogram(MASKS[2:], NUM_CLASSES))


def test_torch_is_not_loaded() -> None:
    code = "import sys, detseg.losses.class_weights; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
