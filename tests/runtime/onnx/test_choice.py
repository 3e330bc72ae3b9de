"""``--runtime auto``: whatever is chosen gives what was asked for, and the choice can be kept."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import detseg
from detseg.cli import main
from detseg.runtime.onnx.choice import fastest, ways
from detseg.runtime.onnx.model import OnnxModel
from tests.runtime.conftest import SaveOnnx
from tests.runtime.onnx.test_openvino import GRAPH, HAS_BF16, MASKS, inputs

pytest.importorskip("openvino", reason="the extra openvino is not installed")


@pytest.fixture
def file(save_onnx: SaveOnnx) -> Path:
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    return save_onnx(GRAPH, {"weight": weight}, MASKS)


def test_ways_are_as_exact_as_asked() -> None:
    assert ways("fp32") == [("onnxruntime", "fp32"), ("openvino", "fp32")]
    assert set(ways("bf16")) - set(ways("fp32")) == ({("openvino", "bf16")} if HAS_BF16 else set())
    with pytest.raises(ValueError, match="precision must be fp32 or bf16 where a runtime is chosen, got fp16"):
        ways("fp16")


def test_what_is_chosen_is_exact(file: Path) -> None:
    model = OnnxModel(file, 1)
    chosen = fastest(model, "fp32", None)
    assert (chosen.runtime, chosen.precision) in ways("fp32")
    assert chosen.num_threads == 1
    np.testing.assert_allclose(chosen.run(inputs(1))["logits"], model.run(inputs(1))["logits"], atol=2e-5)


@pytest.mark.parametrize("kept", [("onnxruntime", "fp32"), ("openvino", "fp32")])
def test_a_choice_that_is_kept_is_taken_again(file: Path, tmp_path: Path, kept: tuple[str, str]) -> None:
    """Whatever was faster: what stands in the file counts, as long as it is for this file, size and precision."""
    cache, model = tmp_path / "cache.json", OnnxModel(file, 1)
    fastest(model, "fp32", None, cache)
    said = json.loads(cache.read_text())
    (entry,) = said["fastest_runtimes"].values()
    assert entry["ms"].keys() == {"onnxruntime fp32", "openvino fp32"}
    assert (entry["runtime"], entry["precision"]) in ways("fp32")
    entry["runtime"], entry["precision"] = kept
    cache.write_text(json.dumps(said))
    chosen = fastest(model, "fp32", None, cache)
    assert (chosen.runtime, chosen.precision) == kept
    fastest(model, "fp32", (64, 64), cache)
    assert len(json.loads(cache.read_text())["fastest_runtimes"]) == 2


def test_a_choice_that_would_be_less_exact_is_not_taken(file: Path, tmp_path: Path) -> None:
    cache, model = tmp_path / "cache.json", OnnxModel(file, 1)
    fastest(model, "fp32", None, cache)
    said = json.loads(cache.read_text())
    (entry,) = said["fastest_runtimes"].values()
    entry["runtime"], entry["precision"] = "openvino", "bf16"
    cache.write_text(json.dumps(said))
    assert fastest(model, "fp32", None, cache).precision == "fp32"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"fastest_runtimes": []}', "weights"])
def test_a_file_of_another_kind_is_left_alone(file: Path, tmp_path: Path, content: str) -> None:
    other = tmp_path / "mine.json"
    other.write_text(content)
    with pytest.raises(ValueError, match=r"mine\.json: is no file that --runtime-cache wrote"):
        fastest(OnnxModel(file, 1), "fp32", None, other)
    assert other.read_text() == content


def test_the_command_line_says_what_was_chosen(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("a.png", np.full((32, 48, 3), 99, np.uint8))
    words = ["predict", str(file), "a.png", "--save", "mask", "--overwrite"]
    for extra in (["--runtime", "auto", "--runtime-cache", "known.json"], ["--runtime", "onnxruntime"], []):
        assert main([*words, *extra, "-o", f"out{len(extra)}"]) == 0
        assert ("runs in o" in capsys.readouterr().err) == (len(extra) == 4)
    assert "fastest_runtimes" in json.loads(Path("known.json").read_text())
    assert main([*words, "--runtime-cache", "known.json"]) == 2
    assert "--runtime-cache keeps what --runtime auto finds" in capsys.readouterr().err


def test_python_says_what_was_chosen(file: Path) -> None:
    assert detseg.load(file).runs_in == "onnxruntime, fp32"
    assert detseg.load(file, runtime="openvino").runs_in == "openvino, fp32"
    assert detseg.load(file, runtime="auto").runs_in in {", ".join(way) for way in ways("fp32")}
