"""Instance segmentation: boxes in images, each with the mask of its object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from detseg.arrays import BoolArray, FloatArray
from detseg.config import choice
from detseg.evaluation.objects.hardest_instances import HardestInstances
from detseg.evaluation.objects.instances import InstanceEvaluator
from detseg.losses import INSTANCE_LOSSES
from detseg.losses.base import LossSum
from detseg.losses.checks import require_positions
from detseg.losses.instances import InstanceLossConfig, pack_shares
from detseg.models.base import MaskMaps
from detseg.models.detector import Detector
from detseg.ops.decode import decode, flatten_levels
from detseg.ops.masks import with_masks
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.kinds.instances import InstanceMetadata
from detseg.runtime.postprocess.config import HeadMetadata, PostprocessConfig
from detseg.runtime.postprocess.masks import PrototypeMetadata
from detseg.structures import Detections, GroundTruth, LetterboxTransform, Sample, Target
from detseg.tasks.base import Batch, ExportGraph, make_batch
from detseg.tasks.detection import DetectionTask, box_targets, require_multiples, settings_of_evaluation

_HALF = 0.5


class InstanceSource(Protocol):
    """What instance segmentation needs of a data set."""

    def ground_truth(self, index: int) -> GroundTruth:
        """The objects in image ``index``, with their masks."""


@dataclass(frozen=True)
class InstanceTaskConfig:
    """Settings of instance segmentation."""

    target: ClassVar[Target] = "instances"
    prediction_settings: ClassVar[dict[str, Any]] = {"confidence": 0.25}
    first_category_id: ClassVar[int] = 1

    name: Literal["instance"] = "instance"
    input: InputSpec = field(default_factory=lambda: InputSpec(640, 640))
    """The size and the preprocessing that the model sees."""
    loss: InstanceLossConfig = choice(INSTANCE_LOSSES, default="tal_masks")
    """What is minimized, with the assignment of predictions to objects; ``tal_masks`` is for the ``dfl_masks`` head."""
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)
    """Which raw predictions become objects; each gets its mask."""
    boundary_ap: bool = False
    """Measure ``AP_boundary`` as well: average precision along the edges of the masks (arXiv 2103.16562), which takes
    several times as long."""

    @property
    def train_size(self) -> tuple[int, int]:
        """Height and width of training images."""
        return self.input.height, self.input.width

    def adapted_to(self, data: InstanceSource) -> Self:
        """These settings, as none of them is taken from the training set."""
        return self

    def finetuning_augment(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def build(
        self, model: Detector, class_names: Sequence[str], category_ids: Sequence[int] | None = None
    ) -> InstanceTask:
        """The task for ``model``, whose outputs it decodes.

        Raises:
            ValueError: the model's head gives no masks, or the input size does not fit the model's strides.
        """
        head = model.head
        if not head.num_prototypes:
            raise ValueError(
                f"the task instance is for a head that gives masks, and the model's head is {head.kind}: choose the "
                "head dfl_masks, or the task detection"
            )
        task = InstanceTask(
            self,
            HeadMetadata("dfl", model.strides, head.reg_max),
            PrototypeMetadata(head.num_prototypes, head.prototype_stride),
            class_names,
            category_ids,
        )
        require_multiples(self.input, task.stride)
        return task

    def build_criterion(self, model: Detector, task: InstanceTask) -> InstanceCriterion:
        """The configured loss for ``model``.

        Raises:
            ValueError: the loss does not fit the model's head.
        """
        return InstanceCriterion(self.loss, model, len(task.class_names))

    @classmethod
    def from_metadata(cls, metadata: InstanceMetadata) -> InstanceTask:
        """The task of an exported network, which needs no more than the file says of its head."""
        config = cls(input=metadata.input, postprocess=metadata.postprocess)
        return InstanceTask(config, metadata.head, metadata.prototypes, metadata.class_names, metadata.category_ids)

    @classmethod
    def evaluation_settings(cls, metadata: InstanceMetadata, path: Path) -> dict[str, Any]:
        """The confidence of evaluation, as average precision counts objects of any; with NMS in the graph
        nothing can be changed, and where that costs, a warning says so."""
        return settings_of_evaluation(metadata, path)


class InstanceTask(DetectionTask):
    """Instance segmentation as a model needs it to be used, for raw maps of this ``head`` and these ``prototypes``. See
    :class:`detseg.tasks.base.Task`."""

    kind_name: ClassVar[str] = "instances"

    def __init__(
        self,
        config: InstanceTaskConfig,
        head: HeadMetadata,
        prototypes: PrototypeMetadata,
        class_names: Sequence[str],
        category_ids: Sequence[int] | None = None,
    ) -> None:
        super().__init__(config, head, class_names, category_ids)
        self.prototypes = prototypes

    def infer(self, model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        """Normalized ``[B, 3, H, W]`` -> detections ``[B, M, 6]`` in input pixels and counts ``[B]``, see
        :class:`detseg.ops.nms.BatchedDetections`, the coefficients of each ``[B, M, K]`` and the prototypes
        ``[B, K, h, w]``, float32."""
        raw: MaskMaps = model(images)
        levels, coefficients = split_levels(raw.levels, self.prototypes.count)
        found = self.suppress(levels)
        rows = found.keep.clamp(min=0)[:, None].expand(-1, self.prototypes.count, -1)
        chosen = flatten_levels(coefficients).gather(2, rows).transpose(1, 2)
        return found.detections, found.counts, chosen.float(), raw.prototypes.float()

    def results(self, outputs: tuple[Tensor, ...], transforms: Sequence[LetterboxTransform]) -> list[Detections]:
        """What :meth:`infer` gave -> the objects in each image with their masks, in pixels of the original images."""
        coefficients, prototypes = outputs[2:]
        found = super().results(outputs, transforms)
        return [
            with_masks(objects, weights[: len(objects)], maps, transform, self.prototypes.stride)
            for objects, weights, maps, transform in zip(found, coefficients, prototypes, transforms, strict=True)
        ]

    def evaluator(
        self, class_names: Sequence[str], category_ids: Sequence[int], backend: str | None = None
    ) -> InstanceEvaluator:
        """COCO's average precision of masks for the classes of a data set."""
        return InstanceEvaluator(class_names, category_ids, backend, self.config.boundary_ap)

    def hardest_examples(self, class_names: Sequence[str], count: int, data: Any) -> HardestInstances:
        """By the number of errors at the confidence of best F1, as the masks say."""
        return HardestInstances(class_names, count, lambda index: data.read(index)[0])

    def export_graph(self, model: nn.Module, form: str) -> ExportGraph:
        """``decoded``: outputs ``boxes`` ``[B, A, 4]``, ``scores`` ``[B, A, C]``, ``coefficients`` ``[B, A, K]`` and
        ``prototypes`` ``[B, K, h, w]``, and so for ``nms``, before NMS is appended; ``raw``: ``raw``
        ``[B, channels, A]``, whose last channels are the coefficients, and ``prototypes``. A are the anchor points of
        all levels."""
        if form == "raw":
            return self.graph_of(_RawGraph(model), ("raw", "prototypes"))
        graph = _DecodedGraph(model, self.head, self.prototypes.count)
        return self.graph_of(graph, ("boxes", "scores", "coefficients", "prototypes"))

    def metadata(self) -> dict[str, Any]:
        """How raw maps are to be decoded, and what the prototypes are."""
        prototypes = {"count": self.prototypes.count, "stride": self.prototypes.stride}
        return {**super().metadata(), "prototypes": prototypes}


