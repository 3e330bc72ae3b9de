"""Objects pasted from one image into another: pixels, masks and boxes that still say the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detseg.augment.config import AugmentConfig
from detseg.augment.copy_paste import copy_paste
from detseg.augment.geometry import BoxFilter
from detseg.augment.objects import bounds_of
from detseg.structures import Sample

MakeSample = Callable[..., Sample]
KEEP_ALL = BoxFilter(min_area_ratio=0, min_box_side=0, max_box_aspect=1e9)


class Chosen:
    """In place of random numbers: what is drawn, one after the other."""

    def __init__(self, *values: float) -> None:
        self._values = np.array(values)

    def random(self, count: int) -> Any:
        return self._values[:count]


def with_masks(sample: Sample) -> Sample:
    masks = np.zeros((len(sample.labels), *sample.image.shape[:2]), bool)
    for mask, (left, top, right, bottom) in zip(masks, sample.boxes_xyxy.astype(int), strict=True):
        mask[top:bottom, left:right] = True
    return replace(sample, object_masks=masks, crowd=np.zeros(len(masks), bool))


@pytest.fixture
def behind(make_sample: MakeSample) -> Sample:
    return with_masks(make_sample(0, boxes=((10, 10, 50, 40), (60, 50, 100, 80))))


@pytest.fixture
def front(make_sample: MakeSample) -> Sample:
    return with_masks(make_sample(1, boxes=((30, 5, 60, 45), (62, 52, 98, 78))))


def test_what_is_pasted_covers_what_was_there(behind: Sample, front: Sample, palette: np.ndarray) -> None:
    rng: Any = Chosen(0.1, 0.9)
    result = copy_paste(behind, front, rng, KEEP_ALL)
    assert result.object_masks is not None
    assert result.mask is not None
    assert np.array_equal(result.image, palette[result.mask]), "pixels and classes come from one image"
    assert result.labels.tolist() == [*behind.labels.tolist(), front.labels[0]]
    assert result.boxes_xyxy.tolist() == [[10, 10, 30, 40], [60, 50, 100, 80], [30, 5, 60, 45]]
    for label, mask in zip(result.labels, result.object_masks, strict=True):
        assert np.array_equal(mask, result.mask == label)
    assert result.object_masks.sum(axis=0).max() == 1
    assert behind.object_masks is not None
    assert behind.object_masks[0].sum() == 40 * 30, "the sample given is not changed"


def test_what_is_covered_too_far_is_left_out(behind: Sample, front: Sample) -> None:
    rng: Any = Chosen(0.9, 0.1)
    # Of the second object 1200 pixels, 36 x 26 are covered: 264 are left.
    for ratio, count in ((0.2, 3), (0.25, 2)):
        result = copy_paste(behind, front, rng, BoxFilter(ratio, 0, 1e9))
        assert len(result.labels) == count
    assert result.boxes_xyxy.tolist() == [[10, 10, 50, 40], [62, 52, 98, 78]]


def test_crowds_stay_where_they_are(behind: Sample, front: Sample) -> None:
    rng: Any = Chosen(0.1, 0.1)
    crowded = replace(front, crowd=np.array([True, True]))
    assert copy_paste(behind, crowded, rng, KEEP_ALL) is behind


def test_the_pipeline_pastes(make_sample: MakeSample) -> None:
    settings: dict[str, Any] = {
        "mosaic": 0, "translate": 0, "scale": (1, 1), "flip_horizontal": 0, "hsv_hue": 0, "hsv_saturation": 0,
        "hsv_value": 0,
    }  # fmt: skip

    def load(index: int) -> Sample:
        boxes = ((5, 5, 40, 40), (50, 10, 70, 30)) if index % 2 else ((60, 40, 110, 90), (4, 60, 30, 80))
        return with_masks(make_sample(index, boxes=boxes))

    counts = []
    for probability, close in ((0.0, False), (1.0, True), (1.0, False)):
        pipeline = AugmentConfig(**settings, copy_paste=probability).build()
        samples = [pipeline(load, 6, index % 6, 0, index, (96, 128), close) for index in range(20)]
        counts.append(sum(len(sample.labels) for sample in samples))
        for sample in samples:
            assert sample.object_masks is not None
            for box, mask in zip(sample.boxes_xyxy, sample.object_masks, strict=True):
                bounds = bounds_of(mask)
                assert bounds is not None
                assert np.abs(box - np.array(bounds)).max() <= 1
    assert counts[0] == counts[1] == 40
    assert counts[2] > 40, "pasted where nothing was, as well as in front"


def test_without_masks_it_is_refused(make_sample: MakeSample) -> None:
    pipeline = AugmentConfig(mosaic=0, copy_paste=1).build()
    with pytest.raises(
        ValueError, match=r"png: has no masks of its objects, which copy_paste needs; set copy_paste: 0"
    ):
        pipeline(make_sample, 2, 0, 0, 0, (64, 64))


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_it_is_a_probability(value: float) -> None:
    with pytest.raises(ValueError, match="copy_paste must be a probability from 0 to 1"):
        AugmentConfig(copy_paste=value)
