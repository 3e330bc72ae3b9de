"""What the C++ of this floor takes: a tensor whose channels lie last in memory, as rows of channels."""

from __future__ import annotations

import torch
from torch import Tensor

TYPE_NUMBERS = {torch.float32: 0, torch.bfloat16: 1, torch.float64: 2}
"""As ``native/rows.hpp`` counts them."""

PARAMETER_TYPES = {torch.float32: torch.float32, torch.bfloat16: torch.float32, torch.float64: torch.float64}
"""The type of the parameters, by that of the rows."""

MEMORY_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By the number of axes."""


def has_rows(x: Tensor) -> bool:
    """Whether ``x`` ``[B, C, ...]`` lies as rows of channels, in a type that the C++ knows."""
    return (
        type(x) is Tensor
        and x.dtype in TYPE_NUMBERS
        and x.ndim in MEMORY_FORMATS
        and x.is_contiguous(memory_format=MEMORY_FORMATS[x.ndim])
    )


def as_rows(x: Tensor) -> Tensor:
    """``x``, or a copy of it that lies as rows of channels."""
    return x.contiguous(memory_format=MEMORY_FORMATS[x.ndim])