class InstanceCriterion:
    """What trains a detector that gives masks. See :class:`detseg.tasks.base.Criterion`.

    Raises:
        ValueError: the loss does not fit the model's head.
    """

    def __init__(self, config: InstanceLossConfig, model: Detector, num_classes: int) -> None:
        self._num_classes = num_classes
        self.loss = config.build(num_classes=num_classes, strides=model.strides, reg_max=model.head.reg_max)
        self._prototype_stride = model.head.prototype_stride
        if self.loss.head_kind != model.head.kind:
            raise ValueError(
                f"task.loss is {config.name!r}, which is for a {self.loss.head_kind!r} head; "
                f"the model's head is {model.head.kind!r}"
            )

    def prepare(self, data: InstanceSource) -> dict[str, Any]:
        """Nothing: the loss needs to know nothing of the training set."""
        return {}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Samples of one size -> a batch with the targets of :func:`detseg.tasks.detection.box_targets`, and ``masks``,
        the shares of cells of each object as :func:`detseg.losses.instances.pack_shares` packs them.

        Raises:
            ValueError: a sample has no masks, or a label is no class.
        """
        targets = box_targets(samples)
        require_positions(targets["labels"], self._num_classes)
        height, width = (side // self._prototype_stride for side in samples[0].image.shape[:2])
        masks = torch.zeros((*targets["labels"].shape, height, -(-width // 2)), dtype=torch.uint8)
        for row, sample in enumerate(samples):
            if sample.object_masks is None:
                raise ValueError(f"{sample.path}: has no masks of objects; instance segmentation needs one for each")
            shares = shares_of(sample.object_masks[~sample.crowd], self._prototype_stride)
            masks[row, : len(shares)] = pack_shares(torch.from_numpy(shares))
        return make_batch(samples, {**targets, "masks": masks})

    def __call__(self, raw: MaskMaps, batch: Batch) -> LossSum:
        """Raw maps and prototypes -> the loss parts of boxes and masks."""
        names = ("boxes_xyxy", "labels", "masks")
        return self.loss(raw.levels, raw.prototypes, *(batch.targets[name] for name in names))


def shares_of(masks: BoolArray, stride: int) -> FloatArray:
    """What share of each cell of ``stride`` x ``stride`` pixels lies in the masks ``[N, H, W]``: float32
    ``[N, H / stride, W / stride]`` from 0 to 1.

    Shares, and not whether they are one half or more, place the outline inside of a cell: masks are interpolated
    between the cells. An object that has no cell by half would vanish there; those that it touches count as whole.
    """
    height, width = masks.shape[1] // stride, masks.shape[2] // stride
    shares = np.zeros((len(masks), height, width), np.float32)
    for mask, own in zip(masks, shares, strict=True):
        # The mean over the pixels of a cell, several times as fast as numpy's.
        cv2.resize(mask.astype(np.float32), (width, height), dst=own, interpolation=cv2.INTER_AREA)
        if own.max(initial=0) < _HALF:
            own[own > 0] = 1
    return shares


def split_levels(levels: Sequence[Tensor], count: int) -> tuple[list[Tensor], list[Tensor]]:
    """Raw maps ``[B, channels, H, W]`` -> those of boxes and classes, and the last ``count`` channels."""
    return [level[:, :-count] for level in levels], [level[:, -count:] for level in levels]


class _RawGraph(nn.Module):
    """Images -> the raw maps of all levels, flattened, ``[B, channels, A]``, and the prototypes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        levels, prototypes = self.network(images)
        return flatten_levels(levels), prototypes


class _DecodedGraph(nn.Module):
    """Images -> boxes (xyxy, input pixels) ``[B, A, 4]``, scores ``[B, A, C]``, coefficients ``[B, A, K]`` and
    prototypes ``[B, K, h, w]``, before NMS."""

    def __init__(self, network: nn.Module, head: HeadMetadata, num_prototypes: int) -> None:
        super().__init__()
        self.network = network
        self.head = head
        self.num_prototypes = num_prototypes

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        levels, prototypes = self.network(images)
        levels, coefficients = split_levels(levels, self.num_prototypes)
        boxes_xyxy, scores = decode(self.head.kind, levels, self.head.strides, self.head.reg_max)
        return boxes_xyxy, scores, flatten_levels(coefficients).transpose(1, 2), prototypes
