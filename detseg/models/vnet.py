"""V-Net, a residual encoder and decoder for volumes (Milletari, Navab and Ahmadi, 3DV 2016, arXiv 1606.04797)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.layers.cpu.volume_pointwise import PointwiseConv3d
from detseg.layers.volumetric import (
    BlockSettings,
    ConvNorm,
    DownStage,
    ResidualStage,
    UpStage,
    VolumeActivation,
    VolumeNorm,
)
from detseg.volumes import Shape3

VNetStyle = Literal["paper", "monai"]

PRELU_INITIAL_SLOPE = 0.25


@dataclass(frozen=True)
class VNetConfig:
    """Settings of ``VNet``; the defaults are the paper's network, with batch norm.

    Level 0 has the resolution of the input; each further level is coarser by its stride and twice as wide.
    """

    name: str = "vnet"
    in_channels: int = 1
    """Channels of the input."""
    width: int = 16
    """Channels on the way down at level 0."""
    max_width: int | None = None
    """No level is wider on the way down; null: no limit."""
    num_convolutions: tuple[int, ...] = (1, 2, 3, 3, 3)
    """Convolutions of each level on the way down; their number is the number of levels."""
    num_blocks: tuple[int, ...] | None = None
    """Residual stages of each level on the way down, each with its convolutions; null: one. More of them make a
    residual encoder, which is heavier than its decoder (Isensee et al., MICCAI 2024)."""
    num_up_convolutions: tuple[int, ...] | None = None
    """Convolutions of each level but the coarsest on the way up, the finest first; null: as on the way down."""
    kernel_size: int = 5
    """Side of the convolutions that keep the size: 3 or 5."""
    norm: VolumeNorm = "batch"
    """The norm after every convolution but the last; the paper has none."""
    activation: VolumeActivation = "prelu"
    """The activation after every norm; the paper has PReLU."""
    strides: tuple[Shape3, ...] | None = None
    """Strides between each level and the next along depth, height, width; null: 2 everywhere. For volumes with thick
    slices, start with strides such as (1, 2, 2)."""
    dropout: float = 0.0
    """Probability that a channel is dropped in training, where MONAI drops them: before the convolutions of the two
    coarsest levels on the way down, before the first two transposed convolutions, and in all forwarded features. The
    paper drops none."""
    deep_supervision: bool = False
    """In training, also give logits at every coarser level of the way up."""
    style: VNetStyle = "paper"
    """``monai`` for the details in which MONAI's network differs from the paper's, see ``VNet``."""

    def __post_init__(self) -> None:
        num_levels = len(self.num_convolutions)
        if num_levels < 2 or min(self.num_convolutions) < 1:
            raise ValueError(
                f"num_convolutions must be at least two positive numbers, one per level; got {self.num_convolutions}"
            )
        up = self.num_up_convolutions
        if up is not None and (len(up) != num_levels - 1 or min(up) < 1):
            raise ValueError(
                f"num_up_convolutions must be {num_levels - 1} positive numbers, one for each level but the coarsest; "
                f"got {up}"
            )
        if self.num_blocks is not None and (len(self.num_blocks) != num_levels or min(self.num_blocks) < 1):
            raise ValueError(f"num_blocks must be {num_levels} positive numbers, one per level; got {self.num_blocks}")
        if self.in_channels < 1 or self.width < 1:
            raise ValueError(f"width and in_channels must be positive; got {self.width} and {self.in_channels}")
        if self.max_width is not None and self.max_width < self.width:
            raise ValueError(f"max_width must be at least the width, {self.width}; got {self.max_width}")
        if self.kernel_size not in (3, 5):
            raise ValueError(f"kernel_size must be 3 or 5, got {self.kernel_size}")
        for setting, kind in (("norm", VolumeNorm), ("activation", VolumeActivation), ("style", VNetStyle)):
            if getattr(self, setting) not in get_args(kind):
                raise ValueError(
                    f"{setting} must be one of {', '.join(get_args(kind))}; got {getattr(self, setting)!r}"
                )
        if self.strides is not None and (
            len(self.strides) != num_levels - 1
            or any(len(stride) != 3 or min(stride) < 1 or max(stride) < 2 for stride in self.strides)
        ):
            raise ValueError(
                f"strides must be {num_levels - 1} triples (depth, height, width) of positive numbers, not all 1; got "
                f"{self.strides}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be a probability from 0 to below 1, got {self.dropout}")

    def build(self, num_classes: int) -> VNet:
        """The network for ``num_classes`` classes, background among them, freshly initialized.

        Raises:
            ValueError: ``num_classes`` is not positive.
        """
        return VNet(self, num_classes)


MONAI_VNET = VNetConfig(
    num_convolutions=(1, 1, 2, 3, 2), num_up_convolutions=(1, 1, 2, 2), activation="elu", dropout=0.5, style="monai"
)
"""The network of MONAI 1.6's ``VNet()``; with ``activation="prelu"``, of its ``VNet(act="prelu")``."""


