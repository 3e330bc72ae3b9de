"""Checkpoints as other programs write them, made of detseg's networks with the names of those programs.

The names here are written down on their own, from the programs' networks: nothing of the package's tables is used.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detseg.config import load_config
from detseg.engine.settings import RunConfig

CONFIGS = Path(__file__).parents[2] / "configs"
YOLOV8_PLACES = (
    ("backbone.stem.", 0),
    *((f"backbone.stages.{stage}.{part}.", 1 + 2 * stage + part) for stage in range(4) for part in range(2)),
    ("backbone.stages.3.2.", 9),
    ("neck.top_down.0.block.", 12),
    ("neck.top_down.1.block.", 15),
    ("neck.bottom_up.0.down.", 16),
    ("neck.bottom_up.0.block.", 18),
    ("neck.bottom_up.1.down.", 19),
    ("neck.bottom_up.1.block.", 21),
)
YOLOX_FRONTS = (
    ("backbone.stem.", "backbone.backbone.stem."),
    *((f"backbone.stages.{stage}.", f"backbone.backbone.dark{stage + 2}.") for stage in range(4)),
    ("neck.top_down.0.reduce.", "backbone.lateral_conv0."),
    ("neck.top_down.0.block.", "backbone.C3_p4."),
    ("neck.top_down.1.reduce.", "backbone.reduce_conv1."),
    ("neck.top_down.1.block.", "backbone.C3_p3."),
    ("neck.bottom_up.0.down.", "backbone.bu_conv2."),
    ("neck.bottom_up.0.block.", "backbone.C3_n3."),
    ("neck.bottom_up.1.down.", "backbone.bu_conv1."),
    ("neck.bottom_up.1.block.", "backbone.C3_n4."),
    ("head.class_convs.", "head.cls_convs."),
    ("head.box_convs.", "head.reg_convs."),
    ("head.class_preds.", "head.cls_preds."),
    ("head.box_preds.", "head.reg_preds."),
    ("head.objectness_preds.", "head.obj_preds."),
    ("head.stems.", "head.stems."),
)


def build(config: str, num_classes: int, device: str = "cpu") -> nn.Module:
    """The network of ``configs/<config>.yaml`` with weights that are all different."""
    with torch.device(device):
        torch.manual_seed(0)
        model: nn.Module = load_config(RunConfig, CONFIGS / f"{config}.yaml").model.build(num_classes=num_classes)
        for name, value in model.state_dict().items():
            if value.is_floating_point() and name != "head.projection":
                value.uniform_(0.5, 1.5)
    return model.eval()


def yolov8_name(own: str) -> str:
    if own == "head.projection":
        return "model.22.dfl.conv.weight"
    if own.startswith("head."):
        own = re.sub(r"^head\.box_branches\.", "model.22.cv2.", own)
        own = re.sub(r"^head\.coefficient_branches\.", "model.22.cv4.", own)
        own = re.sub(r"^head\.prototypes\.conv", "model.22.proto.cv", own)
        own = re.sub(r"^head\.prototypes\.", "model.22.proto.", own)
        return re.sub(r"^head\.class_branches\.", "model.22.cv3.", own)
    front, place = next((front, place) for front, place in YOLOV8_PLACES if own.startswith(front))
    rest = own.removeprefix(front).replace("conv1.", "cv1.").replace("conv2.", "cv2.").replace("blocks.", "m.")
    return f"model.{place}.{rest}"


def yolox_name(own: str) -> str:
    front, foreign = next(pair for pair in YOLOX_FRONTS if own.startswith(pair[0]))
    rest = own.removeprefix(front).replace("blocks.", "m.")
    return foreign + rest.replace("depthwise.", "dconv.").replace("pointwise.", "pconv.")


def yolov8_weights(model: nn.Module) -> dict[str, Tensor]:
    return {yolov8_name(name): value for name, value in model.state_dict().items()}


def yolox_weights(model: nn.Module) -> dict[str, Tensor]:
    return {yolox_name(name): value for name, value in model.state_dict().items()}


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path
