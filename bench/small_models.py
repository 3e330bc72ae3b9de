"""One small network of each kind, in torch and as an ONNX file, with inputs of mixed sizes that it tells apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.parser
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import detseg
from detseg.config import to_dict
from detseg.inference.load import make_runner
from detseg.losses.segmentation import SegmentationLossConfig
from detseg.models.detector import Detector, DetectorConfig
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.model import Model
from detseg.runtime.postprocess.config import PostprocessConfig
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.semantic import SemanticTaskConfig
from detseg.tasks.volume import VolumeTaskConfig
from detseg.volumes import Volume

KINDS = ("boxes", "masks", "volumes")
CLASSES = ("cat", "dog", "hen")
WEIGHTS = {
    "boxes": np.random.default_rng(3).normal(0, 0.1, (64 + len(CLASSES), 3, 32, 32)).astype(np.float32),
    "masks": np.random.default_rng(4).normal(0, 0.3, (len(CLASSES), 3, 3, 3)).astype(np.float32),
    "volumes": np.random.default_rng(5).normal(0, 0.3, (len(CLASSES), 1, 3, 3, 3)).astype(np.float32),
}
GRAPHS = {
    "boxes": """g (float[batch, 3, h, w] images) => (float[batch, channels, anchors] raw) <int64[3] flat = {0, 0, -1}> {
        a = Conv <strides = [32, 32], kernel_shape = [32, 32]> (images, weights)
        raw = Reshape (a, flat)
    }""",
    "masks": """g (float[batch, 3, h, w] images) => (float[b, c, y, x] logits)
        { logits = Conv <pads = [1, 1, 1, 1], kernel_shape = [3, 3]> (images, weights) }""",
    "volumes": """g (float[batch, 1, d, h, w] volumes) => (float[b, c, z, y, x] logits)
        { logits = Conv <pads = [1, 1, 1, 1, 1, 1], kernel_shape = [3, 3, 3]> (volumes, weights) }""",
}


class Network(nn.Module):
    """What the graph of this kind does."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.weights = nn.Parameter(torch.from_numpy(WEIGHTS[kind]))

    def forward(self, images: Tensor) -> Any:
        match self.kind:
            case "boxes":
                return [F.conv2d(images, self.weights, stride=32)]
            case "masks":
                return F.conv2d(images, self.weights, padding=1)
            case _:
                return F.conv3d(images, self.weights, padding=1)


def task_of(kind: str) -> Any:
    """The task of the network of this kind."""
    spec = InputSpec(64, 96, mean=(100.0, 110.0, 120.0), std=(50.0, 60.0, 70.0))
    match kind:
        case "boxes":
            with torch.device("meta"):
                detector: Detector = DetectorConfig().build(len(CLASSES))
            config = DetectionTaskConfig(input=spec, postprocess=PostprocessConfig(confidence=0.3))
            task = config.build(detector, CLASSES)
            task.head = type(task.head)(task.head.kind, (32,), task.head.reg_max)
            return task
        case "masks":
            return SemanticTaskConfig(input=spec, loss=SegmentationLossConfig()).build(None, CLASSES)
        case _:
            spacing = VolumeSpec(spacing=(1.0, 1.0, 1.0))
            return VolumeTaskConfig(input=spacing, patch=(6, 6, 6)).build(None, CLASSES)


def in_torch(kind: str, folder: Path) -> Model:
    """The model in torch."""
    task = task_of(kind)
    runner = make_runner(Network(kind), task, full_input=kind != "boxes")
    return Model(runner, task.name, CLASSES, task.category_ids)


def in_onnx(kind: str, folder: Path) -> Model:
    """The model in ONNX Runtime, of the file that :func:`write_onnx` writes."""
    return detseg.load(write_onnx(kind, folder), num_threads=4)


def write_onnx(kind: str, folder: Path) -> Path:
    """Write the network as an ONNX file in ``folder``."""
    task = task_of(kind)
    graph = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> {GRAPHS[kind]}')
    graph.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHTS[kind], "weights"))
    metadata = {
        "format": 1,
        "version": "0.1",
        "task": task.name,
        "form": "raw" if kind == "boxes" else "logits",
        "class_names": list(CLASSES),
        "category_ids": list(task.category_ids),
        "input": to_dict(task.spec),
        "stride": task.stride,
        "precision": "fp32",
        "postprocess": to_dict(task.config.postprocess),
        **task.metadata(),
    }
    onnx.helper.set_model_props(graph, {"detseg": json.dumps(metadata)})
    path = folder / f"{kind}.onnx"
    onnx.save(graph, path)
    return path


def inputs_of(kind: str) -> list[Any]:
    """Images or volumes of mixed sizes, each with a result of its own."""
    random = np.random.default_rng(6)
    if kind == "volumes":
        shapes = [(6, 6, 6), (7, 9, 5), (10, 4, 8), (6, 12, 6)]
        return [Volume(random.normal(0, 1, shape).astype(np.float32), np.diag([-1.0, 1, 1, 1])) for shape in shapes]
    sizes = [(64, 96), (100, 80), (33, 200), (7, 9), (128, 192), (64, 40), (20, 20), (90, 60)]
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
