"""Released weights whose data is at hand everywhere are what the table of releases says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from detseg.runtime.released import read_table


@pytest.mark.parametrize(("name", "data"), [("detseg_n_shapes", "shapes")])
def test_their_quality_is_that_of_the_table(tmp_path: Path, name: str, data: str) -> None:
    words = ["eval", name, "--data", data, "--device", "cpu", "-o", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "detseg", *words], check=True, capture_output=True)
    measured = json.loads((tmp_path / "metrics.json").read_text())["AP"]
    said = re.search(r"AP (0\.\d{4}) on val", read_table().weights[name].quality)
    assert said is not None
    assert measured == pytest.approx(float(said[1]), abs=1e-3)
