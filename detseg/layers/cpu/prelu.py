"""PReLU for inference."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.layers.cpu.switch import uses_cpu_layers


class FusedPReLU(nn.PReLU):
    """The same function as ``nn.PReLU``; in an exported graph it is ``(1 - a) * relu(x) + a * x``.

    Both factors are 1x1 depthwise convolutions there. ONNX Runtime keeps these, unlike a PRelu, in the blocked layout
    of the convolutions around them; rearranging memory back and forth took a quarter of LETNet's time on the CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> the same shape."""
        if not (uses_cpu_layers() and (torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export())):
            return super().forward(x)
        slope = self.weight.view(-1, 1, 1, 1)
        negative = F.conv2d(x, slope, groups=self.num_parameters)
        return F.conv2d(F.relu(x), 1 - slope, groups=self.num_parameters) + negative


def fuse_prelu(model: nn.Module) -> None:
    """Replace, in place, every PReLU in ``model`` by one that exports better."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.PReLU:
                fused = FusedPReLU(child.num_parameters)
                fused.weight = child.weight
                setattr(parent, name, fused)
