"""Classification networks learn as backbones of a detector; bench/backbones.py tries all."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from detseg.config import from_dict
from detseg.losses.detection import TALLossConfig
from detseg.models.detector import DetectorConfig

FAMILIES: list[Any] = ["nin", "alexnet", "resnet18"]
NUM_STEPS = 5


@pytest.mark.slow
@pytest.mark.parametrize("backbone", FAMILIES)
def test_a_few_steps_lower_the_loss(backbone: Any) -> None:
    torch.manual_seed(0)
    settings = {"backbone": backbone, "neck": {"name": "pan", "channels": [16, 32, 48]}}
    model = from_dict(DetectorConfig, settings, "test").build(2)
    loss = TALLossConfig(min_target=0.1).build(2, model.strides, model.head.reg_max)
    images = torch.rand(2, 3, 128, 160)
    boxes = torch.tensor([[[20.0, 20, 90, 100]], [[40, 10, 150, 80]]])
    labels = torch.tensor([[0], [1]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(NUM_STEPS):
        optimizer.zero_grad()
        total = loss(model(images), boxes, labels).total()
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert losses[-1] < losses[0]
