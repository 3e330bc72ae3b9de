"""Thousands of damaged files, in a child process with limits: each is refused by the one error or read, all quickly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from detseg.foreign.torch_file import read_torch_file

SLOWEST_SECONDS = 10


def mutate(path: Path, number: int, seed: int) -> dict[str, int]:
    """The number of mutated files by what came of them."""
    script = Path(__file__).with_name("mutate.py")
    result = subprocess.run(
        [sys.executable, str(script), str(path), str(number), str(seed)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads(result.stdout)
    assert report["events"] == [], "reading raised events of Python's audit: something was imported, run or sent"
    assert report["slowest"] < SLOWEST_SECONDS
    outcomes: dict[str, int] = report["outcomes"]
    assert set(outcomes) <= {"refused", "read"}, outcomes
    assert sum(outcomes.values()) == number
    return outcomes


def valid_file(path: Path, zipped: bool) -> Path:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3), torch.nn.Sequential(torch.nn.SiLU())
    )
    base = torch.arange(6.0).reshape(2, 3)
    content: dict[str, Any] = {
        "model": network,
        "views": (base, base.T, base.half(), base.bfloat16(), base > 2),
        "names": {0: "cell", 1: "wall"},
        "settings": [1, -2.5, None, True, "text", 2**40, {"a", "b"}, b"bytes"],
    }
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_mutations(tmp_path: Path, zipped: bool) -> None:
    outcomes = mutate(valid_file(tmp_path / "a.pt", zipped), number=1_000, seed=0)
    assert outcomes["refused"] > 100
    assert outcomes["read"] > 10, "mutations that all fail at once would test little"


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_ten_thousand_mutations(tmp_path: Path, zipped: bool) -> None:
    outcomes = mutate(valid_file(tmp_path / "a.pt", zipped), number=5_000, seed=1)
    assert outcomes["read"] > 100


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize("name", ["yolov8n_bccd.pt", "yolox_nano_coco.pth"])
def test_mutations_of_real_files(tmp_path: Path, detseg_data: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes((detseg_data / "weights" / name).read_bytes())
    read_torch_file(path)
    mutate(path, number=200, seed=2)
