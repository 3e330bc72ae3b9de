from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from detseg.engine.training.ema import EMAConfig, ModelEMA

# With this ramp exp(-n / ramp) is 1/2, 1/4, 1/8, so that with decay 1/2 the model's share in update n is
# 1 - 1/2 (1 - 2^-n): 0.75, 0.625, 0.5625.
CONFIG = EMAConfig(decay=0.5, ramp=1 / math.log(2))


class Cell(nn.Module):
    """One parameter, one floating-point buffer, one integer buffer."""

    count: Tensor
    statistic: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("statistic", torch.zeros(1))
        self.register_buffer("count", torch.tensor(0))

    @torch.no_grad()
    def become(self, weight: float, statistic: float, count: int) -> None:
        """In place, as an optimizer and a batch norm do it."""
        self.weight.fill_(weight)
        self.statistic.fill_(statistic)
        self.count.fill_(count)


def content(model: nn.Module) -> dict[str, list[float]]:
    return {name: value.reshape(-1).tolist() for name, value in model.state_dict().items()}


def test_averages_by_hand() -> None:
    model = Cell()
    ema = ModelEMA(model, CONFIG)
    model.become(1.0, 8.0, 5)
    ema.update()
    assert content(ema.model) == {"weight": [0.75, 0.75], "statistic": [6.0], "count": [5]}
    model.become(3.0, -2.0, 7)
    ema.update()
    # 0.75 + 0.625 * 2.25; 6 - 0.625 * 8
    assert content(ema.model) == {"weight": [2.15625, 2.15625], "statistic": [1.0], "count": [7]}
    model.become(2.15625, 5.0, 6)
    ema.update()
    # 1 + 0.5625 * 4
    assert content(ema.model) == {"weight": [2.15625, 2.15625], "statistic": [3.25], "count": [6]}


def test_the_model_is_left_alone() -> None:
    model = Cell()
    ema = ModelEMA(model, CONFIG)
    model.become(1.0, 2.0, 3)
    for _ in range(3):
        ema.update()
    assert content(model) == {"weight": [1.0, 1.0], "statistic": [2.0], "count": [3]}
    assert model.training
    assert model.weight.requires_grad
    assert not ema.model.training
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())


def test_the_average_is_apart_from_the_model() -> None:
    model = Cell()
    ema = ModelEMA(model, CONFIG)
    model.become(1.0, 1.0, 1)
    assert content(ema.model) == {"weight": [0.0, 0.0], "statistic": [0.0], "count": [0]}


def test_a_real_batch_norm_is_followed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    ema = ModelEMA(model, EMAConfig(decay=0.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(2, 3, 4, 4)).square().mean().backward()
    optimizer.step()
    ema.update()
    # Without decay the average is the model itself.
    for name, value in model.state_dict().items():
        assert torch.equal(ema.model.state_dict()[name], value), name
    assert model.state_dict()["1.num_batches_tracked"] == 1


def test_going_on_from_a_state_equals_not_having_stopped() -> None:
    models = [Cell(), Cell()]
    whole, stopped = (ModelEMA(model, CONFIG) for model in models)
    for ema, model in zip((whole, stopped), models, strict=True):
        model.become(1.0, 2.0, 3)
        ema.update()
    saved = {**stopped.state_dict(), "weights": {k: v.clone() for k, v in stopped.state_dict()["weights"].items()}}
    resumed = ModelEMA(models[1], CONFIG)
    resumed.load_state_dict(saved)
    models[0].become(5.0, 6.0, 7)
    models[1].become(5.0, 6.0, 7)
    whole.update()
    resumed.update()
    assert content(resumed.model) == content(whole.model)
    assert resumed.num_updates == whole.num_updates == 2


def test_the_average_without_settings() -> None:
    assert EMAConfig() == EMAConfig(decay=0.9999, ramp=2000.0)


def test_the_ramp_may_be_short() -> None:
    assert EMAConfig(ramp=0.5).ramp == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": 1.0}, r"decay must lie in \[0, 1\), got 1.0"),
        ({"decay": -0.1}, "decay must lie in"),
        ({"ramp": 0.0}, "ramp must be positive, got 0.0"),
    ],
)
def test_impossible_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EMAConfig(**settings)
