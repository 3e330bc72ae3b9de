"""The seam between the tasks and everything that is shared: trainer, predictor and exporter see only this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

from torch import Tensor

from detseg.evaluation.base import Evaluator
from detseg.losses.base import LossSum
from detseg.runtime.geometry import InputSpec
from detseg.structures import Detections, Placement, Sample


@dataclass(frozen=True)
class Batch:
    """Samples made into tensors, one size: ``images`` ``[B, 3, H, W]`` uint8 RGB, ``targets`` whatever the loss of the
    task takes, by name, with the batch as the first dimension."""

    images: Tensor
    targets: dict[str, Tensor]
    image_ids: tuple[int, ...]
    paths: tuple[str, ...]
    placements: tuple[Placement, ...]

    def to(self, device: Any) -> Self:
        """The same batch with its tensors on ``device``, copied without waiting where the memory is pinned."""
        targets = {name: target.to(device, non_blocking=True) for name, target in self.targets.items()}
        return replace(self, images=self.images.to(device, non_blocking=True), targets=targets)

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory; torch's data loader calls this."""
        targets = {name: target.pin_memory() for name, target in self.targets.items()}
        return replace(self, images=self.images.pin_memory(), targets=targets)


class Task(Protocol):
    """One kind of prediction: how samples become a batch, raw output a loss or a result, and how that is judged."""

    class_names: tuple[str, ...]
    spec: InputSpec
    stride: int
    """Heights and widths of inputs are multiples of it."""

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Samples of one size -> a batch."""

    def normalize(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` uint8 RGB -> float32 in the channel order and range the model was made for."""

    def loss(self, raw: Any, batch: Batch) -> LossSum:
        """The raw output of the model -> loss parts, summed over the batch, and what to divide them by."""

    def postprocess(self, raw: Any, placements: Sequence[Placement]) -> list[Detections]:
        """The raw output of the model -> one result per image, in pixels of the original images."""

    def evaluator(self, class_names: Sequence[str], category_ids: Sequence[int]) -> Evaluator:
        """A fresh evaluator for the classes of a data set."""
