"""Networks with the ways of ``layers/cpu`` and without: the same weights, the same results."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from detseg.layers.cpu.switch import use_cpu_layers, uses_cpu_layers
from detseg.layers.volumetric import SameConv3d
from detseg.models.letnet import LETNetConfig
from detseg.models.vnet import MONAI_VNET, VNet, VNetConfig

NETWORKS: dict[str, tuple[Any, tuple[int, ...], float]] = {
    # Levels for Winograd's way, a level too small for its kernels. Last the limit of what gradients differ by: where a
    # value is near 0, rounding decides which slope a PReLU has; ELUs have no such place. Seen were 0.003 and 6e-6.
    "vnet": (VNetConfig(norm="batch"), (1, 1, 32, 32, 32), 0.01),
    "vnet, instance norm": (VNetConfig(norm="instance", num_convolutions=(1, 2, 2)), (2, 1, 24, 16, 20), 0.01),
    "vnet of monai": (MONAI_VNET, (1, 1, 32, 32, 32), 3e-5),
    "letnet": (LETNetConfig(), (2, 3, 64, 96), 0.0),
}


@pytest.fixture(autouse=True)
def switched_back() -> Iterator[None]:
    yield
    use_cpu_layers(True)


class KindsOfConvolution(TorchDispatchMode):
    """Notes how many axes the weights of convolutions have."""

    def __init__(self) -> None:
        super().__init__()
        self.num_axes: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name == "aten::convolution":
            self.num_axes.add(args[1].ndim)
        return func(*args, **(kwargs or {}))


def built(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = NETWORKS[name][0].build(3)
    for module in model.modules():
        if isinstance(module, nn.Dropout3d):
            module.p = 0.0
    return model


def outputs_and_gradients(model: nn.Module, images: Tensor) -> list[Tensor]:
    images = images.clone().requires_grad_()
    logits = model(images)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad((logits * weights).mean(), [images, *parameters])
    return [logits.detach(), *gradients]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_with_and_without(name: str) -> None:
    images = torch.randn(NETWORKS[name][1], generator=torch.Generator().manual_seed(0))
    results = {}
    for enabled in (True, False):
        use_cpu_layers(enabled)
        model = built(name, seed=0).train()
        with KindsOfConvolution() as seen:
            results[enabled] = outputs_and_gradients(model, images)
        assert (seen.num_axes == {5}) is (not enabled and name != "letnet"), "Winograd's way convolves in 2-D"
    logits, *gradients = results[False]
    assert (results[True][0] - logits).norm() <= 2e-5 * logits.norm()
    largest = max(gradient.norm() for gradient in gradients)
    for one, other in zip(results[True][1:], gradients, strict=True):
        assert (one - other).norm() <= NETWORKS[name][2] * largest


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("enabled", [True, False])
def test_weights_are_of_either(name: str, enabled: bool) -> None:
    images = torch.randn(NETWORKS[name][1], generator=torch.Generator().manual_seed(0))
    use_cpu_layers(enabled)
    source = built(name, seed=1).eval()
    expected = source(images).detach()
    use_cpu_layers(not enabled)
    target = built(name, seed=2).eval()
    target.load_state_dict(source.state_dict())
    with torch.no_grad():
        assert (target(images) - expected).norm() <= 2e-5 * expected.norm()
        if isinstance(target, VNet):  # LETNet holds no weights that are prepared for a way of its own
            assert (target.fuse()(images) - expected).norm() <= 2e-5 * expected.norm()
            assert any(isinstance(module, SameConv3d) and module.points is not None for module in target.modules()) is (
                not enabled
            )


@pytest.mark.parametrize("enabled", [True, False])
def test_graphs_of_letnet(enabled: bool) -> None:
    use_cpu_layers(enabled)
    exported = torch.export.export(built("letnet", seed=0).eval().fuse(), (torch.zeros(1, 3, 32, 32),))
    assert any("prelu" in str(node.target) for node in exported.graph.nodes), "as one node, whatever runs it"


@pytest.mark.parametrize(("value", "enabled"), [(None, True), ("1", True), ("0", False)])
def test_the_environment_decides_at_the_start(value: str | None, enabled: bool) -> None:
    environment = {key: text for key, text in os.environ.items() if key != "DETSEG_CPU_LAYERS"}
    code = "from detseg.layers.cpu.switch import uses_cpu_layers; print(uses_cpu_layers())"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | ({} if value is None else {"DETSEG_CPU_LAYERS": value}),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.strip() == str(enabled)
    assert uses_cpu_layers()
