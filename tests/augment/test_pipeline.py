from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detseg.augment.config import AugmentConfig
from detseg.augment.pipeline import EvalPipeline
from detseg.runtime.inputs.geometry import InputSpec
from detseg.structures import LetterboxTransform, Sample

MakeSample = Callable[..., Sample]
NUM_SAMPLES = 8
KEEP_ALL = AugmentConfig(min_area_ratio=0, min_box_side=0, max_box_aspect=1e9, hsv_hue=0, hsv_saturation=0, hsv_value=0)


class RecordingLoad:
    """Loads samples and remembers which."""

    def __init__(self, make_sample: MakeSample) -> None:
        self._make_sample = make_sample
        self.loaded: list[int] = []

    def __call__(self, index: int) -> Sample:
        self.loaded.append(index)
        boxes = ((8, 10, 40, 30), (55, 35, 90, 55))
        return self._make_sample(index, height=60 + 10 * index, width=100, boxes=boxes)


@pytest.fixture
def load(make_sample: MakeSample) -> RecordingLoad:
    return RecordingLoad(make_sample)


def assert_same(first: Sample, second: Sample) -> None:
    for name in ("image", "boxes_xyxy", "labels", "crowd", "mask"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert (first.image_id, first.path, first.transform) == (second.image_id, second.path, second.transform)


RICH = AugmentConfig(mixup=0.5, degrees=10, shear=3, perspective=0.02, flip_vertical=0.5, rotate_90=0.5)


@pytest.mark.parametrize("config", [AugmentConfig(), RICH], ids=["default", "rich"])
def test_a_sample_is_a_pure_function_of_seed_epoch_and_index(load: RecordingLoad, config: AugmentConfig) -> None:
    first, second = config.build(), config.build()
    expected = first(load, NUM_SAMPLES, 3, 1, 2, (64, 96))
    for other in ((4, 1, 2), (3, 2, 2), (3, 1, 3)):
        assert (second(load, NUM_SAMPLES, *other, (64, 96)).image != expected.image).any()
    np.random.seed(5)  # noqa: NPY002 (the global generator must not matter)
    assert_same(second(load, NUM_SAMPLES, 3, 1, 2, (64, 96)), expected)


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (32, 32)])
@pytest.mark.parametrize("close_mosaic", [True, False])
def test_the_image_has_exactly_the_requested_size(
    load: RecordingLoad, size: tuple[int, int], close_mosaic: bool
) -> None:
    sample = RICH.build()(load, NUM_SAMPLES, 0, 0, 0, size, close_mosaic=close_mosaic)
    assert sample.image.shape == (*size, 3)
    assert sample.mask is not None
    assert sample.mask.shape == size
    assert sample.transform == LetterboxTransform.identity(*size)
    assert (sample.boxes_xyxy >= 0).all()
    assert (sample.boxes_xyxy <= (size[1], size[0], size[1], size[0])).all()


@pytest.mark.parametrize(
    ("mosaic", "mixup", "close_mosaic", "num_loaded"),
    [(0, 0, False, 1), (1, 0, False, 4), (0, 1, False, 2), (1, 1, False, 8), (1, 1, True, 1)],
)
def test_mosaic_and_mixup_load_other_images_and_end_when_closed(
    load: RecordingLoad, mosaic: float, mixup: float, close_mosaic: bool, num_loaded: int
) -> None:
    pipeline = AugmentConfig(mosaic=mosaic, mixup=mixup).build()
    for index in range(NUM_SAMPLES):
        load.loaded.clear()
        sample = pipeline(load, NUM_SAMPLES, index, 0, 0, (64, 64), close_mosaic=close_mosaic)
        assert len(load.loaded) == num_loaded
        assert load.loaded[0] == index
        assert max(load.loaded) < NUM_SAMPLES
        assert sample.image_id == 100 + index


def test_partners_are_drawn_from_the_whole_set(load: RecordingLoad) -> None:
    pipeline = AugmentConfig().build()
    for epoch in range(20):
        pipeline(load, NUM_SAMPLES, 0, 0, epoch, (32, 32))
    assert set(load.loaded) == set(range(NUM_SAMPLES))


@pytest.mark.parametrize("index", range(NUM_SAMPLES))
@pytest.mark.parametrize("mosaic", [0, 1])
def test_image_mask_and_boxes_stay_aligned(
    load: RecordingLoad, assert_aligned: Callable[..., None], index: int, mosaic: float
) -> None:
    config = replace(KEEP_ALL, mosaic=mosaic, degrees=15, shear=5, rotate_90=0.5, flip_vertical=0.5)
    # Labels repeat in a mosaic, so that extents are only compared for single images.
    assert_aligned(config.build()(load, NUM_SAMPLES, index, 0, 0, (96, 96)), tight=not mosaic)


