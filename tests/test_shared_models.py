"""One model of each task, in torch and in ONNX Runtime, that many threads use at once: each gets its own results."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from bench.small_models import KINDS, in_onnx, inputs_of
from bench.stress import MAKERS, call_from_threads
from detseg.runtime.model import Model

NUM_THREADS = 16


@pytest.mark.parametrize("num_calls", [1_500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_every_thread_gets_the_results_of_its_own_inputs(tmp_path: Path, num_calls: int) -> None:
    chosen = list(itertools.product(MAKERS, KINDS))
    models = [MAKERS[runtime](kind, tmp_path) for runtime, kind in chosen]
    wrong, called = call_from_threads(models, [inputs_of(kind) for _, kind in chosen], num_calls, NUM_THREADS)
    assert not wrong, f"{len(wrong)} of {num_calls}, the first: {wrong[0]}"
    assert sum(called.values()) == num_calls
    assert min(called.values()) >= num_calls // len(models) - NUM_THREADS


def test_what_threads_mix_up_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that answers with what it was asked before."""
    model = in_onnx("masks", tmp_path)
    inputs = inputs_of("masks")
    kept: list[object] = []

    def late(self: Model, image: object, *arguments: object) -> object:
        kept.append(image)
        return right(self, kept[max(0, len(kept) - 2)] if len(kept) > len(inputs) else image)

    right = Model.predict
    monkeypatch.setattr(Model, "predict", late)
    wrong, called = call_from_threads([model], [inputs], 100, 4)
    assert called == {0: 100}
    assert len(wrong) > 50
