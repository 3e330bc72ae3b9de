"""The smallest kernel there is: whether Triton can compile and launch anything at all."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def touch(out):
    """Write 1."""
    tl.store(out, 1)


def launch_probe(device: torch.device) -> bool:
    """Whether a kernel on ``device`` does what it should. Raises what Triton raises: its own errors, a RuntimeError
    where it finds no C compiler or no driver, or the compiler's failure."""
    out = torch.zeros(1, dtype=torch.int32, device=device)
    with torch.cuda.device_of(out):
        touch[(1,)](out)
    return int(out) == 1