def test_quarter_turns_happen_as_often_as_asked(load: RecordingLoad) -> None:
    config = replace(KEEP_ALL, mosaic=0, rotate_90=0.5, translate=0, scale=(1.0, 1.0), flip_horizontal=0)
    pipeline = config.build()
    # Sample 0 is 60x100: turned by one or three quarters it is padded at the sides, else above and below.
    sideways = [pipeline(load, 1, 0, seed, 0, (50, 50)).image[25, 0, 0] == 114 for seed in range(300)]
    assert 0.5 * 2 / 3 - 0.08 < np.mean(sideways) < 0.5 * 2 / 3 + 0.08


def test_without_randomness_training_sees_what_evaluation_sees(make_sample: MakeSample) -> None:
    config = replace(KEEP_ALL, mosaic=0, translate=0, scale=(1.0, 1.0), flip_horizontal=0)
    sample = make_sample(height=96, width=128)
    trained = config.build()(lambda index: sample, 1, 0, 0, 0, (64, 64))
    evaluated = EvalPipeline(InputSpec(64, 64))(sample)
    assert np.abs(trained.image.astype(int) - evaluated.image.astype(int)).max() <= 1
    np.testing.assert_array_equal(trained.mask, evaluated.mask)
    np.testing.assert_allclose(trained.boxes_xyxy, evaluated.boxes_xyxy, atol=1e-5)


@pytest.mark.parametrize(("anchor", "top"), [("center", 12), ("top_left", 0)])
def test_evaluation_letterboxes_image_mask_and_boxes(make_sample: MakeSample, anchor: str, top: int) -> None:
    sample = make_sample(height=40, width=64, boxes=((8, 10, 50, 30),))
    placed = EvalPipeline(InputSpec(64, 64, anchor=anchor), mask_fill=9)(sample)  # type: ignore[arg-type]
    assert placed.transform == LetterboxTransform(1.0, 1.0, 0.0, float(top), 40, 64)
    np.testing.assert_array_equal(placed.image[top : top + 40], sample.image)
    assert placed.mask is not None
    np.testing.assert_array_equal(placed.mask[top : top + 40], sample.mask)
    assert (placed.mask[top + 40 :] == 9).all()
    np.testing.assert_array_equal(placed.boxes_xyxy, [[8, 10 + top, 50, 30 + top]])
    np.testing.assert_array_equal(placed.transform.to_original(placed.boxes_xyxy), sample.boxes_xyxy)


def test_evaluation_refuses_a_sample_that_was_placed_before(make_sample: MakeSample) -> None:
    pipeline = EvalPipeline(InputSpec(64, 64))
    with pytest.raises(ValueError, match=r"0\.png: already placed"):
        pipeline(pipeline(make_sample()))


def test_partners_are_drawn_from_those_that_are_given(load: RecordingLoad) -> None:
    pipeline = AugmentConfig(mixup=1).build()
    for epoch in range(20):
        pipeline(load, NUM_SAMPLES, 0, 0, epoch, (32, 32), partners=[2, 0, 4])
    assert set(load.loaded) == {0, 2, 4}


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({}, (96, 192)),
        ({"scale": (0.5, 1.0)}, (64, 128)),
        ({"fit": (100, 50)}, (150, 75)),
        ({"rotate_90": 0.1}, (192, 192)),
        ({"shear": 45.0}, (192, 384)),
        ({"perspective": 0.1, "scale": (1.0, 1.0)}, (80, 160)),
    ],
)
def test_how_large_an_image_is_ever_shown(settings: dict[str, Any], needed: tuple[int, int]) -> None:
    assert AugmentConfig(**settings).build().needed_size((64, 128)) == needed


def test_a_reduced_image_is_drawn_where_the_whole_one_would_be(
    make_sample: MakeSample, assert_aligned: Callable[..., None]
) -> None:
    whole = make_sample(height=480, width=640, boxes=((40, 50, 250, 200), (350, 250, 600, 450)), with_mask=False)
    reduced = replace(
        whole,
        image=np.ascontiguousarray(whole.image[::4, ::4]),
        boxes_xyxy=whole.boxes_xyxy / 4,
        transform=LetterboxTransform(0.25, 0.25, 0.0, 0.0, 480, 640),
    )
    pipeline = replace(KEEP_ALL, mosaic=0, degrees=10).build()
    drawn = [pipeline(lambda index, one=one: one, 1, 0, 3, 0, (64, 64)) for one in (whole, reduced)]
    np.testing.assert_allclose(drawn[0].boxes_xyxy, drawn[1].boxes_xyxy, atol=1e-3)
    differing = np.abs(drawn[0].image.astype(int) - drawn[1].image).max(axis=2) > 100
    assert differing.mean() < 0.02, "at edges alone"
