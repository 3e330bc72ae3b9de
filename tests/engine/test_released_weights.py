"""Released weights whose data is at hand are what the table of releases says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from detseg.runtime.weights.released import read_table

REPOSITORY = Path(__file__).resolve().parents[2]


def measured(name: str, data: str, metric: str, tmp_path: Path, *options: str) -> float:
    """What `detseg eval` finds."""
    words = ["eval", name, "--data", data, "--device", "cpu", "-o", str(tmp_path), *options]
    subprocess.run([sys.executable, "-m", "detseg", *words], check=True, capture_output=True)
    return float(json.loads((tmp_path / "metrics.json").read_text())[metric])


def said(name: str, metric: str) -> float:
    """What the table of releases says."""
    found = re.match(rf"{metric} (0\.\d{{4}})\b", read_table().weights[name].quality)
    assert found is not None
    return float(found[1])


def test_shapes(tmp_path: Path) -> None:
    assert measured("detseg_n_shapes", "shapes", "AP", tmp_path) == pytest.approx(
        said("detseg_n_shapes", "AP"), abs=1e-3
    )


def test_blood_cells(tmp_path: Path, detseg_data: Path) -> None:
    found = measured("detseg_n_bccd", str(detseg_data / "bccd"), "AP", tmp_path)
    assert found == pytest.approx(said("detseg_n_bccd", "AP"), abs=1e-3)


@pytest.mark.slow
def test_hippocampus(tmp_path: Path, detseg_data: Path) -> None:
    """These weights have learned from all volumes, so here they must be better than on volumes that were left out."""
    folds = str(REPOSITORY / "configs/data/hippocampus_folds.yaml")
    found = measured("vnet_hippocampus", folds, "Dice", tmp_path, "--split", "fold0-val")
    assert found > said("vnet_hippocampus", "Dice") > 0.85


@pytest.mark.slow
def test_road_scenes(tmp_path: Path, detseg_data: Path) -> None:
    """These weights have learned from val too, so they must be better there than those that had not."""
    found = measured("letnet_camvid", str(REPOSITORY / "configs/data/camvid.yaml"), "mIoU", tmp_path)
    assert found > said("letnet_camvid", "mIoU") > 0.65
