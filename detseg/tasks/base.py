"""The seam between the tasks and everything that is shared. What a model needs to be used is one class, what training
needs beside it another: trainer, evaluation, prediction and export see only these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from detseg.arrays import ByteArray
from detseg.evaluation.base import Evaluator
from detseg.evaluation.hardest import HardestExamples
from detseg.losses.base import LossSum
from detseg.ops.pictures import PackedPictures
from detseg.runtime.drawing.palette import stored_palette
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.kinds.base import Kind
from detseg.structures import LetterboxTransform, Sample, Target
from detseg.volumes import VolumeTransform


@dataclass(frozen=True)
class Batch:
    """Samples made into tensors, one size: ``images`` ``[B, 3, H, W]`` uint8 RGB, or volumes ``[B, 1, D, H, W]``
    float32; ``targets`` whatever the criterion takes, by name, with the batch as the first dimension. Where there is
    ``undrawn``, the images are drawn of it when the batch goes to its device, and ``images`` is empty before."""

    images: Tensor
    targets: dict[str, Tensor]
    image_ids: tuple[int, ...]
    paths: tuple[str, ...]
    transforms: tuple[LetterboxTransform, ...] | tuple[VolumeTransform, ...]
    undrawn: PackedPictures | None = None

    def to(self, device: Any) -> Self:
        """The same batch with its tensors on ``device``, copied without waiting where the memory is pinned, and its
        images drawn there."""
        targets = {name: target.to(device, non_blocking=True) for name, target in self.targets.items()}
        images = self.images.to(device, non_blocking=True) if self.undrawn is None else self.undrawn.to(device).draw()
        return replace(self, images=images, targets=targets, undrawn=None)

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory; torch's data loader calls this."""
        targets = {name: target.pin_memory() for name, target in self.targets.items()}
        undrawn = None if self.undrawn is None else self.undrawn.pin_memory()
        return replace(self, images=self.images.pin_memory(), targets=targets, undrawn=undrawn)


@dataclass(frozen=True)
class ExportGraph:
    """A module from one batch of inputs to outputs, made of what ONNX can say, and an ``example`` to trace it with.

    ``free_sides``: the dimensions of the input that may vary, and what ``torch.export`` is told of them.
    """

    module: nn.Module
    example: Tensor
    free_sides: Mapping[int, Any]
    output_names: tuple[str, ...]


@runtime_checkable
class Task(Protocol):
    """One kind of prediction, as a model needs it to be used: from images to results, and how these are judged."""

    name: str
    """As in the table of tasks."""
    kind: Kind
    """What its results are."""
    target: Target
    """What it is judged by, and so which of a data set's truths is opened for it."""
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    """The numbers of the classes in the files of the training set."""
    stride: int
    """The sides of images, in training as well, are multiples of it."""
    memory_format: torch.memory_format
    """How models keep channels last."""
    waits_for_host: bool
    """Whether ``infer`` waits for the host, so that no CUDA graph can hold it."""
    forms: tuple[str, ...]
    """What outputs an exported graph may have, the default first."""

    @property
    def config(self) -> Any:
        """The :class:`TaskConfig` it was made from."""

    @property
    def spec(self) -> InputSpec | VolumeSpec:
        """What images or volumes are made into for evaluation and prediction."""

    def stack(self, samples: Sequence[Any]) -> Batch:
        """Samples of one size -> a batch without targets."""

    def normalize(self, images: Tensor) -> Tensor:
        """``images`` of a batch -> float32 in the channel order and range the model was made for."""

    def infer(self, model: nn.Module, images: Tensor) -> Any:
        """Normalized ``images`` through ``model`` and what can follow where they are: tensors of shapes that do not
        depend on the values, for which the host need not wait. What a CUDA graph captures."""

    def only(self, kept: Tensor) -> Self:
        """The same for classes that are ``kept``, ``[C]`` bool, where these must be chosen before the number of objects
        is limited; what else of a result is not kept, the kind's ``keep`` leaves out."""

    def results(self, outputs: Any, transforms: Sequence[Any]) -> list[Any]:
        """What ``infer`` gave -> one ``Result`` per image, in pixels of the original images or voxels of the original
        volumes."""

    def evaluator(
        self, class_names: Sequence[str], category_ids: Sequence[int], backend: str | None = None
    ) -> Evaluator:
        """A fresh evaluator for the classes of a data set; ``backend`` names the program that counts, where there are
        several.

        Raises:
            ValueError: the backend is unknown, not installed, or not for this kind of results.
        """

    def ground_truth(self, data: Any, index: int) -> Any:
        """What the evaluator takes as true of image ``index``."""

    def hardest_examples(self, class_names: Sequence[str], count: int, data: Any) -> HardestExamples:
        """What finds the ``count`` images of ``data`` with the most errors."""

    def export_graph(self, model: nn.Module, form: str) -> ExportGraph:
        """``model``, fused and in evaluation mode, as a graph with the outputs that ``form`` names."""

    def metadata(self) -> dict[str, Any]:
        """What an exported file says beside what all say, as fields of the metadata of the kind of results."""


@runtime_checkable
class Criterion(Protocol):
    """What training needs of a task: how samples become a batch with targets, and raw output a loss."""

    def prepare(self, data: Any) -> dict[str, Any]:
        """Look at the training set before training starts; returns what is worth keeping beside the run, as plain
        data by name."""

    def collate(self, samples: Sequence[Any]) -> Batch:
        """Samples of one size -> a batch with targets.

        Raises:
            ValueError: a sample has nothing to learn from.
        """

    def __call__(self, raw: Any, batch: Batch) -> LossSum:
        """The raw output of the model -> loss parts, summed over the batch, and what to divide them by."""


