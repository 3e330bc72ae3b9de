from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def proof(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    import nms_proof

    return nms_proof


@pytest.mark.slow
def test_script_runs_without_a_gpu_and_says_what_it_could_not_show(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "nms_gpu.py"), "--device", "cpu", "--tiny", "--json", str(tmp_path / "all")]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert "- bitwise equal to the CPU operator: 98 images in 41 cases" in output
    assert "- compiled: torch.compile(fullgraph=True), aot_eager" in output
    assert "- compute-sanitizer racecheck: not shown: needs a GPU" in output
    assert "- The goals are for an H200 and were not measured here." in output
    *_, rule, last = output.splitlines()[-16:]
    assert last.startswith("| 1 x 84 x 3, 0.25, single, fp16, by anchor |")
    assert last.count("|") == rule.count("|") == 13
    figures = json.loads((tmp_path / "all").read_text())
    assert len(figures["cases"]) == 15
    assert figures["cases"][0]["candidates_per_image"] == 84
    assert all(case["same_loop"] == case["num_images"] for case in figures["cases"])
    assert "replay_us" not in figures["cases"][0]


@pytest.mark.slow
def test_proof_accepts_the_operator_and_refutes_one_that_differs(proof: Any) -> None:
    def of_equals_the_last(boxes_xyxy: torch.Tensor, scores: torch.Tensor, setting: Any) -> Any:
        found = proof.run_operator(boxes_xyxy.flip(1), scores.flip(1), setting)
        anchors = torch.where(found.keep < 0, found.keep, scores.shape[1] - 1 - found.keep)
        return found._replace(keep=anchors)

    def slightly_stricter(boxes_xyxy: torch.Tensor, scores: torch.Tensor, setting: Any) -> Any:
        return proof.run_operator(boxes_xyxy, scores, replace(setting, iou=setting.iou - 0.02))

    cpu = torch.device("cpu")
    assert proof.equal_to_cpu(cpu, proof.run_operator, "tiny") == "98 images in 41 cases"
    for wrong in (of_equals_the_last, slightly_stricter):
        with pytest.raises(proof.ProofError, match="other"):
            proof.equal_to_cpu(cpu, wrong, "tiny")


@pytest.mark.parametrize("part", ["counts", "keep", "detections"])
def test_a_single_different_bit_is_refused(proof: Any, part: str) -> None:
    boxes_xyxy = torch.tensor([[[0.0, 0.0, 9.0, 9.0], [float("nan"), 0.0, 9.0, 9.0]]])
    scores = torch.tensor([[[0.5], [0.4]]])
    expected = proof.run_operator(boxes_xyxy, scores, proof.Setting())
    assert expected.counts.tolist() == [2]
    proof.require_equal(expected, expected, "the same")
    changed = getattr(expected, part).clone()
    changed.view(torch.int32).flatten()[0] ^= 1
    with pytest.raises(proof.ProofError, match="of the CPU operator"):
        proof.require_equal(expected._replace(**{part: changed}), expected, "changed")


def test_layouts_of_the_cases_survive_the_way_to_the_device(proof: Any) -> None:
    dense = torch.arange(24.0).reshape(1, 4, 6)
    for tensor in (dense[..., 4:], dense.transpose(1, 2), dense[:, ::2], dense[:, :0]):
        moved = proof._moved(tensor, torch.device("meta"))
        assert (moved.shape, moved.device.type) == (tensor.shape, "meta")
        assert tensor.numel() == 0 or moved.stride() == tensor.stride()


def test_realistic_predictions_have_the_documented_numbers_of_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    from nms_inputs import realistic_predictions

    boxes_xyxy, scores = realistic_predictions(2, 8_400, 80, torch.Generator().manual_seed(0))
    assert boxes_xyxy.shape == (2, 8_400, 4)
    assert scores.shape == (2, 8_400, 80)
    assert scores.transpose(1, 2).is_contiguous()
    assert (boxes_xyxy[..., 2:] > boxes_xyxy[..., :2]).all()
    for image in scores:
        assert 195 <= int((image > 0.25).sum()) <= 205
        assert 5_500 <= int((image > 0.001).sum()) <= 6_600
