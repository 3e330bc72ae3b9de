"""OpenVINO gives what ONNX Runtime gives: fp32 to the last digits, bf16 to its own."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import detseg
from detseg.cli import main
from detseg.runtime.onnx.model import OnnxModel
from detseg.runtime.onnx.openvino import OpenVinoSession, require_precision
from detseg.runtime.onnx.runner import OnnxRunner
from tests.runtime.conftest import SaveOnnx

openvino = pytest.importorskip("openvino", reason="the extra openvino is not installed")

HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
GRAPH = """
agraph (float[N, 3, H, W] images) => (float[N, 4, H, W] logits) { logits = Conv <pads = [1, 1, 1, 1]> (images, weight) }
"""
MASKS = {
    "format": 1,
    "version": "0.1.0",
    "task": "semantic",
    "form": "logits",
    "class_names": ["a", "b", "c", "d"],
    "category_ids": [1, 2, 3, 4],
    "input": {"height": 32, "width": 48},
    "postprocess": {},
}


@pytest.fixture
def file(save_onnx: SaveOnnx) -> Path:
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    return save_onnx(GRAPH, {"weight": weight}, MASKS)


def inputs(number: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(1 + number % 3, 3, height, width)).astype(np.float32)


def test_fp32_is_exact_and_never_less(file: Path) -> None:
    expected, found = OnnxModel(file), OnnxModel(file, precision="fp32")
    for number, size in enumerate(((32, 48), (64, 32), (32, 48))):
        given = inputs(number, *size)
        np.testing.assert_allclose(found.run(given)["logits"], expected.run(given)["logits"], atol=2e-5)
    assert (found.batch_size, found.has_free_sides, found.output_names) == (None, True, ("logits",))


@pytest.mark.skipif(not HAS_BF16, reason="this processor has no bf16")
def test_bf16_differs_as_its_eight_digits_say(file: Path) -> None:
    given = inputs(0)
    expected, found = OnnxModel(file).run(given)["logits"], OnnxModel(file, precision="bf16").run(given)["logits"]
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    assert 1e-5 < difference < 2**-7
    masks = [
        detseg.load(file, runtime=runtime, precision=precision)(np.full((32, 48, 3), 99, np.uint8))[0].labels
        for runtime, precision in (("onnxruntime", "fp32"), ("openvino", "bf16"))
    ]
    assert (masks[0] == masks[1]).mean() > 0.95


def test_threads_share_a_model(file: Path) -> None:
    expected, found = OnnxModel(file), OnnxModel(file, num_threads=1, precision="fp32").with_threads(2)
    same: list[bool] = []

    def work(number: int) -> None:
        given = inputs(number)
        for _ in range(10):
            same.append(np.allclose(found.run(given)["logits"], expected.run(given)["logits"], atol=2e-5))  # noqa: PERF401

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert same == [True] * 40


def test_batches_that_share_the_cores_have_streams_of_their_own(file: Path) -> None:
    content = file.read_bytes()
    assert OpenVinoSession(file, content, 1, "fp32").num_streams == 1
    assert OpenVinoSession(file, content, 1, "fp32", num_streams=2).num_streams == 2
    runner = OnnxRunner(OnnxModel(file, num_threads=2, precision="fp32"))
    image = np.full((32, 48, 3), 99, np.uint8)
    made: list[OnnxModel] = []

    def with_threads(num_threads: int, num_streams: int) -> OnnxModel:
        made.append(OnnxModel(file, num_threads, precision="fp32", num_streams=num_streams))
        return made[0]

    runner._model.with_threads = with_threads  # type: ignore[assignment, method-assign]
    runner._num_under_way = 1  # as if another were in the network
    (mask,) = runner.submit([image]).results()
    session: Any = made[0]._session
    assert (made[0].num_threads, session.num_streams) == (1, 2)
    runner._num_under_way = 0
    assert np.array_equal(mask.labels, runner.submit([image]).results()[0].labels)


def test_a_forked_child_can_use_it(file: Path, in_forked_child: Callable[[Callable[[], object]], str]) -> None:
    model, given = OnnxModel(file, precision="fp32"), inputs(1)
    expected = float(model.run(given)["logits"].sum())
    assert float(in_forked_child(lambda: float(model.run(given)["logits"].sum()))) == pytest.approx(expected)


def test_a_file_of_others(save_onnx: SaveOnnx) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    file = save_onnx(GRAPH, {"weight": weight})
    settings = {"layout": "semantic", "names": ["a", "b", "c", "d"], "size": 32}
    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    masks = [detseg.load(file, runtime=one, **settings)(image)[0].labels for one in ("onnxruntime", "openvino")]  # type: ignore[arg-type]
    assert np.array_equal(masks[0], masks[1])


@pytest.mark.slow
def test_boxes_by_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = Path(__file__).parents[3] / "weights" / "detseg_n_shapes.safetensors"
    detseg.export(weights, "shapes.onnx")
    image = cv2.imread(str(weights.parent / "images" / "detseg_n_shapes_val.jpg"))
    cv2.imwrite("a.png", image)
    for runtime in ("onnxruntime", "openvino"):
        words = ["predict", "shapes.onnx", "a.png", "--conf", "0.05", "--save", "csv", "-o", runtime]
        assert main([*words, "--runtime", runtime]) == 0
    tables = [Path(one, "detections.csv").read_text().splitlines()[1:] for one in ("onnxruntime", "openvino")]
    rows = [[line.split(",")[3:9] for line in table] for table in tables]
    assert len(rows[0]) == len(rows[1]) > 3
    for one, other in zip(*rows, strict=True):
        assert one[0] == other[0]
        np.testing.assert_allclose([*map(float, one[1:])], [*map(float, other[1:])], atol=0.01)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"runtime": "openvino", "precision": "fp16"}, "precision must be fp32 or bf16 for .onnx files in OpenVINO"),
        ({"precision": "bf16"}, "bf16 is for --runtime openvino"),
        ({"runtime": "tensorrt"}, "runtime must be auto, onnxruntime or openvino, got tensorrt"),
    ],
)
def test_what_cannot_be_had(file: Path, settings: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        detseg.load(file, **settings)  # type: ignore[arg-type]


def test_a_processor_without_bf16_is_told() -> None:
    class Old:
        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32", "INT8"]

    with pytest.raises(ValueError, match="does not compute in bf16"):
        require_precision(Old(), "bf16")
    require_precision(Old(), "fp32")


def test_torch_files_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    weights = Path(__file__).parents[3] / "weights" / "detseg_n_shapes.safetensors"
    assert main(["predict", str(weights), "a.png", "--runtime", "openvino"]) == 2
    assert "--runtime is for .onnx files, torch runs this one" in capsys.readouterr().err


def test_without_the_extra_the_message_names_it(file: Path) -> None:
    code = f"import sys; sys.modules['openvino'] = None; from detseg.cli import main; sys.exit(main({['predict', str(file), 'a.png', '--runtime', 'openvino']}))"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, "pip install 'detseg[openvino]'" in done.stderr) == (2, True), done.stderr
