from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "nms_cpu.py"


def test_script_compares_with_torchvision_and_ends_with_a_table() -> None:
    command = [sys.executable, str(SCRIPT), "--sizes", "40", "200", "--dense", "300"]
    command += ["--ious", "0.5", "--seconds", "0"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    head, _, *rows = process.stdout[process.stdout.index("| candidates") :].splitlines()
    assert head == "| candidates | kept | detseg, ms | torchvision, ms | ratio |"
    assert len(rows) == 2 * 2 * 2 + 2
    for row in rows:
        _, _, kept, own, others, _, _ = (cell.strip() for cell in row.split("|"))
        assert 0 < int(kept) <= 300
        assert min(float(own), float(others)) > 0
