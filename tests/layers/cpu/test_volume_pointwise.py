from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detseg.layers.cpu import volume_pointwise
from detseg.layers.cpu.volume_pointwise import InstanceNorm3d, PointwiseConv3d, PReLU

LAYOUTS = [torch.contiguous_format, torch.channels_last_3d]


def volumes(layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    x = torch.randn(2, 6, 5, 4, 3, generator=torch.Generator().manual_seed(0))
    x[0, :, 0] = 0
    return x.to(memory_format=layout)


def pairs() -> list[tuple[nn.Module, nn.Module]]:
    torch.manual_seed(0)
    own: list[nn.Module] = [InstanceNorm3d(6), PReLU(6), PointwiseConv3d(6, 3)]
    others: list[nn.Module] = [nn.InstanceNorm3d(6, affine=True), nn.PReLU(6), nn.Conv3d(6, 3, 1)]
    for one, other in zip(own, others, strict=True):
        for parameter in one.parameters():
            nn.init.uniform_(parameter, -1.0, 1.0)
        other.load_state_dict(one.state_dict())
    return list(zip(own, others, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("chunk", [1, 50, 1 << 18])
def test_values_and_gradients_are_pytorch_s(
    layout: torch.memory_format, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume_pointwise, "CHUNK_ELEMENTS", chunk)
    for own, other in pairs():
        results = []
        for module in (own, other):
            x = volumes(layout).requires_grad_()
            out = module(x)
            out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1)))
            results.append([out, x.grad, *(parameter.grad for parameter in module.parameters())])
        for one, expected in zip(*results, strict=True):
            torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5, msg=lambda text, own=own: f"{own}: {text}")


def test_channels_stay_beside_each_other() -> None:
    for module in (InstanceNorm3d(6), PReLU(6)):
        assert module(volumes(torch.channels_last_3d)).is_contiguous(memory_format=torch.channels_last_3d)


def test_exported_graphs_hold_plain_operators() -> None:
    x = volumes(torch.channels_last_3d)
    for own, other in pairs():
        exported = torch.export.export(own, (x,))
        targets = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
        assert targets <= {"aten.instance_norm.default", "aten.prelu.default", "aten.conv3d.default"}
        torch.testing.assert_close(exported.module()(x), other(x), rtol=1e-5, atol=1e-5)
