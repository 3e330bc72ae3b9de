from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch

from detseg.config import from_dict
from detseg.models.backbones.adapter import AdapterConfig
from detseg.models.detector import DetectorConfig

# The channels at strides 8, 16 and 32, as the papers' tables give them.
CHANNELS = [
    ("resnet50", (512, 1024, 2048)),
    ("vgg16", (512, 512, 512)),
    ("googlenet", (480, 832, 1024)),
    ("densenet121", (256, 512, 1024)),
    ("swin_t", (192, 384, 768)),
    ("mobilenet_v2", (192, 576, 1280)),
    ({"name": "torchvision", "arch": "regnet_y_400mf"}, (104, 208, 440)),
    ({"name": "timm", "arch": "resnet18"}, (128, 256, 512)),
    ({"name": "timm", "arch": "convnext_atto"}, (80, 160, 320)),
    # Half of the channels of ImageNet's: 96, 256, 384, 1024.
    ("nin", (128, 192, 512)),
    # No padding where it pools, so that its maps are a little small.
    ("alexnet", (192, 256, 256)),
    # One resolution only, at stride 16: enlarged with half the channels, and shrunk with as many.
    ({"name": "timm", "arch": "vit_tiny_patch16_224"}, (96, 192, 192)),
    # Patches of 14 pixels, at which images are padded.
    ({"name": "timm", "arch": "eva02_tiny_patch14_224"}, (96, 192, 192)),
    # Of 224x224 only, to which images are resized.
    ({"name": "timm", "arch": "levit_128s"}, (64, 128, 256)),
]


@pytest.mark.parametrize(("backbone", "channels"), CHANNELS)
def test_pyramid_with_pan_trains(backbone: Any, channels: tuple[int, ...]) -> None:
    settings = {"backbone": backbone, "neck": {"name": "pan", "channels": [16, 32, 48]}}
    model = from_dict(DetectorConfig, settings, "test").build(2)
    assert model.backbone.channels == channels
    assert model.backbone.strides == (8, 16, 32)
    images = torch.rand(2, 3, 64, 96)
    features = model.backbone(images)
    assert [tuple(feature.shape[1:]) for feature in features] == [
        (count, 64 // stride, 96 // stride) for count, stride in zip(channels, (8, 16, 32), strict=True)
    ]
    sum((output**2).mean() for output in model(images)).backward()
    lacking = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert lacking == []


def test_the_end_of_a_stage_is_taken() -> None:
    """Not the first convolution of the next stage, which has the same resolution, but lacks the shortcut."""
    backbone = AdapterConfig("resnet18").build()
    assert [found.key for found in backbone.maps] == ["layer2.1.relu_1", "layer3.1.relu_1", "layer4.1.relu_1"]


def test_random_depth_is_for_training_only_also_in_a_copy() -> None:
    torch.manual_seed(0)
    backbone = copy.deepcopy(AdapterConfig("swin_t").build())
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        backbone.train()
        assert not torch.equal(backbone(images)[2], backbone(images)[2])
        backbone.eval()
        assert torch.equal(backbone(images)[2], backbone(images)[2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "torchvision"}, "needs arch"),
        ({"name": "resnet50", "arch": "resnet18"}, "takes no arch"),
    ],
)
def test_contradicting_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdapterConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "torchvision", "arch": "resnet51"}, "no classification network 'resnet51'; it has .*resnet50"),
        ({"name": "timm", "arch": "resnet51x"}, "timm has no network 'resnet51x'; similar names: .*resnet50"),
    ],
)
def test_networks_that_cannot_serve_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdapterConfig(**settings).build()


def test_missing_timm_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="pip install timm"):
        AdapterConfig("timm", "resnet18").build()


def test_a_network_of_one_size_is_built_for_another() -> None:
    """CaiT has 14x14 patches of its own; for 128x192 there are 8x12."""
    backbone: Any = AdapterConfig("timm", "cait_xxs24_224", image_size=(128, 192)).build()
    assert backbone.image_size == (128, 192)
    assert backbone.body.model.pos_embed.shape[1] == 8 * 12
    with torch.no_grad():
        maps = backbone.eval()(torch.rand(1, 3, 64, 96))
    assert [tuple(one.shape[2:]) for one in maps] == [(8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet50", "image_size": (64, 64)}, "backbone resnet50: image_size is for networks of timm"),
        (
            {"name": "timm", "arch": "resnet18", "image_size": (64, 64)},
            "takes images of any size; leave image_size out",
        ),
        (
            {"name": "timm", "arch": "cait_xxs24_224", "image_size": (8, 8)},
            "choose another image_size, or none for its own",
        ),
    ],
)
def test_sizes_that_a_network_does_not_take(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdapterConfig(**settings).build()
