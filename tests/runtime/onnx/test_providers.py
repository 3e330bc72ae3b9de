"""Where ONNX Runtime runs, with stand-ins for what a machine with GPUs has."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from detseg.runtime.onnx.providers import CPU, CUDA, ProviderError, checked_providers, open_on, require_providers

BOTH = ["TensorrtExecutionProvider", CUDA, CPU]


@pytest.mark.parametrize(
    ("device", "available", "expected"),
    [
        ("cuda", BOTH, [(CUDA, {"device_id": 0}), CPU]),
        ("cuda:1", BOTH, [(CUDA, {"device_id": 1}), CPU]),
        ("cuda:3", BOTH, [(CUDA, {"device_id": 3}), CPU]),
        ("auto", BOTH, [(CUDA, {"device_id": 0}), CPU]),
        ("auto", [CPU], [CPU]),
        ("cpu", BOTH, [CPU]),
    ],
)
def test_providers_of_devices(device: str, available: Sequence[str], expected: Any) -> None:
    assert open_on(device, available, list) == expected


def test_other_devices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"device must be auto, cpu or cuda for \.onnx files, got mps"):
        open_on("mps", BOTH, list)


def session(providers: Sequence[Any], running: Sequence[str]) -> Sequence[Any]:
    """What ONNX Runtime makes where only ``running`` can be used: it says nothing."""
    require_providers(SimpleNamespace(get_providers=lambda: list(running)), providers)
    return providers


def test_a_gpu_that_cannot_be_used_is_an_error_where_it_was_named() -> None:
    with pytest.raises(ProviderError, match=r"has CUDAExecutionProvider but cannot use it here.*device cpu"):
        open_on("cuda:1", BOTH, lambda providers: session(providers, [CPU]))
    assert open_on("cuda:1", BOTH, lambda providers: session(providers, [CUDA, CPU]))


def test_and_where_it_was_not_the_cpu_is_taken_aloud() -> None:
    with pytest.warns(UserWarning, match="it runs on the CPU instead, as device is auto"):
        assert open_on("auto", BOTH, lambda providers: session(providers, [CPU])) == [CPU]


def test_what_was_not_built_is_named() -> None:
    runtime = SimpleNamespace(get_available_providers=lambda: [CPU])
    with pytest.raises(ProviderError, match="cannot run on CUDAExecutionProvider; it has CPUExecutionProvider"):
        checked_providers(runtime, [(CUDA, {"device_id": 1}), CPU])
