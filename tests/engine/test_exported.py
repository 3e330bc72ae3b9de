"""Exported models in evaluation: masks and volumes get the numbers of the model they were made from; boxes are in
``test_evaluate.py``, where a data set fits what is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from detseg.conversion.convert import convert
from detseg.engine.evaluated import open_evaluated
from detseg.engine.exported import load_exported
from detseg.exporters.export import export_model
from detseg.losses.detection import SimOTALossConfig
from detseg.models.backbones.csp_darknet import CSPDarknetConfig
from detseg.models.detector import DetectorConfig
from detseg.models.heads.yolox import YOLOXHeadConfig
from detseg.models.letnet import LETNetConfig
from detseg.models.necks.pan import PANConfig
from detseg.models.vnet import VNetConfig
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.onnx.file import OnnxFileError
from detseg.runtime.postprocess.config import PostprocessConfig
from detseg.structures import Metrics
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.model_file import ModelFileConfig, save_model_file
from detseg.tasks.semantic import SemanticTaskConfig
from detseg.tasks.volume import VolumeTaskConfig


def save(config: ModelFileConfig, path: Path, *shape: int) -> Path:
    """A model that was not trained, with norms that fit its inputs."""
    torch.manual_seed(0)
    model, _ = config.build()
    with torch.no_grad():
        for _ in range(10):
            model.train()(torch.randn(shape))
    save_model_file(path, model.state_dict(), config)
    return path


def metrics_of(model_path: Path, data: Path, **settings: Any) -> Metrics:
    opened = open_evaluated(model_path, data=str(data), device="cpu", **settings)
    evaluator = opened.evaluate(batch_size=3, num_workers=0)
    evaluated: Metrics = evaluator.compute()
    return evaluated


@pytest.fixture(scope="module")
def vnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vnet")
    (folder / "blobs.yaml").write_text("{format: blobs, num_val: 3, min_side: 20, max_side: 24, max_radius: 6}")
    config = ModelFileConfig(
        VNetConfig(width=4, num_convolutions=(1, 1), kernel_size=3),
        VolumeTaskConfig(input=VolumeSpec((2.0, 2.0, 2.0)), patch=(16, 16, 16), surface_tolerance_mm=2.0),
        ("background", "bright", "dark"),
        (0, 1, 2),
    )
    model_path = save(config, folder / "vnet.safetensors", 2, 1, 16, 16, 16)
    export_model(model_path, folder / "vnet.onnx")
    return folder


@pytest.mark.parametrize("settings", [{}, {"flip": True}, {"window": (8, 16, 16), "overlap": 0.25}], ids=str)
def test_volumes(vnet: Path, settings: dict[str, Any]) -> None:
    expected, found = (
        metrics_of(vnet / f"vnet.{suffix}", vnet / "blobs.yaml", postprocess=settings)
        for suffix in ("safetensors", "onnx")
    )
    assert 0.005 < expected["Dice"] < 0.9
    assert found.keys() == expected.keys()
    # A voxel in ten thousand may lie on the border between two classes.
    assert dict(found) == pytest.approx(dict(expected), abs=2e-4)


@pytest.mark.slow
def test_masks(tmp_path: Path) -> None:
    (tmp_path / "shapes.yaml").write_text("{format: shapes, image_size: 80, num_val: 4, max_side: 60}")
    config = ModelFileConfig(
        LETNetConfig(),
        SemanticTaskConfig(input=InputSpec(64, 96)),
        ("background", "circle", "square", "triangle"),
        (0, 1, 2, 3),
    )
    model_path = save(config, tmp_path / "letnet.safetensors", 2, 3, 64, 96)
    made = export_model(model_path, dynamic=False)  # one image at a time, while evaluation has batches
    expected, found = (metrics_of(path, tmp_path / "shapes.yaml") for path in (model_path, made.path))
    assert 0.02 < expected["mIoU"] < 0.9
    assert dict(found) == pytest.approx(dict(expected), abs=2e-4)


@pytest.fixture(scope="module")
def yolox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with the YOLOX head, as YOLOX has it, and settings that are not the usual ones."""
    folder = tmp_path_factory.mktemp("yolox")
    config = ModelFileConfig(
        DetectorConfig(
            backbone=CSPDarknetConfig(width=0.0625, depth=0.01), neck=PANConfig(depth=0.01), head=YOLOXHeadConfig()
        ),
        DetectionTaskConfig(
            input=InputSpec(96, 128),
            loss=SimOTALossConfig(),
            postprocess=PostprocessConfig(0.01, 0.6, 50, multi_label=False),
        ),
        ("circle", "square", "triangle"),
        (1, 2, 5),
    )
    return export_model(save(config, folder / "yolox.safetensors", 4, 3, 96, 128)).path


def test_the_task_is_that_of_the_file_with_the_confidence_of_evaluation(yolox: Path) -> None:
    runner, task, runs_in, confidences = load_exported(yolox, "cpu", {}, (64, 96))
    assert (task.name, task.class_names) == ("detection", ("circle", "square", "triangle"))
    assert task.spec == runner.spec == InputSpec(64, 96)
    assert (runs_in, confidences) == ("ONNX Runtime, fp32", ())
    config: Any = task
    assert config.config.postprocess == PostprocessConfig(0.001, 0.6, 50, multi_label=False)
    assert config.category_ids == (1, 2, 5)


def test_a_given_confidence_counts(yolox: Path) -> None:
    _, task, *_ = load_exported(yolox, "cpu", {"confidence": 0.3, "iou": 0.5}, None)
    config: Any = task
    assert config.config.postprocess == PostprocessConfig(0.3, 0.5, 50, multi_label=False)


def test_the_way_to_a_foreign_onnx_file(detseg_data: Path) -> None:
    with pytest.raises(OnnxFileError, match="its classes, 80, have no names"):
        load_exported(detseg_data / "weights" / "yolox_nano_coco.onnx", "cpu", {}, None)


@pytest.mark.slow
def test_real_weights_on_real_images(detseg_data: Path, tmp_path: Path) -> None:
    model_path = tmp_path / "nano.safetensors"
    convert(detseg_data / "weights" / "yolox_nano_coco.pth", model_path)
    made = export_model(model_path)
    expected, found = (metrics_of(path, detseg_data / "coco-mini") for path in (model_path, made.path))
    assert expected["AP"] == pytest.approx(0.307, abs=0.002)
    assert dict(found) == pytest.approx(dict(expected), abs=1e-6)
