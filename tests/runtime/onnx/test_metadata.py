from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detseg.config import to_dict
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.kinds.boxes import DetectionMetadata
from detseg.runtime.kinds.masks import SemanticMetadata
from detseg.runtime.kinds.volumes import VolumeMetadata
from detseg.runtime.onnx.file import OnnxFileError, parse_metadata
from detseg.runtime.postprocess.config import HeadMetadata, InfererConfig, PostprocessConfig, WindowsConfig
from detseg.tasks import detection, semantic, volume

PATH = Path("a.onnx")
NAMES = ("cat", "dog")


def detection_entry(**changes: Any) -> dict[str, Any]:
    return {
        "format": 1,
        "version": "0.1",
        "task": "detection",
        "class_names": ["cat", "dog"],
        "category_ids": [17, 18],
        "input": to_dict(InputSpec(416, 640, "top_left", std=(1.0, 1.0, 1.0), channel_order="bgr")),
        "stride": 32,
        "precision": "int8",
        "form": "raw",
        "head": {"kind": "yolox", "reg_max": 16, "strides": [8, 16, 32]},
        "postprocess": to_dict(detection.PostprocessConfig(confidence=0.25, iou=0.65)),
        **changes,
    }


def parse(entry: Any) -> Any:
    return parse_metadata({"names": "{}", "detseg": json.dumps(entry)}, PATH)


def test_detection() -> None:
    assert parse(detection_entry()) == DetectionMetadata(
        version="0.1",
        class_names=NAMES,
        category_ids=(17, 18),
        stride=32,
        precision="int8",
        task="detection",
        form="raw",
        input=InputSpec(416, 640, "top_left", std=(1.0, 1.0, 1.0), channel_order="bgr"),
        head=HeadMetadata("yolox", (8, 16, 32), 16),
        postprocess=PostprocessConfig(confidence=0.25, iou=0.65),
    )


def test_a_task_of_ones_own_names_its_kind() -> None:
    found = parse(detection_entry(task="faces", kind="boxes"))
    assert isinstance(found, DetectionMetadata)
    assert (found.task, found.class_names) == ("faces", NAMES)


def test_masks_and_volumes() -> None:
    common = {"format": 1, "version": "0.1", "class_names": ["a", "b"], "category_ids": [0, 1], "stride": 1}
    views = semantic.InfererConfig(window=(64, 48), scales=(0.5, 1.0), flip=True)
    entry = {
        **common, "task": "semantic", "form": "logits", "input": to_dict(InputSpec(64, 96)),
        "postprocess": to_dict(views), "precision": "fp16",
    }  # fmt: skip
    found = parse(entry)
    assert isinstance(found, SemanticMetadata)
    assert found.postprocess == InfererConfig(window=(64, 48), scales=(0.5, 1.0), flip=True)
    spec = VolumeSpec((1.0, 1.0, 1.5), "window", (-160.0, 240.0))
    windows = volume.WindowsConfig(overlap=0.25, batch_size=2)
    entry = {
        **common, "task": "volume", "form": "logits", "input": to_dict(spec), "postprocess": to_dict(windows),
        "patch": [32, 48, 64],
    }  # fmt: skip
    found = parse(entry)
    assert isinstance(found, VolumeMetadata)
    assert (found.input, found.patch) == (spec, (32, 48, 64))
    assert found.postprocess == WindowsConfig(overlap=0.25, batch_size=2)


@pytest.mark.parametrize(
    ("ours", "of_the_task"),
    [
        (PostprocessConfig, detection.PostprocessConfig),
        (InfererConfig, semantic.InfererConfig),
        (WindowsConfig, volume.WindowsConfig),
    ],
)
def test_settings_are_those_of_the_tasks(ours: type, of_the_task: type) -> None:
    assert to_dict(ours()) == to_dict(of_the_task())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2, "version": "9.1"}, "written by detseg 9.1 in format 2, this version reads up to 1"),
        ({"format": "1"}, "no format number"),
        ({"format": True}, "no format number"),
        ({"format": 0}, "no format number"),
        ({"task": "pose"}, "task 'pose' is unknown; known are detection, instance, semantic, volume"),
        ({"task": ["detection"]}, "is unknown"),
        (
            {"task": "pose", "kind": "joints"},
            "kind of results 'joints' is unknown; known are boxes, instances, masks, volumes",
        ),
        ({"form": "boxes"}, "form: expected one of 'raw', 'decoded', 'nms'"),
        ({"class_names": []}, "at least one class"),
        ({"category_ids": [1]}, "there are 1 category_ids for 2 class_names"),
        ({"class_names": "cat"}, "class_names: expected a list"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"input": {"height": 0, "width": 8}}, "input size must be positive"),
        ({"input": {"height": 8, "width": 8, "std": [0.0, 1.0, 1.0]}}, "std must be positive"),
        ({"head": {"kind": "anchors", "strides": [8]}}, "head.kind: expected one of 'dfl', 'yolox', 'ltrb'"),
        ({"head": {"kind": "dfl", "strides": []}}, "strides must be positive"),
        ({"head": {"kind": "dfl", "strides": [8], "reg_max": 1}}, "reg_max must be at least 2"),
        ({"postprocess": {"confidence": 7.0}}, "confidence must lie between 0 and 1"),
        ({"postprocess": {"conf": 0.5}}, "unknown key"),
        ({"precision": "fp8"}, "precision: expected one of"),
        ({"extra": 1}, "extra: unknown key"),
        ({"task": "semantic", "form": "logits", "class_names": ["c"] * 256, "category_ids": [0] * 256}, "unknown key"),
    ],
)
def test_what_is_not_allowed(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(OnnxFileError, match=words) as caught:
        parse(detection_entry(**changes))
    assert str(caught.value).startswith("a.onnx: ")


def test_what_is_missing() -> None:
    for key in ("version", "class_names", "input", "head", "postprocess", "form"):
        entry = detection_entry()
        del entry[key]
        with pytest.raises(OnnxFileError, match=f"{key}: missing key"):
            parse(entry)


def test_masks_hold_255_classes() -> None:
    entry = {
        "format": 1, "version": "0.1", "task": "semantic", "form": "logits", "input": to_dict(InputSpec(8, 8)),
        "class_names": ["c"] * 256, "category_ids": [0] * 256, "postprocess": {},
    }  # fmt: skip
    with pytest.raises(OnnxFileError, match="255 classes at most, got 256"):
        parse(entry)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "3", "null"])
def test_no_mapping_in_json(text: str) -> None:
    with pytest.raises(OnnxFileError, match=r"a\.onnx: its detseg metadata is no "):
        parse_metadata({"detseg": text}, PATH)


def test_files_of_others_are_not_run() -> None:
    with pytest.raises(OnnxFileError, match=r"a\.onnx: has no detseg metadata.*only files written by `detseg export`"):
        parse_metadata({"names": "{0: 'cat'}", "stride": "32"}, PATH)
