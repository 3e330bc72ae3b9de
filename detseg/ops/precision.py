"""What a GPU can compute in, asked before anything expensive is begun."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def require_precision(dtype: torch.dtype | None, device: torch.device) -> None:
    """Refuse bfloat16 on a GPU that only imitates it, many times slower: NVIDIA's compute it from capability 8.0
    (Ampere) on.

    Raises:
        ValueError: ``device`` is such a GPU and ``dtype`` is bfloat16.
    """
    if dtype != torch.bfloat16 or device.type != "cuda" or torch.version.hip is not None:
        return
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        raise ValueError(
            f"bf16 was asked for on {device}, whose compute capability {major}.{minor} has none (8.0 or newer does): "
            "take fp16 or fp32 (train.amp=fp16 or none)"
        )


def describe_arithmetic(device: torch.device, dtype: torch.dtype | None, *, tf32: bool | None = None) -> str:
    """In what a network in ``dtype`` (None: float32) is computed on ``device``, for a report; "" where there is nothing
    to know beyond its name, on a CPU.

    On NVIDIA's GPUs from capability 8.0 on, PyTorch computes float32 convolutions in TF32 unless
    ``torch.backends.cudnn.allow_tf32`` is False, and products of matrices only where
    ``torch.backends.cuda.matmul.allow_tf32`` is True; ``NVIDIA_TF32_OVERRIDE=0`` in the environment turns off both.
    ``tf32`` says of both what they will be.
    """
    if device.type != "cuda":
        return ""
    if dtype not in (None, torch.float32):
        return str(dtype).removeprefix("torch.")
    has_tf32 = torch.version.hip is None and torch.cuda.get_device_capability(device)[0] >= 8
    if not has_tf32 or os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
        return "float32"
    parts = {
        "convolutions": torch.backends.cudnn.allow_tf32 if tf32 is None else tf32,
        "products of matrices": torch.backends.cuda.matmul.allow_tf32 if tf32 is None else tf32,
    }
    rounded = [name for name, is_rounded in parts.items() if is_rounded]
    return f"float32, {' and '.join(rounded)} in TF32" if rounded else "float32"


@contextmanager
def gpu_arithmetic(*, tf32: bool, fixed_shapes: bool) -> Iterator[None]:
    """While it lasts, float32 convolutions and products of matrices on GPUs are computed in TF32 (8 bits of exponent,
    10 of mantissa) if ``tf32`` says so, and with ``fixed_shapes`` cuDNN tries its algorithms once for each shape and
    keeps the fastest."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = tf32, tf32, fixed_shapes
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before
