"""Fitting to a size of its own and cropping at random places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from detseg.augment.config import AugmentConfig
from detseg.config import from_dict
from detseg.structures import IGNORE_INDEX, LetterboxTransform, Sample

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
    transform = LetterboxTransform.identity(height, width)
    return Sample(image, empty, np.zeros(0, np.int64), np.zeros(0, bool), 0, "numbered.png", transform, mask)


def augmented(config: AugmentConfig, sample: Sample, size: tuple[int, int], seed: int = 0) -> Sample:
    return config.build()(lambda index: sample, 1, 0, seed, 0, size)


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


def marked(height: int, width: int, row: int, column: int) -> Sample:
    """No class anywhere but at one pixel."""
    mask = np.full((height, width), IGNORE_INDEX, np.uint8)
    mask[row, column] = 3
    return replace(numbered(height, width), mask=mask)


def test_balanced_crops_are_all_windows_that_show_the_pixel() -> None:
    sample = marked(40, 60, 30, 50)
    config = replace(CROP, fit=(40, 60), balance_classes=1.0)
    places = set()
    for seed in range(2000):
        crop = augmented(config, sample, (10, 12), seed)
        left, top = crop.image[0, 0, :2].astype(int)
        assert crop.mask[30 - top, 50 - left] == 3
        places.add((top, left))
    # Rows 21 to 30 and columns 39 to 48 are the first ones of windows of 10 x 12 that lie in the image and hold it.
    assert places == {(top, left) for top in range(21, 31) for left in range(39, 49)}


@pytest.mark.parametrize(
    ("row", "column", "zoom"), [(0, 0, 1.0), (39, 59, 1.0), (0, 59, 2.0), (39, 0, 2.0), (17, 40, 1.37), (39, 59, 0.25)]
)
def test_a_balanced_crop_shows_the_pixel_at_every_zoom_mirrored_or_not(row: int, column: int, zoom: float) -> None:
    sample = marked(40, 60, row, column)
    if zoom < 1:  # as many pixels as become one
        sample.mask[36:, 56:] = 3
    mirrored = replace(CROP, flip_horizontal=0.5, flip_vertical=0.5)
    config = replace(mirrored, fit=(40, 60), scale=(zoom, zoom), balance_classes=1.0)
    for seed in range(60):
        assert (augmented(config, sample, (8, 9), seed).mask == 3).any()


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_classes_of_all_areas_are_drawn_evenly(share: float) -> None:
    # 24, 4 and 4 of 40 pixels; the last 8 have no class.
    mask = np.repeat(np.array([0, 1, 2, IGNORE_INDEX], np.uint8), [24, 4, 4, 8]).reshape(5, 8)
    sample = replace(numbered(5, 8), mask=mask)
    config = replace(CROP, fit=(5, 8), balance_classes=share)
    num_draws = 1500
    drawn = [int(augmented(config, sample, (1, 1), seed).mask[0, 0]) for seed in range(num_draws)]
    for value, area in ((0, 0.6), (1, 0.1), (2, 0.1), (IGNORE_INDEX, 0.2)):
        expected = share * (value != IGNORE_INDEX) / 3 + (1 - share) * area
        deviation = np.sqrt(expected * (1 - expected) / num_draws)
        assert abs(drawn.count(value) / num_draws - expected) <= 4 * deviation


def test_without_any_class_a_balanced_crop_lies_anywhere() -> None:
    sample = replace(numbered(12, 20), mask=np.full((12, 20), IGNORE_INDEX, np.uint8))
    config = replace(CROP, fit=(12, 20), balance_classes=1.0)
    corners = {tuple(augmented(config, sample, (10, 16), seed).image[0, 0, :2].tolist()) for seed in range(200)}
    assert corners == {(left, top) for top in range(3) for left in range(5)}


def test_balanced_crops_of_images_without_masks_are_refused() -> None:
    sample = replace(numbered(12, 20), mask=None)
    with pytest.raises(ValueError, match=r"numbered.png: has no label mask, .* set balance_classes: 0, or give every"):
        augmented(replace(CROP, balance_classes=0.5), sample, (10, 16))


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
    pipeline = replace(CROP, fit=(40, 60), scale=(0.5, 2.0)).build()

    def run(index: int, seed: int, epoch: int) -> np.ndarray:
        return pipeline(lambda _: sample, 9, index, seed, epoch, (24, 24)).image

    expected = run(3, 1, 2)
    assert all((run(*other) != expected).any() for other in ((4, 1, 2), (3, 2, 2), (3, 1, 3)))
    np.testing.assert_array_equal(run(3, 1, 2), expected)


def test_mixup_blends_two_crops_and_keeps_the_mask_of_the_larger_share(make_sample: MakeSample) -> None:
    mixed = replace(CROP, mixup=1.0).build()(make_sample, 4, 0, 0, 0, (96, 128))
    assert mixed.mask is not None
    assert any((mixed.mask == make_sample(index).mask).all() for index in range(4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": True}, "set mosaic: 0 and translate: 0 beside it, got 1.0 and 0.1"),
        ({"crop": True, "mosaic": 0.0}, "got 0.0 and 0.1"),
        ({"crop": True, "translate": 0.0}, "got 1.0 and 0.0"),
        ({"balance_classes": 0.5}, "set crop: true beside it, or balance_classes: 0; got 0.5 without crop"),
        ({"balance_classes": 1.5, "crop": True}, "balance_classes must be a probability from 0 to 1, got 1.5"),
        ({"fit": [0, 20]}, r"fit must be a height and a width of at least 1, .* got \(0, 20\)"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(AugmentConfig, settings, "augment")


def test_the_recipe_of_cityscapes_can_be_written_in_yaml() -> None:
    settings = {"fit": [1024, 2048], "crop": True, "scale": [0.5, 2.0], "mosaic": 0, "translate": 0}
    assert from_dict(AugmentConfig, settings, "augment").fit == (1024, 2048)
