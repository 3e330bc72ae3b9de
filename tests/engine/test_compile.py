"""Training through ``torch.compile`` is the same training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from detseg.config import ConfigError
from detseg.engine.run import train
from detseg.engine.settings import RunConfig

Tiny = Callable[..., RunConfig]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="compiles C++ on the CPU")
def test_a_compiled_run_learns_the_same(tiny: Tiny, tmp_path: Path) -> None:
    torch.compiler.reset()
    counters.clear()
    losses, weights = {}, {}
    for how in ("none", "default"):
        train(tiny(f"train.compile={how}"), tmp_path / how, bar=False)
        assert counters["stats"]["unique_graphs"] == (how != "none")  # the whole model, once for all steps
        records = (tmp_path / how / "metrics.jsonl").read_text().splitlines()
        losses[how] = [json.loads(record)["loss"] for record in records]
        weights[how] = load_file(tmp_path / how / "last.safetensors")
    assert not counters["graph_break"]
    # Rounding can give a place to another object.
    assert losses["default"] == pytest.approx(losses["none"], rel=5e-3)
    assert weights["default"].keys() == weights["none"].keys()
    for name, tensor in weights["none"].items():
        # No more than a step of AdamW, which is as long where a gradient is nothing but rounding.
        torch.testing.assert_close(weights["default"][name], tensor, rtol=0, atol=1e-3, msg=name)


def test_an_unknown_way_to_compile_is_redefault(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"train\.compile: expected one of .*default.*max"):
        tiny("train.compile=max")
