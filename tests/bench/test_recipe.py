from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "recipe.py"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--results", str(folder / "recipe.jsonl"), "--runs", str(folder / "runs")]
    return subprocess.run([*command, *arguments], capture_output=True, text=True)


def row(variant: str, seed: int, ap: float, **others: object) -> str:
    return json.dumps({"variant": variant, "seed": seed, "size": 320, "epochs": 60, "amp": "none", "AP": ap} | others)


def test_differences_are_those_of_equal_seeds(tmp_path: Path) -> None:
    rows = [row("base", 0, 0.50), row("base", 1, 0.54), row("base", 2, 0.52)]
    rows += [row("no_ema", 0, 0.48), row("no_ema", 1, 0.50), row("sgd", 2, 0.50)]
    rows += [row("sgd", 0, 0.9, size=192), row("sgd", 1, 0.9, amp="bf16"), row("sgd", 1, 0.9, epochs=1)]
    (tmp_path / "recipe.jsonl").write_text("\n".join(rows) + "\n")
    process = run(tmp_path, "--table")
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [
        "| change | AP | difference from the base, same seeds | seeds |",
        "|---|---|---|---|",
        "| the recipe as it is | 0.5200 ± 0.0115 | - | 0, 1, 2 |",  # 0.02 / sqrt(3)
        "| without EMA | 0.4900 ± 0.0100 | -0.0300 ± 0.0100 | 0, 1 |",
        "| SGD with Nesterov momentum, rate 0.01 | 0.5000 | -0.0200 | 2 |",
    ]


@pytest.mark.slow
def test_a_study_is_made_in_parts(tmp_path: Path, detseg_data: Path) -> None:
    small = ("--size", "64", "--epochs", "1", "--seeds", "0")
    first = run(tmp_path, *small, "--variants", "base")
    assert first.returncode == 0, first.stderr
    (written,) = (tmp_path / "recipe.jsonl").read_text().splitlines()
    both = run(tmp_path, *small, "--variants", "base,no_mosaic")
    assert both.returncode == 0, both.stderr
    assert "base, seed 0" in first.stdout
    assert "base, seed 0" not in both.stdout  # it is not trained again
    kept, added = (tmp_path / "recipe.jsonl").read_text().splitlines()
    assert kept == written
    assert json.loads(added)["variant"] == "no_mosaic"
    assert len(both.stdout.splitlines()) == 1 + 2 + 2


@pytest.mark.parametrize("arguments", [("--variants", "base,nothing"), ("--amp", "fp8")])
def test_what_is_unknown_is_refused(tmp_path: Path, arguments: tuple[str, str]) -> None:
    process = run(tmp_path, *arguments)
    assert process.returncode == 2
    assert arguments[1].split(",")[-1] in process.stderr
    assert not (tmp_path / "recipe.jsonl").exists()


def test_a_training_that_fails_says_why(tmp_path: Path, detseg_data: Path) -> None:
    process = run(tmp_path, "--size", "65", "--epochs", "1", "--seeds", "0", "--variants", "base")
    assert process.returncode == 1
    assert "65" in process.stderr
    assert not (tmp_path / "recipe.jsonl").exists()
