"""Holding parts of a model."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from detseg.engine.freezing import freeze, names_to_freeze


def make_model() -> nn.Sequential:
    stem = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    return nn.Sequential(OrderedDict(stem=stem, stem2=nn.BatchNorm2d(2)))


def test_a_name_holds_what_lies_under_it_and_nothing_else() -> None:
    model = make_model()
    assert names_to_freeze(model, ["stem"]) == {"stem", "stem.0", "stem.1"}
    assert names_to_freeze(model, []) == set()
    with pytest.raises(ValueError, match="no part 'stm'; the nearest names are: stem"):
        names_to_freeze(model, ["stm"])


def test_held_parts_do_not_learn_and_keep_their_statistics() -> None:
    model = make_model().train()
    learned = list(model.parameters())
    freeze(model, {"stem", "stem.0", "stem.1"}, learned, norms=False)
    assert [parameter.requires_grad for parameter in learned] == [False] * 4 + [True] * 2
    model(torch.randn(4, 1, 3, 3))
    assert model.stem[1].num_batches_tracked == 0
    assert model.stem2.num_batches_tracked == 1
    freeze(model, set(), learned, norms=False)
    assert all(parameter.requires_grad for parameter in learned)
    model(torch.randn(4, 1, 3, 3))
    assert model.stem[1].num_batches_tracked == 1


def test_all_norms_can_be_held_while_their_weights_learn() -> None:
    model = make_model().train()
    freeze(model, set(), list(model.parameters()), norms=True)
    model(torch.randn(4, 1, 3, 3))
    assert model.stem[1].num_batches_tracked == model.stem2.num_batches_tracked == 0
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_constants_of_a_model_stay_constant() -> None:
    model = make_model()
    model.stem[0].bias.requires_grad_(False)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    freeze(model, set(), learned, norms=False)
    assert not model.stem[0].bias.requires_grad
