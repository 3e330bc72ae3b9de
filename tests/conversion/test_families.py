from __future__ import annotations

import pytest

from detseg.config import load_config
from detseg.conversion.families import recognize
from detseg.conversion.mapping import expected_tensors
from detseg.conversion.report import ConversionError
from detseg.engine.settings import RunConfig
from detseg.models.foreign_names import own_name
from tests.conversion.checkpoints import CONFIGS, build, yolov8_weights, yolox_weights

Shapes = dict[str, tuple[int, ...]]


def config_of(family: str, size: str) -> str:
    return {
        "YOLOv8": f"detection/c2f_{size}",
        "YOLOv8-seg": f"instance/c2f_{size}_seg",
        "YOLOX": f"detection/yolox_{size}",
    }[family]


def shapes_of(family: str, size: str, num_classes: int) -> Shapes:
    config = config_of(family, size)
    weights = (yolox_weights if family == "YOLOX" else yolov8_weights)(build(config, num_classes, "meta"))
    return {name: tuple(value.shape) for name, value in weights.items()}


SIZES = [(family, size) for family in ("YOLOv8", "YOLOv8-seg") for size in "nsmlx"] + [
    ("YOLOX", size) for size in ("nano", "tiny", *"smlx")
]


@pytest.mark.parametrize(("family", "size"), SIZES)
@pytest.mark.parametrize("num_classes", [1, 80, 365])
def test_every_size_is_recognized_and_every_tensor_placed(family: str, size: str, num_classes: int) -> None:
    shapes = shapes_of(family, size, num_classes)
    found = recognize(shapes)
    assert (found.family, found.size, found.num_classes) == (family, size, num_classes)
    # The same network and the same input as the configuration to train one.
    own = load_config(RunConfig, CONFIGS / f"{config_of(family, size)}.yaml")
    assert found.model == own.model
    assert found.task == own.task
    expected = {name: tuple(value.shape) for name, value in expected_tensors(found.model, num_classes).items()}
    assert {own_name(name): shape for name, shape in shapes.items()} == expected


N = shapes_of("YOLOv8", "n", 3)
NANO = shapes_of("YOLOX", "nano", 3)


def without(shapes: Shapes, *names: str) -> Shapes:
    return {name: shape for name, shape in shapes.items() if name not in names}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (N | {"model.22.proto.cv3.conv.weight": (32, 64, 1, 1)}, r"YOLOv8-seg, but there is no model\.22\.proto\.cv1"),
        (N | {"model.23.proto.cv3.conv.weight": (32, 64, 1, 1), "model.23.cv4.0.2.bias": (32,)}, "poses or rotated"),
        (N | {"model.22.cv4.0.2.weight": (51, 16, 1, 1)}, "poses or rotated boxes"),
        (N | {"model.23.one2one_cv2.0.2.bias": (64,)}, "a YOLOv10 or later"),
        (N | {"model.10.m.0.attn.qkv.conv.weight": (256, 128, 1, 1)}, "a YOLO11 or later"),
        ({"model.0.conv.weight": (32, 3, 6, 6), "model.24.m.0.weight": (255, 128, 1, 1)}, "anchor boxes"),
        ({"model.0.conv.weight": (16, 3, 3, 3), "model.9.linear.weight": (1000, 1280)}, "a classifier"),
        ({"model.0.conv.weight": (16, 3, 3, 3)}, r"no model\.22\.cv2\.0\.2\.weight"),
        (N | {"model.0.conv.weight": (20, 3, 3, 3)}, r"first convolution has 20 channels; known are 16 \(n\)"),
        (N | {"model.0.conv.weight": (16,)}, r"has the shape \[16\]"),
        (NANO | {"backbone.backbone.stem.conv.conv.weight": (20, 12, 3, 3)}, r"has 20 channels; known are 16 \(nano\)"),
        (
            without(NANO, "backbone.backbone.stem.conv.conv.weight"),
            r"no backbone\.backbone\.stem\.conv\.conv\.weight",
        ),
        ({"in_tr.conv_block.conv.weight": (16, 1, 5, 5)}, r"has the shape \[16, 1, 5, 5\], which no VNet"),
        ({"layer1.0.weight": (3,)}, r"no known network has tensors such as layer1\.0\.weight"),
        ({}, "no known network"),
    ],
)
def test_other_networks_are_named(shapes: Shapes, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        recognize(shapes)
