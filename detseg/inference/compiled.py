"""Networks through ``torch.compile``, for CUDA graphs of a few fixed sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from detseg.ops.compile_cache import keep_compiled

BACKEND: Any = "inductor"
_MAX_SIZES = 64
"""More than there are powers of two among batches: each size is compiled, none runs uncompiled without a word."""


class CompiledNetwork:
    """``model`` compiled for each shape of its input when that is first seen, which takes up to minutes; the same
    results but for rounding.

    What was made is kept, so that a later process is ready sooner, see :mod:`detseg.ops.compile_cache`.
    """

    def __init__(self, model: nn.Module) -> None:
        keep_compiled()
        self._forward: Callable[..., Any] = torch.compile(model, backend=BACKEND, dynamic=False, fullgraph=True)

    def __call__(self, images: torch.Tensor) -> Any:
        """What ``model`` gives for ``images``."""
        with torch._dynamo.config.patch(recompile_limit=_MAX_SIZES):
            return self._forward(images)
