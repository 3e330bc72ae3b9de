"""Files that do not tell enough, or are of no use: what is said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnx.helper as make
import pytest
from onnx import TensorProto

import detseg
from detseg.cli import main
from detseg.runtime.foreign import base
from detseg.runtime.foreign.options import foreign_options, read_names
from detseg.runtime.foreign.properties import Properties
from tests.runtime.foreign.test_layouts import CELLS, IMAGE, NAMES, found_in, save, yolov8, yolox

LABELS_LOOK = np.array([[[0, 0, 8, 8, 0.5, 1]] * 2], np.float32)


@pytest.mark.parametrize(
    ("outputs", "settings", "words"),
    [
        ({"o": yolov8()}, {}, "its classes, 2, have no names: give them with --names"),
        ({"o": LABELS_LOOK}, {}, "its classes have no names"),
        ({"o": yolov8()}, {"names": "a,b,c"}, r"not yolov8, as it would have 2 classes, and 3 are named"),
        ({"o": yolov8()}, {"names": "a,b", "layout": "yolox"}, "the layout yolox: no grids of a YOLOX have 6 c"),
        ({"o": np.zeros((1, 84, 84), np.float32)}, {}, r"may have the layouts yolov8 or yolox: .* o \[1, 84, 84\]"),
        (
            {"heat": np.zeros((1, 1, 8, 8), np.float32), "size": np.zeros((1, 2, 8, 8), np.float32)},
            {}, r"its layout is none of yolov8, .* it gives heat \[1, 1, 8, 8\] float32, size .* by a function",
        ),
        ({"p": np.zeros((1, 1, 64, 64), np.float32)}, {}, "not semantic, as it has one channel, such as text"),
        ({"o": yolov8()}, {"names": "a,b", "size": (32, 32)}, r"takes inputs of 64x64 \(height x width\) only"),
        ({"o": yolov8()}, {"names": "a,b", "scale": 0.0}, "scale must be positive, such as 1/255, got 0"),
        ({"o": yolov8()}, {"names": "a,b", "std": 0}, "std must be positive"),
        ({"o": yolov8()}, {"names": "a,,b"}, "names must be the class names in order"),
        ({"o": yolov8()}, {"layout": "yolo"}, "the layout yolo is unknown; known are yolov8, yolox"),
        ({"o": yolov8()}, {"layout": "yolov8", "postprocess": max}, "leave layout=yolov8 out"),
        ({"o": yolov8()}, {"anchor": "left"}, "anchor must be one of center, top_left, stretch, got 'left'"),
        ({"o": yolov8()}, {"mean": (1, 2)}, "mean must have one value, or one for each of three channels"),
    ],
)  # fmt: skip
def test_what_is_missing_or_impossible(tmp_path: Path, outputs: Any, settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        detseg.load(save(tmp_path / "a.onnx", outputs), num_threads=1, **settings)


def test_sizes_that_are_not_possible_take_no_memory(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", {"o": yolov8()}, {**NAMES, "imgsz": "[999999, 999999]"}, size=("h", "w"))
    with pytest.raises(ValueError, match="the input size must be at most"):
        detseg.load(path, num_threads=1)


def test_small_outputs_that_stand_for_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One megabyte for this process: 84 boxes in 1000 classes, and two classes of 256x256 pixels, would take more."""
    rows = np.zeros((1, CELLS - 1, 6), np.float32)
    boxes = detseg.load(save(tmp_path / "a.onnx", {"o": rows}), names=[str(number) for number in range(1000)])
    maps = np.zeros((1, 2, 8, 8), np.float32)
    masks = detseg.load(save(tmp_path / "b.onnx", {"o": maps}, size=(256, 256)), names="a,b")
    assert len(boxes(IMAGE)[0]) == 0
    assert masks(IMAGE)[0].labels.shape == (32, 32)
    monkeypatch.setattr(base, "usable_memory", lambda: 1_000_000)
    with pytest.raises(ValueError, match=r"a\.onnx: the scores of 83 boxes in 1000 classes would take 0\.000332 GB"):
        boxes(IMAGE)
    with pytest.raises(
        ValueError, match=r"b\.onnx: logits of 256x256 pixels would take 0\.000524 GB; at most 0\.00025"
    ):
        masks(IMAGE)


