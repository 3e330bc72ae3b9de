"""Networks through ``torch.compile`` inside the runner for GPUs, with a compiler that only counts in place of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import detseg
from detseg.config import load_config
from detseg.engine.settings import RunConfig
from detseg.inference import compiled
from detseg.inference.compiled import CompiledNetwork
from detseg.inference.cuda_runner import CudaRunner
from detseg.inference.load import EagerRunner, make_runner
from detseg.runtime.inputs.geometry import InputSpec
from detseg.shipped import find_config
from detseg.tasks.semantic import SemanticTaskConfig

CPU = torch.device("cpu")


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes for which a whole network was compiled."""
    found: list[tuple[int, ...]] = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        found.append(next(tuple(one.shape) for one in inputs if one.ndim == 4 and one.shape[1] == 3 < one.shape[3]))
        forward: Callable[..., Any] = graph.forward
        return forward

    torch.compiler.reset()
    monkeypatch.setattr(compiled, "BACKEND", count)
    return found


def test_a_graph_holds_the_compiled_network(shapes: list[tuple[int, ...]], deferred_stream: Any) -> None:
    """Compiled once for each number of places, and the same results."""
    model = nn.Conv2d(3, 3, 3, padding=1).eval()
    task: Any = SemanticTaskConfig(input=InputSpec(32, 32)).build(model, ("a", "b", "c"))
    runner = CudaRunner(model, task, CPU, torch.float32, deferred_stream, is_compiled=True)
    eager = EagerRunner(model, task, CPU, torch.float32)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(3)]
    for batch in (images[:1], images, images[2:], images[1:], images):
        found = runner.submit(batch).results()
        for image, one in zip(batch, found, strict=True):
            (expected,) = eager.submit([image]).results()
            assert len(np.unique(expected.labels)) > 1
            assert (one.labels == expected.labels).mean() > 0.999
    assert shapes == [(1, 3, 32, 32), (4, 3, 32, 32), (2, 3, 32, 32)]


def test_no_size_runs_uncompiled_without_a_word(shapes: list[tuple[int, ...]]) -> None:
    """torch.compile gives up after eight recompilations, and runs on as if nothing had been."""
    network = CompiledNetwork(nn.Conv2d(3, 1, 1))
    for count in range(1, 13):
        network(torch.zeros(count, 3, 4, 4))
    assert [shape[0] for shape in shapes] == list(range(1, 13))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["c2f_n", "c2f_n_seg", "e2e_n", "yolox_nano", "letnet"])
def test_networks_are_one_graph(name: str, shapes: list[tuple[int, ...]]) -> None:
    config = load_config(RunConfig, find_config(name), ["data.path=shapes"])
    model = config.model.build(num_classes=3).eval()
    with torch.inference_mode():
        CompiledNetwork(model)(torch.zeros(1, 3, 64, 64))
    assert shapes == [(1, 3, 64, 64)]


def test_where_there_is_no_graph_compiling_is_refused(spot_model: Any, spot_task: Any, tmp_path: Path) -> None:
    spot_task.name, spot_task.waits_for_host = "detection", False
    with pytest.raises(ValueError, match="compile is for images on a GPU, in a CUDA graph; this is detection on cpu"):
        make_runner(spot_model, spot_task, is_compiled=True)
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.onnx: compile is for \.safetensors files"):
        detseg.load(tmp_path / "a.onnx", compile=True)
