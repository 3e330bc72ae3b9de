"""The three parts of a detector and what each publishes for the next: built first, passed in, never looked up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor, nn


class Backbone(nn.Module):
    """Images ``[B, 3, H, W]`` -> per level, fine to coarse, ``[B, channels[i], H / strides[i], W / strides[i]]``."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def forward(self, images: Tensor) -> list[Tensor]:
        raise NotImplementedError


class Neck(nn.Module):
    """A backbone's maps -> as many maps at the same strides, with ``channels`` of its own."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        raise NotImplementedError


class Head(nn.Module):
    """A neck's maps -> raw predictions ``[B, channels, H, W]`` per level; ``kind`` says what the channels mean.

    ``bins``: how many channels describe one side of a box; 1 where there is one number for it.
    """

    kind: ClassVar[Literal["dfl", "direct"]]
    bins: int = 1
    num_classes: int

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        raise NotImplementedError


@runtime_checkable
class BackboneConfig(Protocol):
    """A frozen dataclass, what every entry of ``BACKBONES`` names."""

    @property
    def name(self) -> str:
        """As in the table."""

    def build(self) -> Backbone: ...


@runtime_checkable
class NeckConfig(Protocol):
    """A frozen dataclass, what every entry of ``NECKS`` names."""

    @property
    def name(self) -> str:
        """As in the table."""

    def build(self, channels: tuple[int, ...], strides: tuple[int, ...]) -> Neck: ...


@runtime_checkable
class HeadConfig(Protocol):
    """A frozen dataclass, what every entry of ``HEADS`` names."""

    @property
    def name(self) -> str:
        """As in the table."""

    def build(self, channels: tuple[int, ...], strides: tuple[int, ...], num_classes: int) -> Head: ...


def scaled_depth(num_blocks: int, depth: float) -> int:
    """The number of blocks at a depth multiplier: rounded, at least one."""
    return max(round(num_blocks * depth), 1)


def require_positive(name: str, value: float) -> None:
    """Refuse a setting that must be positive.

    Raises:
        ValueError: ``value`` is zero or negative.
    """
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")
