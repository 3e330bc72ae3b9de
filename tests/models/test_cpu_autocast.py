"""On a CPU in bfloat16, no convolution of our networks may have a gradient that is not that of 32 bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from detseg.config import load_config
from detseg.engine.settings import RunConfig
from detseg.models.vnet import VNetConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CONVOLUTIONS = ("aten::convolution", "aten::convolution_backward")
LIMIT = 0.03
"""Relative. Sums are rounded to 16 bits once or, by processors without bfloat16, several times; 0.017 was seen."""


class CompareConvolutions(TorchDispatchMode):
    """Computes convolutions of 16 bits in 32 bits as well, and notes the relative difference of each result."""

    def __init__(self) -> None:
        super().__init__()
        self.differences: list[float] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func._schema.name in CONVOLUTIONS and any(
            isinstance(one, Tensor) and one.dtype == torch.bfloat16 for one in args
        ):
            expected = func(*tree_map_only(Tensor, Tensor.float, args), **(kwargs or {}))
            for one, other in zip(tensors(found), tensors(expected), strict=True):
                self.differences.append(((one.float() - other).norm() / other.norm()).item())
        return found


def tensors(results: Any) -> Iterator[Tensor]:
    """The results of one operator that it was asked for."""
    return (one for one in (results if isinstance(results, tuple) else (results,)) if one is not None and one.numel())


def total(outputs: Any) -> Tensor:
    """A number that all outputs of a network have a part in."""
    if isinstance(outputs, Tensor):
        return outputs.float().square().sum()
    values = outputs if isinstance(outputs, tuple | list) else vars(outputs).values()
    return torch.stack([total(one) for one in values if isinstance(one, Tensor | tuple | list)]).sum()


def network(name: str) -> nn.Module:
    if name == "vnet, kernels longer than the coarsest level":
        return VNetConfig(width=4).build(3)
    config = load_config(RunConfig, CONFIGS / name, [])
    return config.model.build(3)


@pytest.mark.parametrize("layout", ["plain", "channels last"])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("semantic/letnet.yaml", (2, 3, 160, 192)),
        ("volume/vnet_s.yaml", (1, 1, 32, 16, 16)),
        ("vnet, kernels longer than the coarsest level", (1, 1, 32, 32, 32)),
        ("detection/c2f_n.yaml", (2, 3, 96, 96)),
        ("detection/yolox_nano.yaml", (2, 3, 96, 96)),
    ],
)
def test_convolutions_learn_what_they_do_in_32_bits(name: str, shape: tuple[int, ...], layout: str) -> None:
    torch.manual_seed(0)
    model, images = network(name).train(), torch.randn(shape)
    if layout == "channels last":
        last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
        model, images = model.to(memory_format=last), images.to(memory_format=last)
    with CompareConvolutions() as compared:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = model(images)
        total(outputs).backward()
    assert len(compared.differences) > 30
    # Not `max`, which a difference that is no number would pass through.
    assert all(difference < LIMIT for difference in compared.differences)
