"""Which network a set of named tensors belongs to: family and size, from names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from detseg.config import from_dict
from detseg.conversion.report import ConversionError
from detseg.layers.volumetric import VolumeActivation
from detseg.models.base import ModelConfig
from detseg.models.detector import DetectorConfig
from detseg.models.vnet import MONAI_VNET
from detseg.runtime.inputs.geometry import InputSpec
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.instance import InstanceTaskConfig

Shapes = Mapping[str, tuple[int, ...]]

YOLOV8_SIZES = {
    16: ("n", 0.33, 0.25, 1024),
    32: ("s", 0.33, 0.5, 1024),
    48: ("m", 0.67, 0.75, 768),
    64: ("l", 1.0, 1.0, 512),
    80: ("x", 1.0, 1.25, 512),
}
"""Size, depth, width and most channels before they are multiplied, by the channels of the first convolution."""

YOLOX_SIZES = {
    16: ("nano", 0.33, 0.25, 416),
    24: ("tiny", 0.33, 0.375, 416),
    32: ("s", 0.33, 0.5, 640),
    48: ("m", 0.67, 0.75, 640),
    64: ("l", 1.0, 1.0, 640),
    80: ("x", 1.33, 1.25, 640),
}
"""Size, depth, width and side of the input, by the channels of the first convolution. Nano alone is depthwise."""


# What a part of a name tells about a network whose modules are numbered as YOLOv8's are.
_OTHERS = (
    (r"\.one2one_cv\d\.", "a YOLOv10 or later, with a head of one box per object"),
    (r"\.(attn|qkv)\.", "a YOLO11 or later, with attention"),
    (r"\.m\.\d\.(weight|bias)$", "a network with anchor boxes (YOLOv5 or before)"),
    (r"\.linear\.", "a classifier"),
    (r"\.(decoder|enc_output)\.", "an RT-DETR"),
)
_THIRD_BRANCH, _PROTOTYPES = r"\.cv4\.\d", r"(?:model\.){1,2}22\.proto\.cv3\.conv\.weight"
KNOWN = "YOLOv8 n to x (detection, and segmentation of instances), YOLOX nano to x, and MONAI's VNet"


@dataclass(frozen=True)
class Recognized:
    """A network: ``model`` to build it, the name of its task, and the ``task`` with the input of its family; None: the
    file cannot tell."""

    family: str
    size: str
    num_classes: int
    model: ModelConfig
    task_name: str
    task: DetectionTaskConfig | InstanceTaskConfig | None = None


def recognize(shapes: Shapes) -> Recognized:
    """The network whose tensors have these names and ``shapes``.

    Raises:
        ConversionError: it is none that detseg can convert; names what was recognized.
    """
    if any(re.match(r"(model\.){1,2}\d+\.", name) for name in shapes):
        return _yolov8(shapes)
    if any(name.startswith("backbone.backbone.") for name in shapes):
        stem = _shape(shapes, r"backbone\.backbone\.stem\.conv\.conv\.weight", "YOLOX", 4)
        classes = _shape(shapes, r"head\.cls_preds\.0\.weight", "YOLOX", 4)
        return yolox(stem[0], classes[0])
    if any(name.startswith("in_tr.") for name in shapes):
        return _monai_vnet(shapes)
    some = ", ".join(list(shapes)[:5])
    raise ConversionError(f"no known network has tensors such as {some}; detseg converts {KNOWN}")


def _yolov8(shapes: Shapes) -> Recognized:
    for pattern, what in _OTHERS:
        found = next((name for name in shapes if re.search(pattern, name)), None)
        if found is not None:
            raise ConversionError(f"this is {what}, as its tensor {found} shows; detseg converts {KNOWN}")
    front = r"(?:model\.){1,2}"
    stem = _shape(shapes, rf"{front}0\.conv\.weight", "YOLOv8", 4)
    boxes = _shape(shapes, rf"{front}22\.cv2\.0\.2\.weight", "YOLOv8", 4)
    classes = _shape(shapes, rf"{front}22\.cv3\.0\.2\.weight", "YOLOv8", 4)
    head: dict[str, Any] = {"name": "dfl", "reg_max": max(2, boxes[0] // 4)}
    prototypes = next((shape for name, shape in shapes.items() if re.fullmatch(_PROTOTYPES, name)), None)
    third = next((name for name in shapes if re.search(_THIRD_BRANCH, name)), None)
    if prototypes is not None:
        hidden = _shape(shapes, rf"{front}22\.proto\.cv1\.conv\.weight", "YOLOv8-seg", 4)
        usual = 4 * stem[0]  # the channels of the finest level
        channels = None if hidden[0] == usual else hidden[0]
        head |= {"name": "dfl_masks", "prototypes": prototypes[0], "prototype_channels": channels}
    elif third is not None:
        raise ConversionError(
            f"this is a network for poses or rotated boxes (its head has a third branch), as its tensor {third} shows; "
            f"detseg converts {KNOWN}"
        )
    size, depth, width, most = _size_of(YOLOV8_SIZES, stem[0], "YOLOv8")
    form = {"block": "c2f", "depth": depth}
    model = from_dict(
        DetectorConfig,
        {
            "backbone": {"name": "csp_darknet", **form, "width": width, "max_channels": most},
            "neck": {"name": "pan", **form},
            "head": head,
        },
        "YOLOv8",
    )
    if prototypes is not None:
        return Recognized("YOLOv8-seg", size, classes[0], model, "instance", InstanceTaskConfig())
    return Recognized("YOLOv8", size, classes[0], model, "detection", DetectionTaskConfig())


def yolox(stem_channels: int, num_classes: int) -> Recognized:
    """The YOLOX whose first convolution has ``stem_channels``.

    Raises:
        ConversionError: none has.
    """
    size, depth, width, side = _size_of(YOLOX_SIZES, stem_channels, "YOLOX")
    depthwise = {"depthwise": size == "nano"}
    form = {"block": "csp", "depth": depth, **depthwise}
    model = from_dict(
        DetectorConfig,
        {
            "backbone": {"name": "csp_darknet", **form, "width": width},
            "neck": {"name": "pan", **form},
            "head": {"name": "yolox", **depthwise},
        },
        "YOLOX",
    )
    # Pixels from 0 to 255 in BGR order, in the top left corner.
    pixels = {"anchor": "top_left", "channel_order": "bgr", "std": [1, 1, 1]}
    task = from_dict(
        DetectionTaskConfig,
        {
            "loss": "simota",
            "input": {"height": side, "width": side, **pixels},
            "postprocess": {"confidence": 0.001, "iou": 0.65, "multi_label": False},
        },
        "YOLOX",
    )
    return Recognized("YOLOX", size, num_classes, model, "detection", task)


def _monai_vnet(shapes: Shapes) -> Recognized:
    stem = _shape(shapes, r"in_tr\.conv_block\.conv\.weight", "VNet", 5)
    classes = _shape(shapes, r"out_tr\.conv2\.weight", "VNet", 5)
    activation: VolumeActivation = "prelu" if "in_tr.act_function.weight" in shapes else "elu"
    model = replace(MONAI_VNET, in_channels=stem[1], activation=activation)
    return Recognized("MONAI VNet", "", classes[0], model, "volume")


def with_input_size(
    task: DetectionTaskConfig | InstanceTaskConfig, height: int, width: int
) -> DetectionTaskConfig | InstanceTaskConfig:
    """``task`` for an input of another size."""
    spec: InputSpec = replace(task.input, height=height, width=width)
    return replace(task, input=spec)


def _shape(shapes: Shapes, pattern: str, family: str, num_sides: int) -> tuple[int, ...]:
    found = next((name for name in shapes if re.fullmatch(pattern, name)), None)
    if found is None:
        known = re.sub(r"\(\?:model\\\.\)\{1,2\}", "model.", pattern).replace("\\", "")
        raise ConversionError(f"the names are like those of {family}, but there is no {known}; detseg converts {KNOWN}")
    if len(shapes[found]) != num_sides or min(shapes[found]) < 1:
        raise ConversionError(
            f"{found} has the shape {list(shapes[found])}, which no {family} that detseg converts has"
        )
    return shapes[found]


def _size_of(sizes: Mapping[int, tuple[str, float, float, int]], stem_channels: int, family: str) -> Any:
    if stem_channels not in sizes:
        known = ", ".join(f"{channels} ({size[0]})" for channels, size in sizes.items())
        raise ConversionError(
            f"the names are like those of {family}, but the first convolution has {stem_channels} channels; known are "
            f"{known}"
        )
    return sizes[stem_channels]
