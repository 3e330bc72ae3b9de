"""One model of each task, in torch and in ONNX Runtime, that many threads use at once: each gets its own results."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.parser
import pytest
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

CLASSES = ("cat", "dog", "hen")
NUM_THREADS = 16
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
    task = task_of(kind)
    runner = make_runner(Network(kind), task, full_input=kind != "boxes")
    return Model(runner, task.name, CLASSES, task.category_ids)


def in_onnx(kind: str, folder: Path) -> Model:
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
    onnx.save(graph, folder / f"{kind}.onnx")
    return detseg.load(folder / f"{kind}.onnx", num_threads=4)


def inputs_of(kind: str) -> list[Any]:
    random = np.random.default_rng(6)
    if kind == "volumes":
        shapes = [(6, 6, 6), (7, 9, 5), (10, 4, 8), (6, 12, 6)]
        return [Volume(random.normal(0, 1, shape).astype(np.float32), np.diag([-1.0, 1, 1, 1])) for shape in shapes]
    sizes = [(64, 96), (100, 80), (33, 200), (7, 9), (128, 192), (64, 40), (20, 20), (90, 60)]
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def content(model: Model, image: Any) -> bytes:
    """The result to the bit."""
    (prediction,) = model.predict(image)
    result: Any = prediction.result
    if prediction.kind.has_boxes:
        assert len(result)
        return b"".join(part.tobytes() for part in (result.boxes_xyxy, result.scores, result.labels))
    return bytes(result.labels.tobytes())


def call_from_threads(models: Sequence[Model], inputs: Sequence[Sequence[Any]], num_calls: int) -> None:
    """Compare ``num_calls`` results from ``NUM_THREADS`` threads with those of one."""
    expected = [[content(model, image) for image in images] for model, images in zip(models, inputs, strict=True)]
    assert all(len(set(one)) == len(one) for one in expected), "inputs that cannot be told apart"
    wrong: list[str] = []
    begin = threading.Barrier(NUM_THREADS)

    def work(number: int) -> None:
        begin.wait()
        for call in range(number, num_calls, NUM_THREADS):
            which = (call // NUM_THREADS + number) % len(models)
            position = (call // len(models) + number) % len(inputs[which])
            try:
                if content(models[which], inputs[which][position]) != expected[which][position]:
                    wrong.append(f"another result of model {which} for input {position}")
            except Exception as error:  # noqa: BLE001 - a thread's errors are told at the end
                wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(NUM_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, f"{len(wrong)} of {num_calls}, the first: {wrong[0]}"


KINDS = ("boxes", "masks", "volumes")
MAKERS: tuple[Callable[[str, Path], Model], ...] = (in_torch, in_onnx)


@pytest.mark.parametrize("num_calls", [1_500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_every_thread_gets_the_results_of_its_own_inputs(tmp_path: Path, num_calls: int) -> None:
    chosen = list(itertools.product(MAKERS, KINDS))
    models = [make(kind, tmp_path) for make, kind in chosen]
    call_from_threads(models, [inputs_of(kind) for _, kind in chosen], num_calls)
