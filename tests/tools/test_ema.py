from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from detseg.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]
SHAPES = "{format: shapes, image_size: 64, num_train: 8, num_val: 4, min_side: 12, max_side: 30}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs whose averages hold on to the past for long and not at all, and one without any."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "shapes.yaml").write_text(SHAPES)
    settings = [f"data.path={folder / 'shapes.yaml'}", "data.num_workers=0", "task.input={height: 64, width: 64}"]
    settings += ["train.epochs=2", "train.batch_size=2", "train.evaluate_epochs=2", "train.device=cpu"]
    averages = {"long": "{decay: 0.999, ramp: 1.0}", "none": "{decay: 0.0}", "without": "null"}
    for name, ema in averages.items():
        words = [str(REPOSITORY / "configs/semantic/shapes.yaml"), *settings, f"train.ema={ema}"]
        assert main(["train", *words, "-o", str(folder / name)]) == 0
    return folder


def run(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "tools/release/ema.py"), "--device", "cpu", *names]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


@pytest.mark.slow
def test_both_figures_and_their_means(folder: Path) -> None:
    process = run(folder, "long", "none")
    assert process.returncode == 0, process.stderr
    head, _, *rows = process.stdout.splitlines()
    assert head == "| run | figure | with EMA | without |"
    (long, *_, long_averaged, long_plain), (none, *_, none_averaged, none_plain), (mean, *_, averaged, plain) = (
        [cell.strip() for cell in row.strip("|").split("|")] for row in rows
    )
    assert (long, none, mean) == ("long", "none", "mean")
    recorded = [json.loads((folder / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in (long, none)]
    # Another process may sum in another order.
    figures = [float(long_averaged), float(none_averaged)]
    assert figures == pytest.approx([record["mIoU"] for record in recorded], abs=2e-4)
    # Averages that forget at once are the weights themselves; of the others 8 steps still hold most of the beginning.
    assert float(none_averaged) == pytest.approx(float(none_plain), abs=2e-4)
    assert long_averaged != long_plain
    assert float(averaged) == pytest.approx((float(long_averaged) + float(none_averaged)) / 2, abs=1.01e-4)
    assert float(plain) == pytest.approx((float(long_plain) + float(none_plain)) / 2, abs=1.01e-4)


def test_a_run_without_averages_is_refused(folder: Path) -> None:
    process = run(folder, "without")
    assert process.returncode == 2
    assert process.stderr == (
        "ema.py: without was trained without EMA (train.ema: null); name a run that has averages\n"
    )
