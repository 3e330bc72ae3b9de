"""The masks that tensors make are those of the torch-free runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from detseg.ops.masks import masks_on_device, with_masks
from detseg.runtime.inputs.geometry import InputSpec, transform_of
from detseg.runtime.postprocess import masks as numpy_masks
from detseg.structures import Detections, LetterboxTransform

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def example(height: int, width: int, count: int = 7) -> tuple[Detections, Any, Any, LetterboxTransform]:
    generator = np.random.default_rng(height)
    corners = np.sort(generator.uniform(-0.1, 1.1, (count, 2, 2)), axis=1) * [width, height]
    corners[:1] = [[0, 0], [width, height]]
    boxes = corners.reshape(-1, 4).astype(np.float32).clip(0, [width, height] * 2).astype(np.float32)
    found = Detections(boxes, np.linspace(1, 0.5, count, dtype=np.float32), np.zeros(count, np.int64))
    coefficients = generator.normal(size=(count, 6)).astype(np.float32)
    prototypes = generator.normal(size=(6, 24, 32)).astype(np.float32)
    return found, coefficients, prototypes, transform_of(height, width, InputSpec(96, 128))


@pytest.mark.parametrize("size", [(96, 128), (200, 133), (30, 500), (1, 1)])
@pytest.mark.parametrize("max_pixels", [1, 60_000, 2**25])
@pytest.mark.parametrize("device", DEVICES)
def test_masks_made_on_a_device_equal_those_of_numpy(size, max_pixels, device) -> None:
    found, coefficients, prototypes, transform = example(*size)
    expected = numpy_masks.with_masks(found, coefficients, prototypes, transform, 4).masks
    tensors = (torch.from_numpy(one).to(device) for one in (coefficients, prototypes))
    made = masks_on_device(found, *tensors, transform, 4, max_pixels)
    assert len(made) == len(expected)
    assert sum(mask.area for mask in expected) > 0
    for one, other in zip(made, expected, strict=True):
        assert (one.height, one.width) == size
        # Of thousands of pixels hardly one has a logit of 0 but for rounding.
        assert one.area + other.area - 2 * one.intersection(other) <= 1


def test_nothing_found_has_no_masks() -> None:
    _, _, prototypes, transform = example(20, 30)
    assert masks_on_device(Detections.empty(), torch.zeros(0, 6), torch.from_numpy(prototypes), transform, 4) == ()


def test_on_the_cpu_it_is_the_code_of_the_runtime() -> None:
    found, coefficients, prototypes, transform = example(50, 60)
    made = with_masks(found, torch.from_numpy(coefficients), torch.from_numpy(prototypes), transform, 4)
    assert made.masks == numpy_masks.with_masks(found, coefficients, prototypes, transform, 4).masks
    half = with_masks(found, torch.from_numpy(coefficients).half(), torch.from_numpy(prototypes).half(), transform, 4)
    assert [mask.area for mask in half.masks] == pytest.approx([mask.area for mask in made.masks], rel=0.05, abs=5)
