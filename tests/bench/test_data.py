from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GROUPS = ("coco", "yolo", "voc", "cityscapes", "evaluate", "loader")
"""All but training, which takes minutes."""
SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "data.py"


@pytest.mark.slow
def test_everything_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--scale", "0.0003", "--folder", str(tmp_path / "sets"), "--only", *GROUPS]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    _, _, header, _, *lines = process.stdout.splitlines()
    assert header.split(" | ")[1:3] == ["work", "seconds"]
    rows = [line.strip("| ").split(" | ") for line in lines]
    results = {(row[0], row[1]): row[-1] for row in rows}
    assert results["coco", "open"] == results["coco", "open again"] == results["coco", "pycocotools"]
    assert results["coco", "open"] == "35 images, 312 objects"
    assert results["yolo", "open"].startswith("30 images, ")
    assert results["voc", "open"] == "6 images, 16 objects"
    assert results["cityscapes", "open"].startswith("1 images, ")
    for subject, how in (("coco", ", partners of all"), ("coco", ""), ("photographs", ", decoded whole")):
        assert results[subject, f"training images{how}"].endswith(" images per second and core")
    assert len({result.partition(";")[0] for (_, work), result in results.items() if work == "evaluate"}) == 1
