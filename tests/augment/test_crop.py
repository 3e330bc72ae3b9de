"""Fitting to a size of its own and cropping at random places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from detseg.augment.config import AugmentConfig
from detseg.augment.pipeline import build_train_pipeline
from detseg.config import from_dict
from detseg.structures import Placement, Sample

MakeSample = Callable[..., Sample]
CROP = AugmentConfig(
    crop=True,
    mosaic=0,
    translate=0,
    scale=(1.0, 1.0),
    flip_horizontal=0,
    hsv_hue=0,
    hsv_saturation=0,
    hsv_value=0,
    min_area_ratio=0,
    min_box_side=0,
    max_box_aspect=1e9,
)


def numbered(height: int, width: int) -> Sample:
    """Every pixel says where it is: red and green hold column and row, the mask a number of both."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([columns, rows, np.zeros_like(rows)], axis=2).astype(np.uint8)
    mask = ((rows * 7 + columns * 3) % 200).astype(np.uint8)
    empty = np.zeros((0, 4), np.float32)
    placement = Placement.identity(height, width)
    return Sample(image, empty, np.zeros(0, np.int64), np.zeros(0, bool), 0, "numbered.png", placement, mask)


def augmented(config: AugmentConfig, sample: Sample, size: tuple[int, int], seed: int = 0) -> Sample:
    return build_train_pipeline(config)(lambda index: sample, 1, 0, seed, 0, size)


def test_every_pixel_of_a_crop_is_one_of_the_image_and_all_places_are_as_likely() -> None:
    sample = numbered(12, 20)
    config = replace(CROP, fit=(12, 20))
    places = []
    for seed in range(600):
        crop = augmented(config, sample, (10, 16), seed)
        left, top = crop.image[0, 0, :2].astype(int)
        np.testing.assert_array_equal(crop.image, sample.image[top : top + 10, left : left + 16])
        np.testing.assert_array_equal(crop.mask, sample.mask[top : top + 10, left : left + 16])
        places.append((top, left))
    counts = np.zeros((3, 5), int)
    np.add.at(counts, tuple(np.transpose(places)), 1)
    # 600 draws of 15 places: 40 each, with a standard deviation of 6.1.
    assert counts.min() > 40 - 4 * 6.1
    assert counts.max() < 40 + 4 * 6.1


def test_a_small_image_lies_anywhere_in_the_window_and_the_rest_is_filled() -> None:
    sample = numbered(10, 20)
    config = replace(CROP, fit=(10, 20), pad_value=250, mask_fill=201)
    places = set()
    for seed in range(200):
        crop = augmented(config, sample, (12, 16), seed)
        inside = (crop.mask != 201).any(axis=1)
        top, left = int(np.argmax(inside)), int(crop.image[np.argmax(inside), 0, 0])
        assert inside.sum() == 10
        np.testing.assert_array_equal(crop.image[top : top + 10], sample.image[:, left : left + 16])
        np.testing.assert_array_equal(crop.mask[top : top + 10], sample.mask[:, left : left + 16])
        assert (crop.image[~inside] == 250).all()
        assert (crop.mask[~inside] == 201).all()
        places.add((top, left))
    assert places == {(top, left) for top in range(3) for left in range(5)}


@pytest.mark.parametrize("settings", [{"flip_horizontal": 1.0}, {"flip_vertical": 1.0}, {"rotate_90": 1.0}])
def test_flipped_and_turned_crops_lose_no_pixel(settings: dict[str, float]) -> None:
    sample = numbered(24, 24)
    for seed in range(10):
        crop = augmented(replace(CROP, fit=(24, 24), **settings), sample, (16, 20), seed)
        columns, rows = crop.image[..., 0], crop.image[..., 1]
        assert len(np.unique(rows.astype(int) * 24 + columns)) == 16 * 20
        np.testing.assert_array_equal(crop.mask, sample.mask[rows, columns])
        np.testing.assert_array_equal(crop.image, sample.image[rows, columns])


