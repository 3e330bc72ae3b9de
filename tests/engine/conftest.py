"""A run small enough to be trained dozens of times: six optimizer steps on tiny images of shapes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from detseg.config import load_config
from detseg.engine.settings import RunConfig

TINY = """
model:
  name: detector
  backbone: {name: csp_darknet, width: 0.125}
  neck: pan
  head: dfl
task: {name: detection, input: {height: 64, width: 64}}
data: {path: shapes.yaml, num_workers: 0}
augment: {mosaic: 0.5, close_mosaic_epochs: 1}
train:
  epochs: 2
  batch_size: 4
  num_threads: 1
  optimizer: {name: adamw, learning_rate: 1.0e-3}
  schedule: {warmup_epochs: 1}
  ema: {decay: 0.9, ramp: 2}
"""
SHAPES = """
format: shapes
image_size: 64
num_train: 12
num_val: 4
min_objects: 1
max_objects: 2
min_side: 16
max_side: 30
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., RunConfig]:
    """``tiny("train.epochs=3", ...)`` is the configuration of the small run with these settings."""
    (tmp_path / "shapes.yaml").write_text(SHAPES)
    (tmp_path / "tiny.yaml").write_text(TINY)
    return lambda *overrides: load_config(RunConfig, tmp_path / "tiny.yaml", overrides)


def fingerprint(run_dir: Path) -> dict[str, str]:
    """What two equal runs must have in common: all weights bit by bit, and what was measured."""
    digests = {
        name: hashlib.sha256((run_dir / name).read_bytes()).hexdigest()
        for name in ("best.safetensors", "last.safetensors")
    }
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        del record["train_seconds"], record["wait_seconds"], record["eval_seconds"]
    return digests | {"records": json.dumps(records)}


@pytest.fixture(name="fingerprint")
def fingerprint_fixture() -> Callable[[Path], dict[str, str]]:
    return fingerprint
