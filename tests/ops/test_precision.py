"""What is asked of a GPU before it works, with stand-ins for GPUs."""

from __future__ import annotations

import pytest
import torch

from detseg.engine.distributed import join_group
from detseg.ops.precision import describe_arithmetic, gpu_arithmetic, require_precision

CUDA = torch.device("cuda", 1)


@pytest.mark.parametrize(("capability", "is_refused"), [((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_bf16_is_refused_where_there_is_none(
    capability: tuple[int, int], is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability if device == CUDA else (9, 0))
    for dtype in (torch.float32, torch.float16, None):
        require_precision(dtype, CUDA)
    require_precision(torch.bfloat16, torch.device("cpu"))
    if is_refused:
        with pytest.raises(ValueError, match=r"bf16 .*cuda:1.*capability 7\.5 has none .*take fp16 or fp32"):
            require_precision(torch.bfloat16, CUDA)
    else:
        require_precision(torch.bfloat16, CUDA)


def test_tf32_is_what_was_said_and_no_longer() -> None:
    def state() -> tuple[bool, bool, bool]:
        cudnn = torch.backends.cudnn
        return torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark

    before = state()
    for tf32 in (True, False):
        with gpu_arithmetic(tf32=tf32, fixed_shapes=not tf32):
            assert state() == (tf32, tf32, not tf32)
        assert state() == before


@pytest.mark.parametrize(
    ("capability", "dtype", "tf32", "override", "expected"),
    [
        ((9, 0), None, None, None, "float32, convolutions in TF32"),  # PyTorch's defaults
        ((9, 0), torch.float32, None, "1", "float32, convolutions in TF32"),
        ((9, 0), None, True, None, "float32, convolutions and products of matrices in TF32"),
        ((9, 0), None, False, None, "float32"),
        ((9, 0), None, True, "0", "float32"),
        ((7, 5), None, True, None, "float32"),
        ((9, 0), torch.bfloat16, True, None, "bfloat16"),
        ((7, 5), torch.float16, None, None, "float16"),
    ],
)
def test_a_report_says_in_what_a_gpu_computes(
    capability: tuple[int, int],
    dtype: torch.dtype | None,
    tf32: bool | None,
    override: str | None,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    if override is not None:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", override)
    assert describe_arithmetic(CUDA, dtype, tf32=tf32) == expected
    assert describe_arithmetic(torch.device("cpu"), dtype, tf32=tf32) == ""


def test_what_a_report_says_follows_the_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    with gpu_arithmetic(tf32=False, fixed_shapes=False):
        assert describe_arithmetic(CUDA, None) == "float32"
    with gpu_arithmetic(tf32=True, fixed_shapes=False):
        assert describe_arithmetic(CUDA, None) == "float32, convolutions and products of matrices in TF32"


def test_processes_do_not_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="device cuda:0 would be that of all 2 processes; say cuda or auto"):
        join_group("cuda:0")
