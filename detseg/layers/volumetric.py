"""The blocks of 3-D networks: convolutions with a norm, and V-Net's stages.

Shapes: ``B`` volumes, ``C`` channels, ``O`` output channels, ``D``, ``H``, ``W`` depth, height, width, ``K`` taps.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from detseg.layers.autocast import in_32_bits, learns_in_16_bits
from detseg.layers.cpu.norm_act import norm_act
from detseg.layers.cpu.volume_conv import fast_same_conv3d, prepared
from detseg.layers.cpu.volume_pointwise import InstanceNorm3d, PReLU
from detseg.volumes import Shape3

VolumeNorm = Literal["batch", "instance", "none"]
VolumeActivation = Literal["prelu", "elu"]

Conv3dT = TypeVar("Conv3dT", bound=nn.Conv3d | nn.ConvTranspose3d)

NO_ACTIVATION = nn.Identity()


@dataclass(frozen=True)
class BlockSettings:
    """What the stages of a network have in common.

    ``kernel_size`` of the convolutions that keep the size; ``norm`` and ``activation`` after each convolution;
    ``activate_before_sum``: whether the last convolution of a stage has its activation before the residual sum too.
    """

    kernel_size: int = 5
    norm: VolumeNorm = "batch"
    activation: VolumeActivation = "prelu"
    activate_before_sum: bool = False

    def make_norm(self, channels: int) -> nn.Module:
        """A new norm of ``[B, channels, D, H, W]``; ``none`` is the identity.

        Raises:
            ValueError: ``norm`` is not one of the known norms.
        """
        match self.norm:
            case "batch":
                return nn.BatchNorm3d(channels)
            case "instance":
                return InstanceNorm3d(channels)
            case "none":
                return nn.Identity()
        raise ValueError(f"unknown norm {self.norm!r}; use batch, instance or none")

    def make_activation(self, channels: int) -> nn.Module:
        """A new activation; ``prelu`` learns a slope per channel.

        Raises:
            ValueError: ``activation`` is not one of the known activations.
        """
        match self.activation:
            case "prelu":
                return PReLU(channels)
            case "elu":
                return nn.ELU()
        raise ValueError(f"unknown activation {self.activation!r}; use prelu or elu")

    def same_conv(self, in_channels: int, channels: int) -> ConvNorm:
        """A convolution that keeps the size, and a norm."""
        return ConvNorm(SameConv3d(in_channels, channels, self.kernel_size, self.norm == "none"), self)


class SameConv3d(nn.Conv3d):
    """A convolution that keeps the size: ``nn.Conv3d`` by name and result, faster on the CPU."""

    points: Tensor | None

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: bool) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)
        self.register_buffer("points", None, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """``[B, C, D, H, W]`` -> ``[B, O, D, H, W]``."""
        if learns_in_16_bits(input) and min(input.shape[2:]) < self.kernel_size[0]:
            return in_32_bits(self.forward, input)
        out = fast_same_conv3d(input, self.weight, self.bias, self.points)
        return super().forward(input) if out is None else out

    def prepare(self) -> None:
        """Transform the weights once, for inference."""
        self.points = prepared(self.weight.detach())

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        # Made from the weights that are now replaced.
        self.points = None
        super()._load_from_state_dict(*args, **options)


class ConvNorm(nn.Module):
    """A convolution, transposed or not, and a norm."""

    def __init__(self, conv: nn.Conv3d | nn.ConvTranspose3d, settings: BlockSettings) -> None:
        super().__init__()
        self.conv = conv
        self.norm = settings.make_norm(conv.out_channels)

    def forward(self, x: Tensor, activation: nn.Module = NO_ACTIVATION) -> Tensor:
        """``[B, C, D, H, W]`` -> what the convolution makes of it, normed and then activated."""
        return norm_act(self.norm, activation, self.conv(x))

    @torch.no_grad()
    def fuse(self) -> None:
        """Replace convolution and batch norm, in place, by one convolution equal to both in evaluation mode; other
        norms stay."""
        if isinstance(self.norm, nn.BatchNorm3d):
            self.conv = fold_batch_norm_3d(self.conv, self.norm)
            self.norm = nn.Identity()
        if isinstance(self.conv, SameConv3d):
            self.conv.prepare()


class ResidualStage(nn.Module):
    """Convolutions that keep the size, whose result is added to their input (V-Net, section 2).

    Activations stand between the convolutions and after the sum. Where the stage is wider than its input, the input is
    repeated to be added, as often as it takes, and cut to the width.
    """

    def __init__(self, in_channels: int, channels: int, num_convolutions: int, settings: BlockSettings) -> None:
        super().__init__()
        self.repeats = -(-channels // in_channels)
        self.channels = channels
        widths = [in_channels] + [channels] * (num_convolutions - 1)
        self.convs = nn.ModuleList(settings.same_conv(width, channels) for width in widths)
        num_inner = num_convolutions if settings.activate_before_sum else num_convolutions - 1
        self.inner_acts = nn.ModuleList(settings.make_activation(channels) for _ in range(num_inner))
        self.act = settings.make_activation(channels)

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """``[B, in_channels, D, H, W]`` -> ``[B, channels, D, H, W]``; ``shortcut``, if given, is added instead of
        ``x``."""
        shortcut = x if shortcut is None else shortcut
        if self.repeats > 1:
            shortcut = shortcut.repeat(1, self.repeats, 1, 1, 1) if shortcut.shape[1] > 1 else shortcut
        if shortcut.shape[1] > self.channels:
            shortcut = shortcut[:, : self.channels]
        for index, conv in enumerate(self.convs):
            x = conv(x, self.inner_acts[index]) if index < len(self.inner_acts) else conv(x)
        out: Tensor = self.act(x + shortcut)
        return out


class DownStage(nn.Module):
    """A strided convolution instead of pooling, then a residual stage.

    ``dropout`` is the probability that a channel of what enters the stage's convolutions is zeroed in training.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_convolutions: int,
        stride: Shape3,
        dropout: float,
        settings: BlockSettings,
    ) -> None:
        super().__init__()
        conv = nn.Conv3d(in_channels, channels, stride, stride, bias=settings.norm == "none")
        self.resample = ConvNorm(conv, settings)
        self.resample_act = settings.make_activation(channels)
        self.dropout = make_dropout(dropout)
        self.stage = ResidualStage(channels, channels, num_convolutions, settings)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, D, H, W]`` -> ``[B, channels, D / stride, H / stride, W / stride]``."""
        x = self.resample(x, self.resample_act)
        out: Tensor = self.stage(self.dropout(x), shortcut=x)
        return out


class UpStage(nn.Module):
    """A transposed convolution, the features forwarded from the way down beside its result, then a residual stage.

    ``dropout`` and ``skip_dropout`` are the probabilities that a channel of the input and of the forwarded features is
    zeroed in training.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        num_convolutions: int,
        stride: Shape3,
        dropout: float,
        skip_dropout: float,
        settings: BlockSettings,
    ) -> None:
        super().__init__()
        self.dropout = make_dropout(dropout)
        self.skip_dropout = make_dropout(skip_dropout)
        # A norm cancels the bias, but MONAI's weights hold one.
        self.resample = ConvNorm(nn.ConvTranspose3d(in_channels, skip_channels, stride, stride), settings)
        self.resample_act = settings.make_activation(skip_channels)
        self.stage = ResidualStage(2 * skip_channels, 2 * skip_channels, num_convolutions, settings)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """``x`` ``[B, in_channels, d, h, w]`` and ``skip`` ``[B, skip_channels, D, H, W]``, larger by the stride, ->
        ``[B, 2 skip_channels, D, H, W]``."""
        # In this order, in which MONAI draws from the random state.
        x, skip = self.dropout(x), self.skip_dropout(skip)
        x = self.resample(x, self.resample_act)
        out: Tensor = self.stage(torch.cat((x, skip), dim=1))
        return out


def make_dropout(probability: float) -> nn.Module:
    """What zeroes whole channels in training with this probability."""
    return nn.Dropout3d(probability) if probability else nn.Identity()


@torch.no_grad()
def fold_batch_norm_3d(conv: Conv3dT, norm: nn.BatchNorm3d) -> Conv3dT:
    """A convolution with bias equal to ``norm(conv(x))`` in evaluation mode, computed in double precision."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.double() - norm.running_mean.double() * scale
    bias = shift if conv.bias is None else shift + conv.bias.double() * scale
    # A copy, because a new convolution would draw its initial weights from the global random state.
    folded = copy.deepcopy(conv)
    scale = scale.view((1, -1, 1, 1, 1) if isinstance(conv, nn.ConvTranspose3d) else (-1, 1, 1, 1, 1))
    folded.weight.copy_(conv.weight.double() * scale)
    folded.bias = nn.Parameter(bias.to(conv.weight.dtype))
    folded.requires_grad_(False)
    return folded
