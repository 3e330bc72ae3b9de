"""Whole exports of small models: what is in the file, what is beside it, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from detseg import __version__
from detseg.exporters import COMPARISONS
from detseg.exporters.base import ParityError
from detseg.exporters.export import Exported, export_model
from detseg.runtime.kinds import KINDS
from detseg.runtime.onnx.model import OnnxModel
from detseg.tasks.model_file import load_model_file


def shapes(model: onnx.ModelProto) -> dict[str, list[str | int]]:
    return {
        value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }


def test_every_kind_of_results_can_be_compared() -> None:
    assert COMPARISONS.keys() == KINDS.keys()


def test_inputs_and_outputs(exported_detector: Exported) -> None:
    model = onnx.load(exported_detector.path)
    assert shapes(model) == {
        "images": ["batch", 3, "height", "width"],
        "boxes": ["batch", "anchors", 4],
        "scores": ["batch", "anchors", 3],
    }
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert len(model.functions) == 0


def test_the_file_says_what_it_is(exported_detector: Exported) -> None:
    properties = {entry.key: entry.value for entry in onnx.load(exported_detector.path).metadata_props}
    own = json.loads(properties["detseg"])
    assert own.pop("postprocess") == {
        # What prediction begins with, in place of what evaluation does.
        "confidence": 0.25,
        "iou": 0.6,
        "max_detections": 50,
        "multi_label": True,
        "class_agnostic": False,
        "nms_backend": "auto",
        "tiles": None,
        "overlap": 0.2,
        "scales": [1.0],
        "flip": False,
    }
    spec = own.pop("input")
    assert (spec["height"], spec["width"], spec["anchor"], spec["std"]) == (96, 128, "center", [255.0] * 3)
    assert own == {
        "format": 1,
        "version": __version__,
        "task": "detection",
        "class_names": ["circle", "square", "triangle"],
        "category_ids": [1, 2, 5],
        "stride": 32,
        "precision": "fp32",
        "form": "decoded",
        "head": {"kind": "dfl", "reg_max": 4, "strides": [8, 16, 32]},
    }
    assert properties["task"] == "detection"
    assert properties["stride"] == "32"
    assert properties["imgsz"] == "[96, 128]"
    assert json.loads(properties["names"]) == {"0": "circle", "1": "square", "2": "triangle"}


def test_nothing_of_this_machine_is_in_the_file(exported_detector: Exported) -> None:
    content = exported_detector.path.read_bytes()
    assert b".py" not in content
    assert b"site-packages" not in content


def test_constants_are_folded_and_norms_are_gone(exported_detector: Exported) -> None:
    operators = {node.op_type for node in onnx.load(exported_detector.path).graph.node}
    assert not operators & {"BatchNormalization", "Identity", "Constant", "Dropout"}


def test_the_report_lies_beside_the_file(exported_detector: Exported) -> None:
    path = exported_detector.path
    report = json.loads(path.with_suffix(".parity.json").read_text(encoding="utf-8"))
    assert report["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report["judged"]
    assert report["kept"]
    assert report["problems"] == []
    differences = report["differences"]
    assert differences["boxes"] > 50
    assert differences["matched"] == 1
    assert differences["largest_box_difference_px"] <= 0.01
    assert differences["largest_score_difference"] <= 1e-4
    assert sorted(one.name for one in path.parent.iterdir() if not one.name.startswith("small")) == [
        "decoded.onnx",
        "decoded.parity.json",
    ]


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 96, 128), (3, 32, 32), (2, 64, 160)])
def test_batch_and_size_are_free(
    exported_detector: Exported, detector_path: Path, batch: int, height: int, width: int
) -> None:
    package: Any = load_model_file(detector_path)
    images = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
    found = OnnxModel(exported_detector.path, num_threads=1).run(images.numpy())
    num_anchors = sum((height // stride) * (width // stride) for stride in (8, 16, 32))
    assert found["boxes"].shape == (batch, num_anchors, 4)
    assert found["scores"].shape == (batch, num_anchors, 3)
    from detseg.ops.decode import decode

    with torch.no_grad():
        boxes_xyxy, scores = decode("dfl", package.model(images), (8, 16, 32), 4)
    np.testing.assert_allclose(found["boxes"], boxes_xyxy, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found["scores"], scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"precision": "int4"}, "precision must be one of fp32, fp16, int8, got 'int4'"),
        ({"precision": "int8"}, "--calibrate DATA"),
        ({"calibrate": "shapes"}, "--calibrate is for int8, and the precision is fp32"),
        ({"form": "logits"}, "the task detection has the output form decoded or raw or nms, got 'logits'"),
        ({"opset": 9}, "opset must be from 18 to 23, got 9"),
        ({"output": Path("model.pt")}, "must end in .onnx or .xml or .param or .engine, got model.pt"),
        ({"format": "tflite"}, "format must be one of onnx, openvino, ncnn, tensorrt, got tflite"),
        ({"format": "openvino"}, "the output must end in .xml, got .*model.onnx"),
        ({"verify": "/nowhere"}, "/nowhere"),
        ({"verify": "blobs"}, "boxes were asked for"),
        ({"size": (100, 100)}, "multiples of the model's largest stride, 32"),
        ({"postprocess": {"window": (64, 64)}}, "no setting window"),
    ],
)
def test_mistakes_are_told_before_the_work_begins(
    detector_path: Path, tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    output = arguments.pop("output", tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=words):
        export_model(detector_path, output, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_differs_is_not_kept(detector_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is changed behind the exporter's back: every box is moved by a twentieth of a pixel."""
    from detseg.exporters import export

    make_file = export.make_file

    def made_wrong(*arguments: Any, **options: Any) -> tuple[onnx.ModelProto, Any]:
        model, metadata = make_file(*arguments, **options)
        shift = onnx.helper.make_tensor("shift", onnx.TensorProto.FLOAT, [1], [0.05])
        model.graph.initializer.append(shift)
        for node in model.graph.node:
            node.output[:] = ["right_boxes" if name == "boxes" else name for name in node.output]
        model.graph.node.append(onnx.helper.make_node("Add", ["right_boxes", "shift"], ["boxes"]))
        return model, metadata

    monkeypatch.setattr(export, "make_file", made_wrong)
    with pytest.raises(ParityError, match=r"a box differs by 0\.\d+ px, allowed are 0\.01"):
        export_model(detector_path, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.parity.json"]
    assert not json.loads((tmp_path / "model.parity.json").read_text())["kept"]


def test_an_input_of_a_single_cell_leaves_the_size_free(detector_path: Path, tmp_path: Path) -> None:
    made = export_model(detector_path, tmp_path / "small.onnx", form="raw", size=(32, 32))
    assert shapes(onnx.load(made.path))["images"] == ["batch", 3, "height", "width"]
    outputs = OnnxModel(made.path, num_threads=1).run(np.zeros((1, 3, 64, 96), np.float32))
    assert outputs["raw"].shape[2] == 64 * 96 // 8**2 + 64 * 96 // 16**2 + 64 * 96 // 32**2
