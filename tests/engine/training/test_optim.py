from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from detseg.engine.training.optim import OptimizerConfig, ScheduleConfig, parameter_groups
from detseg.models.detector import DetectorConfig


class Mixed(nn.Module):
    """One of each: weights of convolution and linear layers, biases, norms, a scalar, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 1)
        self.batch_norm = nn.BatchNorm2d(4)
        self.layer_norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.constant = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def grouped_names(model: nn.Module, groups: list[dict[str, Any]]) -> list[list[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [sorted(names[id(parameter)] for parameter in group["params"]) for group in groups]


def test_biases_norms_and_scalars_are_not_decayed() -> None:
    model = Mixed()
    groups = parameter_groups(model, 0.3)
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert grouped_names(model, groups) == [
        ["convolution.weight", "linear.weight"],
        ["batch_norm.bias", "batch_norm.weight", "convolution.bias", "layer_norm.bias", "layer_norm.weight",
         "linear.bias", "scale"],
    ]  # fmt: skip


def test_a_detector_is_split_whole_and_its_constants_left_out() -> None:
    model = DetectorConfig().build(num_classes=3)
    decayed, others = grouped_names(model, parameter_groups(model, 0.1))
    learned = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(decayed + others) == sorted(learned)
    assert {name.rpartition(".")[2] for name in decayed} == {"weight"}
    modules = dict(model.named_modules())
    assert {type(modules[name.rpartition(".")[0]]) for name in decayed} == {nn.Conv2d}


class Pair(nn.Module):
    """A decayed and an undecayed parameter, both 1, both with the gradient given to :meth:`pull`."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1))
        self.bias = nn.Parameter(torch.ones(1))

    def pull(self, gradient: float) -> None:
        for parameter in self.parameters():
            parameter.grad = torch.full_like(parameter, gradient)

    def values(self) -> list[float]:
        return [parameter.item() for parameter in self.parameters()]


