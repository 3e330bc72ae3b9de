"""Graphs that give what stands in them, whatever the image: what each layout makes of it, by hand.

The input has 64x64 pixels; an image of 32x32 is doubled, so that a box of the input has half its numbers there.
Grids of strides 8, 16 and 32 have 64, 16 and 4 cells; cell 9 is the second of the second row, its center (12, 12).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnx.helper as make
import onnx.numpy_helper
import pytest
from onnx import TensorProto

import detseg
from detseg.cli import main
from detseg.structures import IGNORE_INDEX

IMAGE = np.zeros((32, 32, 3), np.uint8)
CELLS = 64 + 16 + 4


def save(
    path: Path, outputs: Mapping[str, np.ndarray], properties: Mapping[str, str] | None = None, size: Any = (64, 64)
) -> Path:
    """A network that gives ``outputs``; the input counts for nothing."""
    nodes, values, tensors = [], [], []
    for name, value in outputs.items():
        tensors.append(onnx.numpy_helper.from_array(value, f"{name}_is"))
        nodes.append(make.make_node("Identity", [f"{name}_is"], [name]))
        values.append(make.make_tensor_value_info(name, make.np_dtype_to_tensor_dtype(value.dtype), value.shape))
    images = make.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *size])
    model = make.make_model(
        make.make_graph(nodes, "g", [images], values, tensors), opset_imports=[make.make_opsetid("", 18)], ir_version=10
    )
    make.set_model_props(model, dict(properties or {}))
    path.write_bytes(model.SerializeToString())
    return path


def found_in(path: Path, image: np.ndarray = IMAGE, **settings: Any) -> list[tuple[Any, ...]]:
    """Name, score and box of each object."""
    (found,) = detseg.load(path, num_threads=1, **settings)(image)
    return [(one.name, round(one.score, 4), tuple(round(side, 3) for side in one.box_xyxy)) for one in found]


def yolov8(channels: int = 6) -> np.ndarray:
    """In cell 9 a box of 16x8 around (20, 12), the second class; beside it a worse one of the same object."""
    raw = np.zeros((1, channels, CELLS), np.float32)
    raw[0, :6, 9] = 20, 12, 16, 8, 0.1, 0.9
    raw[0, :6, 10] = 20, 12, 16, 7, 0.0, 0.6
    return raw


def yolov8_otherwise(fractions: bool, logits: bool) -> np.ndarray:
    """The same, with boxes in fractions of the input's 64 pixels, or scores without their sigmoid."""
    raw = yolov8()
    if fractions:
        raw[0, :4] /= 64
    if logits:
        raw[0, 4:] = -9
        raw[0, 5, 9] = math.log(0.9 / 0.1)
    return raw


ONE_BOX = [("b", 0.9, (6.0, 4.0, 14.0, 8.0))]
NAMES = {"names": "{0: 'a', 1: 'b'}", "stride": "32", "imgsz": "[64, 64]", "task": "detect"}


def yolox(is_raw: bool) -> np.ndarray:
    """The same box; its score is the product 0.9 of 1.0 and 0.9. All other cells have theirs at their corner, raw."""
    raw = np.zeros((1, CELLS, 7), np.float32)
    raw[0, 9, 4:] = 1.0, 0.2, 0.9
    if is_raw:
        # The corner of the cell is (8, 8), its stride 8: (20 - 8) / 8, (12 - 8) / 8, log(16 / 8), log(8 / 8).
        raw[0, 9, :4] = 1.5, 0.5, math.log(2), 0
        return raw
    start = 0
    for stride, count in ((8, 8), (16, 4), (32, 2)):
        for row in range(count):
            for column in range(count):
                raw[0, start + row * count + column, :4] = column * stride, row * stride, stride, stride
        start += count * count
    raw[0, 9, :4] = 20, 12, 16, 8
    return raw


def picodet() -> dict[str, np.ndarray]:
    """In cell 9, whose center is (12, 12): distances 1, 1, 2 and 0 strides of 8, each a single bin of four."""
    outputs = {f"scores{level}": np.zeros((1, n, 2), np.float32) for level, n in enumerate((64, 16, 4, 1))}
    outputs |= {f"sides{level}": np.zeros((1, n, 16), np.float32) for level, n in enumerate((64, 16, 4, 1))}
    outputs["scores0"][0, 9, 1] = 0.9
    sides = outputs["sides0"][0, 9].reshape(4, 4)
    sides[:] = -100
    sides[[0, 1, 2, 3], [1, 1, 2, 0]] = 0
    return outputs


