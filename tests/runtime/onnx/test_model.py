from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from detseg.config import to_dict
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.kinds.masks import SemanticMetadata
from detseg.runtime.onnx.cores import num_physical_cores
from detseg.runtime.onnx.file import OnnxFileError
from detseg.runtime.onnx.model import OnnxModel

METADATA = {
    "format": 1,
    "version": "0.1",
    "task": "semantic",
    "form": "logits",
    "class_names": ["a", "b", "c"],
    "category_ids": [0, 1, 2],
    "input": to_dict(InputSpec(8, 8)),
    "postprocess": {},
}
DOUBLED = "doubled (float[batch, 3, h, w] images) => (float[batch, 3, h, w] logits) { logits = Add (images, images) }"
FIXED = "doubled (float[2, 3, 8, 8] images) => (float[2, 3, 8, 8] logits) { logits = Add (images, images) }"


def images_of(count: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(count).normal(0, 1, (count, 3, height, width)).astype(np.float32)


def test_a_network_runs(save_onnx: Any) -> None:
    model = OnnxModel(save_onnx(DOUBLED, metadata=METADATA), num_threads=1)
    assert isinstance(model.metadata, SemanticMetadata)
    assert model.metadata.class_names == ("a", "b", "c")
    assert (model.batch_size, model.input_name, model.output_names) == (None, "images", ("logits",))
    for images in (images_of(1), images_of(5), images_of(2, 6, 9)):
        outputs = model.run(images)
        assert list(outputs) == ["logits"]
        assert np.array_equal(outputs["logits"], 2 * images)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_any_number_goes_through_a_fixed_batch(save_onnx: Any, count: int) -> None:
    model = OnnxModel(save_onnx(FIXED, metadata=METADATA), num_threads=1)
    assert model.batch_size == 2
    images = images_of(count)
    assert np.array_equal(model.run(images)["logits"], 2 * images)


def test_views_of_other_arrays_run(save_onnx: Any) -> None:
    model = OnnxModel(save_onnx(DOUBLED, metadata=METADATA), num_threads=1)
    images = images_of(2)[..., ::-1]
    assert np.array_equal(model.run(images)["logits"], 2 * images)


def test_inputs_that_do_not_fit(save_onnx: Any) -> None:
    model = OnnxModel(save_onnx(FIXED, metadata=METADATA), num_threads=1)
    with pytest.raises(ValueError, match=r"model\.onnx: takes inputs of shape 3x8x8, got 3x8x9"):
        model.run(images_of(1, 8, 9))
    with pytest.raises(ValueError, match="takes inputs of shape 3x8x8, got 8x8"):
        model.run(images_of(1)[:, 0])
    with pytest.raises(ValueError, match="inputs must be float32, at least one, got 1 of float64"):
        model.run(images_of(1).astype(np.float64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one, got 0 of float32"):
        model.run(images_of(0))


def test_threads(save_onnx: Any) -> None:
    path = save_onnx(DOUBLED, metadata=METADATA)
    model = OnnxModel(path)
    assert model.num_threads == num_physical_cores()
    assert model._session._session.get_session_options().intra_op_num_threads == num_physical_cores()
    model = OnnxModel(path, num_threads=3)
    assert model._session._session.get_session_options().intra_op_num_threads == 3
    with pytest.raises(ValueError, match="num_threads must be at least 1, got 0"):
        OnnxModel(path, num_threads=0)
    with pytest.raises(ValueError, match="num_threads must be at most 1024, got 1025"):
        OnnxModel(path, num_threads=1025)


def test_providers(save_onnx: Any) -> None:
    path = save_onnx(DOUBLED, metadata=METADATA)
    assert OnnxModel(path, 1)._session._session.get_providers() == ["CPUExecutionProvider"]
    assert OnnxModel(path, 1, ["CPUExecutionProvider"]).run(images_of(1))
    with pytest.raises(ValueError, match=r"cannot run on DreamExecutionProvider; it has .*CPUExecutionProvider"):
        OnnxModel(path, 1, ["DreamExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(ValueError, match="cannot run on nothing"):
        OnnxModel(path, 1, [])


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (DOUBLED.replace("logits", "output"), "has the input images and the outputs logits; this file has images and"),
        (DOUBLED.replace("images", "x"), "has the input images and the outputs logits; this file has x and"),
        (DOUBLED.replace("float", "double"), "must be float32 with 4 dimensions, it is tensor\\(double\\) with 4"),
        (DOUBLED.replace("3, h, w", "3, h"), "must be float32 with 4 dimensions, it is tensor\\(float\\) with 3"),
        (DOUBLED.replace("Add", "Conjure"), "ONNX Runtime .* cannot run it: "),
        (DOUBLED.replace("Add (images, images)", "Add (images, nothing)"), "cannot run it: "),
        (
            DOUBLED.replace("images) =>", "images, float[1] more) =>"),
            "has the input images and the outputs logits; this file has images, more",
        ),
    ],
)
def test_graphs_that_are_not_what_they_say(save_onnx: Any, graph: str, words: str) -> None:
    with pytest.raises(OnnxFileError, match=words):
        OnnxModel(save_onnx(graph, metadata=METADATA), num_threads=1)


def test_what_suppression_in_the_graph_must_give(save_onnx: Any) -> None:
    metadata = {
        **METADATA, "task": "detection", "form": "nms", "head": {"kind": "dfl", "strides": [8]},
        "class_names": ["a"], "category_ids": [1],
    }  # fmt: skip
    with pytest.raises(OnnxFileError, match=r"a nms detection model has .* outputs boxes, scores, labels, counts"):
        OnnxModel(save_onnx(DOUBLED, metadata=metadata), num_threads=1)


def test_files_of_others(save_onnx: Any, detseg_data: Path) -> None:
    with pytest.raises(OnnxFileError, match=r"model\.onnx: takes images of any size and does not say which"):
        OnnxModel(save_onnx(DOUBLED))
    with pytest.raises(OnnxFileError, match=r"yolox_nano_coco\.onnx: its classes, 80, have no names"):
        OnnxModel(detseg_data / "weights" / "yolox_nano_coco.onnx")


def test_weights_in_other_files(save_onnx: Any, tmp_path: Path) -> None:
    graph = DOUBLED.replace("Add (images, images)", "Add (images, w)")
    path = save_onnx(graph, {"w": np.zeros((1, 3, 8, 8), np.float32)}, METADATA)
    assert OnnxModel(path, 1).run(images_of(1))
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert (tmp_path / "w.bin").exists()
    with pytest.raises(OnnxFileError, match="weights in other files"):
        OnnxModel(path, 1)


def test_without_onnx_runtime(save_onnx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_onnx(DOUBLED, metadata=METADATA)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match="pip install onnxruntime"):
        OnnxModel(path)
