from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from detseg.config import from_dict
from detseg.exporters.export import export_model
from detseg.models.backbones.csp_darknet import CSPDarknetConfig
from detseg.models.base import Backbone
from detseg.models.semantic_fpn import SemanticFPN, SemanticFPNConfig
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.onnx.model import OnnxModel
from detseg.tasks.model_file import ModelFileConfig, save_model_file
from detseg.tasks.semantic import SemanticTaskConfig
from tests.models.tester import ModelTester

SMALL = SemanticFPNConfig(backbone=CSPDarknetConfig(width=0.125), pyramid_channels=16, channels=8)


class TestSemanticFPN(ModelTester):
    config = SMALL
    sizes = ((32, 96), (33, 61), (1, 40), (90, 45))

    def expected_shapes(self, num_classes: int, height: int, width: int) -> list[tuple[int, ...]]:
        return [(num_classes, height, width)]

    def test_any_image_is_that_of_one_with_zeros_around(self) -> None:
        """So that pixels lie where they do in an image of a multiple of the stride."""
        model = self.build().eval()
        image = self.images(64, 96)
        image[..., 50:, :] = 0
        image[..., 70:] = 0
        with torch.no_grad():
            torch.testing.assert_close(model(image[..., :50, :70]), model(image)[..., :50, :70], rtol=0, atol=1e-5)

    def test_folded_batch_norms_change_nothing(self) -> None:
        model = self.build().train()
        model(self.images())
        model.eval()
        with torch.no_grad():
            before = model(self.images())
            assert isinstance(model, SemanticFPN)
            after = model.fuse()(self.images())
        assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


class _Maps(Backbone):
    """Gives one map at each stride: a constant ``value`` for the level that is asked for, else zeros."""

    channels = (1, 1, 1)
    strides = (8, 16, 32)

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        height, width = images.shape[-2:]
        return [
            torch.full((len(images), 1, height // stride, width // stride), float(number == self.level))
            for number, stride in enumerate(self.strides)
        ]


@pytest.mark.parametrize(("level", "expected"), [(0, 1), (1, 2), (2, 3)])
def test_a_level_informs_itself_and_all_finer_ones(level: int, expected: int) -> None:
    """With weights that hand on what they get, the logits count the levels that a map has reached."""
    model = SemanticFPN(_Maps(level), 1, 1, 1, "identity").eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            middle = module.kernel_size[0] // 2
            module.weight.data[..., middle, middle] = 1
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    with torch.no_grad():
        logits = model(torch.zeros(1, 3, 64, 96))
    torch.testing.assert_close(logits, torch.full((1, 1, 64, 96), float(expected)))


@pytest.mark.parametrize("backbone", ["mobilenet_v3_small", "alexnet", "nin"])
def test_any_backbone_is_an_encoder(backbone: str) -> None:
    settings = {"name": "semantic_fpn", "backbone": backbone, "pyramid_channels": 8, "channels": 4}
    with torch.device("cpu"):
        model = from_dict(SemanticFPNConfig, settings, "test").build(2)
    logits = model(torch.rand(2, 3, 70, 100))
    assert logits.shape == (2, 2, 70, 100)
    logits.square().mean().backward()
    lacking = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert lacking == []


@pytest.mark.parametrize("setting", ["pyramid_channels", "channels"])
def test_no_channels_are_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be positive, got 0"):
        SemanticFPNConfig(**{setting: 0})  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "stride", "sides"),
    [((64, 96), 32, (None, 3, None, None)), ((72, 100), 1, (None, 3, 72, 100))],
    ids=["many sizes", "one size"],
)
def test_an_exported_file_gives_the_same_classes(
    tmp_path: Path, size: tuple[int, int], stride: int, sides: tuple[int | None, ...]
) -> None:
    torch.manual_seed(0)
    config = ModelFileConfig(SMALL, SemanticTaskConfig(input=InputSpec(*size)), ("background", "one", "two"), (0, 1, 2))
    model, _ = config.build()
    with torch.no_grad():
        for _ in range(5):
            model.train()(torch.randn(2, 3, 64, 96))
    save_model_file(tmp_path / "fpn.safetensors", model.state_dict(), config)
    made = export_model(tmp_path / "fpn.safetensors")
    differences = made.parity.differences
    assert differences["equal_pixels"] > 0.999
    assert 0 < differences["largest_logit_difference"] < 1e-3
    model = OnnxModel(made.path, num_threads=1)
    assert (model.metadata.stride, model.input_sides) == (stride, sides)