END_TO_END = np.array([[[12, 8, 28, 16, 0.9, 1], [0, 0, 8, 8, 0.3, 0], [0, 0, 8, 8, 0.29, 0], [0] * 6]], np.float32)
DETR_BOXES = np.array([[[20 / 64, 12 / 64, 16 / 64, 8 / 64], [0.5, 0.5, 1, 1], [0.5, 0.5, 1, 1]]], np.float32)
LOGIT = math.log(0.9 / 0.1)
TURNED = np.array([[[28, 8, 12, 16, 0.9, 1], [16, 16, 8, 4, 0.3, 0]]], np.float32)
"""Right before left; and both sides so. What is left of them lies at their left and top."""
LISTS = {
    "boxes": np.array([[12, 8, 28, 16], [0, 0, 8, 8]], np.float32),
    "labels": np.array([1, 0], np.int64),
    "scores": np.array([0.9, 0.1], np.float32),
}

FOUND = {
    "yolov8": ({"output0": yolov8()}, {}, NAMES, ONE_BOX),
    "yolov8, no properties": ({"output0": yolov8()}, {"names": "a,b"}, {}, ONE_BOX),
    "yolov8 by cell": ({"output0": yolov8().transpose(0, 2, 1).copy()}, {"names": ["a", "b"]}, {}, ONE_BOX),
    "yolov8, half precision": ({"output0": yolov8().astype(np.float16)}, {}, NAMES, [("b", 0.8999, ONE_BOX[0][2])]),
    "yolov8, fractions": ({"output0": yolov8_otherwise(True, False)}, {}, NAMES, ONE_BOX),
    "yolov8, logits": ({"output0": yolov8_otherwise(False, True)}, {}, NAMES, ONE_BOX),
    "yolox": ({"output": yolox(False)}, {"names": "a,b"}, {}, ONE_BOX),
    "yolox, raw": ({"output": yolox(True)}, {"names": "a,b"}, {}, ONE_BOX),
    "picodet": (picodet(), {"names": "a,b"}, {}, [("b", 0.9, (2.0, 2.0, 14.0, 6.0))]),
    "end to end": ({"output0": END_TO_END}, {}, NAMES, [*ONE_BOX, *[("a", x, (0, 0, 4, 4)) for x in (0.3, 0.29)]]),
    "end to end, fractions": (
        {"output0": END_TO_END / np.array([64, 64, 64, 64, 1, 1], np.float32)}, {"iou": 0.7}, NAMES,
        [*ONE_BOX, ("a", 0.3, (0, 0, 4, 4))],
    ),
    "end to end, suppressed": ({"output0": END_TO_END}, {"iou": 0.7}, NAMES, [*ONE_BOX, ("a", 0.3, (0, 0, 4, 4))]),
    "end to end, turned": ({"output0": TURNED}, {}, NAMES, [("b", 0.9, (14, 4, 14, 8)), ("a", 0.3, (8, 8, 8, 8))]),
    "detr, sigmoid": (
        {"dets": DETR_BOXES, "labels": np.array([[[-5, LOGIT], [-5, -5], [-5, -5]]], np.float32)},
        {"names": "a,b"}, {}, ONE_BOX,
    ),
    "detr, softmax": (
        {"logits": np.array([[[-99, LOGIT, 0], [0, 0, 9], [0, 0, 9]]], np.float32), "pred_boxes": DETR_BOXES},
        {"names": "a,b"}, {}, ONE_BOX,
    ),
    "torchvision": (LISTS, {"names": "a,b"}, {}, ONE_BOX),
    "torchvision, in a batch": ({name: one[None] for name, one in LISTS.items()}, {"names": "a,b"}, {}, ONE_BOX),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_boxes(tmp_path: Path, case: str) -> None:
    outputs, settings, properties, expected = FOUND[case]
    assert found_in(save(tmp_path / "a.onnx", outputs, properties), **settings) == expected


def test_scores_that_are_none(tmp_path: Path) -> None:
    raw = yolov8()
    raw[0, 4:] *= 255
    with pytest.raises(ValueError, match=r"its scores reach 229\.5, and those of a YOLOv8 lie between 0 and 1"):
        detseg.load(save(tmp_path / "a.onnx", {"output0": raw}, NAMES))


def segmented(by_rows: bool) -> dict[str, np.ndarray]:
    """The box of cell 9 in a dense output, or the same box in the first row of an end-to-end one, with one coefficient
    of 1 for the second of two prototypes, which is above 0 in the left half of the input: columns 0 to 7 of 16."""
    prototypes = np.full((1, 2, 16, 16), -1, np.float32)
    prototypes[0, 0] = 9  # its coefficient is 0
    prototypes[0, 1, :, :5] = 1
    if by_rows:
        rows = np.concatenate([END_TO_END, np.zeros((1, 4, 2), np.float32)], axis=2)
        rows[0, 0, 7] = 1
        return {"output0": rows, "output1": prototypes}
    raw = np.concatenate([yolov8(), np.zeros((1, 2, CELLS), np.float32)], axis=1)
    raw[0, 7, 9] = 1
    return {"output0": raw, "output1": prototypes}


@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_masks_of_objects(tmp_path: Path, by_rows: bool, kind: Any) -> None:
    """Cells of 4 input pixels, so of 2 of the image: the prototype's last cell above 0 has its center at x = 9, the
    next, below, at 11. Halfway lies 10, and the box begins at 6 and 4, so the mask has columns 6 to 9, rows 4 to 7."""
    outputs = {name: one.astype(kind) for name, one in segmented(by_rows).items()}
    path = save(tmp_path / "seg.onnx", outputs, {**NAMES, "task": "segment"})
    model = detseg.load(path, num_threads=1)
    assert model.task_name == "instance"
    found = model(IMAGE)[0][0]
    assert (found.name, round(found.score, 2), found.box_xyxy) == ("b", 0.9, ONE_BOX[0][2])
    assert found.mask is not None
    expected = np.zeros((32, 32), bool)
    expected[4:8, 6:10] = True
    np.testing.assert_array_equal(found.mask.to_mask(), expected)


def test_masks_of_objects_by_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As what a stranger would save of them: COCO's runs, whose area is that of the mask."""
    monkeypatch.chdir(tmp_path)
    save(Path("seg.onnx"), segmented(False), {**NAMES, "task": "segment"})
    cv2.imwrite("a.png", IMAGE)
    assert main(["predict", "seg.onnx", "a.png", "-o", "out", "--save", "drawn,coco,index"]) == 0
    (record,) = json.loads(Path("out/detections.json").read_text())
    assert (record["category_id"], record["segmentation"]["size"]) == (2, [32, 32])
    (index,) = Path("out/index").glob("*.png")
    assert int((cv2.imread(str(index), cv2.IMREAD_UNCHANGED) == 1).sum()) == 16


def test_prototypes_of_another_shape_are_no_masks(tmp_path: Path) -> None:
    outputs = {**segmented(False), "output1": np.zeros((1, 2, 16, 12), np.float32)}
    path = save(tmp_path / "seg.onnx", outputs, NAMES)
    with pytest.raises(ValueError, match="prototypes of masks of 16x12 are no even share of an input of 64x64"):
        detseg.load(path, num_threads=1)


def test_keypoints_are_left_out_too(tmp_path: Path) -> None:
    path = save(tmp_path / "pose.onnx", {"output0": yolov8(6 + 51)}, {**NAMES, "task": "pose"})
    with pytest.warns(UserWarning, match="keypoints"):
        assert found_in(path) == ONE_BOX


def logits() -> np.ndarray:
    """A quarter of the input's size: the right half is the second class."""
    maps = np.zeros((1, 2, 16, 16), np.float32)
    maps[0, 1, :, 8:], maps[0, 0, :, :8] = 1, 1
    return maps


@pytest.mark.parametrize(
    ("output", "settings"),
    [
        (logits(), {}),
        (logits().argmax(axis=1), {}),
        (logits().argmax(axis=1).astype(np.int32)[:, None], {}),
        (logits().argmax(axis=1).repeat(4, 1).repeat(4, 2), {"anchor": "center"}),
    ],
    ids=["logits", "labels", "labels with a channel", "labels of full size"],
)
def test_masks(tmp_path: Path, output: np.ndarray, settings: dict[str, Any]) -> None:
    model = detseg.load(save(tmp_path / "a.onnx", {"out": output}), names="left,right", num_threads=1, **settings)
    (found,) = model(IMAGE)
    assert model.task_name == "semantic"
    assert found.labels.tolist() == [[0] * 16 + [1] * 16] * 32


def test_masks_of_an_image_that_is_padded(tmp_path: Path) -> None:
    """An image of 32x64 lies in the middle of the input's height: above and below it is nothing of it."""
    maps = np.full((1, 64, 64), IGNORE_INDEX, np.uint8)
    maps[:, 16:48] = 1
    model = detseg.load(save(tmp_path / "a.onnx", {"out": maps}), names="a,b", anchor="center", num_threads=1)
    assert (model(np.zeros((32, 64, 3), np.uint8))[0].labels == 1).all()


def test_an_image_that_is_stretched(tmp_path: Path) -> None:
    """One of 16x64 becomes four times as high, and boxes a quarter."""
    path = save(tmp_path / "a.onnx", {"output0": yolov8()}, NAMES)
    wide = np.zeros((16, 64, 3), np.uint8)
    assert found_in(path, wide, anchor="stretch") == [("b", 0.9, (12.0, 2.0, 28.0, 4.0))]
    with pytest.raises(ValueError, match="full_input cannot be False: images are stretched"):
        detseg.load(path, anchor="stretch", full_input=False)


def pixels_of(path: Path, **settings: Any) -> list[float]:
    """What the network saw of an orange image, ``(250, 100, 0)``."""
    orange = np.full((64, 64, 3), (250, 100, 0), np.uint8)

    def see(outputs: Mapping[str, np.ndarray], height: int, width: int) -> Any:
        seen.append(outputs["out"][0, :, 0, 0].tolist())
        assert (height, width) == (64, 64)
        return np.zeros((0, 4)), np.zeros(0), np.zeros(0)

    seen: list[list[float]] = []
    detseg.load(path, postprocess=see, names="a", num_threads=1, **settings)(orange)
    return [round(value, 4) for value in seen[-1]]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [250 / 255, 100 / 255, 0]),
        ({"bgr": True}, [0, 100 / 255, 250 / 255]),
        ({"scale": 1}, [250, 100, 0]),
        ({"mean": 0.5, "std": (0.5, 0.25, 1)}, [250 / 127.5 - 1, (100 / 255 - 0.5) * 4, -0.5]),
        ({"scale": 1, "mean": (0, 10, 20), "std": 10, "bgr": True}, [0, 9, 23]),
    ],
)
def test_pixels(tmp_path: Path, settings: dict[str, Any], expected: list[float]) -> None:
    images, out = (make.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 64, 64]) for name in ("images", "out"))
    graph = make.make_graph([make.make_node("Identity", ["images"], ["out"])], "g", [images], [out])
    path = tmp_path / "same.onnx"
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=10), path)
    assert pixels_of(path, **settings) == pytest.approx(expected, abs=2e-4)


