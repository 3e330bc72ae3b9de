from __future__ import annotations

import pytest

from detseg.models.foreign_names import own_name


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("model.0.conv.weight", "backbone.stem.conv.weight"),
        ("model.model.0.bn.bias", "backbone.stem.bn.bias"),
        ("model.4.m.1.cv2.conv.weight", "backbone.stages.1.1.blocks.1.conv2.conv.weight"),
        ("model.9.cv1.bn.running_mean", "backbone.stages.3.2.conv1.bn.running_mean"),
        ("model.12.cv2.conv.weight", "neck.top_down.0.block.conv2.conv.weight"),
        ("model.19.bn.weight", "neck.bottom_up.1.down.bn.weight"),
        ("model.21.m.0.cv1.conv.weight", "neck.bottom_up.1.block.blocks.0.conv1.conv.weight"),
        ("model.22.cv2.0.2.bias", "head.box_branches.0.2.bias"),
        ("model.22.cv3.2.0.conv.weight", "head.class_branches.2.0.conv.weight"),
        ("model.22.dfl.conv.weight", "head.projection"),
        ("model.22.cv4.0.0.conv.weight", "head.coefficient_branches.0.0.conv.weight"),
        ("model.22.proto.cv2.bn.bias", "head.prototypes.conv2.bn.bias"),
        ("model.22.proto.upsample.weight", "head.prototypes.upsample.weight"),
        ("model.22.cv5.0.0.conv.weight", "head.cv5.0.0.conv.weight"),
        ("model.10.conv.weight", "model.10.conv.weight"),
        ("model.23.cv2.0.2.bias", "model.23.cv2.0.2.bias"),
        ("backbone.backbone.dark3.1.m.0.conv1.conv.weight", "backbone.stages.1.1.blocks.0.conv1.conv.weight"),
        ("head.cls_convs.0.1.dconv.bn.bias", "head.class_convs.0.1.depthwise.bn.bias"),
        ("in_tr.conv_block.adn.N.bias", "stem.convs.0.norm.bias"),
        ("backbone.stem.conv.weight", "backbone.stem.conv.weight"),
    ],
)
def test_own_name(name: str, own: str) -> None:
    assert own_name(name) == own
