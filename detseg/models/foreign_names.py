"""What the tensors of YOLOX, YOLOv8, the published LETNet and MONAI's VNet are called, there and here."""

from __future__ import annotations

import re

Parts = tuple[tuple[str, str], ...]
"""What stands in a foreign name, or a pattern of it, and what stands there in ours."""

# The front of an official YOLOX name -> ours.
YOLOX_MODULES = (
    ("backbone.backbone.stem.", "backbone.stem."),
    ("backbone.backbone.dark2.", "backbone.stages.0."),
    ("backbone.backbone.dark3.", "backbone.stages.1."),
    ("backbone.backbone.dark4.", "backbone.stages.2."),
    ("backbone.backbone.dark5.", "backbone.stages.3."),
    ("backbone.lateral_conv0.", "neck.top_down.0.reduce."),
    ("backbone.C3_p4.", "neck.top_down.0.block."),
    ("backbone.reduce_conv1.", "neck.top_down.1.reduce."),
    ("backbone.C3_p3.", "neck.top_down.1.block."),
    ("backbone.bu_conv2.", "neck.bottom_up.0.down."),
    ("backbone.C3_n3.", "neck.bottom_up.0.block."),
    ("backbone.bu_conv1.", "neck.bottom_up.1.down."),
    ("backbone.C3_n4.", "neck.bottom_up.1.block."),
    ("head.stems.", "head.stems."),
    ("head.cls_convs.", "head.class_convs."),
    ("head.reg_convs.", "head.box_convs."),
    ("head.cls_preds.", "head.class_preds."),
    ("head.reg_preds.", "head.box_preds."),
    ("head.obj_preds.", "head.objectness_preds."),
)
YOLOX_PARTS = ((".m.", ".blocks."), (".dconv.", ".depthwise."), (".pconv.", ".pointwise."))

# The front of a name of the published LETNet, as a pattern -> ours; \1 is the number of a stage or of a block.
LETNET_MODULES = (
    (r"init_conv\.", "stem."),
    (r"bn_prelu_1\.", "stem.3."),
    (r"downsample_(\d)\.bn_prelu\.", r"down\1.norm."),
    (r"downsample_(\d)\.", r"down\1."),
    (r"DAB_Block_(\d)\.DAB_Module_\d_", r"stage\1."),
    (r"bn_prelu_2\.", "norm1."),
    (r"bn_prelu_3\.", "norm2."),
    (r"bn_prelu_4\.", "norm3."),
    (r"transformer1\.atten\.", "transformer.attention."),
    (r"transformer1\.mlp\.fc1\.", "transformer.mlp.0."),
    (r"transformer1\.mlp\.fc2\.", "transformer.mlp.2."),
    (r"transformer1\.", "transformer."),
    (r"upsample_(\d)\.", r"up\1."),
    (r"bn_prelu_5\.", "up1.norm."),
    (r"bn_prelu_6\.", "up2.norm."),
    (r"bn_prelu_7\.", "up3.norm."),
    (r"PA1\.", "unused.0."),
    (r"PA2\.", "unused.1."),
    (r"PA3\.", "up3.attention."),
    (r"LC(\d)\.dconv3x1\.", r"skip\1.first."),
    (r"LC(\d)\.dconv1x3\.", r"skip\1.last."),
    (r"classifier\.0\.conv\.", "classifier."),
)
LETNET_PARTS = (
    (".bn_relu_1.", ".pre."),
    (".bn_relu_2.", ".post."),
    (".conv1x1_in.conv.", ".squeeze."),
    (".conv1x1.conv.", ".unsqueeze."),
    (".conv3x1.", ".dense.0."),
    (".conv1x3.", ".dense.1."),
    (".ddconv3x1.", ".far.0."),
    (".ddconv1x3.", ".far.1."),
    (".dconv3x1.", ".near.0."),
    (".dconv1x3.", ".near.1."),
    (".ca11.", ".near_weights."),
    (".ca22.", ".far_weights."),
    (".conv3x3.conv.", ".conv."),
    (".bn_prelu.", "."),
    (".acti.", ".act."),
)

