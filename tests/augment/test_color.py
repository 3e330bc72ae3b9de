from __future__ import annotations

import cv2
import numpy as np
import pytest

from detseg.augment.color import HsvJitter

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def jitter(image: np.ndarray, seed: int = 0, **settings: float) -> np.ndarray:
    return HsvJitter(**settings)(image, np.random.default_rng(seed))


def test_no_jitter_changes_nothing() -> None:
    np.testing.assert_array_equal(jitter(IMAGE), IMAGE)


def test_the_input_is_not_written_to() -> None:
    before = IMAGE.copy()
    assert (jitter(IMAGE, value=0.9) != IMAGE).any()
    np.testing.assert_array_equal(IMAGE, before)


def test_value_scales_all_channels() -> None:
    gray = np.full((4, 4, 3), 100, np.uint8)
    gain = 1 + np.random.default_rng(3).uniform(-1, 1, 3)[2] * 0.4
    assert abs(gain - 1) > 0.05
    np.testing.assert_array_equal(jitter(gray, seed=3, value=0.4), round(100 * gain))


@pytest.mark.parametrize("level", [0, 114, 255])
def test_hue_and_saturation_leave_gray_alone(level: int) -> None:
    gray = np.full((4, 4, 3), level, np.uint8)
    np.testing.assert_array_equal(jitter(gray, hue=0.5, saturation=1.0), gray)


@pytest.mark.parametrize("seed", range(5))
def test_the_hue_moves_by_a_share_of_the_circle_and_wraps(seed: int) -> None:
    red = np.full((1, 1, 3), (200, 0, 0), np.uint8)
    shift = np.random.default_rng(seed).uniform(-1, 1, 3)[0] * 0.5
    moved = cv2.cvtColor(jitter(red, seed=seed, hue=0.5), cv2.COLOR_RGB2HSV)[0, 0]
    difference = (int(moved[0]) - shift * 180) % 180
    assert min(difference, 180 - difference) <= 1
    assert moved[1:].tolist() == [255, 200]
