"""LETNet, a small network for semantic segmentation (Xu et al., IEEE T-ITS 2023, arXiv 2302.10484)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.layers.attention import PixelAttention
from detseg.layers.channel_layout import layout_before_shuffles, reorder_inputs, reorder_outputs
from detseg.layers.conv import BATCH_NORM_EPS, fold_batch_norm, fuse
from detseg.layers.efficient_transformer import EfficientTransformer
from detseg.layers.ldb import LDB, MOMENTUM, LDBStage, NormPReLU, conv_norm_prelu

MIN_SIZE = 32
DEEP_DILATIONS = (1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32)
SHALLOW_DILATIONS = (2, 2, 2)


@dataclass(frozen=True)
class LETNetConfig:
    """LETNet as published; it has no settings."""

    name: str = "letnet"

    def build(self, num_classes: int) -> LETNet:
        """The network for ``num_classes`` classes, freshly initialized.

        Raises:
            ValueError: ``num_classes`` is not positive.
        """
        return LETNet(num_classes)


class Downsample(nn.Module):
    """Half the resolution: a strided convolution, beside a max pooling of the input where the width grows."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.pools = in_channels < out_channels
        conv_channels = out_channels - in_channels if self.pools else out_channels
        self.conv = nn.Conv2d(in_channels, conv_channels, 3, 2, 1, bias=False)
        self.norm = NormPReLU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, H, W]`` -> ``[B, out_channels, ceil(H / 2), ceil(W / 2)]``."""
        halved = self.conv(x)
        if self.pools:
            # The strided convolution keeps the last row and column of an odd size, so the pooling must as well.
            halved = torch.cat((halved, F.max_pool2d(x, 2, ceil_mode=True)), dim=1)
        out: Tensor = self.norm(halved)
        return out

    def reorder_outputs(self, layout: Tensor) -> None:
        """Give the channels, all of them from the convolution, in ``layout``."""
        assert not self.pools
        reorder_outputs(self.conv, layout)
        self.norm.reorder(layout)


class Upsample(nn.Module):
    """Twice the resolution: transposed convolution, batch norm and ReLU6, then another batch norm and a PReLU."""

    def __init__(self, in_channels: int, out_channels: int, attention: bool = False) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 3, 2, 1, output_padding=1)
        self.bn: nn.Module = nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPS, momentum=MOMENTUM)
        self.attention: nn.Module = PixelAttention(out_channels) if attention else nn.Identity()
        self.norm = NormPReLU(out_channels)

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        """``[B, in_channels, ceil(H / 2), ceil(W / 2)]`` -> ``[B, out_channels, H, W]``, as large as ``like``."""
        height, width = like.shape[-2:]
        doubled = F.relu6(self.bn(self.conv(x)))[..., :height, :width]
        out: Tensor = self.norm(self.attention(doubled))
        return out

    def fuse(self) -> None:
        """Fold the first batch norm into the transposed convolution."""
        if isinstance(self.bn, nn.BatchNorm2d):
            self.conv = fold_batch_norm(self.conv, self.bn)
            self.bn = nn.Identity()

    def reorder_outputs(self, layout: Tensor) -> None:
        """Give, once fused, the channels in ``layout``."""
        assert isinstance(self.bn, nn.Identity)
        assert isinstance(self.attention, nn.Identity)
        reorder_outputs(self.conv, layout)
        self.norm.reorder(layout)


class LongConnection(nn.Sequential):
    """Feature enhancement of a skip: a 3x1 and a 1x3 convolution with nothing between them.

    ``[B, in_channels, H, W]`` -> ``[B, out_channels, H, W]``.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.first = nn.Conv2d(in_channels, hidden, (3, 1), padding=(1, 0))
        self.last = nn.Conv2d(hidden, out_channels, (1, 3), padding=(0, 1))


