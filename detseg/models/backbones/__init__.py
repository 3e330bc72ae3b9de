"""Networks that turn images into a pyramid of features.

Classification networks that are not listed are reached through ``torchvision`` or ``timm`` with ``arch: <its name>``.
"""

from __future__ import annotations

BACKBONES = {
    "csp_darknet": "detseg.models.backbones.csp_darknet:CSPDarknetConfig",
    "torchvision": "detseg.models.backbones.adapter:AdapterConfig",
    "timm": "detseg.models.backbones.adapter:AdapterConfig",
    "nin": "detseg.models.backbones.nin:NiNConfig",
    "alexnet": "detseg.models.backbones.adapter:AdapterConfig",
    "resnet18": "detseg.models.backbones.adapter:AdapterConfig",
    "resnet34": "detseg.models.backbones.adapter:AdapterConfig",
    "resnet50": "detseg.models.backbones.adapter:AdapterConfig",
    "resnet101": "detseg.models.backbones.adapter:AdapterConfig",
    "resnext50_32x4d": "detseg.models.backbones.adapter:AdapterConfig",
    "vgg16": "detseg.models.backbones.adapter:AdapterConfig",
    "vgg16_bn": "detseg.models.backbones.adapter:AdapterConfig",
    "googlenet": "detseg.models.backbones.adapter:AdapterConfig",
    "densenet121": "detseg.models.backbones.adapter:AdapterConfig",
    "mobilenet_v2": "detseg.models.backbones.adapter:AdapterConfig",
    "mobilenet_v3_large": "detseg.models.backbones.adapter:AdapterConfig",
    "mobilenet_v3_small": "detseg.models.backbones.adapter:AdapterConfig",
    "efficientnet_b0": "detseg.models.backbones.adapter:AdapterConfig",
    "convnext_tiny": "detseg.models.backbones.adapter:AdapterConfig",
    "swin_t": "detseg.models.backbones.adapter:AdapterConfig",
    "vit_b_16": "detseg.models.backbones.vit:ViTConfig",
    "vit_l_16": "detseg.models.backbones.vit:ViTConfig",
}
