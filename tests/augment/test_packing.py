"""Images drawn by tensors, from packed batches, against those that the pipeline draws with OpenCV."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from detseg.augment.config import AugmentConfig
from detseg.augment.packing import pack
from detseg.augment.picture import Layer, Picture, Planned
from detseg.augment.pipeline import PlanPipeline
from detseg.structures import LetterboxTransform, Sample

SIZE = (48, 64)
ONE = {"mosaic": 0.0, "translate": 0.0}
SAME_COLORS = {"hsv_hue": 0.0, "hsv_saturation": 0.0, "hsv_value": 0.0}
VIEWS: dict[str, dict[str, Any]] = {
    "as it is": {**ONE, "scale": (1.0, 1.0), "flip_horizontal": 0.0},
    "zoomed in": {**ONE, "scale": (1.5, 3.0)},
    "zoomed out, averaged first": {**ONE, "scale": (0.2, 0.6)},
    "turned": {**ONE, "degrees": 180.0},
    "sheared": {**ONE, "shear": 30.0},
    "in perspective": {**ONE, "perspective": 0.1, "degrees": 20.0},
    "flips and quarter turns": {**ONE, "flip_horizontal": 0.5, "flip_vertical": 0.5, "rotate_90": 0.8},
    "mostly outside": {**ONE, "translate": 1.0, "degrees": 45.0},
    "crop": {**ONE, "crop": True, "fit": (96, 128)},
    "mosaic": {"pad_value": 7},
    "mosaic of turned tiles": {"degrees": 30.0, "shear": 5.0, "perspective": 0.02, "mixup": 0.5},
    "mixup": {**ONE, "mixup": 1.0},
}


def load(index: int) -> Sample:
    """Noise, in which every place matters, with a mask of noise."""
    rng = np.random.default_rng([5, index])
    height, width = 40 + 9 * index, 70
    return Sample(
        image=rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        boxes_xyxy=np.array([[8, 10, 40, 30], [35, 15, 60, 35]], np.float32),
        labels=np.array([1, 4]),
        crowd=np.array([False, True]),
        image_id=index,
        path=f"{index}.png",
        transform=LetterboxTransform.identity(height, width),
        mask=rng.integers(0, 8, (height, width), dtype=np.uint8),
    )


def both_ways(config: AugmentConfig) -> tuple[list[Sample], list[Planned], np.ndarray]:
    """16 samples as the pipeline draws them, not drawn, and their images by tensors ``[16, H, W, 3]``."""
    calls = [(load, 6, index % 6, 3, index, SIZE) for index in range(16)]
    drawn = [config.build()(*call) for call in calls]
    planned = [PlanPipeline(config.build())(*call) for call in calls]
    images = pack([one.picture for one in planned]).draw()
    assert images.shape == (16, 3, *SIZE)
    assert images.dtype == torch.uint8
    return drawn, planned, images.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("name", VIEWS)
def test_tensors_draw_what_the_pipeline_draws(name: str) -> None:
    drawn, planned, images = both_ways(AugmentConfig(**VIEWS[name], **SAME_COLORS))
    difference = np.abs(images.astype(int) - np.stack([sample.image for sample in drawn]))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 5e-4, "only where a value lies between two levels"
    for one, other in zip(drawn, planned, strict=True):
        np.testing.assert_array_equal(other.sample.mask, one.mask)
        np.testing.assert_array_equal(other.sample.boxes_xyxy, one.boxes_xyxy)
        np.testing.assert_array_equal(other.sample.labels, one.labels)
        assert other.sample.image.shape == one.image.shape


def test_colors_follow_the_blend() -> None:
    """Of two neighbors among gray levels HSV makes up to ten levels where the hue is delicate; that is rare."""
    drawn, _, images = both_ways(AugmentConfig(mosaic=0.5, mixup=0.5, degrees=5.0))
    difference = np.abs(images.astype(int) - np.stack([sample.image for sample in drawn]))
    assert difference.max() <= 10
    assert (difference > 1).mean() < 2e-4


def test_what_transforms_work_on_is_drawn_for_them() -> None:
    """Beside such images there are others, on a background of their own."""
    sample = load(0)
    planned = Planned.of(sample)
    np.testing.assert_array_equal(planned.draw().image, sample.image)
    size = sample.image.shape[:2]
    empty = Picture(Layer((size[0], size[1]), 9, ()))
    images = pack([planned.picture, empty]).draw().permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(images[0], sample.image)
    assert (images[1] == 9).all()


def test_the_last_piece_is_in_front() -> None:
    first, second = (Picture.of(np.full((4, 6, 3), level, np.uint8)).layer.pieces for level in (50, 80))
    picture = Picture(Layer((4, 6), 0, (*first, *second)))
    assert (pack([picture]).draw() == 80).all()


def test_the_host_never_waits(waits: Any) -> None:
    planned = [PlanPipeline(AugmentConfig(mixup=0.5).build())(load, 6, index, 3, 0, SIZE) for index in range(4)]
    packed = pack([one.picture for one in planned])
    with waits() as counted:
        packed.draw()
    assert counted.names == []


def test_large_batches_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = [PlanPipeline(AugmentConfig().build())(load, 6, index, 3, 0, SIZE) for index in range(5)]
    packed = pack([one.picture for one in planned])
    whole = packed.draw()
    monkeypatch.setattr("detseg.ops.pictures._PIXELS_AT_A_TIME", 2 * SIZE[0] * SIZE[1])
    assert torch.equal(packed.draw(), whole)
