from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from detseg.engine.training.freezing import freeze, names_to_freeze
from detseg.models.detector import Detector, DetectorConfig


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(images))  # type: ignore[no-any-return]


def chain() -> nn.Sequential:
    model = nn.Sequential()
    for name in ("stem", "stem2", "top"):
        model.add_module(name, Block())
    return model.train()


@pytest.mark.parametrize(
    ("prefixes", "expected"),
    [
        ([], set()),
        (["stem"], {"stem", "stem.convolution", "stem.norm"}),  # not stem2
        (["stem.norm"], {"stem.norm"}),
        (["stem2", "top.convolution"], {"stem2", "stem2.convolution", "stem2.norm", "top.convolution"}),
    ],
)
def test_names(prefixes: list[str], expected: set[str]) -> None:
    assert names_to_freeze(chain(), prefixes) == expected


@pytest.mark.parametrize(
    ("prefix", "near"),
    [
        ("stm", "stem, stem2, stem.norm"),
        ("stem.nrm", "stem.norm, stem2.norm, stem"),
        ("bottom", "top, top.norm, stem"),
        # the first eight of nine
        (
            "xyzzy",
            "stem, stem.convolution, stem.norm, stem2, stem2.convolution, stem2.norm, top, top.convolution",
        ),
    ],
)
def test_an_unknown_name_is_told_the_nearest(prefix: str, near: str) -> None:
    message = f"train.freeze: the model has no part {prefix!r}; the nearest names are: {near}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        names_to_freeze(chain(), ["top", prefix])


def test_a_model_that_could_not_learn_is_refused() -> None:
    with pytest.raises(ValueError, match="holds the whole model: top, stem, stem2; leave out what is to learn"):
        names_to_freeze(chain(), ["top", "stem", "stem2"])
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[2].requires_grad_(False)  # constants, which do not learn
    with pytest.raises(ValueError, match="holds the whole model: 0, 1;"):
        names_to_freeze(model, ["0", "1"])


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed_by_a_step(model: nn.Sequential, norms: bool, prefixes: list[str]) -> set[str]:
    """What a real step of training changes in ``model``."""
    model.train()
    learned = list(model.parameters())
    freeze(model, names_to_freeze(model, prefixes), learned, norms=norms)
    before = state(model)
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(learned, lr=0.1, weight_decay=0.1)
    optimizer.zero_grad()
    model(torch.randn(2, 3, 4, 4)).pow(3).mean().backward()
    optimizer.step()
    return {name for name, value in state(model).items() if not torch.equal(value, before[name])}


WEIGHTS = {"convolution.weight", "norm.weight", "norm.bias"}
STATISTICS = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}


def learning(model: nn.Module, norms: bool, prefixes: list[str]) -> set[str]:
    return {name for name in changed_by_a_step(model, norms, prefixes) if not name.endswith("convolution.bias")}


def test_a_held_part_keeps_weights_and_statistics() -> None:
    model = chain()
    others = {f"{block}.{name}" for block in ("stem2", "top") for name in WEIGHTS | STATISTICS}
    assert learning(model, False, ["stem"]) == others
    # Later everything learns again.
    assert learning(model, False, []) == others | {f"stem.{name}" for name in WEIGHTS | STATISTICS}


def test_norms_keep_their_statistics_everywhere_when_asked() -> None:
    learned = learning(chain(), True, ["stem"])
    assert learned == {f"{block}.{name}" for block in ("stem2", "top") for name in WEIGHTS}


def test_only_the_modules_that_are_named_are_held() -> None:
    model = nn.Sequential(Block(), nn.Dropout(), nn.BatchNorm2d(3)).train()
    freeze(model, {"0", "2"}, list(model.parameters()), norms=False)
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == [
        "2.weight", "2.bias"
    ]  # fmt: skip
    assert [name for name, module in model.named_modules() if not module.training] == ["2"]
    freeze(model, set(), list(model.parameters()), norms=True)
    assert [name for name, module in model.named_modules() if not module.training] == ["0.norm", "2"]


def test_constants_stay_constants() -> None:
    model = chain()
    constant = model.top.convolution.weight.requires_grad_(False)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    freeze(model, {"stem"}, learned, norms=False)
    freeze(model, set(), learned, norms=False)
    assert not constant.requires_grad
    assert all(parameter.requires_grad for parameter in learned)


def test_the_parts_of_a_detector() -> None:
    detector: Detector = DetectorConfig().build(num_classes=2)
    for part in ("backbone", "neck", "head"):
        freeze(detector.train(), names_to_freeze(detector, [part]), list(detector.parameters()), norms=False)
        for name, parameter in detector.named_parameters():
            assert parameter.requires_grad != name.startswith(f"{part}."), name
        for name, module in detector.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.training != name.startswith(f"{part}."), name
    with pytest.raises(ValueError, match="holds the whole model"):
        names_to_freeze(detector, ["backbone", "neck", "head"])
