"""The seam between the tasks and everything that is shared: trainer, predictor and exporter see only this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from detseg.arrays import ByteArray, IntArray
from detseg.evaluation.base import Evaluator
from detseg.losses.base import LossSum
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.structures import Placement, Sample, Truth
from detseg.volumes import VolumePlacement


@dataclass(frozen=True)
class Batch:
    """Samples made into tensors, one size: ``images`` ``[B, 3, H, W]`` uint8 RGB, or volumes ``[B, 1, D, H, W]``
    float32; ``targets`` whatever the loss of the task takes, by name, with the batch as the first dimension."""

    images: Tensor
    targets: dict[str, Tensor]
    image_ids: tuple[int, ...]
    paths: tuple[str, ...]
    placements: tuple[Placement, ...] | tuple[VolumePlacement, ...]

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

    name: str
    """As in the table of tasks; the writers of results go by it."""
    truth: Truth
    """What it learns from, and so which of a data set's truths is opened for it."""
    class_names: tuple[str, ...]
    spec: InputSpec | VolumeSpec
    """What images or volumes are made into for evaluation and prediction."""
    train_size: tuple[int, ...]
    """Height and width of training images; depth, height and width of patches of volumes."""
    stride: int
    """The sides of training images are multiples of it."""
    memory_format: torch.memory_format
    """How models keep channels last."""

    def prepare(self, data: Any) -> dict[str, Any]:
        """Look at the training set before training starts; returns what is worth keeping beside the run, as plain
        data by name."""

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Samples of one size -> a batch."""

    def normalize(self, images: Tensor) -> Tensor:
        """``images`` of a batch -> float32 in the channel order and range the model was made for."""

    def loss(self, raw: Any, batch: Batch) -> LossSum:
        """The raw output of the model -> loss parts, summed over the batch, and what to divide them by."""

    def infer(self, model: nn.Module, images: Tensor) -> Any:
        """Normalized ``images`` through ``model`` and what can follow where they are: tensors of shapes that do not
        depend on the values, for which the host need not wait. What a CUDA graph captures."""

    def results(self, outputs: Any, placements: Sequence[Any]) -> list[Any]:
        """What ``infer`` gave -> one ``Result`` per image, in pixels of the original images or voxels of the original
        volumes."""

    def evaluator(self, class_names: Sequence[str], category_ids: Sequence[int]) -> Evaluator:
        """A fresh evaluator for the classes of a data set."""

    def ground_truth(self, data: Any, index: int) -> Any:
        """What the evaluator takes as true of image ``index``."""

    def relabel(self, result: Any, positions: IntArray) -> Any:
        """``result`` with class ``positions[label]`` in place of ``label``; what has position -1 is left out."""

    def compare(self, image: Any, truth: Any, result: Any, class_names: Sequence[str]) -> ByteArray:
        """One picture that shows ``image`` (``[H, W, 3]`` uint8 RGB, or a ``Volume``) with its truth and what was
        found."""


def normalize_images(images: Tensor, spec: InputSpec) -> Tensor:
    """``[B, 3, H, W]`` uint8 RGB -> float32 ``(pixel - mean) / std`` in the channel order of ``spec``."""
    values = images.float()
    if spec.channel_order == "bgr":
        values = values.flip(1)
    if any(spec.mean):
        values = values - values.new_tensor(spec.mean).view(1, 3, 1, 1)
    if any(std != 1 for std in spec.std):
        values = values / values.new_tensor(spec.std).view(1, 3, 1, 1)
    return values


def make_batch(samples: Sequence[Sample], targets: dict[str, Tensor]) -> Batch:
    """The batch of ``samples`` of one size with these ``targets``."""
    images = np.stack([sample.image for sample in samples]).transpose(0, 3, 1, 2)
    return Batch(
        images=torch.from_numpy(images),
        targets=targets,
        image_ids=tuple(sample.image_id for sample in samples),
        paths=tuple(sample.path for sample in samples),
        placements=tuple(sample.placement for sample in samples),
    )