# Learning rate 0.1, momentum 0.9, weight decay 0.1; weight and bias start at 1.
STEPS: dict[str, tuple[OptimizerConfig, float, list[list[float]]]] = {
    # weight: g = 0.5 + 0.1; buffer 0.6; moves by 0.1 (0.6 + 0.9 * 0.6) to 0.886. Then g = 0.5886; buffer 1.1286;
    # moves by 0.1 (0.5886 + 0.9 * 1.1286) to 0.725566. bias: by 0.1 * 0.95, then 0.1 (0.5 + 0.9 * 0.95).
    "nesterov": (OptimizerConfig("sgd", 0.1, 0.9, 0.1), 0.5, [[0.886, 0.905], [0.725566, 0.7695]]),
    # weight: by 0.1 * 0.6, then 0.1 (0.9 * 0.6 + 0.594); bias: by 0.05, then 0.1 (0.45 + 0.5).
    "momentum": (OptimizerConfig("sgd", 0.1, 0.9, 0.1, nesterov=False), 0.5, [[0.94, 0.95], [0.8266, 0.855]]),
    "plain": (OptimizerConfig("sgd", 0.1, 0.0, 0.1), 0.5, [[0.94, 0.95], [0.8806, 0.9]]),
    # Adam's first step is the sign of the gradient: decay turns -0.05 into +0.05 for the weight.
    "adam": (OptimizerConfig("adam", 0.1, 0.9, 0.1), -0.05, [[0.9, 1.1]]),
    # Decay apart from the gradient: 1 - 0.1 * 0.1, then up by 0.1.
    "adamw": (OptimizerConfig("adamw", 0.1, 0.9, 0.1), -0.05, [[1.09, 1.1]]),
    # The mean square starts as 0.01 g^2: the first step is 0.1 / sqrt(0.01) times the sign.
    "rmsprop": (OptimizerConfig("rmsprop", 0.1, 0.9, 0.1), -0.05, [[0.0, 2.0]]),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_by_hand(name: str) -> None:
    config, gradient, expected = STEPS[name]
    model = Pair()
    optimizer = config.build(model)
    for values in expected:
        model.pull(gradient)
        optimizer.step()
        assert model.values() == pytest.approx(values, abs=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_momentum_is_beta_1(name: Any) -> None:
    assert OptimizerConfig(name, momentum=0.8).build(Pair()).defaults["betas"] == (0.8, 0.999)


def test_rmsprop_has_momentum() -> None:
    assert OptimizerConfig("rmsprop", momentum=0.8).build(Pair()).defaults["momentum"] == 0.8


# Two steps per epoch, two epochs of warm-up from 0.2, twelve steps, down to 0.1. Warm-up is a line through 0.2 (before
# the first step) and 1 (step 4); afterwards step 6 is a quarter, 8 a half and 10 three quarters of the way.
WARMUP = {0: 0.36, 1: 0.52, 2: 0.68, 3: 0.84, 4: 1.0}
# cos(pi/4) = 0.70710678: 0.1 + 0.9 * (1 + 0.70710678) / 2 and 0.1 + 0.9 * (1 - 0.70710678) / 2
COSINE = {6: 0.86819805, 8: 0.55, 10: 0.23180195}
LINEAR = {6: 0.775, 8: 0.55, 10: 0.325, 11: 0.2125}
# power 2: 0.1 + 0.9 * 0.75^2, 0.1 + 0.9 * 0.5^2, 0.1 + 0.9 * 0.25^2
POLY = {6: 0.60625, 8: 0.325, 10: 0.15625}
CONSTANT = {6: 1.0, 8: 1.0, 11: 1.0}


@pytest.mark.parametrize(
    ("kind", "after"), [("cosine", COSINE), ("linear", LINEAR), ("poly", POLY), ("constant", CONSTANT)]
)
def test_schedules_by_hand(kind: Any, after: dict[int, float]) -> None:
    config = ScheduleConfig(kind, warmup_epochs=2, warmup_factor=0.2, final_factor=0.1, power=2)
    expected = WARMUP | after
    # Backwards: nothing depends on the steps before.
    for step in sorted(expected, reverse=True):
        assert config.factor(step, steps_per_epoch=2, num_steps=12) == pytest.approx(expected[step], abs=1e-8)


@pytest.mark.parametrize(
    ("warmup_epochs", "steps_per_epoch", "num_steps", "expected"),
    [
        (0, 2, 4, [1.0, 0.75, 0.5, 0.25]),
        (0.5, 4, 4, [1 / 3, 2 / 3, 1.0, 0.5]),
        (9, 2, 4, [0.25, 0.5, 0.75, 1.0]),  # longer than the run: the peak is reached in the last step
        (1, 1, 1, [1.0]),
    ],
)
def test_warmups_of_any_length(
    warmup_epochs: float, steps_per_epoch: int, num_steps: int, expected: list[float]
) -> None:
    config = ScheduleConfig("linear", warmup_epochs, warmup_factor=0.0, final_factor=0.0)
    factors = [config.factor(step, steps_per_epoch, num_steps) for step in range(num_steps)]
    assert factors == pytest.approx(expected)


def test_the_schedule_without_settings() -> None:
    # Three epochs of ten steps up from a hundredth of the peak, then half a cosine down to it; step 65 is halfway.
    config = ScheduleConfig()
    factors = [config.factor(step, steps_per_epoch=10, num_steps=100) for step in (0, 29, 30, 65, 99)]
    low = 0.01 + 0.99 * (1 + math.cos(math.pi * 69 / 70)) / 2
    assert factors == pytest.approx([0.01 + 0.99 / 31, 0.01 + 0.99 * 30 / 31, 1, 0.505, low])


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (OptimizerConfig, {"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        (OptimizerConfig, {"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        (OptimizerConfig, {"weight_decay": -0.1}, "weight_decay must not be negative, got -0.1"),
        (ScheduleConfig, {"warmup_epochs": -1.0}, "warmup_epochs must not be negative, got -1.0"),
        (ScheduleConfig, {"final_factor": -1.0}, "final_factor must not be negative"),
    ],
)
def test_impossible_settings(kind: Any, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)
