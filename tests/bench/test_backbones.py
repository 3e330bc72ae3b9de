from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "backbones.py"


def test_a_network_is_listed() -> None:
    command = [sys.executable, str(SCRIPT), "--library", "own", "--only", "nin"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    line, last = process.stdout.splitlines()
    assert line.startswith("| nin | (128, 192, 512) | 1.9 M | ")
    assert last == "1 of 1 tried work, of 1; refused: {}"
