"""Training over two machines, made of network namespaces; where these are not permitted, on one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def may_make_namespaces() -> bool:
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    name = f"detseg-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", name], check=True)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("place", ["two machines", "one machine"])
def test_a_killed_rank_ends_all_and_the_run_goes_on_bit_by_bit(place: str) -> None:
    if place == "two machines" and not may_make_namespaces():
        pytest.skip("network namespaces need root and ip")
    words = ["--one-node"] if place == "one machine" else []
    process = subprocess.run(
        [sys.executable, str(REPOSITORY / "bench" / "nodes.py"), "--kills", "1", "--limit", "60", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stdout + process.stderr
    first, last = process.stdout.splitlines()
    assert re.fullmatch(r"2 ranks, .* s; as on one node, bit by bit: True", first)
    assert re.fullmatch(r"1 kills in 1 runs; .*; faults: 0", last)
