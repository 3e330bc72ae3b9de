"""Detectors as ONNX graphs: raw maps, decoded boxes, or final boxes.

Shape legend: B images, A anchor points of all levels, C classes, M the largest number of detections.
"""

from __future__ import annotations

from typing import Any

import onnx
import torch
from torch import Tensor, nn

from detseg.export.base import batch_side
from detseg.export.compare_boxes import BoxComparison
from detseg.export.nms import append_nms
from detseg.ops.anchors import flatten_levels
from detseg.ops.decode import decode
from detseg.tasks.detection import DetectionTask


class RawGraph(nn.Module):
    """Images -> the raw maps of all levels, flattened, ``[B, channels, A]``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, channels, A]``."""
        return flatten_levels(self.network(images))


class DecodedGraph(nn.Module):
    """Images -> boxes (xyxy, input pixels) and scores, before suppression."""

    def __init__(self, network: nn.Module, task: DetectionTask) -> None:
        super().__init__()
        self.network = network
        self.kind, self.strides, self.bins = task.kind, task.strides, task.bins

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, 3, H, W]`` -> ``[B, A, 4]`` and ``[B, A, C]``."""
        return decode(self.kind, self.network(images), self.strides, self.bins)


class DetectionExporter:
    """``decoded``: outputs ``boxes`` ``[B, A, 4]`` and ``scores`` ``[B, A, C]``. ``raw``: one output ``raw``
    ``[B, channels, A]``. ``nms``: ``boxes`` ``[B, M, 4]``, ``scores`` and ``labels`` ``[B, M]``, ``counts`` ``[B]``."""

    forms = ("decoded", "raw", "nms")
    input_name = "images"
    compares_outputs = False

    def __init__(self, model: nn.Module, task: DetectionTask, form: str) -> None:
        self.model = model
        self.task = task
        self.form = form

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs of :meth:`graph`, before suppression is appended."""
        return ("raw",) if self.form == "raw" else ("boxes", "scores")

    def graph(self) -> nn.Module:
        """The network, with decoding unless the raw maps are wanted."""
        return RawGraph(self.model) if self.form == "raw" else DecodedGraph(self.model, self.task)

    def example(self) -> Tensor:
        """Two images of the task's input size."""
        spec = self.task.spec
        return torch.zeros(2, 3, spec.height, spec.width)

    def free_sides(self) -> dict[int, Any]:
        """The batch; height and width, which are multiples of the stride."""
        height, width = (self.task.stride * torch.export.Dim(name, min=1) for name in ("height", "width"))
        return {0: batch_side(), 2: height, 3: width}

    def finish(self, network: onnx.ModelProto) -> onnx.ModelProto:
        """The graph with suppression behind it, where that is wanted."""
        return append_nms(network, self.task.config.postprocess) if self.form == "nms" else network

    def sides(self) -> dict[str, tuple[str, ...]]:
        """The names of the dimensions of inputs and outputs."""
        images = {"images": ("batch", "channels", "height", "width")}
        match self.form:
            case "raw":
                return {**images, "raw": ("batch", "channels", "anchors")}
            case "decoded":
                return {**images, "boxes": ("batch", "anchors", "xyxy"), "scores": ("batch", "anchors", "classes")}
        one = ("batch", "detections")
        return {**images, "boxes": (*one, "xyxy"), "scores": one, "labels": one, "counts": ("batch",)}

    def metadata(self) -> dict[str, Any]:
        """How raw maps are to be decoded; bins where the head has any."""
        head: dict[str, Any] = {"kind": self.task.kind, "strides": list(self.task.strides)}
        if self.task.kind == "dfl":
            head["bins"] = self.task.bins
        return {"head": head}

    def comparison(self) -> BoxComparison:
        """Boxes above the confidence that the file was made for."""
        return BoxComparison(self.task.config.postprocess.confidence, self.task.config.postprocess.max_detections)
