"""Optimizers and schedules, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from detseg.engine.optim import OptimizerConfig, ScheduleConfig, parameter_groups


def test_only_weights_of_convolutions_and_linear_layers_decay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    model[2].weight.requires_grad_(False)
    decayed, rest = parameter_groups(model, 0.1)
    assert [id(p) for p in decayed["params"]] == [id(model[0].weight)]
    others = [model[0].bias, model[1].weight, model[1].bias, model[2].bias]
    assert [id(p) for p in rest["params"]] == [id(p) for p in others]
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        # From 1.0 with gradient 2.0, learning rate 0.1 and weight decay 0.5.
        ("sgd", {"momentum": 0.0}, 1 - 0.1 * (2 + 0.5 * 1)),
        ("sgd", {"momentum": 0.9, "nesterov": True}, 1 - 0.1 * (2.5 + 0.9 * 2.5)),
        ("sgd", {"momentum": 0.9, "nesterov": False}, 1 - 0.1 * 2.5),
        # Adam's first step is the learning rate times the sign of the gradient, whatever its size.
        ("adam", {}, 1 - 0.1),
        ("adamw", {}, 1 - 0.1 * 0.5 * 1 - 0.1),
        # The mean square of the first step is a hundredth of the gradient's square.
        ("rmsprop", {"momentum": 0.0}, 1 - 0.1 * 2.5 / math.sqrt(0.01 * 2.5**2)),
    ],
)
def test_one_step_of_each_optimizer(name: Any, settings: dict[str, Any], expected: float) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = OptimizerConfig(name=name, learning_rate=0.1, weight_decay=0.5, **settings).build(model)
    model.weight.grad = torch.full((1, 1), 2.0)
    optimizer.step()
    assert model.weight.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "step", "expected"),
    [
        # 10 epochs of 4 steps; 2 epochs of warm-up are steps 0 to 7, the peak is step 8, 32 steps remain.
        ({}, 0, 0.1 + 0.9 * 1 / 9),
        ({}, 7, 0.1 + 0.9 * 8 / 9),
        ({}, 8, 1.0),
        ({"kind": "cosine"}, 24, 0.2 + 0.8 * 0.5),
        ({"kind": "cosine"}, 16, 0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2),
        ({"kind": "linear"}, 16, 0.2 + 0.8 * 0.75),
        ({"kind": "linear"}, 40, 0.2),
        ({"kind": "poly", "power": 2.0}, 24, 0.2 + 0.8 * 0.25),
        ({"kind": "constant"}, 39, 1.0),
        ({"warmup_epochs": 0.0, "kind": "linear"}, 0, 1.0),
    ],
)
def test_the_schedule_by_hand(settings: dict[str, Any], step: int, expected: float) -> None:
    schedule = ScheduleConfig(**{"warmup_epochs": 2.0, "warmup_factor": 0.1, "final_factor": 0.2, **settings})
    assert schedule.factor(step, steps_per_epoch=4, num_steps=40) == pytest.approx(expected)


def test_a_warm_up_longer_than_the_run_still_reaches_its_last_step() -> None:
    schedule = ScheduleConfig(warmup_epochs=100)
    assert schedule.factor(3, steps_per_epoch=2, num_steps=4) == 1.0


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (OptimizerConfig, {"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        (OptimizerConfig, {"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        (OptimizerConfig, {"weight_decay": -1.0}, "weight_decay must not be negative"),
        (ScheduleConfig, {"warmup_epochs": -1.0}, "warmup_epochs must not be negative"),
    ],
)
def test_impossible_settings(config: Any, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**settings)
