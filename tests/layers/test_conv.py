from __future__ import annotations

import pytest
import torch
from torch import nn

from detseg.layers.conv import ConvNormAct, SeparableConv, fold_batch_norm, fuse, make_activation, make_conv


@pytest.mark.parametrize(
    ("name", "at_minus_two", "at_two"),
    [
        ("silu", -2 / (1 + 7.389056), 2 / (1 + 0.135335)),
        ("relu", 0.0, 2.0),
        ("leaky_relu", -0.2, 2.0),
        ("hardswish", -2 * (3 - 2) / 6, 2 * (3 + 2) / 6),
        ("gelu", -0.0455, 1.9545),
        ("identity", -2.0, 2.0),
    ],
)
def test_activations(name: str, at_minus_two: float, at_two: float) -> None:
    out = make_activation(name)(torch.tensor([-2.0, 2.0]))
    torch.testing.assert_close(out, torch.tensor([at_minus_two, at_two]), rtol=1e-4, atol=1e-5)


def test_prelu_learns_a_slope_per_channel() -> None:
    activation = make_activation("prelu", 3)
    assert isinstance(activation, nn.PReLU)
    assert activation.weight.shape == (3,)


def test_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown activation 'swish'; use silu, .* or identity"):
        make_activation("swish")


@pytest.mark.parametrize(
    ("kernel", "stride", "size", "expected"),
    [(1, 1, 7, 7), (3, 1, 7, 7), (3, 2, 7, 4), (3, 2, 8, 4), (5, 2, 8, 4)],
)
@pytest.mark.parametrize("depthwise", [False, True])
def test_sizes(kernel: int, stride: int, size: int, expected: int, depthwise: bool) -> None:
    out = make_conv(4, 6, kernel, stride, depthwise=depthwise)(torch.rand(1, 4, size, size))
    assert out.shape == (1, 6, expected, expected)


@pytest.mark.parametrize(("kernel", "dilation"), [((3, 1), 4), ((1, 3), 4), (3, 2)])
def test_dilation_and_flat_kernels_keep_the_size(kernel: int | tuple[int, int], dilation: int) -> None:
    assert ConvNormAct(4, 6, kernel, dilation=dilation)(torch.rand(1, 4, 7, 5)).shape == (1, 6, 7, 5)


@pytest.mark.parametrize("dilation", [1, 2, 16])
@pytest.mark.parametrize("kernel", [(1, 3), (3, 1), (3, 3)])
def test_gradients_in_16_bits_are_those_in_32(kernel: tuple[int, int], dilation: int) -> None:
    """On the CPU, with the channels beside each other in memory, where torch's own may hold memory never written."""
    conv = ConvNormAct(64, 64, kernel, groups=64, dilation=dilation).conv
    images = torch.randn(4, 64, 30, 40).contiguous(memory_format=torch.channels_last)
    factor = torch.randn(4, 64, 30, 40).contiguous(memory_format=torch.channels_last)

    def gradients(bf16: bool) -> tuple[torch.Tensor, ...]:
        x = images.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            out = conv(x)
        assert out.dtype == (torch.bfloat16 if bf16 else torch.float32)
        return torch.autograd.grad((out.float() * factor).sum(), (x, conv.weight))

    for in_bf16, expected in zip(gradients(True), gradients(False), strict=True):
        assert (in_bf16 - expected).norm() < 0.01 * expected.norm()


def test_parameter_counts() -> None:
    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(ConvNormAct(4, 6, 3)) == 4 * 6 * 9 + 2 * 6
    assert count(SeparableConv(4, 6, 3)) == (4 * 9 + 2 * 4) + (4 * 6 + 2 * 6)


def test_batch_norm_settings_of_both_families() -> None:
    norm = ConvNormAct(4, 6).bn
    assert isinstance(norm, nn.BatchNorm2d)
    assert (norm.eps, norm.momentum) == (1e-3, 0.03)


def _trained(module: nn.Module) -> nn.Module:
    """The module with weights and statistics that are not those of a new one."""
    generator = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return module.eval()


@pytest.mark.parametrize("module", [ConvNormAct(4, 6, 3, 2), SeparableConv(4, 6), ConvNormAct(4, 4, 3, groups=4)])
def test_fusing_changes_nothing(module: nn.Module) -> None:
    images = torch.rand(2, 4, 9, 8)
    before = _trained(module)(images)
    state = torch.get_rng_state()
    fuse(module)
    fuse(module)
    assert torch.equal(state, torch.get_rng_state())
    assert not any(isinstance(child, nn.BatchNorm2d) for child in module.modules())
    torch.testing.assert_close(module(images), before, rtol=1e-5, atol=1e-5)


def test_folding_keeps_the_convolution_s_own_bias() -> None:
    """By hand: (2 x + 3 - 1) / sqrt(4 + 0) * 5 + 7 = 5 x + 12."""
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0)
    for tensor, value in ((conv.weight, 2), (conv.bias, 3), (norm.weight, 5), (norm.bias, 7)):
        assert tensor is not None
        nn.init.constant_(tensor, value)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.fill_(1)
    norm.running_var.fill_(4)
    folded = fold_batch_norm(conv, norm)
    assert folded.bias is not None
    assert (folded.weight.item(), folded.bias.item()) == (5.0, 12.0)


def test_folding_into_a_transposed_convolution() -> None:
    conv, norm = nn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1), nn.BatchNorm2d(4)
    _trained(norm)
    x = torch.rand(2, 3, 5, 4)
    torch.testing.assert_close(fold_batch_norm(conv, norm)(x), norm(conv(x)), rtol=1e-5, atol=1e-5)


def test_folding_needs_statistics() -> None:
    with pytest.raises(ValueError, match="without running statistics"):
        fold_batch_norm(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, track_running_stats=False))
