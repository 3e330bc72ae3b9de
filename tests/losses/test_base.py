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


def test_addition_normalizes_the_whole_not_the_parts():
    whole = _loss(6.0, 3.0, 0.5) + _loss(2.0, 1.0, 2.5)
    assert {name: part.item() for name, part in whole.parts.items()} == {"box": 8, "cls": 4}
    assert whole.sum().item() == 12
    assert whole.total().item() == 4


def test_losses_of_different_parts_do_not_add():
    with pytest.raises(ValueError, match=r"\['box', 'cls'\] and \['dfl'\]"):
        _loss(1.0, 1.0, 1.0) + LossSum({"dfl": torch.tensor(1.0)}, torch.tensor(1.0))