@runtime_checkable
class TaskConfig(Protocol):
    """A frozen dataclass, what every entry of ``TASKS`` names."""

    target: ClassVar[Target]
    """What it learns from, and so which of a data set's truths is opened for it."""
    prediction_settings: ClassVar[dict[str, Any]]
    """What replaces settings of ``postprocess`` where images are predicted, not evaluated."""
    first_category_id: ClassVar[int]
    """The number of the first class where files have none."""

    @property
    def name(self) -> str:
        """As in the table."""

    @property
    def input(self) -> Any:
        """What images or volumes are made into, see :attr:`Task.spec`."""

    @property
    def postprocess(self) -> Any:
        """A dataclass with the settings of the way from raw output to results."""

    @property
    def train_size(self) -> tuple[int, ...]:
        """Height and width of training images; depth, height and width of patches of volumes."""

    def adapted_to(self, data: Any) -> Self:
        """These settings, completed by what the training set ``data`` says."""

    def finetuning_augment(self) -> dict[str, Any]:
        """Settings of augmentation, as plain data, that follow from these where a model is trained further."""

    def build(self, model: Any, class_names: Sequence[str], category_ids: Sequence[int] | None = None) -> Task:
        """The task for ``model``.

        Raises:
            ValueError: model, classes and settings do not fit each other.
        """

    def build_criterion(self, model: Any, task: Any) -> Criterion:
        """What trains ``model`` for ``task``, which :meth:`build` made.

        Raises:
            ValueError: the loss does not fit the model.
        """

    @classmethod
    def from_metadata(cls, metadata: Any) -> Task:
        """The task of an exported file that says this of itself."""

    @classmethod
    def evaluation_settings(cls, metadata: Any, path: Path) -> dict[str, Any]:
        """What replaces settings in the exported file ``path``, which are those of prediction, where it is evaluated.
        Warns where it cannot be judged as usual."""


def settle_on(task: Task, device: torch.device) -> None:
    """Let ``task`` choose what follows from the ``device`` it is used on, before anything expensive: its method
    ``settle_on``, where it has one.

    Raises:
        ValueError: what was asked for cannot run there.
    """
    settle = getattr(task, "settle_on", None)
    if settle is not None:
        settle(device)


class ImageTask:
    """What tasks for images have in common. See :class:`Task`."""

    memory_format = torch.channels_last
    waits_for_host = False

    def __init__(
        self,
        config: Any,
        kind: Kind,
        class_names: Sequence[str],
        category_ids: Sequence[int] | None = None,
        stride: int = 1,
    ) -> None:
        self.config = config
        self.name: str = config.name
        self.kind = kind
        self.target: Target = config.target
        self.spec: InputSpec = config.input
        self.stride = stride
        self.class_names = tuple(class_names)
        first = config.first_category_id
        self.category_ids = tuple(category_ids or range(first, first + len(self.class_names)))

    def stack(self, samples: Sequence[Sample]) -> Batch:
        """Images of one size -> a batch without targets."""
        return make_batch(samples, {})

    def normalize(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` uint8 RGB -> float32 ``(pixel - mean) / std`` in the model's channel order."""
        return normalize_images(images, self.spec)

    def only(self, kept: Tensor) -> Self:
        """Nothing is limited."""
        return self

    def metadata(self) -> dict[str, Any]:
        """Nothing more."""
        return {}


def require_no_backend(backend: str | None, kind: Kind) -> None:
    """Refuse the name of a program for what only detseg counts.

    Raises:
        ValueError: there is such a name.
    """
    if backend is not None:
        raise ValueError(f"the evaluator {backend!r} is for boxes, and this model gives {kind.name}; leave it out")


def compare(kind: Kind, data: Any, class_names: Sequence[str], index: int, result: Any, truth: Any) -> ByteArray:
    """One image that shows image ``index`` of ``data`` with its truth and what was found."""
    image, _ = data.read(index)
    return kind.compare(image, truth, result, class_names, stored_palette(data.class_colors, class_names))


def normalize_images(images: Tensor, spec: InputSpec) -> Tensor:
    """``[B, 3, H, W]`` uint8 RGB -> float32 ``(pixel - mean) / std`` in the channel order of ``spec``."""
    values = images.float()
    if spec.channel_order == "bgr":
        values = values.flip(1)
    if any(spec.mean):
        values = values - _of_channels(spec.mean, values)
    if any(std != 1 for std in spec.std):
        values = values / _of_channels(spec.std, values)
    return values


def _of_channels(numbers: Sequence[float], like: Tensor) -> Tensor:
    """``[1, C, 1, 1]``, written where ``like`` is: a copy from the host would wait for the work before it."""
    return torch.cat([like.new_full((1, 1, 1, 1), number) for number in numbers], dim=1)


def make_batch(samples: Sequence[Sample], targets: dict[str, Tensor]) -> Batch:
    """The batch of ``samples`` of one size with these ``targets``."""
    images = np.stack([sample.image for sample in samples]).transpose(0, 3, 1, 2)
    return Batch(
        images=torch.from_numpy(images),
        targets=targets,
        image_ids=tuple(sample.image_id for sample in samples),
        paths=tuple(sample.path for sample in samples),
        transforms=tuple(sample.transform for sample in samples),
    )
