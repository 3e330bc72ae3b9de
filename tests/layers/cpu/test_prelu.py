from __future__ import annotations

import torch
from torch import nn

from detseg.layers.cpu.prelu import FusedPReLU, fuse_prelu


def test_same_function_eager_and_exported() -> None:
    model = nn.Sequential(nn.Sequential(nn.PReLU(3))).eval()
    model[0][0].weight.data = torch.tensor([-0.5, 0.25, 2.0])
    x = torch.randn(2, 3, 4, 5)
    expected = model(x)
    fuse_prelu(model)
    assert isinstance(model[0][0], FusedPReLU)
    assert torch.equal(model(x), expected)
    exported = torch.export.export(model, (x,))
    assert not any("prelu" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(x), expected)
