"""What every network and its configuration must be, and what a network may leave out."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

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
        """A :class:`Model` for ``num_classes`` classes, freshly initialized.

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
