"""What runners need of a task, and the precisions in which they run a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.kinds.base import Kind

PRECISIONS: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


class PredictionTask(Protocol):
    """The part of :class:`detseg.tasks.base.Task` that prediction uses."""

    name: str
    kind: Kind
    stride: int
    memory_format: torch.memory_format

    @property
    def spec(self) -> InputSpec | VolumeSpec:
        """How files are read and placed in the input."""

    def normalize(self, images: Tensor) -> Tensor:
        """Placed images -> the float input of the model."""

    def infer(self, model: nn.Module, images: Tensor) -> Any:
        """Normalized images through the model -> a tensor or several, the first dimension of each is the batch."""

    def results(self, outputs: Any, placements: Sequence[Any]) -> list[Any]:
        """What ``infer`` gave -> the result for each image, in original pixels or voxels."""