class OutputStage(nn.Module):
    """MONAI's output: a convolution to the classes as large as the others, with norm and activation, before the
    pointwise one."""

    def __init__(self, in_channels: int, num_classes: int, settings: BlockSettings) -> None:
        super().__init__()
        self.hidden = settings.same_conv(in_channels, num_classes)
        self.act = settings.make_activation(num_classes)
        self.conv = PointwiseConv3d(num_classes, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, D, H, W]`` -> ``[B, num_classes, D, H, W]``."""
        out: Tensor = self.conv(self.act(self.hidden(x)))
        return out


class VNet(nn.Module):
    """Volumes to class logits of the same size.

    With ``MONAI_VNET`` and MONAI's weights, which ``load_weights`` knows by their names, it computes what the ``VNet``
    of MONAI 1.6 does, in training also. Where that network (style "monai") differs from the paper:

    - stages of 1, 1, 2, 3, 2 convolutions on the way down and 2, 2, 1, 1 on the way up, not 1, 2, 3, 3, 3 and their
      mirror image 3, 3, 2, 1;
    - the last convolution of a stage has a norm and an activation of its own before the residual sum, except in the
      first stage; in the paper the sum takes the convolution itself, as here in style "paper";
    - a convolution to the classes as large as the others, with norm and activation, stands before the pointwise one;
    - batch norm after every convolution but the last, and dropout; ELU unless told otherwise. The paper has PReLU and
      neither norm nor dropout.

    New weights are drawn by He et al.'s rule for PReLU (arXiv 1502.01852), in either style.

    Inputs of any size are padded with zeros at their far ends to a multiple of the strides' product, ``stride``, and
    the result is cut back. Instance norm needs two voxels at the coarsest level: it has the width padded to twice that
    at least.
    """

    def __init__(self, config: VNetConfig, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        if num_classes < 1:
            raise ValueError(f"num_classes must be positive, got {num_classes}")
        self.num_classes = num_classes
        num_levels = len(config.num_convolutions)
        self.strides = strides = config.strides or ((2, 2, 2),) * (num_levels - 1)
        self.stride = tuple(math.prod(steps) for steps in zip(*strides, strict=True))
        self.norm = config.norm
        widths = [config.width << level for level in range(num_levels)]
        if config.max_width is not None:
            widths = [min(width, config.max_width) for width in widths]
        monai = config.style == "monai"
        first = BlockSettings(config.kernel_size, config.norm, config.activation)
        settings = replace(first, activate_before_sum=monai)

        self.stem = ResidualStage(config.in_channels, config.width, config.num_convolutions[0], first)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        blocks = config.num_blocks or (1,) * num_levels
        # Beside the stages, so that weights without further blocks keep their names.
        self.more_blocks = nn.ModuleList(
            nn.Sequential(*(ResidualStage(width, width, count, settings) for _ in range(more - 1)))
            for width, count, more in zip(widths, config.num_convolutions, blocks, strict=True)
        )
        for level in range(1, num_levels):
            dropout = config.dropout if level >= num_levels - 2 else 0.0
            num_convolutions = config.num_convolutions[level]
            stride = strides[level - 1]
            self.downs.append(DownStage(widths[level - 1], widths[level], num_convolutions, stride, dropout, settings))
        in_channels = widths[-1]
        for level in reversed(range(num_levels - 1)):
            dropout = config.dropout if level >= num_levels - 3 else 0.0
            num_convolutions = (config.num_up_convolutions or config.num_convolutions)[level]
            skip_channels, stride = widths[level], strides[level]
            self.ups.append(
                UpStage(in_channels, skip_channels, num_convolutions, stride, dropout, config.dropout, settings)
            )
            in_channels = 2 * skip_channels
        self.classifier: nn.Module = (
            OutputStage(in_channels, num_classes, settings) if monai else PointwiseConv3d(in_channels, num_classes)
        )
        supervised = widths[1:-1] if config.deep_supervision else []
        self.coarse_classifiers = nn.ModuleList(PointwiseConv3d(2 * width, num_classes) for width in supervised)
        for module in self.modules():
            if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
                nn.init.kaiming_normal_(module.weight, a=PRELU_INITIAL_SLOPE)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Class logits.

        Args:
            images: ``[B, in_channels, D, H, W]`` floating point, of any size.

        Returns:
            ``[B, num_classes, D, H, W]``. In training with deep supervision a tuple, the finest first, one for every
            level but the coarsest; sizes are divided by the strides and rounded up.

        Raises:
            ValueError: in training with batch norm, if a single voxel is left at the coarsest level of the batch.
        """
        x = self._pad(images)
        if x.device.type == "cpu":
            # Channels beside each other in memory: convolutions need not rearrange their inputs and outputs.
            x = x.to(memory_format=torch.channels_last_3d)
        x = self.more_blocks[0](self.stem(x))
        skips = []
        for down, more in zip(self.downs, self.more_blocks[1:], strict=True):
            skips.append(x)
            x = more(down(x))
        supervised = []
        for up in self.ups:
            x = up(x, skips.pop())
            supervised.append(x)
        depth, height, width = images.shape[2:]
        logits: Tensor = self.classifier(x)[..., :depth, :height, :width]
        if not (self.training and self.coarse_classifiers):
            return logits
        outputs = [logits]
        features = reversed(supervised[:-1])
        for classifier, x, stride in zip(self.coarse_classifiers, features, self.strides, strict=False):
            depth, height, width = (
                -(-length // step) for length, step in zip((depth, height, width), stride, strict=True)
            )
            outputs.append(classifier(x)[..., :depth, :height, :width])
        return tuple(outputs)

    def _pad(self, images: Tensor) -> Tensor:
        batch, _, *size = images.shape
        padded = [(length + step - 1) // step * step for length, step in zip(size, self.stride, strict=True)]
        if self.norm == "instance":
            padded[2] = torch.sym_max(padded[2], 2 * self.stride[2])
        if not torch.compiler.is_compiling():
            if self.training and self.norm == "batch" and batch * math.prod(padded) == math.prod(self.stride):
                raise ValueError(
                    f"training with batch norm needs two voxels at the coarsest level: a batch of one and "
                    f"{'x'.join(map(str, size))} voxels leave one; use larger patches, larger batches or instance norm"
                )
            if padded == size:
                return images
        amounts = [new - length for length, new in zip(size, padded, strict=True)]
        return F.pad(images, (0, amounts[2], 0, amounts[1], 0, amounts[0]))

    @torch.no_grad()
    def fuse(self) -> Self:
        """Fold batch norms into convolutions and transform their weights, in place, for inference.

        Raises:
            ValueError: the network is in training mode.
        """
        if self.training:
            raise ValueError("a model in training mode cannot be fused; call model.eval() first")
        self.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fuse()
        return self
