"""Decoding that is defined to the last bit: near the exact values, and monotone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detseg.ops.decode import decode
from detseg.ops.exact_decode import decode_exactly, exponential, sigmoid
from detseg.ops.nms import batched_nms
from detseg.ops.nms_of_maps import nms_of_maps
from detseg.runtime.postprocess.nms import lowest_logit

STRIDES = (8, 16)


def units(found: Tensor, exact: Tensor) -> float:
    """The largest error in units in the last place."""
    spacing = np.spacing(exact.numpy().astype(np.float32)).astype(np.float64)
    return float(np.abs((found.double().numpy() - exact.numpy()) / spacing).max())


def test_exponential_and_sigmoid_are_near_the_exact_values() -> None:
    x = torch.cat([torch.linspace(-79, 79, 200_001), torch.linspace(-1, 1, 100_001)])
    assert units(exponential(x), x.double().exp()) <= 2
    assert units(sigmoid(x), x.double().sigmoid()) <= 4
    assert exponential(torch.tensor([0.0, -0.0, 80, 1e9, -80, -1e9])).tolist()[:2] == [1, 1]
    high, higher, low, lower = exponential(torch.tensor([80.0, math.inf, -80, -math.inf])).tolist()
    assert high == higher
    assert low == lower
    assert exponential(torch.tensor([math.nan])).isnan().all()


def test_a_higher_logit_never_has_a_lower_score() -> None:
    """What a threshold on logits rests on. Neighbors in float32, around every place where the whole part changes."""
    centers = torch.arange(-40, 41) * math.log(2) / 2
    steps = torch.arange(-2000, 2001, dtype=torch.int32)
    bits = centers.float().view(torch.int32)[:, None] + steps
    x = bits.flatten().view(torch.float32)
    x = x[x.isfinite()].sort().values
    assert (sigmoid(x).diff() >= 0).all()


@pytest.mark.parametrize("confidence", [0.0, 1e-30, 0.001, 0.01, 0.25, 0.5, 0.75, 0.99, 0.9999999, 1.0])
def test_nothing_below_the_lowest_logit_is_above_the_threshold(confidence: float) -> None:
    lowest = lowest_logit(confidence)
    below = torch.tensor([lowest, lowest - 1, -100.0])
    assert not (sigmoid(below).double() > confidence).any() or lowest == -math.inf
    if 0.001 <= confidence <= 0.99:
        assert sigmoid(torch.tensor(lowest + 0.01 * (1 + abs(lowest)))) > confidence, "it is not needlessly low"


def some_maps(kind: str, num_classes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    channels = {"dfl": 64, "ltrb": 4, "yolox": 5}[kind] + num_classes
    return [torch.randn(2, channels, *size, generator=generator) for size in ((6, 5), (3, 3))]


@pytest.mark.parametrize("kind", ["dfl", "ltrb", "yolox"])
def test_it_is_the_usual_decoding_but_for_rounding(kind: Any) -> None:
    levels = some_maps(kind, 3)
    for found, usual in zip(decode_exactly(kind, levels, STRIDES, 16), decode(kind, levels, STRIDES), strict=True):
        torch.testing.assert_close(found, usual, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("kind", ["dfl", "ltrb", "yolox"])
def test_the_operator_finds_what_decoding_and_nms_find(kind: Any) -> None:
    levels = some_maps(kind, 3)
    for kept, multi_label in ((None, False), (None, True), (torch.tensor([False, True, True]), False)):
        settings: Any = {"confidence": 0.3, "iou": 0.6, "kept": kept, "multi_label": multi_label}
        found = nms_of_maps(kind, levels, STRIDES, 16, **settings)
        usual = batched_nms(*decode(kind, levels, STRIDES), **settings)
        assert torch.equal(found.keep, usual.keep)
        assert torch.equal(found.counts, usual.counts)
        torch.testing.assert_close(found.detections, usual.detections, rtol=2e-6, atol=2e-5)
        assert found.counts.min() > 3


def test_the_operator_is_one_for_compilers() -> None:
    arguments = (some_maps("ltrb", 3), None, "ltrb", [8, 16], 1, 0.3, 0.6, 20, False, False, 1000)
    torch.library.opcheck(torch.ops.detseg.nms_of_maps, arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": (8,)}, "got 2 levels for 1 strides"),
        ({"levels": []}, "got 0 levels for 2 strides"),
        ({"levels": [torch.zeros(1, 7, 2, 2), torch.zeros(1, 8, 1, 1)]}, "one batch, one number of channels"),
        ({"levels": [torch.zeros(1, 7, 2, 2, dtype=torch.int64)] * 2}, "levels must be floating point"),
        ({"levels": [torch.zeros(1, 4, 2, 2)] * 2}, "'ltrb' head with 1 reg_max has more channels than 4"),
        ({"kind": "polar"}, "head kind 'polar' is unknown"),
        ({"kept": torch.ones(2, dtype=torch.bool)}, "one value for each of 3 classes, got"),
        ({"confidence": 1.5}, "confidence must be from 0 to 1, got 1.5"),
        ({"max_detections": 0}, "max_detections must be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"kind": "ltrb", "levels": some_maps("ltrb", 3), "strides": STRIDES, "reg_max": 1}
    arguments |= {"confidence": 0.3, "iou": 0.6, **changes}
    with pytest.raises(ValueError, match=message):
        nms_of_maps(**arguments)
