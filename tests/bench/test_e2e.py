from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "e2e.py"


@pytest.mark.slow
def test_both_families_are_counted_and_run() -> None:
    process = subprocess.run([sys.executable, str(SCRIPT), "--tiny", "--runs", "1"], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    rows = [line for line in process.stdout.splitlines() if "_n " in line]
    assert [row.split("|")[1].strip() for row in rows] == ["c2f_n", "e2e_n"]
    # What is deployed, with 80 classes: the one-to-many branch is gone.
    assert [row.split("|")[2].strip() for row in rows] == ["3.15 M", "2.13 M"]
