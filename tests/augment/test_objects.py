"""Masks of objects after every change of an image: pixel by pixel where the image has them, in boxes that fit."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detseg.augment.albumentations_adapter import AlbumentationsAdapter
from detseg.augment.config import AugmentConfig
from detseg.augment.geometry import BoxFilter
from detseg.augment.objects import bounds_of, fit_boxes
from detseg.augment.pipeline import EvalPipeline, TrainPipeline
from detseg.run_lengths import MaskStack, RunLengths
from detseg.runtime.inputs.geometry import InputSpec
from detseg.structures import LetterboxTransform, Sample
from tests.augment.test_alignment import GEOMETRIC

MakeSample = Callable[..., Sample]
KEEP_ALL = BoxFilter(min_area_ratio=0, min_box_side=0, max_box_aspect=1e9)
PLAIN: dict[str, Any] = {
    "mosaic": 0, "translate": 0, "scale": (1, 1), "flip_horizontal": 0, "min_area_ratio": 0, "min_box_side": 0,
    "max_box_aspect": 1e9, "hsv_hue": 0, "hsv_saturation": 0, "hsv_value": 0,
}  # fmt: skip
"""Nothing is changed, and nothing left out."""


@pytest.fixture
def make(make_sample: MakeSample) -> MakeSample:
    """Samples with masks of their objects, of which each is the only one of its class, some with holes or corners."""

    def make_with_masks(index: int = 0, **settings: Any) -> Sample:
        sample = make_sample(index, **settings)
        assert sample.mask is not None
        mask = sample.mask.copy()
        for number, (left, top, right, bottom) in enumerate(sample.boxes_xyxy.astype(int)):
            hole = (left + 6, right - 6) if number % 2 else (left, right - 8)
            mask[top + 7 : bottom - 5, hole[0] : hole[1]] = 0
        objects = np.array([mask == label for label in sample.labels], bool).reshape(-1, *mask.shape)
        return replace(sample, mask=mask, object_masks=objects)

    return make_with_masks


def assert_masks_agree(sample: Sample, rounding: float = 0.0) -> None:
    """The object masks of each class are together that class in the label mask; ``rounding`` is the share of its
    pixels that may differ."""
    assert sample.mask is not None
    assert sample.object_masks is not None
    for label in {*sample.labels.tolist(), *np.unique(sample.mask).tolist()} - {0, 255}:
        found = sample.object_masks[sample.labels == label].any(axis=0)
        differing = int((found != (sample.mask == label)).sum())
        assert differing <= rounding * found.sum(), f"{differing} pixels of class {label}"
    for box, mask in zip(sample.boxes_xyxy, sample.object_masks, strict=True):
        bounds = bounds_of(mask)
        assert bounds is not None, "an object of which nothing is seen"
        assert np.abs(box - np.array(bounds)).max() <= 1


@pytest.mark.parametrize(
    ("settings", "rounding"),
    [
        ({}, 0),
        ({"flip_horizontal": 1, "flip_vertical": 1}, 0),
        ({"rotate_90": 1, "translate": 0.3}, 0),
        ({"scale": (0.6, 1.7), "translate": 0.2}, 0),
        ({"crop": True, "scale": (0.8, 1.5)}, 0),
        ({"mosaic": 1, "scale": (0.5, 1.5)}, 0),
        ({"degrees": 40}, 0.02),
        ({"mosaic": 1, "degrees": 20, "shear": 8, "perspective": 0.05, "scale": (0.7, 1.4)}, 0.02),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_masks_of_objects_are_those_of_the_image(make: MakeSample, settings: dict[str, Any], rounding: float) -> None:
    """Where nothing is turned, to the pixel; else an edge may fall on the border between two pixels."""
    pipeline = AugmentConfig(**PLAIN | settings).build()
    seen = 0
    for index in range(12):
        sample = pipeline(make, 3, index % 3, 0, index, (90, 110))
        assert_masks_agree(sample, rounding)
        seen += len(sample.labels)
    assert seen > 12


def test_a_blend_has_the_masks_of_both(make: MakeSample) -> None:
    pipeline = AugmentConfig(**PLAIN | {"mixup": 1}).build()
    sample = pipeline(make, 4, 0, 0, 0, (96, 128))
    assert sample.object_masks is not None
    assert len(sample.object_masks) == len(sample.labels) == 4
    assert np.array_equal(sample.object_masks[:2], make(0).object_masks)


@pytest.mark.parametrize(("name", "params", "fills"), GEOMETRIC)
@pytest.mark.parametrize("mask_fill", [255, 1])
def test_albumentations_moves_masks_of_objects_too(
    make: MakeSample, name: str, params: dict[str, Any], fills: bool, mask_fill: int
) -> None:
    """``fills`` says that some of the image may lie outside of what there was, which is no object, whatever value it
    gets in a label mask."""
    adapter = AlbumentationsAdapter([{"name": name, "params": {**params, "p": 1.0}}], KEEP_ALL, mask_fill=mask_fill)
    sample = replace(make(2), labels=np.array([5, 6]))
    assert sample.mask is not None
    seen = 0
    for seed in range(4):
        result = adapter(sample, np.random.default_rng(seed))
        assert result.mask is not None
        assert result.object_masks is not None
        assert result.object_masks.shape == (len(result.labels), *result.image.shape[:2])
        for label, mask, box in zip(result.labels, result.object_masks, result.boxes_xyxy, strict=True):
            assert np.array_equal(mask, result.mask == label)
            bounds = bounds_of(mask)
            assert bounds is not None
            assert np.abs(box - np.array(bounds)).max() <= 1
        seen += len(result.labels)
    assert seen > 0


def test_what_would_write_into_masks_of_objects_is_refused(make: MakeSample) -> None:
    adapter = AlbumentationsAdapter([{"name": "Morphological", "params": {"p": 1.0}}], KEEP_ALL, mask_fill=255)
    with pytest.raises(ValueError, match=r"0.png has masks of its objects, and Morphological would put wrong classes"):
        adapter(replace(make(0), mask=None), np.random.default_rng(0))


def test_an_image_without_objects_goes_through(make: MakeSample) -> None:
    resize = {"name": "Resize", "params": {"height": 40, "width": 50}}
    for settings in ({"mosaic": 1}, {"albumentations": [resize]}, {"mixup": 1}):
        pipeline = AugmentConfig(**PLAIN | settings).build()
        sample = pipeline(lambda index: make(index, boxes=()), 3, 0, 0, 0, (64, 48))
        assert sample.object_masks is not None
        assert sample.object_masks.shape == (0, 64, 48)


def test_the_letterbox_keeps_every_object(make: MakeSample) -> None:
    sample = make(1)
    placed = EvalPipeline(InputSpec(192, 256))(sample)
    assert placed.object_masks is not None
    assert np.array_equal(placed.object_masks, np.repeat(np.repeat(sample.object_masks, 2, axis=1), 2, axis=2))
    outside = replace(sample, object_masks=np.zeros_like(sample.object_masks))
    assert len(EvalPipeline(InputSpec(64, 64))(outside).labels) == len(sample.labels)


def test_samples_with_and_without_masks_do_not_mix(make: MakeSample) -> None:
    for settings in ({"mosaic": 1}, {"mixup": 1}):
        pipeline = AugmentConfig(**PLAIN | settings).build()

        def load(index: int) -> Sample:
            return make(index) if index % 2 else replace(make(index), object_masks=None)

        def run_all(pipeline: TrainPipeline = pipeline) -> None:
            for index in range(8):
                pipeline(load, 8, index, 0, 0, (64, 64))

        with pytest.raises(ValueError, match=r"png has no masks of its objects, but an image it is combined with has"):
            run_all()


def test_boxes_follow_what_is_left_of_their_objects() -> None:
    masks = np.zeros((3, 20, 30), bool)
    masks[0, 4:10, 5:12] = True
    masks[1, 15:20, 20:30] = True
    boxes = np.array([[4.4, 3.6, 12.3, 18.0], [20.2, 14.5, 30, 20], [1, 1, 5, 5]], np.float32)
    fitted, seen = fit_boxes(boxes, masks)
    assert seen.tolist() == [True, True, False]
    expected = np.array([[4.4, 3.6, 12.3, 10], [20.2, 14.5, 30, 20], [1, 1, 5, 5]], np.float32)
    assert np.array_equal(fitted, expected), "the side that lies elsewhere goes to the object, the others stay"


def test_an_object_that_is_cut_gets_the_box_of_the_rest(make: MakeSample) -> None:
    """An L: of its box a half is left in the image, of the object only the foot."""
    image = np.zeros((40, 40, 3), np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[5:35, 5:10] = mask[30:35, 5:30] = True
    sample = replace(
        make(0, height=40, width=40, boxes=((5, 5, 30, 35),)),
        image=image, mask=None, object_masks=mask[None], boxes_xyxy=np.array([[5, 5, 30, 35]], np.float32),
    )  # fmt: skip
    crop = {"name": "Crop", "params": {"x_min": 12, "y_min": 0, "x_max": 40, "y_max": 40, "p": 1.0}}
    result = AlbumentationsAdapter([crop], KEEP_ALL, mask_fill=255)(sample, np.random.default_rng(0))
    assert result.boxes_xyxy.tolist() == [[0, 30, 18, 35]]


def test_objects_of_which_too_little_is_seen_are_left_out(make: MakeSample) -> None:
    crop = {"name": "Crop", "params": {"x_min": 0, "y_min": 0, "x_max": 54, "y_max": 60, "p": 1.0}}
    adapter = AlbumentationsAdapter([crop], BoxFilter(0.5, 2.0, 100.0), mask_fill=255)
    result = adapter(make(0), np.random.default_rng(0))
    assert result.object_masks is not None
    assert (len(result.labels), len(result.object_masks)) == (1, 1)


def test_hundreds_of_objects_on_a_large_image_need_little_memory() -> None:
    """What is drawn of them does, where it is seen; as dense masks the 300 would be 2.5 GB."""
    size = (2160, 3840)
    yy, xx = np.ogrid[-60:60, -60:60]
    disk = yy**2 + xx**2 < 55**2
    places = [(20 + 180 * (number % 20), 20 + 135 * (number // 20)) for number in range(300)]
    runs = tuple(RunLengths.from_crop(disk, left, top, *size) for left, top in places)
    boxes = np.array([(left + 5, top + 5, left + 115, top + 115) for left, top in places], np.float32)
    sample = Sample(
        np.zeros((*size, 3), np.uint8), boxes, np.zeros(300, np.int64), np.zeros(300, bool), 1, "large.png",
        LetterboxTransform.identity(*size), object_masks=MaskStack(runs, *size),
    )  # fmt: skip
    pipeline = AugmentConfig(**PLAIN).build()
    tracemalloc.start()
    try:
        result = pipeline(lambda index: sample, 1, 0, 0, 0, (160, 288))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.object_masks is not None
    assert result.object_masks.shape == (300, 160, 288)
    assert peak < 3 * 300 * 160 * 288
