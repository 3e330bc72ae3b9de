"""Random kills of ``detseg predict``, and that what they must not leave is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.kills import faults_of, files_in

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "kills.py"


def test_what_is_neither_whole_nor_marked_is_found(tmp_path: Path) -> None:
    whole = {"a.png": b"image", "b.json": b"[]\n", "sub/c.csv": b"1,2\n"}
    for name, content in {
        "a.png": b"image", "b.json": b"[\n", "sub/c.csv": b"1,2\n", "d.txt": b"", ".partial-a-x.png": b"im",
        "b.unfinished.jsonl": b"{", "sub/.partial-c": b"",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert sorted(faults_of(tmp_path, whole)) == ["b.json is not whole", "d.txt is not whole"]
    assert files_in(tmp_path)["sub/c.csv"] == b"1,2\n"


@pytest.mark.slow
def test_random_kills_leave_whole_files_and_resume_completes_them() -> None:
    process = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "12", "--seed", "3"], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    counts = dict(line.split(": ") for line in process.stdout.splitlines() if ": " in line)
    assert int(counts["killed"]) >= 12
    assert int(counts["made complete"]) >= 3
    assert int(counts["killed, with something to go on from"]) >= 3