def test_names_settle_what_is_ambiguous(tmp_path: Path) -> None:
    """84 rows and columns: 80 classes make a YOLOv8 of it, 79 a YOLOX."""
    square = np.zeros((1, CELLS, CELLS), np.float32)
    square[0, :4, 9], square[0, 84 - 1, 9] = (20, 12, 16, 8), 0.9
    path = save(tmp_path / "a.onnx", {"o": square})
    names = [f"c{number}" for number in range(80)]
    assert [name for name, *_ in found_in(path, names=names)] == ["c79"]
    empty = save(tmp_path / "b.onnx", {"o": np.zeros((1, CELLS, CELLS), np.float32)})
    assert detseg.load(empty, names=names[:79]).runner.spec.anchor == "top_left", "that of a YOLOX"


def image_input(shape: list[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return make.make_tensor_value_info("images", kind, shape)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([image_input([1, "h", "w", 3])], r"a network for images takes floats \[N, 3, H, W\]"),
        ([image_input([1, 1, 64, 64])], r"its input is images \[1, 1, 64, 64\]"),
        ([image_input([1, 3, 64, 64], TensorProto.UINT8)], r"tensor\(uint8\)"),
        (
            [image_input([1, 3, 64, 64]), make.make_tensor_value_info("sizes", TensorProto.FLOAT, [1, 2])],
            r"takes 2 inputs \(images .*, sizes \[1, 2\] tensor\(float\)\); .* export the network without the others",
        ),
        ([image_input(["n", 3, "h", "w"])], r"takes images of any size .*: give one with --size HxW"),
    ],
)
def test_inputs_that_are_no_images(tmp_path: Path, inputs: list[onnx.ValueInfoProto], words: str) -> None:
    kind = inputs[0].type.tensor_type.elem_type
    graph = make.make_graph(
        [make.make_node("Identity", ["images"], ["o"])], "g", inputs, [make.make_tensor_value_info("o", kind, None)]
    )
    path = tmp_path / "a.onnx"
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=10), path)
    with pytest.raises(ValueError, match=words):
        detseg.load(path, num_threads=1)


def test_files_of_our_own_say_it_themselves(save_onnx: Any) -> None:
    graph = "g (float[n, 3, h, w] images) => (float[n, 3, h, w] logits) { logits = Add (images, images) }"
    own = {
        "format": 1, "version": "1", "task": "semantic", "form": "logits", "class_names": ["a", "b", "c"],
        "category_ids": [0, 1, 2], "input": {"height": 8, "width": 8}, "postprocess": {},
    }  # fmt: skip
    path = save_onnx(graph, metadata=json.dumps(own))
    detseg.load(path)
    with pytest.raises(ValueError, match=r"was written by `detseg export` .*: leave names, bgr out"):
        detseg.load(path, names="a,b,c", bgr=True)


def test_options_are_for_onnx_files() -> None:
    with pytest.raises(ValueError, match=r"mine\.safetensors: layout, names are for \.onnx files of other programs"):
        detseg.load("mine.safetensors", layout="yolov8", names="a")


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({}, Properties()),
        (
            {"names": "{0: 'traffic light', 1: \"driver's\"}", "stride": "32", "imgsz": "[384, 640]", "task": "detect"},
            Properties(("traffic light", "driver's"), 32, (384, 640), "detect"),
        ),
        ({"names": "['a', 'b']", "imgsz": "640"}, Properties(("a", "b"), None, (640, 640))),
        ({"names": "{1: 'b', 0: 'a'}"}, Properties(("a", "b"))),
        ({"character": "text\ntitle\n"}, Properties(("text", "title"))),
    ],
)  # fmt: skip
def test_properties(properties: dict[str, str], expected: Properties) -> None:
    assert Properties.of(properties) == expected


@pytest.mark.parametrize(
    "properties",
    [
        {"names": "__import__('os').getcwd()"}, {"names": "{0: 'a', 2: 'b'}"}, {"names": "[1, 2]"}, {"names": "[]"},
        {"names": "[" * 5000}, {"names": "'a'" + " " * 2_000_000}, {"names": "{'x': 'a'}"}, {"names": "{}"},
        {"stride": "0"}, {"stride": "[8, 16]"}, {"imgsz": "640x640"}, {"imgsz": "[640, 640, 3]"}, {"imgsz": "9" * 9},
    ],
    ids=lambda properties: str(properties)[:30],
)  # fmt: skip
def test_properties_that_are_not_as_their_writers_write_them(properties: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"its property (names|stride|imgsz) "):
        Properties.of(properties)


