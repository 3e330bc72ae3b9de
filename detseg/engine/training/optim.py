"""Optimizers, learning-rate schedules and the split of parameters into groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn


@dataclass(frozen=True)
class OptimizerConfig:
    """How the weights are changed."""

    name: Literal["sgd", "adam", "adamw", "rmsprop"] = "adamw"
    """The algorithm."""
    learning_rate: float = 1e-3
    """Peak of the schedule."""
    momentum: float = 0.9
    """Momentum of SGD and RMSprop; beta 1 of Adam and AdamW."""
    weight_decay: float = 5e-4
    """Weight decay, which acts on the weights of convolutions and linear layers only, never on biases and norms."""
    nesterov: bool = True
    """Whether SGD uses Nesterov's momentum."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer over all parameters of ``model`` that are meant to be learned."""
        groups = parameter_groups(model, self.weight_decay)
        rate, momentum = self.learning_rate, self.momentum
        if self.name == "sgd":
            nesterov = self.nesterov and momentum > 0
            return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=nesterov, fused=True)
        if self.name == "rmsprop":
            return torch.optim.RMSprop(groups, lr=rate, momentum=momentum, foreach=True)
        kind = torch.optim.Adam if self.name == "adam" else torch.optim.AdamW
        return kind(groups, lr=rate, betas=(momentum, 0.999), fused=True)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: weights with two or more dimensions are decayed; biases and the vectors of norms are not.

    Parameters with ``requires_grad`` False at this point are constants of the model and are left out.
    """
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in learned if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
    ]


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over a run: a linear warm-up to the peak, then down."""

    kind: Literal["cosine", "linear", "poly", "constant"] = "cosine"
    """The form of the way down; ``constant`` stays at the peak."""
    warmup_epochs: float = 3.0
    """Epochs of the warm-up."""
    warmup_factor: float = 0.01
    """Where the warm-up starts, as a factor of the peak."""
    final_factor: float = 0.01
    """Where the way down ends, as a factor of the peak."""
    power: float = 0.9
    """Exponent of ``poly``."""

    def __post_init__(self) -> None:
        for name in ("warmup_epochs", "warmup_factor", "final_factor"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def factor(self, step: int, steps_per_epoch: int, num_steps: int) -> float:
        """What the peak learning rate is multiplied by in optimizer step ``step`` (from 0) of ``num_steps``.

        A pure function of the step: nothing of the schedule has to be saved.
        """
        warmup_steps = min(round(self.warmup_epochs * steps_per_epoch), num_steps - 1)
        if step < warmup_steps:
            return self.warmup_factor + (1 - self.warmup_factor) * (step + 1) / (warmup_steps + 1)
        if self.kind == "constant":
            return 1.0
        progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
        if self.kind == "cosine":
            remaining = (1 + math.cos(math.pi * progress)) / 2
        elif self.kind == "linear":
            remaining = 1 - progress
        else:
            remaining = (1 - progress) ** self.power
        return self.final_factor + (1 - self.final_factor) * remaining
