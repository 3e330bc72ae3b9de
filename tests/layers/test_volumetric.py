from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.layers.cpu.switch import use_cpu_layers
from detseg.layers.volumetric import (
    BlockSettings,
    ConvNorm,
    DownStage,
    ResidualStage,
    SameConv3d,
    UpStage,
    fold_batch_norm_3d,
)

PLAIN = BlockSettings(kernel_size=3, norm="none", activation="prelu")


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(
    ("kernel_size", "size"), [(3, (2, 2, 2)), (3, (5, 7, 5)), (5, (4, 4, 4)), (5, (8, 3, 8)), (5, (6, 8, 6))]
)
def test_gradients_in_16_bits_are_those_in_32(
    kernel_size: int,
    size: tuple[int, int, int],
    layout: torch.memory_format,
    fast: bool,
    request: pytest.FixtureRequest,
) -> None:
    """On the CPU, where torch's own may hold memory never written if the kernel is longer than the volume; whether
    ``layers/cpu`` is used or not."""
    request.addfinalizer(partial(use_cpu_layers, True))
    use_cpu_layers(fast)
    conv = SameConv3d(32, 32, kernel_size, bias=False)
    volumes = randn(2, 32, *size).contiguous(memory_format=layout)

    def gradients(bf16: bool) -> tuple[Tensor, ...]:
        x = volumes.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            out = conv(x)
        assert out.dtype == (torch.bfloat16 if bf16 else torch.float32)
        return torch.autograd.grad((out.float() * randn(*out.shape)).sum(), (x, conv.weight))

    for in_bf16, expected in zip(gradients(True), gradients(False), strict=True):
        # Sums are rounded to 16 bits once or, by processors without bfloat16, several times.
        assert (in_bf16 - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize(
    ("in_channels", "out_channels", "size"),
    [
        (16, 16, (9, 8, 8)),  # Winograd
        (16, 16, (2, 3, 1)),  # few voxels
        (32, 3, (7, 6, 5)),  # few outputs
        (32, 3, (1, 6, 5)),
        (1, 16, (9, 8, 8)),  # as it is
        (16, 3, (9, 8, 8)),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_every_way_gives_the_same_convolution(
    in_channels: int,
    out_channels: int,
    size: tuple[int, int, int],
    kernel_size: int,
    bias: bool,
    layout: torch.memory_format,
) -> None:
    torch.manual_seed(0)
    conv = SameConv3d(in_channels, out_channels, kernel_size, bias)
    x = randn(2, in_channels, *size).to(memory_format=layout).requires_grad_()
    parameters = tuple(conv.parameters())
    exact_x, *exact = (value.detach().double().requires_grad_() for value in (x, *parameters))
    out, expected = conv(x), F.conv3d(exact_x, *exact, padding=kernel_size // 2)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-5)
    grad = randn(*out.shape)
    grads = torch.autograd.grad(out, (x, *parameters), grad)
    for own, other in zip(grads, torch.autograd.grad(expected, (exact_x, *exact), grad.double()), strict=True):
        scale = other.abs().max()
        torch.testing.assert_close(own.double() / scale, other / scale, rtol=0, atol=1e-5)


def test_prepared_weights_give_the_same_and_do_not_outlive_new_ones() -> None:
    torch.manual_seed(0)
    conv, other = SameConv3d(16, 16, 3, False), SameConv3d(16, 16, 3, False)
    x = randn(1, 16, 8, 8, 8)
    before = conv(x)
    conv.prepare()
    assert conv.points is not None
    assert torch.equal(conv(x), before)
    assert set(conv.state_dict()) == {"weight"}, "what is made from the weights is not saved"
    conv.load_state_dict(other.state_dict())
    assert torch.equal(conv(x), other(x))


def test_unknown_norm_and_activation_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown norm 'layer'; use batch, instance or none"):
        BlockSettings(norm="layer").make_norm(4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown activation 'relu'; use prelu or elu"):
        BlockSettings(activation="relu").make_activation(4)  # type: ignore[arg-type]


@pytest.mark.parametrize(("norm", "expected"), [("batch", False), ("instance", False), ("none", True)])
def test_only_without_a_norm_has_a_convolution_a_bias(norm: str, expected: bool) -> None:
    settings = BlockSettings(norm=norm)  # type: ignore[arg-type]
    assert (settings.same_conv(4, 4).conv.bias is not None) is expected


def make_identity(stage: ResidualStage) -> None:
    """Convolutions that give their (first) input channel back."""
    with torch.no_grad():
        for conv in stage.convs:
            weight = conv.conv.weight
            middle = weight.shape[-1] // 2
            weight.zero_()
            for channel in range(len(weight)):
                weight[channel, channel % weight.shape[1], middle, middle, middle] = 1
            conv.conv.bias.zero_()


@pytest.mark.parametrize(
    ("num_convolutions", "before_sum", "at_minus_eight"),
    [
        # PReLU of slope 1/4; by hand: -8 -> sum -16 -> -4.
        (1, False, -4.0),
        # -8 -> -2 before the sum: -10 -> -2.5.
        (1, True, -2.5),
        (2, False, -2.5),
        # -8 -> -2 -> -0.5, sum -8.5.
        (2, True, -2.125),
    ],
)
def test_residual_stage_by_hand(num_convolutions: int, before_sum: bool, at_minus_eight: float) -> None:
    settings = BlockSettings(3, "none", "prelu", before_sum)
    stage = ResidualStage(2, 2, num_convolutions, settings)
    make_identity(stage)
    x = torch.full((1, 2, 3, 3, 3), 4.0)
    x[:, 1] = -8
    out = stage(x)
    assert torch.equal(out[:, 0], torch.full((1, 3, 3, 3), 8.0))
    assert torch.equal(out[:, 1], torch.full((1, 3, 3, 3), at_minus_eight))


@pytest.mark.parametrize("in_channels", [1, 2])
def test_a_wider_stage_repeats_its_input(in_channels: int) -> None:
    """MONAI's order: channels 0, 1, 0, 1."""
    stage = ResidualStage(in_channels, 4, 1, PLAIN)
    for parameter in stage.convs.parameters():
        nn.init.zeros_(parameter)
    x = torch.tensor([1.0, 3.0][:in_channels]).view(1, in_channels, 1, 1, 1).expand(1, in_channels, 2, 2, 2)
    expected = [1.0, 3.0, 1.0, 3.0] if in_channels == 2 else [1.0] * 4
    assert stage(x)[0, :, 0, 1, 0].tolist() == expected


def test_down_stage_halves_where_it_strides_and_drops_only_before_its_convolutions() -> None:
    torch.manual_seed(0)
    down = DownStage(2, 4, 1, (1, 2, 2), 0.999, PLAIN)
    assert down.eval()(randn(1, 2, 3, 8, 6)).shape == (1, 4, 3, 4, 3)
    x = randn(1, 2, 3, 8, 6)
    assert down.stage.convs[0].conv.bias is not None
    nn.init.zeros_(down.stage.convs[0].conv.bias)
    shortcut = down.resample_act(down.resample(x))
    torch.testing.assert_close(down.train()(x), down.stage.act(shortcut))


def test_up_stage_joins_what_is_forwarded() -> None:
    torch.manual_seed(0)
    up = UpStage(8, 3, 2, (2, 2, 1), 0.0, 0.999, PLAIN)
    x, skip = randn(2, 8, 2, 3, 4), randn(2, 3, 4, 6, 4)
    assert up.eval()(x, skip).shape == (2, 6, 4, 6, 4)
    joined = torch.cat((up.resample_act(up.resample(x)), skip), dim=1)
    torch.testing.assert_close(up(x, skip), up.stage(joined))
    joined = torch.cat((up.resample_act(up.resample(x)), torch.zeros_like(skip)), dim=1)
    up.train()
    torch.manual_seed(1)
    torch.testing.assert_close(up(x, skip), up.stage(joined))


def settle(norm: nn.BatchNorm3d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.copy_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(len(tensor))) + 0.5)


def test_folding_by_hand() -> None:
    """(2 x + 3 - 1) / sqrt(4 + 0) * 5 + 7 = 5 x + 12."""
    conv, norm = nn.Conv3d(1, 1, 1), nn.BatchNorm3d(1, eps=0)
    for tensor, value in ((conv.weight, 2), (conv.bias, 3), (norm.weight, 5), (norm.bias, 7)):
        assert tensor is not None
        nn.init.constant_(tensor, value)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.fill_(1)
    norm.running_var.fill_(4)
    folded = fold_batch_norm_3d(conv, norm)
    assert folded.bias is not None
    assert (folded.weight.item(), folded.bias.item()) == (5.0, 12.0)


@pytest.mark.parametrize("conv", [nn.Conv3d(3, 4, 2, 2, bias=False), nn.ConvTranspose3d(3, 4, 2, 2)])
def test_fusing_changes_nothing(conv: nn.Conv3d | nn.ConvTranspose3d) -> None:
    module = ConvNorm(conv, BlockSettings()).eval()
    assert isinstance(module.norm, nn.BatchNorm3d)
    settle(module.norm)
    x = randn(2, 3, 4, 4, 4)
    fused = copy.deepcopy(module)
    state = torch.get_rng_state()
    fused.fuse()
    fused.fuse()
    assert torch.equal(state, torch.get_rng_state())
    assert isinstance(fused.norm, nn.Identity)
    torch.testing.assert_close(fused(x), module(x), rtol=1e-5, atol=1e-5)
