"""What a GPU can compute in, asked before anything expensive is begun."""

from __future__ import annotations

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