# The front of a name of MONAI's VNet -> ours, and patterns for the rest of such a name.
MONAI_VNET_MODULES = (
    ("in_tr.conv_block.", "stem.convs.0."),
    ("in_tr.act_function.", "stem.act."),
    ("down_tr32.", "downs.0."),
    ("down_tr64.", "downs.1."),
    ("down_tr128.", "downs.2."),
    ("down_tr256.", "downs.3."),
    ("up_tr256.", "ups.0."),
    ("up_tr128.", "ups.1."),
    ("up_tr64.", "ups.2."),
    ("up_tr32.", "ups.3."),
    ("out_tr.conv_block.", "classifier.hidden."),
    ("out_tr.act_function1.", "classifier.act."),
    ("out_tr.conv2.", "classifier.conv."),
)
MONAI_VNET_PARTS = (
    (r"\.(down|up)_conv\.", ".resample.conv."),
    (r"\.bn1\.", ".resample.norm."),
    (r"\.act_function1\.", ".resample_act."),
    (r"\.act_function2\.", ".stage.act."),
    (r"\.ops\.(\d+)\.conv_block\.", r".stage.convs.\1."),
    (r"\.ops\.(\d+)\.act_function\.", r".stage.inner_acts.\1."),
    (r"\.adn\.N\.", ".norm."),
)

# The module of a YOLOv8 network, by its place in the list of them -> ours; places without weights are not here.
YOLOV8_MODULES = {
    0: "backbone.stem.",
    1: "backbone.stages.0.0.",
    2: "backbone.stages.0.1.",
    3: "backbone.stages.1.0.",
    4: "backbone.stages.1.1.",
    5: "backbone.stages.2.0.",
    6: "backbone.stages.2.1.",
    7: "backbone.stages.3.0.",
    8: "backbone.stages.3.1.",
    9: "backbone.stages.3.2.",
    12: "neck.top_down.0.block.",
    15: "neck.top_down.1.block.",
    16: "neck.bottom_up.0.down.",
    18: "neck.bottom_up.0.block.",
    19: "neck.bottom_up.1.down.",
    21: "neck.bottom_up.1.block.",
    22: "head.",
}
# The start of what follows the place, as a pattern -> ours.
YOLOV8_PARTS = (
    (r"^cv2\.(\d)\.", r"box_branches.\1."),
    (r"^cv3\.(\d)\.", r"class_branches.\1."),
    (r"^cv4\.(\d)\.", r"coefficient_branches.\1."),
    (r"^proto\.cv(\d)\.", r"prototypes.conv\1."),
    (r"^proto\.upsample\.", "prototypes.upsample."),
    (r"^dfl\.conv\.weight$", "projection"),
)
YOLOV8_BLOCKS = ((r"^m\.(\d+)\.", r"blocks.\1."), (r"(^|\.)cv([12])\.", r"\1conv\2."))

_YOLOV8_NAME = re.compile(r"(?:model\.){1,2}(\d+)\.(.+)")


def own_name(name: str) -> str:
    """What detseg's models call the tensor that a foreign network calls ``name``; other names stay as they are."""
    if match := _YOLOV8_NAME.fullmatch(name):
        return _yolov8_name(int(match[1]), match[2]) or name
    for front, own_front in YOLOX_MODULES:
        if name.startswith(front):
            return _replaced(own_front + name.removeprefix(front), YOLOX_PARTS)
    for pattern, own_front in LETNET_MODULES:
        renamed, num_found = re.subn(rf"^{pattern}", own_front, name)
        if num_found:
            return _replaced(renamed, LETNET_PARTS)
    for front, own_front in MONAI_VNET_MODULES:
        if name.startswith(front):
            return _substituted(own_front + name.removeprefix(front), MONAI_VNET_PARTS)
    return name


def _yolov8_name(place: int, part: str) -> str | None:
    front = YOLOV8_MODULES.get(place)
    if front is None:
        return None
    return front + _substituted(part, YOLOV8_PARTS if front == "head." else YOLOV8_BLOCKS)


def _replaced(name: str, parts: Parts) -> str:
    for part, own_part in parts:
        name = name.replace(part, own_part)
    return name


def _substituted(name: str, patterns: Parts) -> str:
    for pattern, own_part in patterns:
        name = re.sub(pattern, own_part, name)
    return name
