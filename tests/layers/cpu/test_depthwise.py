"""Depthwise convolutions along one axis, and pointwise ones, against PyTorch's own."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from detseg.layers.conv import ConvNormAct, DepthwiseConv2d
from detseg.layers.cpu.library import library
from detseg.layers.cpu.pointwise import PointwiseConv2d
from detseg.layers.cpu.switch import use_cpu_layers

pytestmark = pytest.mark.skipif(library() is None, reason="there is no C++ compiler")


@pytest.fixture(autouse=True)
def _switched_on() -> Iterator[None]:
    use_cpu_layers(True)
    yield
    use_cpu_layers(True)


def make_conv(channels: int, kernel: tuple[int, int], dilation: int) -> nn.Conv2d:
    torch.manual_seed(0)
    return ConvNormAct(channels, channels, kernel, groups=channels, dilation=dilation).conv


def make_input(*shape: int) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last)


def run(conv: nn.Conv2d, x: Tensor, fast: bool) -> list[Tensor]:
    conv, x = copy.deepcopy(conv), x.clone().requires_grad_()
    use_cpu_layers(fast)
    out = conv(x)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out.dtype))
    assert x.grad is not None
    assert conv.weight.grad is not None
    return [out.detach(), x.grad, conv.weight.grad]


def is_fast(out: Tensor) -> bool:
    return type(out.grad_fn).__name__ == "_TapsBackward"


@pytest.mark.parametrize("kernel", [(3, 1), (1, 3)])
@pytest.mark.parametrize("dilation", [1, 2, 32])
@pytest.mark.parametrize("shape", [(2, 16, 15, 20), (1, 19, 1, 9), (2, 3, 70, 66)])
def test_step_is_that_of_the_plain_layer(kernel: tuple[int, int], dilation: int, shape: tuple[int, ...]) -> None:
    conv, x = make_conv(shape[1], kernel, dilation), make_input(*shape)
    assert type(conv) is DepthwiseConv2d
    assert is_fast(conv(x))
    for fast, exact in zip(run(conv, x, True), run(conv.double(), x.double(), False), strict=True):
        torch.testing.assert_close(fast.double(), exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max()))


@pytest.mark.parametrize("kernel", [(3, 1), (1, 3)])
def test_gradients_in_double(kernel: tuple[int, int]) -> None:
    conv = make_conv(3, kernel, 2).double()
    x = make_input(2, 3, 5, 6).double().requires_grad_()
    assert is_fast(conv(x))
    assert torch.autograd.gradcheck(lambda *_: conv(x), (x, conv.weight))


def test_under_autocast_only_the_ends_are_rounded() -> None:
    conv, x = make_conv(16, (1, 3), 4), make_input(2, 16, 9, 30)
    exact = run(conv.double(), x.bfloat16().double(), False)
    conv.float()
    use_cpu_layers(True)
    with torch.autocast("cpu", torch.bfloat16):
        assert is_fast(conv(x))
        out, grad_x, grad_weight = run(conv, x, True)
    assert out.dtype == torch.bfloat16
    assert grad_x.dtype == grad_weight.dtype == torch.float32
    for found, value in zip((out, grad_x, grad_weight), exact, strict=True):
        torch.testing.assert_close(found.double(), value, rtol=2**-7, atol=2**-7 * float(value.abs().max()))


def test_plain_way_where_the_fast_one_does_not_fit() -> None:
    conv, x = make_conv(16, (1, 3), 4), make_input(2, 16, 9, 30)
    assert not is_fast(conv(x.contiguous()))
    square = make_conv(16, (3, 3), 2)
    assert not is_fast(square(x))
    assert not is_fast(ConvNormAct(16, 16, (1, 3), stride=2, groups=16).conv(x))
    with torch.no_grad():
        assert torch.equal(conv(x), nn.functional.conv2d(x, conv.weight, None, 1, (0, 4), (1, 4), 16))


def test_pointwise_step_is_that_of_the_plain_layer() -> None:
    torch.manual_seed(0)
    conv = PointwiseConv2d(16, 24, bias=True)
    plain = nn.Conv2d(16, 24, 1)
    plain.load_state_dict(conv.state_dict())
    x = make_input(2, 16, 7, 9)
    out = conv(x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert type(out.grad_fn).__name__ == "PermuteBackward0"
    for fast, exact in zip(run(conv, x, True), run(plain.double(), x.double(), False), strict=True):
        torch.testing.assert_close(fast.double(), exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max()))
