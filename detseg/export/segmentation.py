"""Networks for masks and for volumes as ONNX graphs: logits of the size of the input."""

from __future__ import annotations

from typing import Any

import onnx
import torch
from torch import Tensor, nn

from detseg.export.base import batch_side
from detseg.export.compare_labels import LabelComparison, VolumeComparison
from detseg.models.letnet import MIN_SIZE
from detseg.tasks.semantic import SemanticTask
from detseg.tasks.volume import VolumeTask


class SemanticExporter:
    """Input ``images`` ``[B, 3, H, W]``, output ``logits`` ``[B, C, H, W]``."""

    forms = ("logits",)
    input_name = "images"
    output_names = ("logits",)
    compares_outputs = True

    def __init__(self, model: nn.Module, task: SemanticTask, form: str) -> None:
        self.model = model
        self.task = task

    def graph(self) -> nn.Module:
        """The network itself."""
        return self.model

    def example(self) -> Tensor:
        """Two images of the task's input size."""
        spec = self.task.spec
        return torch.zeros(2, 3, spec.height, spec.width)

    def free_sides(self) -> dict[int, Any]:
        """The batch; height and width from the smallest that the network takes."""
        return {0: batch_side(), **{axis: torch.export.Dim(f"side_{axis}", min=MIN_SIZE) for axis in (2, 3)}}

    def finish(self, network: onnx.ModelProto) -> onnx.ModelProto:
        """The graph as it is."""
        return network

    def sides(self) -> dict[str, tuple[str, ...]]:
        """The names of the dimensions of input and output."""
        return dict.fromkeys(("images", "logits"), ("batch", "channels", "height", "width"))

    def metadata(self) -> dict[str, Any]:
        """Nothing more."""
        return {}

    def comparison(self) -> LabelComparison:
        """The pixels of the original images."""
        return LabelComparison()


class VolumeExporter:
    """Input ``volumes`` ``[B, 1, D, H, W]``, output ``logits`` ``[B, C, D, H, W]``."""

    forms = ("logits",)
    input_name = "volumes"
    output_names = ("logits",)
    compares_outputs = False

    def __init__(self, model: nn.Module, task: VolumeTask, form: str) -> None:
        self.model = model
        self.task = task

    def graph(self) -> nn.Module:
        """The network itself."""
        return self.model

    def example(self) -> Tensor:
        """Two volumes of the size of the windows that slide over larger ones."""
        return torch.zeros(2, 1, *self._window())

    def free_sides(self) -> dict[int, Any]:
        """The batch and all sides, without conditions: the network pads what it takes."""
        return dict.fromkeys((0, 2, 3, 4), torch.export.Dim.DYNAMIC)

    def finish(self, network: onnx.ModelProto) -> onnx.ModelProto:
        """The graph as it is."""
        return network

    def sides(self) -> dict[str, tuple[str, ...]]:
        """The names of the dimensions of input and output."""
        return dict.fromkeys(("volumes", "logits"), ("batch", "channels", "depth", "height", "width"))

    def metadata(self) -> dict[str, Any]:
        """The size of windows where the settings name none, and how surfaces are judged."""
        return {
            "patch": list(self._window()),
            "surface_tolerance_mm": self.task.config.surface_tolerance_mm,
        }

    def comparison(self) -> VolumeComparison:
        """The voxels of the original volumes, class by class."""
        return VolumeComparison(self.task.class_names)

    def _window(self) -> tuple[int, ...]:
        return self.task.config.postprocess.window or self.task.config.patch