def test_a_function_in_place_of_a_layout(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", {"heat": np.array([[12, 8, 28, 16]], np.float32), "count": np.array(1)})

    def boxes(outputs: Mapping[str, np.ndarray], height: int, width: int) -> Any:
        assert outputs["count"] == 1
        return outputs["heat"], [0.9], [1]

    assert found_in(path, postprocess=boxes, names="a,b") == ONE_BOX
    assert found_in(path, postprocess=lambda *_: ([[12, 8, 28, 16]], [[0.1, 0.9]]), names="a,b") == ONE_BOX
    assert found_in(path, postprocess=lambda *_: ([], [], []), names="a,b") == []
    for given in ([[0, 0, 1, 1]], ([[0, 0, 1]], [1], [0]), ([[0, 0, 1, 1]], [1, 1], [0]), ([[0, 0, 1, 1]], [[1]])):
        with pytest.raises(ValueError, match=r"a\.onnx: postprocess must give boxes"):
            found_in(path, postprocess=lambda *_, given=given: given, names="a,b")
    with pytest.raises(ValueError, match="gives labels from 2 to 2, and 2 classes are named"):
        found_in(path, postprocess=lambda *_: ([[0, 0, 1, 1]], [1], [2]), names="a,b")


YAML = """
boxes: {boxes: where, scores: sure, form: cxcywh, normalized: true, activation: sigmoid, background: first}
names: [a, b]
bgr: true
"""
YAML_OUTPUTS = {
    "where": DETR_BOXES,
    "sure": np.array([[[9, -9, LOGIT], [9, -9, -9], [9, -9, -9]]], np.float32),
    "more": np.zeros((1, 5), np.float32),
}


def test_a_yaml_in_place_of_a_layout(tmp_path: Path) -> None:
    path = save(tmp_path / "a.onnx", YAML_OUTPUTS)
    with pytest.raises(ValueError, match="its layout is none of yolov8, yolox"):
        detseg.load(path)
    described = tmp_path / "other.yaml"
    described.write_text(YAML)
    assert found_in(path, layout=described) == ONE_BOX
    assert found_in(path, layout=described, names="x,y") == [("y", *ONE_BOX[0][1:])], "what is said wins"
    (tmp_path / "a.layout.yaml").write_text(YAML)
    assert found_in(path) == ONE_BOX, "beside the file it need not be named"
    (tmp_path / "a.layout.yaml").write_text(YAML.replace("sure,", "confidence,"))
    with pytest.raises(ValueError, match=r"there is no output confidence; it gives where \[1, 3, 4\] float32, sure"):
        detseg.load(path)
    (tmp_path / "a.layout.yaml").write_text(YAML + "colour: red")
    with pytest.raises(ValueError, match=r"a\.layout\.yaml: colour: unknown key"):
        detseg.load(path)
