"""Files of other formats than ONNX: each proved against torch, and used as a stranger would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import detseg
from detseg.cli import main
from detseg.exporters import EXPORTERS
from detseg.exporters.choose_format import format_of
from detseg.exporters.export import Exported, export_model
from detseg.runtime.onnx.file import OnnxFileError
from detseg.runtime.onnx.forms import FORMS

IMAGE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)


def require(*packages: str) -> None:
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed")


@pytest.fixture(scope="module")
def openvino_file(detector_path: Path) -> Exported:
    require("openvino")
    return export_model(detector_path, format="openvino")


def test_every_format_can_be_run() -> None:
    assert {format_of(None, name).suffix for name in EXPORTERS} == FORMS.keys()


def require_same(path: Path, model: Path) -> None:
    """The boxes of torch."""
    settings: Any = {"full_input": True, "num_threads": 1, "device": "cpu"}
    (found,), (expected,) = (detseg.load(one, **settings)(IMAGE) for one in (path, model))
    assert len(found) == len(expected) > 5
    np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=0.01)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_openvino(openvino_file: Exported, detector_path: Path) -> None:
    path = openvino_file.path
    assert path == detector_path.with_suffix(".xml")
    require_same(path, detector_path)
    report = json.loads(openvino_file.report_path.read_text())
    assert (report["runtime"], report["kept"], report["differences"]["matched"]) == ("openvino", True, 1)
    assert openvino_file.num_bytes > path.with_suffix(".bin").stat().st_size > 1000
    # As it says of itself, sides are free, and images are padded as little as in ONNX Runtime.
    assert len(detseg.load(path)(np.zeros((70, 200, 3), np.uint8))) == 1


@pytest.mark.slow
def test_openvino_in_half_the_bytes(openvino_file: Exported, detector_path: Path, tmp_path: Path) -> None:
    made = export_model(detector_path, tmp_path / "half.xml", precision="fp16")
    whole = openvino_file.path.with_suffix(".bin").stat().st_size
    assert made.path.with_suffix(".bin").stat().st_size < 0.6 * whole
    assert made.parity.differences["matched"] > 0.9


def test_a_file_without_its_companions(openvino_file: Exported, tmp_path: Path) -> None:
    path = tmp_path / "lonely.xml"
    path.write_bytes(openvino_file.path.read_bytes())
    with pytest.raises(OnnxFileError, match=r"lonely\.bin: cannot be read: No such file"):
        detseg.load(path)
    path.with_suffix(".bin").write_bytes(openvino_file.path.with_suffix(".bin").read_bytes())
    with pytest.raises(OnnxFileError, match=r"needs lonely\.xml\.json beside it"):
        detseg.load(path)
    path.with_name("lonely.xml.json").write_text("{}")
    with pytest.raises(OnnxFileError, match=r"lonely\.xml\.json: was not written by `detseg export`"):
        detseg.load(path)
    (tmp_path / "lonely.xml.json").write_text(openvino_file.path.with_name("small.xml.json").read_text())
    path.write_text("<net>")
    with pytest.raises(OnnxFileError, match=r"OpenVINO .* cannot run it"):
        detseg.load(path)


def test_what_openvino_alone_runs(openvino_file: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(openvino_file.path)
    with pytest.raises(ValueError, match="is run by openvino alone; --runtime onnxruntime is for"):
        detseg.load(path, runtime="onnxruntime")
    assert detseg.load(path, runtime="auto").runs_in == "openvino, fp32"
    assert main(["bench", path, "--seconds", "0.05"]) == 0
    rows = [line.split(" | ")[:2] for line in capsys.readouterr().out.splitlines()[4:]]
    assert rows[0] == ["| openvino", "fp32"]


def test_ncnn(detector_path: Path, tmp_path: Path) -> None:
    require("ncnn", "pnnx")
    made = export_model(detector_path, tmp_path / "small.param")
    require_same(made.path, detector_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "small.bin", "small.param", "small.param.json", "small.parity.json",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="an exported model has its own precision; leave bf16 out"):
        detseg.load(made.path, precision="bf16")
    beside = made.path.with_name("small.param.json")
    beside.write_text(json.dumps({"detseg": json.loads(beside.read_text())["detseg"]}))
    with pytest.raises(OnnxFileError, match="does not say what it takes and gives"):
        detseg.load(made.path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"format": "ncnn", "form": "nms"}, "ncnn has no operator for the form nms"),
        (
            {"format": "ncnn", "precision": "int8", "calibrate": "shapes"},
            "format ncnn has the precisions fp32, fp16",
        ),
    ],
)
def test_what_a_format_has_not(detector_path: Path, settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        export_model(detector_path, **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_engine_without_a_gpu(detector_path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["export", str(detector_path), "-o", str(tmp_path / "a.engine")]) == 2
    assert "built on the NVIDIA GPU that is to run it, and there is none here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
