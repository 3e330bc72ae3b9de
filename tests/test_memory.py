from __future__ import annotations

import os
from pathlib import Path

import pytest

from detseg.memory import usable_memory


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="this system does not say how much memory it has")
def test_usable_memory(tmp_path: Path) -> None:
    group = tmp_path / "memory.max"
    machine = usable_memory(group)
    assert machine > 2**26
    for text, expected in (("max\n", machine), ("1000000\n", 1_000_000), (f"{2**60}\n", machine), ("", machine)):
        group.write_text(text)
        assert usable_memory(group) == expected
