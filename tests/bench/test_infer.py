from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCH = Path(__file__).resolve().parents[2] / "bench"
STAGES = {"decode", "host", "copy", "preprocess", "network", "postprocess", "results", "network alone"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / "infer.py"), "--device", "cpu", "--tiny", "--threads", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_script_measures_every_network_without_a_gpu(tmp_path: Path) -> None:
    process = run("--executors", "eager", "--json", str(tmp_path / "all"))
    assert process.returncode == 0, process.stderr
    cases = json.loads((tmp_path / "all").read_text())["cases"]
    assert [(case["model"], case["batch_size"]) for case in cases] == [
        (name, size) for name in ("detector n", "detector s", "LETNet") for size in (1, 2)
    ]
    for case in cases:
        assert case["seconds_per_batch"].keys() == STAGES
        assert case["relative_error"] < 1e-3
        assert min(*case["seconds_per_batch"].values(), case["images_per_second"]) > 0
        assert (case["objects_per_image"] is None) == (case["model"] == "LETNet")
    assert "No GPU here" in process.stdout
    assert process.stdout.splitlines()[-1].startswith("| LETNet, eager, fp32")


@pytest.mark.slow
def test_onnx_runtime_stands_in_for_torch(tmp_path: Path) -> None:
    arguments = ("--executors", "ONNX Runtime", "--models", "detector n", "--batches", "1")
    process = run(*arguments, "--json", str(tmp_path / "all"))
    assert process.returncode == 0, process.stderr
    (case,) = json.loads((tmp_path / "all").read_text())["cases"]
    assert case["executor"] == "ONNX Runtime"
    assert case["relative_error"] < 1e-4


def test_cuda_graph_is_refused_without_a_gpu() -> None:
    process = run("--executors", "CUDA graph")
    assert process.returncode == 1
    assert process.stderr == "a CUDA graph needs a GPU: choose other executors\n"


def test_scores_of_a_detector_are_set_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.setattr("infer_workloads.NUM_PASSING", 20, raising=True)
    from infer_workloads import make_workload

    work: Any = make_workload("detector n", 2, tmp_path, tiny=True)
    inputs = work.task.normalize(torch.stack([torch.tensor(work.task.spec.place(image)[0]) for image in work.images]))
    with torch.no_grad():
        best = torch.cat([raw[:, -80:].amax(1).flatten() for raw in work.model(inputs)]).sigmoid()
    # The best of 40, at the limit exactly, may be rounded to either side once batch norms are folded.
    assert 39 <= int((best > 0.25).sum()) <= 40
    assert [path.name for path in work.paths] == ["detector n-0.jpg", "detector n-1.jpg"]
