"""Small models in files, as training leaves them, and one export that several tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from detseg.exporters.export import Exported, export_model
from detseg.models.backbones.csp_darknet import CSPDarknetConfig
from detseg.models.detector import DetectorConfig
from detseg.models.heads.dfl import DFLHeadConfig
from detseg.models.heads.dfl_masks import DFLMasksHeadConfig
from detseg.models.necks.pan import PANConfig
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.postprocess.config import PostprocessConfig
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.instance import InstanceTaskConfig
from detseg.tasks.model_file import ModelFileConfig, save_model_file
from detseg.tasks.volume import VolumeTask, VolumeTaskConfig

NUM_CLASSES = 3


def settle(model: nn.Module, shape: tuple[int, ...], scale: float = 255.0) -> None:
    """Give the norms of ``model`` statistics that fit its inputs."""
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.rand(shape) * scale)
    model.eval()


@pytest.fixture(scope="session")
def detector_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector that was not trained, and finds something everywhere."""
    torch.manual_seed(0)
    config = ModelFileConfig(
        DetectorConfig(
            backbone=CSPDarknetConfig(width=0.0625, depth=0.01),
            neck=PANConfig(depth=0.01),
            head=DFLHeadConfig(reg_max=4),
        ),
        DetectionTaskConfig(
            input=InputSpec(96, 128), postprocess=PostprocessConfig(confidence=0.01, iou=0.6, max_detections=50)
        ),
        ("circle", "square", "triangle"),
        (1, 2, 5),
    )
    model, _ = config.build()
    settle(model, (4, 3, 96, 128), 1.0)
    with torch.no_grad():
        for branch in model.head.class_branches:  # type: ignore[union-attr]
            branch[-1].weight.mul_(20)  # type: ignore[index, operator]
            branch[-1].bias.fill_(-1.0)  # type: ignore[index, operator, union-attr]
    path = tmp_path_factory.mktemp("detector") / "small.safetensors"
    save_model_file(path, model.state_dict(), config)
    return path


@pytest.fixture(scope="session")
def instance_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector with masks that was not trained, and finds something everywhere."""
    torch.manual_seed(0)
    config = ModelFileConfig(
        DetectorConfig(
            backbone=CSPDarknetConfig(width=0.0625, depth=0.01),
            neck=PANConfig(depth=0.01),
            head=DFLMasksHeadConfig(reg_max=4, prototypes=6),
        ),
        InstanceTaskConfig(
            input=InputSpec(96, 128), postprocess=PostprocessConfig(confidence=0.01, iou=0.6, max_detections=50)
        ),
        ("circle", "square", "triangle"),
        (1, 2, 5),
    )
    model, _ = config.build()
    settle(model, (4, 3, 96, 128), 1.0)
    with torch.no_grad():
        for branch in model.head.class_branches:  # type: ignore[union-attr]
            branch[-1].weight.mul_(20)  # type: ignore[index, operator]
            branch[-1].bias.fill_(-1.0)  # type: ignore[index, operator, union-attr]
        for branch in model.head.coefficient_branches:  # type: ignore[union-attr]
            branch[-1].bias.normal_()  # type: ignore[index, operator, union-attr]
        model.head.prototypes.conv3.bn.weight.normal_()  # type: ignore[union-attr, operator]
    path = tmp_path_factory.mktemp("instances") / "small.safetensors"
    save_model_file(path, model.state_dict(), config)
    return path


@pytest.fixture(scope="session")
def exported_detector(detector_path: Path) -> Exported:
    """The detector with its boxes decoded in the graph."""
    return export_model(detector_path, detector_path.with_name("decoded.onnx"))


@pytest.fixture
def hippocampus_task() -> VolumeTask:
    """Volumes with two classes beside the background, without a model."""
    return VolumeTask(VolumeTaskConfig(patch=(16, 16, 16)), ("background", "anterior", "posterior"))
