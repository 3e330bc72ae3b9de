"""Batch norms of several processes are those of one process with the whole batch."""

from __future__ import annotations

import copy
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detseg.engine.training.group_norms import synchronize_norms
from detseg.models.vnet import VNetConfig

SHARES = (3, 5)
"""Images of the two processes."""


def norm_act() -> nn.Module:
    layer: nn.Module = pytest.importorskip("timm").layers.BatchNormAct2d(3, act_layer=nn.SiLU)
    return layer


def timm_network() -> nn.Module:
    network: nn.Module = pytest.importorskip("timm").create_model("test_efficientnet", num_classes=2)
    return network


def small_vnet() -> nn.Module:
    return VNetConfig(width=4, num_convolutions=(1, 1), norm="batch").build(num_classes=2)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.BatchNorm1d(3), (3,)),
    "1d of rows": (lambda: nn.BatchNorm1d(3), (3, 5)),
    "2d": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.03)), (3, 6, 7)),
    "2d, bare": (lambda: nn.BatchNorm2d(3, affine=False), (3, 4, 4)),
    "2d, average of all": (lambda: nn.BatchNorm2d(3, momentum=None), (3, 4, 4)),
    "2d, no statistics": (lambda: nn.BatchNorm2d(3, track_running_stats=False), (3, 4, 4)),
    "3d": (lambda: nn.BatchNorm3d(2), (2, 3, 4, 5)),
    "with activation": (norm_act, (3, 4, 4)),
    "timm": (timm_network, (3, 32, 32)),
    "V-Net": (small_vnet, (1, 8, 8, 8)),
}


def network_of(name: str) -> tuple[nn.Module, Tensor]:
    """A network with batch norms, as it is built, and the whole batch for it."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    network = make()
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    return network, torch.randn(sum(SHARES), *shape) * 3 + 20


def run(network: nn.Module, images: Tensor, whole: int, first: int) -> dict[str, Tensor]:
    """Outputs, gradients and buffers after a step on ``images``, which start at ``first`` of a batch of ``whole``."""
    images = images.clone().requires_grad_()
    out = network.train()(images)
    torch.manual_seed(1)
    weights = torch.randn(whole, *out.shape[1:])[first : first + len(out)]
    (out.sigmoid() * weights).sum().backward()
    found = {"out": out.detach(), "images": images.grad}
    found |= {f"gradient of {name}": value.grad for name, value in network.named_parameters() if value.grad is not None}
    found |= {name: value.detach().clone() for name, value in network.named_buffers()}
    if list(network.buffers()):  # others have nothing but the batch
        found["later"] = network.eval()(images).detach()
    return found


def in_process(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=len(SHARES))
    results: dict[str, Any] = {}
    for name in NETWORKS:
        network, images = network_of(name)
        network = copy.deepcopy(synchronize_norms(network, len(SHARES)))
        share = images.split(SHARES)[rank]
        results[name] = run(network, share, len(images), sum(SHARES[:rank]))
        for parameter, value in results[name].items():
            if parameter.startswith("gradient of "):  # as DistributedDataParallel does
                dist.all_reduce(value)
    low = synchronize_norms(nn.BatchNorm2d(3), len(SHARES)).train()
    results["16 bits"] = low((1000 + network_of("2d, bare")[1]).bfloat16().split(SHARES)[rank])
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("norms")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    multiprocessing.spawn(in_process, args=(port, str(folder)), nprocs=len(SHARES))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(len(SHARES))]


@pytest.mark.parametrize("name", NETWORKS)
def test_two_processes_are_one(shares: list[dict[str, Any]], name: str) -> None:
    network, images = network_of(name)
    whole = run(network, images, len(images), 0)
    first, second = (share[name] for share in shares)
    assert first.keys() == second.keys() == whole.keys()
    for part, expected in whole.items():
        if part in ("out", "images", "later"):
            found = torch.cat([first[part], second[part]])
        else:
            found = first[part]
            torch.testing.assert_close(found, second[part], rtol=1e-5, atol=1e-6, msg=part)
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4 * float(expected.abs().max() + 1), msg=part)


def test_means_of_16_bit_values_are_not_rounded(shares: list[dict[str, Any]]) -> None:
    images = (1000 + network_of("2d, bare")[1]).bfloat16()
    expected = nn.BatchNorm2d(3).train()(images.float())
    found = torch.cat([share["16 bits"] for share in shares])
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=2**-7, atol=1e-3)


def test_one_process_keeps_its_own_norms() -> None:
    network = nn.BatchNorm2d(3)
    assert type(synchronize_norms(network, 1)) is nn.BatchNorm2d


def test_a_norm_of_an_unknown_kind_is_refused() -> None:
    class Doubled(nn.BatchNorm2d):
        def forward(self, values: Tensor) -> Tensor:
            return 2 * super().forward(values)

    with pytest.raises(ValueError, match=r"batch norm stem\.1 is a .*Doubled, whose .* cannot span 2 processes"):
        synchronize_norms(nn.ModuleDict({"stem": nn.Sequential(nn.Conv2d(3, 3, 1), Doubled(3))}), 2)


def test_torch_compile_makes_one_graph_of_them() -> None:
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        torch.compiler.reset()
        network, images = network_of("2d")
        expected = run(copy.deepcopy(network), images, len(images), 0)
        compiled = torch.compile(synchronize_norms(network, 2), backend=backend, fullgraph=True)
        out = compiled.train()(images)
        torch.testing.assert_close(out.detach(), expected["out"], rtol=1e-4, atol=1e-5)
        assert len(graphs) == 1
    finally:
        dist.destroy_process_group()
        torch.compiler.reset()
