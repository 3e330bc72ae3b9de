from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "train_step.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)


@pytest.mark.slow
def test_every_network_is_compared_with_its_stock_layers() -> None:
    process = run("--tiny")
    assert process.returncode == 0, process.stderr
    titles = re.findall(r"^(\w+), [\dx]+, fp32, threads: 1$", process.stdout, re.MULTILINE)
    assert titles == ["letnet", "detector", "vnet"]
    rows = re.findall(r"^(MONAI|stock layers|detseg) +([\d.]+) +([\d.]+) +([\d.]+)", process.stdout, re.MULTILINE)
    names = [name for name, *_ in rows]
    assert names == ["stock layers", "detseg", "stock layers", "detseg", "MONAI", "stock layers", "detseg"]
    assert all(float(speed) > 0 for _, speed, *_ in rows)
    assert [ratio for name, *_, ratio in rows if name == "MONAI"] == ["1.00"]


def test_an_unknown_network_is_refused() -> None:
    process = run("unet")
    assert process.returncode == 2
    assert "unknown networks unet; there are letnet, detector, vnet" in process.stderr