@pytest.mark.parametrize("zoom", [0.5, 0.77, 1.3, 2.0])
def test_a_scaled_crop_stays_inside_the_scaled_image(zoom: float) -> None:
    sample = numbered(100, 140)
    config = replace(CROP, fit=(100, 140), scale=(zoom, zoom), mask_fill=255)
    size = (round(60 * zoom), round(70 * zoom))
    lefts, tops = [], []
    for seed in range(150):
        crop = augmented(config, sample, size, seed)
        assert (crop.mask != 255).all()
        left, top = crop.image[size[0] // 2, size[1] // 2, :2].astype(float)
        lefts.append(left - 35)
        tops.append(top - 30)
    # All of the 70 columns and 40 rows of freedom are used, up to the last few.
    assert min(lefts) < 3
    assert max(lefts) > 66
    assert min(tops) < 3
    assert max(tops) > 36


@pytest.mark.parametrize("degrees", [0, 25])
@pytest.mark.parametrize("scale", [(0.4, 0.7), (1.5, 2.0)])
@pytest.mark.parametrize("seed", range(4))
def test_image_mask_and_boxes_stay_aligned(
    make_sample: MakeSample,
    assert_aligned: Callable[..., None],
    degrees: int,
    scale: tuple[float, float],
    seed: int,
) -> None:
    config = replace(CROP, fit=(96, 128), scale=scale, degrees=degrees, flip_horizontal=0.5, rotate_90=0.3)
    crop = augmented(config, make_sample(seed), (80, 90), seed)
    assert crop.image.shape == (80, 90, 3)
    assert_aligned(crop)


def test_without_fit_the_image_fits_the_input_as_ever() -> None:
    sample = numbered(20, 40)
    crop = augmented(CROP, sample, (20, 40))
    np.testing.assert_array_equal(crop.image, sample.image)
    fitted = augmented(replace(CROP, crop=False), sample, (40, 40))
    assert ((fitted.mask != 255).sum(axis=0) == 20).all()


def test_fit_without_crop_shows_the_middle() -> None:
    sample = numbered(40, 60)
    middle = augmented(replace(CROP, crop=False, fit=(40, 60)), sample, (20, 24))
    np.testing.assert_array_equal(middle.mask, sample.mask[10:30, 18:42])


def test_the_images_of_a_mosaic_are_fitted_too(make_sample: MakeSample) -> None:
    config = replace(CROP, crop=False, mosaic=1.0, mask_fill=255)
    sample = numbered(64, 64)
    for seed in range(5):
        # Images of twice the input's size: the point where they meet is in the view, and nothing is left to fill.
        large = augmented(replace(config, fit=(64, 64)), sample, (32, 32), seed)
        assert (large.mask != 255).all()
        steps = np.diff(large.image[0, :, 0].astype(int))
        assert (steps < 0).sum() == 1
        # Not shrunk: from one pixel to the next it is one column of the image.
        assert np.median(steps) == 1


def test_a_crop_is_a_pure_function_of_seed_epoch_and_index() -> None:
    sample = numbered(40, 60)
    pipeline = build_train_pipeline(replace(CROP, fit=(40, 60), scale=(0.5, 2.0)))

    def run(index: int, seed: int, epoch: int) -> np.ndarray:
        return pipeline(lambda _: sample, 9, index, seed, epoch, (24, 24)).image

    expected = run(3, 1, 2)
    assert all((run(*other) != expected).any() for other in ((4, 1, 2), (3, 2, 2), (3, 1, 3)))
    np.testing.assert_array_equal(run(3, 1, 2), expected)


def test_mixup_blends_two_crops_and_keeps_the_mask_of_the_larger_share(make_sample: MakeSample) -> None:
    mixed = build_train_pipeline(replace(CROP, mixup=1.0))(make_sample, 4, 0, 0, 0, (96, 128))
    assert mixed.mask is not None
    assert any((mixed.mask == make_sample(index).mask).all() for index in range(4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": True}, "set mosaic: 0 and translate: 0 beside it, got 1.0 and 0.1"),
        ({"crop": True, "mosaic": 0.0}, "got 0.0 and 0.1"),
        ({"crop": True, "translate": 0.0}, "got 1.0 and 0.0"),
        ({"fit": [0, 20]}, r"fit must be a height and a width of at least 1, .* got \(0, 20\)"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(AugmentConfig, settings, "augment")


def test_the_recipe_of_cityscapes_can_be_written_in_yaml() -> None:
    settings = {"fit": [1024, 2048], "crop": True, "scale": [0.5, 2.0], "mosaic": 0, "translate": 0}
    assert from_dict(AugmentConfig, settings, "augment").fit == (1024, 2048)
