"""What users say for a device, in one form: ``0`` and ``cuda:0`` are the same."""

from __future__ import annotations

import re

KINDS = ("cpu", "cuda", "mps", "xpu")
_ALLOWED = "auto, cpu, cuda, cuda:1 (or its number alone, 1), mps or xpu"


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
