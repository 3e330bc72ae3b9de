"""Whether Triton's kernels can run on a GPU, found out before they are needed, and what takes their place."""

from __future__ import annotations

import functools
import subprocess
import warnings
from typing import Literal

import torch

from detseg.runtime.postprocess.config import NmsBackend

_WAY_OUT = "install triton and a C compiler (gcc or clang, or name one in CC)"


@functools.cache
def why_no_triton(device: torch.device) -> str | None:
    """Why Triton's kernels cannot run on ``device``, in one line; None where they can. Asked once per device.

    There may be no Triton (it is not made for every system), no C compiler, which it needs to launch anything, or a GPU
    that it does not know.
    """
    try:
        from triton.errors import TritonError

        from detseg.ops.kernels.probe import launch_probe
    except ImportError as error:
        return f"Triton cannot be imported: {_one_line(error)}"
    try:
        return None if launch_probe(device) else "Triton's kernels do not write what they should"
    except (TritonError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        return f"{type(error).__name__}: {_one_line(error)}"


def choose_nms_backend(backend: NmsBackend, device: torch.device) -> Literal["detseg", "torchvision"]:
    """What suppresses boxes on ``device``: ``auto`` is ``detseg`` where it can run, else ``torchvision``, which a
    warning says.

    Raises:
        ValueError: ``detseg`` was asked for, and its kernels cannot run there.
    """
    if backend == "torchvision" or device.type != "cuda":
        return "torchvision" if backend == "torchvision" else "detseg"
    reason = why_no_triton(device)
    if reason is None:
        return "detseg"
    if backend == "detseg":
        raise ValueError(
            f"nms_backend detseg runs Triton's kernels, which cannot run on {device} ({reason}): {_WAY_OUT}, or take "
            "nms_backend auto or torchvision"
        )
    warn_without_triton(device, reason)
    return "torchvision"


@functools.cache
def warn_without_triton(device: torch.device, reason: str) -> None:
    """Say once what is done without Triton."""
    warnings.warn(
        f"without Triton's kernels on {device} ({reason}): boxes are suppressed by torchvision and images placed by "
        f"the CPU, slower; to change that, {_WAY_OUT}",
        stacklevel=3,
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
