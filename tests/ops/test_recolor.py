"""Shifts of color by tensors against those of OpenCV."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detseg.augment.color import HsvShift
from detseg.ops.recolor import shift_hsv


def colors() -> np.ndarray:
    """Every sixth level of each channel, and all that are nearly gray, whose hue is the most delicate."""
    levels = np.arange(0, 256, 6)
    coarse = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    grays = np.arange(2, 254)[:, None, None] + np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), axis=-1).reshape(-1, 3)
    image = np.concatenate([coarse, grays.reshape(-1, 3)]).astype(np.uint8)
    return image[: len(image) // 101 * 101].reshape(101, -1, 3)


@pytest.mark.parametrize(
    ("steps", "saturation", "value"), [(0, 1.0, 1.0), (37, 1.3, 0.8), (250, 0.3, 1.4), (128, 1.7, 0.6)]
)
def test_colors_are_those_of_the_host(steps: int, saturation: float, value: float) -> None:
    """Within one level, which a last bit of float32 may make at one of 100,000 values."""
    image = colors()
    expected = HsvShift(steps, saturation, value)(image)
    factors = (torch.tensor([number]) for number in (float(steps), saturation, value))
    found = shift_hsv(torch.from_numpy(image)[None], *factors)[0].numpy()
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-5


def test_each_image_has_its_own_shift() -> None:
    image = torch.from_numpy(colors())
    shifts = (torch.tensor([0.0, 85.0]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.5]))
    gray, turned = shift_hsv(torch.stack([image, image]), *shifts)
    assert (gray == image.amax(dim=-1, keepdim=True)).all()
    # A third of the circle further red is green; half as bright.
    red = (image == torch.tensor([252, 0, 0])).all(dim=-1)
    red_level, green_level, blue_level = turned[red].unbind(dim=-1)
    assert (green_level == 126).all()
    assert (red_level <= 2).all()
    assert (blue_level <= 2).all()
