"""What users say for a device, in one form: ``0`` and ``cuda:0`` are the same."""

from __future__ import annotations

import re

KINDS = ("cpu", "cuda", "mps", "xpu")
_ALLOWED = "auto, cpu, cuda, cuda:1 (or its number alone, 1), mps or xpu"

MAX_THREADS = 1024


def parse_device(text: str | int) -> str:
    """``auto``, or the kind of a device with its number where one is given: ``cuda``, ``cuda:0``, ``cpu``, ....

    Raises:
        ValueError: it is no device, or several.
    """
    name = str(text).strip().lower()
    if re.fullmatch(r"\d+", name):
        return f"cuda:{int(name)}"
    if re.fullmatch(r"(cuda:)?\d+(,(cuda:)?\d+)+", name):
        count = name.count(",") + 1
        raise ValueError(
            f"device {text}: one process uses one device; for {count} GPUs: CUDA_VISIBLE_DEVICES="
            f"{name.replace('cuda:', '')} torchrun --nproc-per-node {count} -m detseg train ..."
        )
    kind, _, number = name.partition(":")
    if name == "auto" or (kind in KINDS and (name == kind or (number.isdigit() and kind != "cpu"))):
        return name
    gpu = "; GPUs of all makers that torch calls cuda are cuda here" if kind in ("gpu", "rocm", "nvidia") else ""
    raise ValueError(f"device {text} is not known; it may be {_ALLOWED}{gpu}")


def require_threads(num_threads: int) -> None:
    """Refuse a number of threads that no processor has cores for: each would be begun.

    Raises:
        ValueError: it is not from 1 to ``MAX_THREADS``.
    """
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, got {num_threads}")
    if num_threads > MAX_THREADS:
        raise ValueError(f"num_threads must be at most {MAX_THREADS}, got {num_threads}")
