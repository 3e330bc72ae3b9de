"""Where ONNX Runtime runs a network, from what the user says for a device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
Provider = str | tuple[str, dict[str, Any]]
"""By ONNX Runtime's name, with options where there are any."""
T = TypeVar("T")


class ProviderError(ValueError):
    """ONNX Runtime cannot run where it was asked to."""


def open_on(device: str, available: Sequence[str], make: Callable[[Sequence[Provider]], T]) -> T:
    """What ``make`` gives for the providers that ``device``, as ``parse_device`` has it, stands for. ``auto`` is the
    first GPU where ONNX Runtime is built for one (``available``) and finds it, else the CPU.

    Raises:
        ValueError: it is no device for ``.onnx`` files, or it was named and ONNX Runtime cannot run there.
    """
    kind, _, number = device.partition(":")
    on_gpu: list[Provider] = [(CUDA, {"device_id": int(number or 0)}), CPU]
    if kind == "cuda":
        return make(on_gpu)
    if kind == "auto" and CUDA in available:
        try:
            return make(on_gpu)
        except ProviderError as error:
            warnings.warn(f"{error}; it runs on the CPU instead, as device is auto", stacklevel=3)
    elif kind not in ("auto", "cpu"):
        raise ValueError(f"device must be auto, cpu or cuda for .onnx files, got {device}")
    return make([CPU])


def names_of(providers: Sequence[Provider]) -> list[str]:
    """Their names."""
    return [one if isinstance(one, str) else one[0] for one in providers]


def checked_providers(onnxruntime: Any, providers: Sequence[Provider] | None) -> list[Provider]:
    """``providers``, or the CPU where there are none given.

    Raises:
        ProviderError: ONNX Runtime was not built with one of them.
    """
    available = onnxruntime.get_available_providers()
    unknown = [name for name in names_of(providers or ()) if name not in available]
    if unknown or (providers is not None and not providers):
        raise ProviderError(
            f"ONNX Runtime here cannot run on {', '.join(unknown) or 'nothing'}; it has {', '.join(available)}"
        )
    return list(providers or (CPU,))


def require_providers(session: Any, providers: Sequence[Provider]) -> None:
    """Refuse a session that runs elsewhere: ONNX Runtime takes the CPU by itself where a GPU or its libraries cannot be
    found.

    Raises:
        ProviderError: it does.
    """
    running = session.get_providers()
    missing = [name for name in names_of(providers) if name not in running]
    if missing:
        raise ProviderError(
            f"ONNX Runtime has {', '.join(missing)} but cannot use it here, it would run on {', '.join(running)}: look "
            "for the GPU, its number, its driver and the CUDA libraries, or take device cpu"
        )
