"""32 bits for the convolutions that a CPU does not learn in 16.

Under autocast, oneDNN's gradient of the weight is wrong for some convolutions: it holds memory that was never written,
often with numbers like any other (seen with torch 2.15 on x86-64 with AVX-512). Those that detseg's networks have are

- depthwise ones with dilation, where channels lie beside each other in memory, which torch.compile chooses by itself;
- 3-D ones with a kernel longer than the volume.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def learns_in_16_bits(x: Tensor) -> bool:
    """Whether a convolution of ``x`` takes place on a CPU under autocast, and a gradient may follow."""
    return x.device.type == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")


def in_32_bits(conv: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``conv(x)`` computed without autocast, rounded to the 16 bits that autocast would give."""
    with torch.autocast("cpu", enabled=False):
        out = conv(x.float())
    return out.to(torch.get_autocast_dtype("cpu"))
