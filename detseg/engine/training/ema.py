"""Exponential moving average of a model, kept apart from the model that is trained."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class EMAConfig:
    """A moving average of the weights."""

    decay: float = 0.9999
    """The weight of the past."""
    ramp: float = 2000.0
    """Updates over which it rises towards ``decay``, as ``decay * (1 - exp(-updates / ramp))``, so that early averages
    do not hold on to the initialization."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {self.decay}")
        if self.ramp <= 0:
            raise ValueError(f"ramp must be positive, got {self.ramp}")


class ModelEMA:
    """The average of parameters and of floating-point buffers (batch-norm statistics); integer buffers are copied.

    ``model`` is a copy in eval mode whose parameters take no gradient; use it to evaluate and to save.
    """

    def __init__(self, model: nn.Module, config: EMAConfig) -> None:
        self.config = config
        self.num_updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        ours, theirs = self.model.state_dict(), model.state_dict()
        self._averaged = [(ours[name], theirs[name]) for name in ours if ours[name].is_floating_point()]
        self._copied = [(ours[name], theirs[name]) for name in ours if not ours[name].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the model as it is now."""
        self.num_updates += 1
        weight = 1 - self.config.decay * (1 - math.exp(-self.num_updates / self.config.ramp))
        ours, theirs = zip(*self._averaged, strict=True)
        torch._foreach_lerp_(ours, theirs, weight)
        if self._copied:
            ours, theirs = zip(*self._copied, strict=True)
            torch._foreach_copy_(ours, theirs)

    def state_dict(self) -> dict[str, Any]:
        """Everything that is needed to go on, in full precision."""
        return {"num_updates": self.num_updates, "weights": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        weights: dict[str, Tensor] = state["weights"]
        self.model.load_state_dict(weights)
        self.num_updates = state["num_updates"]
