from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from detseg.layers.cpu import winograd
from detseg.layers.cpu.winograd import TILE, point_kernels, transforms, winograd_conv3d, winograd_pays


def inputs(shape: tuple[int, ...], out_channels: int, num_taps: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(memory_format=torch.channels_last_3d)
    weight = torch.randn(out_channels, shape[1], num_taps, num_taps, num_taps, generator=generator)
    weight /= (shape[1] * num_taps**3) ** 0.5
    return x, weight, torch.randn(out_channels, generator=generator)


@pytest.mark.parametrize("num_taps", [3, 5])
def test_matrices_filter_one_axis_exactly(num_taps: int) -> None:
    """Whole numbers, by hand: output i of a correlation is the sum of w[k] d[i + k]."""
    matrices = [matrix.double() for matrix in transforms(num_taps)]
    taps = torch.tensor([3.0, -1.0, 2.0, 5.0, -4.0][:num_taps]).double()
    signal = torch.arange(1.0, num_taps + TILE).double() ** 2
    expected = [sum(Fraction(float(taps[k] * signal[i + k])) for k in range(num_taps)) for i in range(TILE)]
    result = matrices[2] @ ((matrices[1] @ taps) * (matrices[0] @ signal))
    torch.testing.assert_close(result, torch.tensor([float(value) for value in expected]).double(), rtol=5e-5, atol=0)
    assert matrices[0].shape == (num_taps + TILE - 1,) * 2, "one multiplication per point"


@pytest.mark.parametrize("num_taps", [3, 5])
@pytest.mark.parametrize("shape", [(2, 16, 8, 6, 5), (1, 3, 1, 4, 2), (2, 5, 7, 1, 3), (3, 4, 13, 9, 1)])
@pytest.mark.parametrize("chunk_bytes", [1, 16 << 20])
def test_equals_the_direct_convolution_and_its_gradients(
    num_taps: int, shape: tuple[int, ...], chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "CHUNK_BYTES", chunk_bytes)
    x, weight, bias = (value.requires_grad_() for value in inputs(shape, 6, num_taps))
    out = winograd_conv3d(x, point_kernels(weight), bias)
    exact = [value.detach().double().requires_grad_() for value in (x, weight, bias)]
    expected = F.conv3d(*exact, padding=num_taps // 2)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=5e-5)
    assert out.is_contiguous(memory_format=torch.channels_last_3d)

    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad(out, (x, weight, bias), grad)
    for own, other in zip(grads, torch.autograd.grad(expected, exact, grad.double()), strict=True):
        scale = other.abs().max()
        torch.testing.assert_close(own.double() / scale, other / scale, rtol=0, atol=1e-5)


def test_any_layout_is_taken_and_only_wanted_gradients_are_made() -> None:
    x, weight, _ = inputs((2, 4, 5, 4, 3), 4, 3)
    expected = F.conv3d(x, weight, padding=1)
    torch.testing.assert_close(winograd_conv3d(x.contiguous(), point_kernels(weight)), expected, rtol=0, atol=1e-5)
    winograd_conv3d(x, point_kernels(weight.requires_grad_())).sum().backward()
    assert weight.grad is not None
    assert x.grad is None


def test_first_use_in_inference_mode_leaves_training_possible() -> None:
    transforms.cache_clear()
    x, weight, _ = inputs((1, 4, 4, 4, 4), 4, 3)
    with torch.inference_mode():
        winograd_conv3d(x, point_kernels(weight))
    winograd_conv3d(x.requires_grad_(), point_kernels(weight.requires_grad_())).sum().backward()


@pytest.mark.parametrize(
    ("shape", "weight_shape", "dtype", "expected"),
    [
        ((1, 16, 8, 8, 8), (16, 16, 3, 3, 3), torch.float32, True),
        ((1, 16, 8, 8, 8), (16, 16, 5, 5, 5), torch.float32, True),
        ((1, 16, 8, 8, 8), (16, 16, 3, 3, 3), torch.float64, False),
        ((1, 16, 8, 8, 8), (16, 16, 3, 3, 3), torch.bfloat16, False),
        ((1, 16, 8, 8, 7), (16, 16, 3, 3, 3), torch.float32, False),
        ((1, 8, 8, 8, 8), (16, 8, 3, 3, 3), torch.float32, False),
        ((1, 16, 8, 8, 8), (3, 16, 3, 3, 3), torch.float32, False),
        ((1, 16, 8, 8, 8), (16, 16, 1, 1, 1), torch.float32, False),
        ((1, 16, 8, 8, 8), (16, 16, 3, 3, 1), torch.float32, False),
        # Six products stand for 2 * 3.
        ((1, 16, 2, 32, 32), (16, 16, 3, 3, 3), torch.float32, False),
    ],
)
def test_where_it_pays(
    shape: tuple[int, ...], weight_shape: tuple[int, ...], dtype: torch.dtype, expected: bool
) -> None:
    assert winograd_pays(torch.zeros(shape, dtype=dtype), torch.zeros(weight_shape, dtype=dtype)) is expected


def test_autocast_and_other_devices_keep_the_direct_convolution() -> None:
    x, weight = torch.zeros(1, 16, 8, 8, 8), torch.zeros(16, 16, 3, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not winograd_pays(x, weight)
    assert not winograd_pays(x.to("meta"), weight.to("meta"))
