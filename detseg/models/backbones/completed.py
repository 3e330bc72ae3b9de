"""A pyramid of whatever maps a network has: those that lie nearest to the strides wanted, and what is missing by a
convolution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from detseg.layers.conv import ConvNormAct

MAX_OCTAVES = 0.35
"""How far, in powers of two, the stride of a map may be from the one that it stands for: convolutions without padding
and patches of 14 pixels give no powers of two."""


@dataclass(frozen=True)
class FeatureMap:
    """Where a map of the pyramid is found in a network's output, and how its axes lie."""

    key: str
    channels: int
    channels_last: bool


def maps_at(strides: Sequence[int], outputs: Mapping[str, object], height: int, width: int) -> dict[int, FeatureMap]:
    """By stride the last of ``outputs`` that an image of ``height`` x ``width`` gives at it, or nearest to it; a stride
    that none is near to is left out. Height and width must differ, so that the axes can be told apart."""
    found = _last(strides, outputs, height, width, 0.0)
    if len(found) < len(strides):
        found = _last(strides, outputs, height, width, MAX_OCTAVES) | found
    return {stride: found[stride] for stride in strides if stride in found}


def _last(
    strides: Sequence[int], outputs: Mapping[str, object], height: int, width: int, octaves: float
) -> dict[int, FeatureMap]:
    last = {}
    for key, output in outputs.items():
        if not isinstance(output, Tensor) or output.ndim != 4:
            continue
        for stride in strides:
            for channel, rows, columns in ((1, 2, 3), (3, 1, 2)):
                sides = output.shape[rows], output.shape[columns]
                if _is_near(height, sides[0], stride, octaves) and _is_near(width, sides[1], stride, octaves):
                    last[stride] = FeatureMap(key, output.shape[channel], channels_last=channel == 3)
                    break
    return last


def _is_near(side: int, length: int, stride: int, octaves: float) -> bool:
    return length > 0 and abs(math.log2(side / length / stride)) <= octaves


class CompletedPyramid(nn.Module):
    """Maps ``found`` by stride -> a map at each of ``strides``, of exactly that resolution: maps that are not are
    resized (bilinear). A missing one is made of the next finer one by a convolution of stride 2, or, where there is
    none, of the next coarser one by a transposed convolution, with half its channels (as in ViTDet, arXiv
    2203.16527, section 3)."""

    def __init__(self, strides: Sequence[int], found: Mapping[int, FeatureMap]) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.found = tuple(found)
        channels = {stride: one.channels for stride, one in found.items()}
        first = next(index for index, stride in enumerate(self.strides) if stride in channels)
        self.finer, self.coarser = nn.ModuleDict(), nn.ModuleDict()
        for stride in reversed(self.strides[:first]):
            incoming = channels[2 * stride]
            channels[stride] = max(1, incoming // 2)
            self.finer[str(stride)] = nn.ConvTranspose2d(incoming, channels[stride], 2, stride=2)
        for stride in self.strides[first:]:
            if stride not in channels:
                channels[stride] = channels[stride // 2]
                self.coarser[str(stride)] = ConvNormAct(channels[stride], channels[stride], 3, 2)
        self.channels = tuple(channels[stride] for stride in self.strides)

    def forward(self, maps: Sequence[Tensor], height: int, width: int) -> list[Tensor]:
        """``maps``, one for each stride that was found, ``[B, C, h, w]``, of images of ``height`` x ``width``."""
        levels = dict(zip(self.found, maps, strict=True))
        for stride, level in levels.items():
            size = (height // stride, width // stride)
            if level.shape[2:] != size:
                levels[stride] = F.interpolate(level, size, mode="bilinear", align_corners=False)
        for name, enlarge in self.finer.items():
            levels[int(name)] = enlarge(levels[2 * int(name)])
        for name, shrink in self.coarser.items():
            levels[int(name)] = shrink(levels[int(name) // 2])
        return [levels[stride] for stride in self.strides]
