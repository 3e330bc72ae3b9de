"""What every network must be and may leave out; and the three parts of a detector, with what each publishes for the
next: built first, passed in, never looked up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Model(Protocol):
    """A ``torch.nn.Module`` from images ``[B, 3, H, W]``, or volumes ``[B, 1, D, H, W]``, to raw output, which the task
    makes results of. It may also have what :func:`fused` and :func:`min_side` ask for."""

    num_classes: int

    def forward(self, images: Tensor, /) -> Any:
        """Normalized floating point images -> raw output."""


@runtime_checkable
class ModelConfig(Protocol):
    """A frozen dataclass, what every entry of ``MODELS`` names."""

    @property
    def name(self) -> str:
        """As in the table."""

    def build(self, num_classes: int) -> nn.Module:
        """A :class:`Model` for ``num_classes`` classes, freshly initialized; on torch's meta device, too, where tensors
        have no values: that is how names and shapes of a model file are compared first.

        Raises:
            ValueError: ``num_classes`` is not positive, or the settings do not fit each other.
        """


def fused(model: nn.Module) -> nn.Module:
    """``model``, which is in evaluation mode, as it is fastest: what its method ``fuse`` makes of it, in place; without
    one as it is."""
    fuse = getattr(model, "fuse", None)
    made: nn.Module = model if fuse is None else fuse()
    return made


def min_side(model: nn.Module) -> int:
    """The smallest height and width that ``model`` takes: its ``min_side`` where it has one, else 1."""
    return int(getattr(model, "min_side", 1))


def stride_for(model: nn.Module | None, size: tuple[int, int]) -> int:
    """What sides of images for ``model`` shall be multiples of, where those of ``size`` are: its ``stride`` where it
    has one, else 1. A model with a stride that takes other sizes, too, is exported for one of these only."""
    stride = getattr(model, "stride", 1)
    if not isinstance(stride, int):  # of a convolution, which may be a model, too
        return 1
    return 1 if any(side % stride for side in size) else stride


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


class MaskMaps(NamedTuple):
    """Raw predictions of boxes with masks: ``levels`` ``[B, channels, H, W]``, fine to coarse, whose last channels are
    the coefficients of the ``prototypes`` ``[B, K, H, W]``, maps of the whole image at a stride of their own."""

    levels: list[Tensor]
    prototypes: Tensor


class Head(nn.Module):
    """A neck's maps -> raw predictions ``[B, channels, H, W]`` per level; ``kind`` says what the channels mean.

    ``reg_max``: how many channels describe one side of a box; 1 where there is one number for it. ``num_prototypes``:
    how many maps a mask is made of, 0 where there are no masks; then :class:`MaskMaps` are the output, with prototypes
    at ``prototype_stride``. ``one_to_one``: in evaluation mode each object has one prediction, so that NMS is not
    needed. A head that learns by several branches gives the levels of all of them in training mode, one after another.
    """

    kind: ClassVar[Literal["dfl", "yolox", "dfl_masks", "e2e"]]
    one_to_one: bool = False
    reg_max: int = 1
    num_prototypes: int = 0
    prototype_stride: int = 0
    num_classes: int

    def forward(self, features: Sequence[Tensor]) -> list[Tensor] | MaskMaps:
        raise NotImplementedError

    def drop_training_branches(self) -> None:
        """Give up, in place, what only training needs."""


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
