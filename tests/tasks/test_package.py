"""A model as one file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from detseg.models.detector import DetectorConfig
from detseg.runtime.geometry import InputSpec
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.package import PackageConfig, default_device, load_package, match_classes, read_header, save_package

CONFIG = PackageConfig(
    DetectorConfig(),
    DetectionTaskConfig(input=InputSpec(64, 96, anchor="top_left", channel_order="bgr", mean=(1.0, 2.0, 3.0))),
    ("cat", "größerer Hund", "a/b"),
    (3, 17, 90),
)


def save(path: Path) -> torch.nn.Module:
    torch.manual_seed(1)
    model, _ = CONFIG.build()
    save_package(path, model.state_dict(), CONFIG)
    return model.eval()


def test_the_file_alone_gives_the_same_model_and_task(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = save(path)
    assert read_header(path) == CONFIG
    package = load_package(path)
    assert package.config == CONFIG
    assert package.task.class_names == CONFIG.class_names
    assert package.task.category_ids == CONFIG.category_ids
    assert package.task.spec == CONFIG.task.input
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        for ours, theirs in zip(package.model(images), model(images), strict=True):
            assert torch.equal(ours, theirs)


def test_settings_of_the_user_replace_those_of_the_file(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors")
    package = load_package(tmp_path / "model.safetensors", postprocess={"confidence": 0.4, "max_detections": 5})
    assert package.task.config.postprocess.confidence == 0.4
    assert package.task.config.postprocess.max_detections == 5
    assert package.task.config.postprocess.iou == CONFIG.task.postprocess.iou
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1, got 2"):
        load_package(tmp_path / "model.safetensors", postprocess={"confidence": 2})


def test_files_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model file at"):
        load_package(tmp_path / "missing.safetensors")
    (tmp_path / "text.safetensors").write_text("hello, this is no model")
    with pytest.raises(ValueError, match="no readable safetensors file"):
        load_package(tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"no detseg header.*--weights"):
        load_package(tmp_path / "other.safetensors")

    path = tmp_path / "model.safetensors"
    save(path)
    weights = load_file(path)
    header = {
        "format": 1,
        "version": "0",
        "model": {"name": "detector"},
        "task": {"name": "detection"},
        "class_names": ["a"],
    }
    save_file(weights, tmp_path / "classes.safetensors", {"detseg": json.dumps(header)})
    with pytest.raises(ValueError, match="header and weights disagree about"):
        load_package(tmp_path / "classes.safetensors")
    save_file(
        weights, tmp_path / "newer.safetensors", {"detseg": json.dumps({**header, "format": 99, "version": "9.0"})}
    )
    with pytest.raises(ValueError, match=r"written by detseg 9\.0"):
        load_package(tmp_path / "newer.safetensors")


def test_classes_meet_by_name() -> None:
    assert match_classes(("a", "b", "c"), ("c", "a")) == [2, 0]
    with pytest.raises(ValueError, match="does not know 1 classes of the data set: d; the model has: a, b, c"):
        match_classes(("a", "b", "c"), ("a", "d"))


def test_a_device_that_is_not_there_is_an_error() -> None:
    assert default_device("cpu") == torch.device("cpu")
    if torch.cuda.is_available():
        assert default_device("auto").type == "cuda"
    else:
        assert default_device("auto") == torch.device("cpu")
        with pytest.raises(ValueError, match="torch sees no CUDA device"):
            default_device("cuda:0")
