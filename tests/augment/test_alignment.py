"""Image and label mask after every geometric transform: pixel by pixel the same image, and no new class.

The image's colors name the classes. With nearest interpolation of the image every pixel has to agree with the
mask; with the usual one, every pixel that is farther from a border between classes than interpolation reaches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.augment.albumentations_adapter import AlbumentationsAdapter
from detseg.augment.config import AugmentConfig
from detseg.augment.geometry import BoxFilter
from detseg.structures import LetterboxTransform, Sample

MakeSample = Callable[..., Sample]
KEEP_ALL = BoxFilter(min_area_ratio=0, min_box_side=0, max_box_aspect=1e9)
GRAY = [114, 114, 114]
FILLED = {"fill": GRAY, "interpolation": 0}

# Those that move pixels; True where some of the result may lie outside the image.
GEOMETRIC: list[tuple[str, dict[str, Any], bool]] = [
    ("HorizontalFlip", {}, False),
    ("VerticalFlip", {}, False),
    ("Transpose", {}, False),
    ("RandomRotate90", {}, False),
    ("D4", {}, False),
    ("RandomGridShuffle", {}, False),
    ("Affine", {"rotate": [20, 40], "scale": [0.6, 0.8], **FILLED}, True),
    ("Rotate", {"limit": [20, 40], **FILLED}, True),
    ("SafeRotate", {"limit": [20, 40], **FILLED}, True),
    ("Perspective", {"scale": [0.1, 0.2], "fit_output": True, **FILLED}, True),
    ("GridDistortion", {"distort_limit": 0.4, **FILLED}, True),
    ("OpticalDistortion", {"distort_limit": [-0.4, -0.3], **FILLED}, False),
    ("OpticalDistortion", {"distort_limit": [0.3, 0.4], **FILLED}, True),
    ("ElasticTransform", {"alpha": 200, "sigma": 8, **FILLED}, True),
    ("ThinPlateSpline", FILLED, True),
    ("RandomResizedCrop", {"size": [60, 70], "interpolation": 0}, False),
    ("RandomSizedCrop", {"min_max_height": [40, 60], "size": [60, 70], "interpolation": 0}, False),
    ("Resize", {"height": 70, "width": 50, "interpolation": 0}, False),
    ("RandomScale", {"scale_limit": [-0.4, 0.4], "interpolation": 0}, False),
    ("RandomCrop", {"height": 120, "width": 90, "pad_if_needed": True, "fill": GRAY}, True),
    ("CenterCrop", {"height": 110, "width": 140, "pad_if_needed": True, "fill": GRAY}, True),
    ("PadIfNeeded", {"min_height": 130, "min_width": 150, "fill": GRAY}, True),
    ("Pad", {"padding": 10, "fill": GRAY}, True),
    ("CropAndPad", {"percent": 0.1, **FILLED}, True),
    ("CoarseDropout", {"fill": GRAY, "fill_mask": 255}, True),
]


def expected_image(mask: np.ndarray, palette: np.ndarray) -> np.ndarray:
    colors = np.full((256, 3), GRAY, np.uint8)
    colors[: len(palette)] = palette
    return colors[mask]


@pytest.fixture
def sample(make_sample: MakeSample, palette: np.ndarray) -> Sample:
    """Five classes, none of them 0, so that a mask filled with 0 shows."""
    made = make_sample(boxes=((8, 10, 50, 40), (70, 50, 120, 90)))
    mask = np.where(made.mask == 0, 7, made.mask).astype(np.uint8)
    mask[45:85, 10:60] = 5
    mask[5:40, 60:120] = 6
    return replace(made, mask=mask, image=palette[mask])


@pytest.mark.parametrize(("name", "params", "fills"), GEOMETRIC)
def test_albumentations_moves_image_and_mask_alike(
    sample: Sample, palette: np.ndarray, name: str, params: dict[str, Any], fills: bool
) -> None:
    transform = {"name": name, "params": {**params, "p": 1.0}}
    adapter = AlbumentationsAdapter([transform], KEEP_ALL, mask_fill=255)
    given_values, filled = set(np.unique(sample.mask).tolist()), False
    for seed in range(5):
        result = adapter(sample, np.random.default_rng(seed))
        np.testing.assert_array_equal(result.image, expected_image(result.mask, palette))
        assert set(np.unique(result.mask).tolist()) <= given_values | {255}
        filled |= bool((result.mask == 255).any())
    assert filled == fills


@pytest.mark.parametrize("name", ["Affine", "ElasticTransform", "GridDistortion", "RandomResizedCrop"])
def test_the_usual_interpolation_of_the_image_leaves_the_mask_nearest(
    sample: Sample, assert_aligned: Callable[..., None], name: str
) -> None:
    params: dict[str, Any] = {"size": [90, 100], "scale": [0.5, 1]} if name == "RandomResizedCrop" else {"fill": GRAY}
    transform = {"name": name, "params": {**params, "p": 1.0}}
    adapter = AlbumentationsAdapter([transform], KEEP_ALL, mask_fill=255)
    for seed in range(5):
        result = adapter(sample, np.random.default_rng(seed))
        # Only the colors are of interest here: each class gets a box around the whole image.
        height, width = result.image.shape[:2]
        boxes = np.array([[0, 0, width, height]] * 8, np.float32)
        boxed = replace(result, boxes_xyxy=boxes, labels=np.arange(8), crowd=np.zeros(8, bool))
        assert_aligned(boxed, tight=False)
        assert set(np.unique(result.mask).tolist()) <= set(np.unique(sample.mask).tolist()) | {255}


@pytest.mark.parametrize("name", ["CoarseDropout", "GridDropout", "Erasing", "XYMasking", "PixelDropout"])
def test_dropouts_keep_the_mask_unless_told_otherwise(sample: Sample, name: str) -> None:
    lines = {"num_masks_x": [2, 2], "num_masks_y": [2, 2], "mask_x_length": [9, 9], "mask_y_length": [9, 9]}
    transform = {"name": name, "params": {**(lines if name == "XYMasking" else {}), "p": 1.0}}
    result = AlbumentationsAdapter([transform], KEEP_ALL, mask_fill=255)(sample, np.random.default_rng(0))
    assert (result.image != sample.image).any()
    np.testing.assert_array_equal(result.mask, sample.mask)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("GridElasticDeform", {"num_grid_xy": [4, 4], "magnitude": 10}),
        ("Morphological", {}),
        ("FrequencyMasking", {}),
        ("TimeMasking", {}),
    ],
)
def test_what_would_write_wrong_classes_is_refused_for_masks_only(
    sample: Sample, name: str, params: dict[str, Any]
) -> None:
    inner = {"name": name, "params": {**params, "p": 1.0}}
    one_of = {"name": "OneOf", "params": {"p": 1.0}, "transforms": [inner]}
    adapter = AlbumentationsAdapter([one_of], KEEP_ALL, mask_fill=255)
    with pytest.raises(ValueError, match=rf"0\.png has a label mask, and {name} would put wrong classes into it"):
        adapter(sample, np.random.default_rng(0))
    assert adapter(replace(sample, mask=None), np.random.default_rng(0)).mask is None


@pytest.mark.parametrize("value", [1, 2])
def test_masks_are_never_interpolated(value: int) -> None:
    transform = {"name": "Affine", "params": {"mask_interpolation": value}}
    with pytest.raises(ValueError, match=rf"albumentations\[0\]: mask_interpolation must be 0 .*got {value}"):
        AlbumentationsAdapter([transform], KEEP_ALL, mask_fill=255)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_mask_never_holds_a_value_that_was_not_there(data: st.DataObject) -> None:
    probability = st.sampled_from([0.0, 0.5, 1.0])
    crop = data.draw(st.booleans(), label="crop")
    low = data.draw(st.floats(0.2, 1.5), label="low")
    config = AugmentConfig(
        crop=crop,
        fit=data.draw(st.none() | st.tuples(st.integers(8, 80), st.integers(8, 80)), label="fit"),
        mosaic=0.0 if crop else data.draw(probability, label="mosaic"),
        translate=0.0 if crop else 0.2,
        mixup=data.draw(probability, label="mixup"),
        degrees=data.draw(st.sampled_from([0.0, 30.0]), label="degrees"),
        perspective=data.draw(st.sampled_from([0.0, 0.1]), label="perspective"),
        shear=data.draw(st.sampled_from([0.0, 10.0]), label="shear"),
        scale=(low, low * data.draw(st.floats(1.0, 2.0), label="ratio")),
        rotate_90=data.draw(probability, label="rotate_90"),
        mask_fill=data.draw(st.sampled_from([255, 40]), label="mask_fill"),
    )
    values = [3, 90, 200]
    rng = np.random.default_rng(data.draw(st.integers(0, 1000), label="seed"))

    def load(index: int) -> Sample:
        height, width = 20 + 7 * index, 41 - 5 * index
        mask = rng.choice(np.array(values, np.uint8), (height, width))
        image = np.repeat(mask[..., None], 3, axis=2)
        empty = np.zeros((0, 4), np.float32)
        transform = LetterboxTransform.identity(height, width)
        return Sample(image, empty, np.zeros(0, np.int64), np.zeros(0, bool), index, "x.png", transform, mask)

    size = data.draw(st.tuples(st.integers(8, 64), st.integers(8, 64)), label="size")
    sample = config.build()(load, 4, 1, 0, 0, size)
    assert sample.mask.shape == size
    assert set(np.unique(sample.mask).tolist()) <= {*values, config.mask_fill}
