from __future__ import annotations

import os
from pathlib import Path

import pytest

from detseg.runtime.onnx.cores import num_physical_cores


@pytest.mark.parametrize(
    ("allowed", "siblings", "quota", "expected"),
    [
        ({0, 1, 2, 3}, {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, "max 100000", 2),
        ({0, 1, 2, 3}, {0: "0", 1: "1", 2: "2", 3: "3"}, "max 100000", 4),
        ({0, 2}, {0: "0,2", 2: "0,2"}, "max 100000", 1),
        ({0, 1, 2, 3}, {0: "0", 1: "1", 2: "2", 3: "3"}, "150000 100000", 2),
        ({0, 1}, {0: "0", 1: "1"}, "20000 100000", 1),
        ({0, 1, 5}, {}, "", 3),
        ({0, 1}, {0: "0", 1: "1"}, "a b", 2),
    ],
)
def test_cores(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    allowed: set[int],
    siblings: dict[int, str],
    quota: str,
    expected: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: allowed)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for number, text in siblings.items():
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text + "\n")
    if quota:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert num_physical_cores(tmp_path, tmp_path / "cpu.max") == expected


def test_this_machine() -> None:
    assert 1 <= num_physical_cores() <= (os.cpu_count() or 1)


def test_where_the_system_knows_no_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert num_physical_cores(tmp_path, tmp_path / "none") == 6
