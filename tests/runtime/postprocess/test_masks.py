"""Masks from prototypes, against the same written down pixel by pixel, and by hand."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from detseg.runtime.inputs.geometry import InputSpec, transform_of
from detseg.runtime.postprocess.masks import PrototypeMetadata, taps, with_masks
from detseg.structures import Detections, LetterboxTransform


def detections(boxes_xyxy: Any) -> Detections:
    boxes = np.array(boxes_xyxy, np.float32).reshape(-1, 4)
    return Detections(boxes, np.linspace(1, 0.5, len(boxes), dtype=np.float32), np.zeros(len(boxes), np.int64))


def logits_at_pixels(logits: Any, transform: LetterboxTransform, stride: int) -> Any:
    """``[H, W]`` float64: bilinear between the cells' centers at the center of each pixel of the original."""
    rows, columns = logits.shape

    def along(size: int, scale: float, offset: float, num_cells: int) -> tuple[Any, Any, Any]:
        centers = np.clip(((np.arange(size) + 0.5) * scale + offset) / stride - 0.5, 0, num_cells - 1)
        low = np.floor(centers).astype(int)
        return low, np.minimum(low + 1, num_cells - 1), centers - low

    top, bottom, down = along(transform.original_height, transform.scale_y, transform.offset_y, rows)
    left, right, across = along(transform.original_width, transform.scale_x, transform.offset_x, columns)
    down = down[:, None]
    upper = logits[top][:, left] * (1 - across) + logits[top][:, right] * across
    lower = logits[bottom][:, left] * (1 - across) + logits[bottom][:, right] * across
    return upper * (1 - down) + lower * down


@pytest.mark.parametrize("size", [(97, 131), (480, 640), (1080, 607), (20, 900), (1, 1)])
@pytest.mark.parametrize("anchor", ["center", "top_left"])
def test_every_pixel_of_the_original_is_decided_at_its_center(size, anchor) -> None:
    generator = np.random.default_rng(0)
    transform = transform_of(*size, InputSpec(128, 160, anchor=anchor))
    prototypes = generator.normal(size=(6, 32, 40)).astype(np.float32)
    height, width = size
    corners = np.sort(generator.uniform(0, 1, (12, 2, 2)), axis=1) * [width, height]
    corners[0] = [[0, 0], [width, height]]
    coefficients = generator.normal(size=(12, 6)).astype(np.float32)
    found = detections(corners.reshape(12, 4))

    made = with_masks(found, coefficients, prototypes, transform, 4)

    assert made.boxes_xyxy is found.boxes_xyxy
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    for mask, weights, box in zip(made.masks, coefficients, found.boxes_xyxy, strict=True):
        logits = np.tensordot(weights.astype(float), prototypes.astype(float), 1)
        values = logits_at_pixels(logits, transform, 4)
        inside = (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])
        is_clear = np.abs(values) > 1e-4  # arithmetic is in 32 bits
        assert np.array_equal(mask.to_mask()[is_clear], ((values > 0) & inside)[is_clear])


def test_a_mask_by_hand() -> None:
    """Cells of 4 pixels: from -1 to 3 over the 4 pixels between two centers, 0 is a quarter of the way."""
    prototypes = np.array([[[-1.0, 3.0]] * 2], np.float32)
    found = detections([[0, 0, 8, 8], [0, 2, 5, 3], [3.4, 0, 3.5, 8]])
    made = with_masks(found, np.array([[1], [2], [1]], np.float32), prototypes, LetterboxTransform.identity(8, 8), 4)
    rows = [[0, 0, 0, 1, 1, 1, 1, 1]] * 8
    assert made.masks[0].to_mask().astype(int).tolist() == rows
    assert np.argwhere(made.masks[1].to_mask()).tolist() == [[2, 3], [2, 4]]
    assert made.masks[2].area == 0  # no pixel's center lies in that box
    inverted = with_masks(
        found, np.array([[-1], [-1], [-1]], np.float32), prototypes, LetterboxTransform.identity(8, 8), 4
    )
    assert inverted.masks[0].to_mask().astype(int).tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]] * 8


def test_a_logit_of_zero_is_outside() -> None:
    made = with_masks(detections([[0, 0, 4, 4]]), np.zeros((1, 1), np.float32), np.ones((1, 1, 1), np.float32),
                      LetterboxTransform.identity(4, 4), 4)  # fmt: skip
    assert made.masks[0].area == 0


def test_nothing_found_has_no_masks() -> None:
    empty = with_masks(Detections.empty(), np.zeros((0, 3), np.float32), np.zeros((3, 8, 8), np.float32),
                       LetterboxTransform.identity(32, 32), 4)  # fmt: skip
    assert (len(empty), empty.masks) == (0, ())


def test_hundreds_of_objects_on_a_large_image_take_little_memory() -> None:
    """300 whole masks of 3840 x 2160 pixels would be 2.5 GB."""
    height, width = 2160, 3840
    transform = transform_of(height, width, InputSpec(640, 640))
    generator = np.random.default_rng(0)
    prototypes = generator.normal(size=(4, 10, 10)).astype(np.float32).repeat(16, 1).repeat(16, 2)
    centers, sizes = generator.uniform(0, 1, (300, 2)) * [width, height], generator.uniform(20, 200, (300, 2))
    boxes = np.concatenate([centers - sizes, centers + sizes], axis=1).clip(0, [width, height] * 2)
    boxes[0] = [0, 0, width, height]
    coefficients = generator.normal(size=(300, 4)).astype(np.float32)
    tracemalloc.start()
    made = with_masks(detections(boxes), coefficients, prototypes, transform, 4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(mask.area > 0 for mask in made.masks) > 200
    assert peak < 100e6


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 8, (0, 8)), (0.5, 1.5, (0, 1)), (0.51, 1.51, (1, 2)), (-3, 99, (0, 8)), (5, 5, (5, 5)), (6, 2, (6, 6))],
)
def test_pixels_between_two_sides(low, high, expected) -> None:
    found = taps(low, high, 8, 1.0, 0.0, 4, 2)
    assert (found.start, found.stop) == expected
    assert len(found.low) == len(found.weight) == expected[1] - expected[0]


def test_a_single_cell_has_no_neighbor() -> None:
    found = taps(0, 3, 3, 1.0, 0.0, 4, 1)
    assert (found.low.tolist(), found.high.tolist(), found.weight.tolist()) == ([0] * 3, [0] * 3, [0.0] * 3)


@pytest.mark.parametrize("shape", [(2, 3), (1, 4), (1,)])
def test_what_does_not_fit_is_refused(shape) -> None:
    with pytest.raises(ValueError, match=r"1 objects need coefficients \[1, K\] for prototypes"):
        with_masks(detections([[0, 0, 4, 4]]), np.zeros(shape, np.float32), np.zeros((3, 8, 8), np.float32),
                   LetterboxTransform.identity(32, 32), 4)  # fmt: skip


@pytest.mark.parametrize(("count", "stride"), [(0, 4), (32, 0)])
def test_impossible_prototypes(count, stride) -> None:
    with pytest.raises(ValueError, match=f"must be positive, got {count} and {stride}"):
        PrototypeMetadata(count, stride)
