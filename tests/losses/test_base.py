from __future__ import annotations

import pytest
import torch

from detseg.losses.base import LossSum


def _loss(box: float, cls: float, normalizer: float) -> LossSum:
    return LossSum({"box": torch.tensor(box), "cls": torch.tensor(cls)}, torch.tensor(normalizer))


@pytest.mark.parametrize(
    ("loss", "total"),
    [(_loss(6.0, 3.0, 3.0), 3.0), (_loss(6.0, 3.0, 0.5), 9.0), (_loss(0.0, 3.0, 0.0), 3.0)],
    ids=["normalized", "normalizer under 1", "no positives"],
)
def test_total(loss, total):
    assert loss.total().item() == total
