from __future__ import annotations

import pytest
import torch

from detseg.runtime.devices import parse_device
from detseg.tasks.model_file import default_device


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("auto", "auto"),
        ("cpu", "cpu"),
        ("CPU", "cpu"),
        ("0", "cuda:0"),
        (0, "cuda:0"),
        (3, "cuda:3"),
        (" 1 ", "cuda:1"),
        ("cuda", "cuda"),
        ("cuda:0", "cuda:0"),
        ("mps", "mps"),
        ("xpu:1", "xpu:1"),
    ],
)
def test_what_users_say(said: str | int, meant: str) -> None:
    assert parse_device(said) == meant


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("0,1", "for 2 GPUs: CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc-per-node 2 -m detseg train"),
        ("cuda:2,cuda:3", "for 2 GPUs: CUDA_VISIBLE_DEVICES=2,3 torchrun"),
        ("gpu", "device gpu is not known; it may be auto, cpu, cuda.*cuda here"),
        ("tpu", "device tpu is not known; it may be auto, cpu, cuda, cuda:1"),
        ("cuda:x", "device cuda:x is not known"),
        ("cpu:0", "device cpu:0 is not known"),
        ("-1", "device -1 is not known"),
        ("", "device  is not known"),
    ],
)
def test_what_is_none(said: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_device(said)


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert default_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="device 0 was asked for, but torch sees no CUDA device; use cpu or auto"):
        default_device("0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert default_device("1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="torch sees 2 of this kind, counted from 0"):
        default_device("cuda:2")