class LETNet(nn.Module):
    """Images to class logits of the same size.

    The published code cannot run: its deepest long connection gives 16 channels where 32 are added; here it gives 32.
    Other differences change no result: any size from 32 pixels on is taken, where the published code needs multiples of
    16, and the classifier, a 1x1 convolution, comes before the bilinear upsampling, which it commutes with.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be positive, got {num_classes}")
        self.num_classes = num_classes
        self.min_side = MIN_SIZE
        self.fused = False
        self.stem = nn.Sequential(
            conv_norm_prelu(3, 32, 3), conv_norm_prelu(32, 32, 3), conv_norm_prelu(32, 32, 3, stride=2), NormPReLU(32)
        )
        self.down1 = Downsample(32, 64)
        self.stage1 = LDBStage(64, SHALLOW_DILATIONS)
        self.norm1 = NormPReLU(64)
        self.down2 = Downsample(64, 128)
        self.stage2 = LDBStage(128, DEEP_DILATIONS)
        self.norm2 = NormPReLU(128)
        self.down3 = Downsample(128, 32)
        self.stage3 = LDBStage(32, DEEP_DILATIONS)
        self.norm3 = NormPReLU(32)
        self.transformer = EfficientTransformer(32)
        self.stage4 = LDBStage(32, SHALLOW_DILATIONS)
        self.skip3 = LongConnection(32, 32)
        self.up1 = Upsample(32, 16)
        self.stage5 = LDBStage(16, SHALLOW_DILATIONS)
        self.skip2 = LongConnection(128, 16)
        self.up2 = Upsample(16, 16)
        self.stage6 = LDBStage(16, SHALLOW_DILATIONS)
        self.skip1 = LongConnection(64, 16)
        self.up3 = Upsample(16, 16, attention=True)
        self.classifier = nn.Conv2d(16, num_classes, 1, bias=False)
        # Two pixel attentions that the published network holds but never uses: its weights load whole, and the
        # parameters count as published.
        self.unused = nn.ModuleList(PixelAttention(16) for _ in range(2)).requires_grad_(False)
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Class logits.

        Args:
            images: ``[B, 3, H, W]`` floating point, H and W at least 32.

        Returns:
            ``[B, num_classes, H, W]``.

        Raises:
            ValueError: H or W is less than 32.
        """
        height, width = images.shape[-2:]
        if not torch.compiler.is_compiling() and min(height, width) < MIN_SIZE:
            raise ValueError(f"image height and width must be at least {MIN_SIZE}, got {height}x{width}")
        half = self.stem(images)
        quarter = self.norm1(self.stage1(self.down1(half)))
        eighth = self.norm2(self.stage2(self.down2(quarter)))
        sixteenth = self.norm3(self.stage3(self.down3(eighth)))
        x = self.stage4(self.transformer(sixteenth)) + self.skip3(sixteenth)
        x = self.stage5(self.up1(x, eighth)) + self.skip2(eighth)
        x = self.stage6(self.up2(x, quarter)) + self.skip1(quarter)
        logits = self.classifier(self.up3(x, half))
        # By exactly two and cut, not to the size asked for: at odd sizes the pixels would not lie on the image's.
        logits = F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    @torch.no_grad()
    def fuse(self) -> Self:
        """Fold batch norms into convolutions and channel shuffles into weights, in place, for inference.

        Raises:
            ValueError: the network is in training mode.
        """
        fuse(self)
        if self.fused:
            return self
        self.requires_grad_(False)
        for up in (self.up1, self.up2, self.up3):
            up.fuse()
        self._fold_shuffles()
        for module in self.modules():
            if isinstance(module, LDB):
                module.fuse()
        # Channels beside each other in memory: a third off the time of the convolutions on the CPU.
        self.to(memory_format=torch.channels_last)
        self.fused = True
        return self

    def _fold_shuffles(self) -> None:
        layout = self.stage1.fold_shuffles(torch.arange(64))
        self.norm1.reorder(layout)
        reorder_inputs(self.skip1.first, layout)
        reorder_inputs(self.down2.conv, layout)
        # Downsampling appends the pooled channels, as they lie, to those of its convolution.
        layout = torch.cat((torch.arange(64), 64 + layout))
        self.down2.norm.reorder(layout)
        layout = self.stage2.fold_shuffles(layout)
        self.norm2.reorder(layout)
        reorder_inputs(self.skip2.first, layout)
        reorder_inputs(self.down3.conv, layout)
        layout = self.stage4.fold_shuffles(torch.arange(32))
        reorder_outputs(self.skip3.last, layout)
        reorder_inputs(self.up1.conv, layout)
        # What comes before these can be reordered freely: begin so that the last shuffle leads back to the plain order.
        for before, stage in ((self.down3, self.stage3), (self.up1, self.stage5), (self.up2, self.stage6)):
            layout = layout_before_shuffles(before.norm.bn.num_features, len(stage))
            before.reorder_outputs(layout)
            stage.fold_shuffles(layout)
