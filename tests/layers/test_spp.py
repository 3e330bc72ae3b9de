from __future__ import annotations

import torch
from torch.nn import functional as F

from detseg.layers.spp import SPPF


def test_equals_pooling_in_parallel() -> None:
    """SPP as its paper and YOLOX draw it: kernels of 5, 9 and 13 side by side."""
    torch.manual_seed(0)
    layer = SPPF(8, 6).eval()
    x = torch.randn(2, 8, 17, 15)
    reduced = layer.conv1(x)
    parallel = [reduced, *(F.max_pool2d(reduced, kernel, 1, kernel // 2) for kernel in (5, 9, 13))]
    assert torch.equal(layer(x), layer.conv2(torch.cat(parallel, dim=1)))
