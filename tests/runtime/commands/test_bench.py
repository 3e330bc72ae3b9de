"""``detseg bench``: a row for each runtime and precision, with figures that can be."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

import detseg
from detseg.cli import main

WEIGHTS = Path(__file__).parents[3] / "weights" / "detseg_n_shapes.safetensors"
SMALL = "{format: shapes, image_size: 64, num_train: 2, num_val: 4, max_objects: 2, min_side: 16, max_side: 30}"


@pytest.mark.slow
def test_a_row_for_each_way_and_the_quality(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SMALL)
    detseg.export(WEIGHTS, "shapes.onnx")
    expected = detseg.evaluate("shapes.onnx", "small.yaml", workers=0).metrics["AP"]
    for runtime in ("auto", *(["openvino"] if find_spec("openvino") else [])):
        same = detseg.evaluate("shapes.onnx", "small.yaml", workers=0, runtime=runtime).metrics["AP"]  # type: ignore[arg-type]
        assert same == pytest.approx(expected, abs=1e-3)
    with pytest.raises(ValueError, match=r"--runtime is for one exported file, such as \.onnx; leave openvino out"):
        detseg.evaluate(WEIGHTS, "small.yaml", runtime="openvino")
    capsys.readouterr()
    assert main(["bench", "shapes.onnx", "--data", "small.yaml", "--seconds", "0.2"]) == 0
    head, _, names, _, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("shapes.onnx, ")
    assert names == "| runtime | precision | load s | ms | images/s | MB | AP |"
    table = {tuple(row.strip("| ").split(" | ")[:2]): [*map(float, row.strip("| ").split(" | ")[2:])] for row in rows}
    ways = {("onnxruntime", "fp32")} | ({("openvino", "fp32")} if find_spec("openvino") else set())
    assert ways <= table.keys() <= ways | {("openvino", "bf16")}
    for (_, precision), (load_s, ms, rate, _, quality) in table.items():
        assert min(load_s, ms, rate) > 0
        assert quality == pytest.approx(expected, abs=1e-3 if precision == "fp32" else 0.1)


def test_only_onnx_files_of_images(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(WEIGHTS)]) == 2
    assert "only .onnx, .xml, .param, .engine files are measured; make one with" in capsys.readouterr().err
