"""What is asked of a GPU before it works, with stand-ins for GPUs."""

from __future__ import annotations

import pytest
import torch

from detseg.engine.distributed import join_group
from detseg.ops.precision import gpu_arithmetic, require_precision

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


def test_processes_do_not_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="device cuda:0 would be that of all 2 processes; say cuda or auto"):
        join_group("cuda:0")
