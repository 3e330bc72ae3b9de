"""The average of a model, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from detseg.engine.ema import EMAConfig, ModelEMA


def test_parameters_and_statistics_are_averaged_and_counters_copied() -> None:
    model = nn.BatchNorm1d(1)
    ema = ModelEMA(model, EMAConfig(decay=0.8, ramp=1.0))
    with torch.no_grad():
        model.weight.fill_(3.0)
        model.running_mean.fill_(10.0)
        model.num_batches_tracked.fill_(7)
    ema.update()
    past = 0.8 * (1 - math.exp(-1))
    assert ema.model.weight.item() == pytest.approx(past * 1 + (1 - past) * 3)
    assert ema.model.running_mean.item() == pytest.approx((1 - past) * 10)
    assert ema.model.num_batches_tracked.item() == 7
    ema.update()
    later = 0.8 * (1 - math.exp(-2))
    assert ema.model.running_mean.item() == pytest.approx(later * (1 - past) * 10 + (1 - later) * 10)
    assert model.weight.item() == 3.0
    assert not ema.model.training
    assert model.training
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())


def test_the_state_goes_on_where_it_was() -> None:
    model = nn.Linear(2, 2)
    ema = ModelEMA(model, EMAConfig(decay=0.9, ramp=3.0))
    ema.update()
    other = ModelEMA(nn.Linear(2, 2), EMAConfig(decay=0.9, ramp=3.0))
    other.load_state_dict(ema.state_dict())
    assert other.num_updates == 1
    assert torch.equal(other.model.weight, ema.model.weight)


@pytest.mark.parametrize(("decay", "ramp"), [(1.0, 10.0), (-0.1, 10.0), (0.9, 0.0)])
def test_impossible_settings(decay: float, ramp: float) -> None:
    with pytest.raises(ValueError, match="must"):
        EMAConfig(decay, ramp)
