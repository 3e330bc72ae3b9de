"""The switch of this floor: without it PyTorch's own layers run, with the same weights and the same results.

``DETSEG_CPU_LAYERS=0`` in the environment turns it off from the start.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

_enabled = os.environ.get("DETSEG_CPU_LAYERS") != "0"


def use_cpu_layers(enabled: bool) -> None:
    """Take the ways of this floor from now on, or PyTorch's own, in every network of this process."""
    global _enabled
    _enabled = enabled


def uses_cpu_layers() -> bool:
    """Whether the ways of this floor are taken."""
    return _enabled


def speeds_up(x: Tensor) -> bool:
    """Whether a layer takes its way of this floor for ``x``: on a CPU, and never in graphs that are compiled."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and _enabled
