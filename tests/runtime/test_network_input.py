from __future__ import annotations

import numpy as np
import pytest
import torch

from detseg.runtime.geometry import InputSpec
from detseg.runtime.network_input import InputWriter
from detseg.tasks.base import normalize_images

PLAIN = InputSpec(48, 64)
CENTERED = InputSpec(64, 64, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
YOLOX = InputSpec(64, 96, "top_left", channel_order="bgr", std=(1.0, 1.0, 1.0))
MIXED = InputSpec(33, 57, "center", 3, False, "bgr", (1.5, 2.5, 3.5), (2.0, 3.0, 7.0))


def image_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("spec", [PLAIN, CENTERED, YOLOX, MIXED])
def test_equal_to_letterbox_and_normalization_of_the_tasks(spec: InputSpec) -> None:
    sizes = [(48, 64), (30, 90), (90, 30), (1, 1), (1, 200), (200, 1), (64, 64), (20, 20), (300, 400)]
    images = [image_of(*size) for size in sizes]
    writer = InputWriter(spec)
    batch = writer.new_batch(len(images))
    batch[:] = np.nan  # memory that was used before
    placements = writer.write(images, batch)
    placed = [spec.place(image) for image in images]
    expected = normalize_images(torch.from_numpy(np.stack([array for array, _ in placed])), spec).numpy()
    assert np.array_equal(batch, expected)
    assert placements == [placement for _, placement in placed]


def test_memory_may_be_larger_than_the_batch() -> None:
    writer = InputWriter(PLAIN)
    batch = np.full((3, 3, 48, 64), 7, np.float32)
    assert len(writer.write([image_of(48, 64)], batch)) == 1
    assert (batch[1:] == 7).all()
    assert (batch[0] <= 1).all()


def test_views_of_other_arrays() -> None:
    image = image_of(30, 40)
    writer = InputWriter(PLAIN)
    for view in (image[:, :, ::-1], image[::-1], image[::2, ::3], image.transpose(1, 0, 2)):
        batches = [writer.new_batch(1) for _ in range(2)]
        writer.write([view], batches[0])
        writer.write([view.copy()], batches[1])
        assert np.array_equal(*batches)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_image(image: np.ndarray) -> None:
    writer = InputWriter(PLAIN)
    with pytest.raises(ValueError, match="image must be HxWx3 uint8 and not empty"):
        writer.write([image], writer.new_batch(1))
