from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from detseg.data.datasets.dataset import Dataset
from detseg.engine.run import train
from detseg.engine.settings import RunConfig
from detseg.engine.training.awaited import Awaited

PAUSE = 0.05


def test_only_the_time_until_an_item_comes_counts() -> None:
    def slow() -> Iterator[int]:
        for number in range(3):
            time.sleep(PAUSE)
            yield number

    awaited = Awaited(slow())
    started = time.monotonic()
    got = []
    for number in awaited:
        got.append(number)
        time.sleep(4 * PAUSE)
    assert got == [0, 1, 2]
    assert 3 * PAUSE <= awaited.seconds < time.monotonic() - started - 3 * 4 * PAUSE + 0.01


def test_an_error_passes_through() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    awaited = Awaited(broken())
    assert next(awaited) == 1
    with pytest.raises(ValueError, match="no more"):
        next(awaited)


def test_a_run_records_its_waiting(
    tiny: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that take long to read show in ``wait_seconds`` of their epoch."""
    fast: Any = Dataset.load

    def slow(self: Dataset, *arguments: Any) -> Any:
        time.sleep(PAUSE)
        return fast(self, *arguments)

    monkeypatch.setattr(Dataset, "load", slow)
    train(tiny("augment.mosaic=0", "train.epochs=1"), tmp_path / "run", bar=False)
    (record,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    # 12 images in an epoch, and three steps that are no waiting
    assert 12 * PAUSE < record["wait_seconds"] < record["train_seconds"]
