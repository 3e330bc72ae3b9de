from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detseg.config import ConfigError, from_dict
from detseg.models import MODELS
from detseg.models.detector import DetectorConfig
from tests.models.tester import ModelTester


def c2f_detector(depth: float, width: float, max_channels: int) -> DetectorConfig:
    return _config(
        {"name": "csp_darknet", "block": "c2f", "depth": depth, "width": width, "max_channels": max_channels},
        {"name": "pan", "block": "c2f", "depth": depth},
        "dfl",
    )


def c2f_mask_detector(depth: float, width: float, max_channels: int) -> DetectorConfig:
    return _config(
        {"name": "csp_darknet", "block": "c2f", "depth": depth, "width": width, "max_channels": max_channels},
        {"name": "pan", "block": "c2f", "depth": depth},
        "dfl_masks",
    )


def yolox_detector(depth: float, width: float, depthwise: bool = False) -> DetectorConfig:
    form = {"block": "csp", "depth": depth, "depthwise": depthwise}
    return _config(
        {"name": "csp_darknet", "width": width, **form},
        {"name": "pan", **form},
        {"name": "yolox", "depthwise": depthwise},
    )


def _config(backbone: Any, neck: Any, head: Any) -> DetectorConfig:
    return from_dict(DetectorConfig, {"backbone": backbone, "neck": neck, "head": head}, "test")


class DetectorTester(ModelTester):
    box_channels: int

    def expected_shapes(self, num_classes: int, height: int, width: int) -> list[tuple[int, ...]]:
        return [(self.box_channels + num_classes, height // s, width // s) for s in (8, 16, 32)]

    def test_publishes_what_the_losses_need(self) -> None:
        model = self.build(7)
        assert model.strides == (8, 16, 32)
        assert model.num_classes == 7
        assert model.head.kind == self.config.head.name

    def test_size_that_does_not_divide_is_refused(self) -> None:
        with pytest.raises(ValueError, match="multiples of 32, got 64x72"):
            self.build()(torch.zeros(1, 3, 64, 72))


class TestC2fDetector(DetectorTester):
    config = c2f_detector(0.33, 0.25, 1024)
    box_channels = 4 * 16


class TestC2fMaskDetector(DetectorTester):
    config = c2f_mask_detector(0.33, 0.25, 1024)
    box_channels = 4 * 16

    def expected_shapes(self, num_classes: int, height: int, width: int) -> list[tuple[int, ...]]:
        levels = super().expected_shapes(num_classes + 32, height, width)
        return [*levels, (32, height // 4, width // 4)]

    def outputs(self, model: nn.Module, images: Tensor) -> list[Tensor]:
        raw = model(images)
        return [*raw.levels, raw.prototypes]


class TestYOLOXDetector(DetectorTester):
    config = yolox_detector(0.33, 0.375)
    box_channels = 4 + 1


class TestDepthwiseDetector(DetectorTester):
    config = yolox_detector(0.33, 0.25, depthwise=True)
    box_channels = 4 + 1


class TestE2EDetector(DetectorTester):
    config = _config({"name": "csp_darknet", "width": 0.125}, {"name": "pan", "block": "csp"}, "e2e")
    box_channels = 4

    def expected_shapes(self, num_classes: int, height: int, width: int) -> list[tuple[int, ...]]:
        return 2 * super().expected_shapes(num_classes, height, width)  # both branches, in training mode


class TestResNetDetector(DetectorTester):
    config = _config("resnet18", {"name": "pan", "channels": [32, 64, 128]}, "dfl")
    box_channels = 4 * 16


class TestMobileNetDetector(DetectorTester):
    config = _config("mobilenet_v3_small", {"name": "pan", "block": "csp", "channels": [32, 64, 128]}, "yolox")
    box_channels = 4 + 1
    class_counts = (3,)


# With 80 classes, as the authors of the two families count them.
PARAMETER_COUNTS = [
    (c2f_detector(0.33, 0.25, 1024), 3_157_200),
    (c2f_detector(0.33, 0.50, 1024), 11_166_560),
    (c2f_detector(0.67, 0.75, 768), 25_902_640),
    (c2f_detector(1.0, 1.0, 512), 43_691_520),
    (c2f_detector(1.0, 1.25, 512), 68_229_648),
    (c2f_mask_detector(0.33, 0.25, 1024), 3_409_968),
    (c2f_mask_detector(0.33, 0.50, 1024), 11_821_056),
    (c2f_mask_detector(0.67, 0.75, 768), 27_285_968),
    (c2f_mask_detector(1.0, 1.0, 512), 45_997_728),
    (c2f_mask_detector(1.0, 1.25, 512), 71_827_888),
    (yolox_detector(0.33, 0.25, depthwise=True), 0.91e6),
    (yolox_detector(0.33, 0.375), 5.06e6),
    (yolox_detector(0.33, 0.50), 8.97e6),
    (yolox_detector(0.67, 0.75), 25.33e6),
    (yolox_detector(1.0, 1.0), 54.21e6),
    (yolox_detector(1.33, 1.25), 99.07e6),
]


@pytest.mark.parametrize(("config", "expected"), PARAMETER_COUNTS)
def test_parameter_counts(config: DetectorConfig, expected: float) -> None:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in config.build(80).parameters())
    if isinstance(expected, int):
        assert count == expected
    else:
        assert abs(count - expected) <= 0.005e6


def test_default_is_the_smallest_c2f_detector() -> None:
    assert from_dict(DetectorConfig, {}, "test") == TestC2fDetector.config
    assert MODELS["detector"] == f"{DetectorConfig.__module__}:{DetectorConfig.__name__}"


def test_fused_detector_computes_the_same() -> None:
    for config in (TestC2fDetector.config, TestDepthwiseDetector.config):
        torch.manual_seed(0)
        model = config.build(3).train()
        images = torch.rand(2, 3, 64, 64)
        model(images)
        model.eval()
        with torch.no_grad():
            before = model(images)
            after = model.fuse()(images)
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
        for one, other in zip(before, after, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_fusing_while_training_is_refused() -> None:
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        TestC2fDetector.config.build(3).train().fuse()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "resnet5"}, "resnet5"),
        ({"backbone": {"name": "csp_darknet", "widthx": 1.0}}, "width"),
    ],
)
def test_wrong_settings_name_the_way_out(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(DetectorConfig, settings, "test")