def test_names_from_files(tmp_path: Path) -> None:
    text, data = tmp_path / "names.txt", tmp_path / "data.yaml"
    text.write_text("cat\n\ndog, big\n")
    assert read_names(text) == read_names(str(text)) == ("cat", "dog, big")
    data.write_text("path: x\nnames: {0: cat, 1: dog}\n")
    assert read_names(data) == read_names("cat, dog") == ("cat", "dog")
    data.write_text("names: {1: cat, 2: dog}\n")
    with pytest.raises(ValueError, match=r"data\.yaml: has no key names with a list"):
        read_names(data)
    assert foreign_options(names=["a"], mean=0).given == ["names", "mean"]


def test_prediction_and_evaluation_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    for folder in ("images", "labels"):
        (data / folder / "val").mkdir(parents=True)
    cv2.imwrite(str(data / "images" / "val" / "one.png"), IMAGE)
    (data / "labels" / "val" / "one.txt").write_text("1 0.3125 0.1875 0.25 0.125\n")  # (6, 4, 14, 8) of 32x32
    (data / "data.yaml").write_text("val: images/val\ntrain: images/val\nnames: [a, b]\n")
    path = save(tmp_path / "x.onnx", {"output": yolox(False)})
    options = ["--layout", "yolox", "--names", str(data / "data.yaml"), "--scale", "1/1", "--no-bgr", "--mean", "0"]
    out = tmp_path / "out"
    assert main(["predict", str(path), str(data / "images" / "val"), "-o", str(out), "--save", "jsonl", *options]) == 0
    (line,) = (out / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["detections"][0]["box_xyxy"] == [6.0, 4.0, 14.0, 8.0]
    metrics = tmp_path / "metrics.json"
    command = ["eval", str(path), "--data", str(data / "data.yaml"), "--json", str(metrics), "--workers", "0"]
    assert main([*command, *options]) == 0
    assert json.loads(metrics.read_text())["AP/b"] == pytest.approx(1.0)
    said = {"layout": "yolox", "names": ["a", "b"]}
    assert detseg.evaluate(path, data / "data.yaml", workers=0, foreign=said)["AP/b"] == pytest.approx(1.0)
    with pytest.raises(SystemExit):
        main(["predict", str(path), "x.png", "--scale", "1/0"])
    assert "expected a positive number or a fraction" in capsys.readouterr().err


def test_evaluation_of_masks(tmp_path: Path) -> None:
    """Of 1024 pixels half are ``left``; the network says so of all, by labels and by logits."""
    for folder in ("images", "labels"):
        (tmp_path / "data" / "val" / folder).mkdir(parents=True)
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 16:] = 1
    for folder, image in (("images", IMAGE), ("labels", mask)):
        cv2.imwrite(str(tmp_path / "data" / "val" / folder / "one.png"), image)
    (tmp_path / "data" / "data.yaml").write_text("format: masks\nnames: [left, right]\n")
    logits = np.zeros((1, 2, 16, 16), np.float32)
    logits[:, 0] = 1
    for output in (logits, logits.argmin(axis=1)):
        path = save(tmp_path / "a.onnx", {"o": output})
        told = {"names": ["left", "right"]}
        found = detseg.evaluate(path, tmp_path / "data" / "data.yaml", workers=0, foreign=told)
        assert found["mIoU"] == pytest.approx(0.25)


def test_fitted_inputs_where_asked(tmp_path: Path) -> None:
    """Files of others take the whole input: a network whose sides are free is not given less unless told."""
    images = make.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, "h", "w"])
    out = make.make_tensor_value_info("o", TensorProto.FLOAT, None)
    graph = make.make_graph([make.make_node("Shape", ["images"], ["s"]), make.make_node("Cast", ["s"], ["o"], to=1)],
                            "g", [images], [out])  # fmt: skip
    path = tmp_path / "a.onnx"
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=10)
    make.set_model_props(model, {**NAMES, "stride": "8"})
    onnx.save(model, path)
    seen: list[list[float]] = []

    def see(outputs: Any, height: int, width: int) -> Any:
        seen.append(outputs["o"].tolist()[2:])
        return [], [], []

    wide = np.zeros((16, 64, 3), np.uint8)
    detseg.load(path, postprocess=see)(wide)
    detseg.load(path, postprocess=see, full_input=False)(wide)
    detseg.load(path, postprocess=see, size=32)(wide)
    assert [one for one in seen if one] == [[64, 64], [16, 64], [32, 32]]
