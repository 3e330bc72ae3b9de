from __future__ import annotations

import numpy as np
import pytest
import torch

from detseg.runtime.inputs.geometry import InputSpec, fitted
from detseg.runtime.inputs.network_input import InputWriter
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
    batch = np.full(writer.shape(images), np.nan, np.float32)  # memory that was used before
    transforms = writer.write(images, batch)
    placed = [spec.place(image) for image in images]
    expected = normalize_images(torch.from_numpy(np.stack([array for array, _ in placed])), spec).numpy()
    assert np.array_equal(batch, expected)
    assert transforms == [transform for _, transform in placed]


def test_an_input_that_fits_its_images() -> None:
    spec = fitted(InputSpec(64, 96, std=(3.0, 4.0, 5.0)), 32)
    writer = InputWriter(spec)
    # 20x60 and 10x30 grow to 32x96, 64x30 and 128x60 become 64x30
    for sizes, shape in ((((20, 60), (10, 30)), (2, 3, 32, 96)), (((64, 30), (128, 60)), (2, 3, 64, 32))):
        images = [image_of(*size) for size in sizes]
        assert writer.shape(images) == shape
        batch = np.full(shape, np.nan, np.float32)
        transforms = writer.write(images, batch)
        placed = [spec.place(image) for image in images]
        expected = normalize_images(torch.from_numpy(np.stack([array for array, _ in placed])), spec).numpy()
        assert np.array_equal(batch, expected)
        assert transforms == [transform for _, transform in placed]
    with pytest.raises(ValueError, match="a batch takes images whose inputs have one size, got 32x96 and 64x32"):
        writer.shape([image_of(20, 60), image_of(64, 30)])
    with pytest.raises(ValueError, match="inputs have one size, got no images"):
        writer.shape([])


def test_views_of_other_arrays() -> None:
    image = image_of(30, 40)
    writer = InputWriter(PLAIN)
    for view in (image[:, :, ::-1], image[::-1], image[::2, ::3], image.transpose(1, 0, 2)):
        batches = [np.empty(writer.shape([view]), np.float32) for _ in range(2)]
        writer.write([view], batches[0])
        writer.write([view.copy()], batches[1])
        assert np.array_equal(*batches)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_image(image: np.ndarray) -> None:
    writer = InputWriter(PLAIN)
    with pytest.raises(ValueError, match="image must be HxWx3 uint8 and not empty"):
        writer.shape([image])
