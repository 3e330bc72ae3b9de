"""Detection: boxes in images."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from detseg.config import choice
from detseg.evaluation.hardest import HardestBoxes
from detseg.evaluation.objects.coco_map import CocoEvaluator
from detseg.losses import DETECTION_LOSSES
from detseg.losses.base import LossSum
from detseg.losses.checks import require_positions
from detseg.losses.detection import DetectionLossConfig
from detseg.models.detector import Detector
from detseg.ops.decode import decode, flatten_levels
from detseg.ops.nms import BatchedDetections, batched_nms
from detseg.ops.nms_of_maps import nms_of_maps
from detseg.ops.top_k import batched_top_k, best_rows
from detseg.ops.triton_probe import choose_nms_backend
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.kinds import load_kind
from detseg.runtime.kinds.boxes import DetectionMetadata
from detseg.runtime.postprocess.config import (
    HeadKind,
    HeadMetadata,
    NmsBackend,
    PostprocessConfig,
    require_no_suppression,
)
from detseg.structures import Detections, GroundTruth, LetterboxTransform, Sample, Target
from detseg.tasks.base import Batch, ExportGraph, ImageTask, make_batch


class BoxSource(Protocol):
    """What detection needs of a data set."""

    def ground_truth(self, index: int) -> GroundTruth:
        """The objects in image ``index``."""


@dataclass(frozen=True)
class DetectionTaskConfig:
    """Settings of detection."""

    target: ClassVar[Target] = "boxes"
    prediction_settings: ClassVar[dict[str, Any]] = {"confidence": 0.25}
    first_category_id: ClassVar[int] = 1

    name: Literal["detection"] = "detection"
    input: InputSpec = field(default_factory=lambda: InputSpec(640, 640))
    """The size and the preprocessing that the model sees."""
    loss: DetectionLossConfig = choice(DETECTION_LOSSES, default="tal")
    """What is minimized, with the assignment of predictions to objects; ``tal`` is for the ``dfl`` head, ``dual`` for
    ``e2e``, ``simota`` for ``yolox``."""
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)
    """Which raw predictions become detections."""

    @property
    def train_size(self) -> tuple[int, int]:
        """Height and width of training images."""
        return self.input.height, self.input.width

    def adapted_to(self, data: BoxSource) -> Self:
        """These settings, as none of them is taken from the training set."""
        return self

    def finetuning_augment(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def build(
        self, model: Detector, class_names: Sequence[str], category_ids: Sequence[int] | None = None
    ) -> DetectionTask:
        """The task for ``model``, whose outputs it decodes.

        Raises:
            ValueError: the input size does not fit the model's strides, its head gives masks as well, or settings of
                NMS are given for a head without.
        """
        if model.head.kind == "dfl_masks":
            raise ValueError(
                "the task detection is for the heads dfl, e2e and yolox; the model's head is dfl_masks, which gives "
                "masks as well: choose the head dfl, or the task instance"
            )
        task = DetectionTask(self, head_metadata(model), class_names, category_ids)
        require_multiples(self.input, task.stride)
        return task

    def build_criterion(self, model: Detector, task: DetectionTask) -> DetectionCriterion:
        """The configured loss for ``model``.

        Raises:
            ValueError: the loss does not fit the model's head.
        """
        return DetectionCriterion(self.loss, model, len(task.class_names))

    @classmethod
    def from_metadata(cls, metadata: DetectionMetadata) -> DetectionTask:
        """The task of an exported detector, which needs no more than the file says of its head."""
        config = cls(input=metadata.input, postprocess=metadata.postprocess)
        return DetectionTask(config, metadata.head, metadata.class_names, metadata.category_ids)

    @classmethod
    def evaluation_settings(cls, metadata: DetectionMetadata, path: Path) -> dict[str, Any]:
        """The confidence of evaluation, as average precision counts boxes of any; with NMS in the graph nothing
        can be changed, and where that costs, a warning says so."""
        return settings_of_evaluation(metadata, path)


def head_metadata(model: Detector) -> HeadMetadata:
    """How the raw maps that ``model`` gives in evaluation mode are decoded."""
    head = model.head
    kind: HeadKind = "yolox" if head.kind == "yolox" else "dfl" if head.reg_max > 1 else "ltrb"
    # The default where there is nothing to count, so that files say the same whatever the head.
    reg_max = head.reg_max if kind == "dfl" else HeadMetadata.reg_max
    return HeadMetadata(kind, model.strides, reg_max, head.one_to_one)


def require_multiples(spec: InputSpec, stride: int) -> None:
    """Raise ValueError unless the sides of the input are multiples of ``stride``."""
    if spec.height % stride or spec.width % stride:
        raise ValueError(
            f"task.input is {spec.height}x{spec.width}; height and width must be multiples of the model's largest "
            f"stride, {stride}"
        )


def settings_of_evaluation(metadata: DetectionMetadata, path: Path) -> dict[str, Any]:
    """What replaces settings of the exported file ``path`` where average precision is computed: the confidence, since
    boxes of any count. Warns where NMS in the graph leaves some out."""
    usual = PostprocessConfig().confidence
    if not metadata.postprocess_in_graph:
        return {"confidence": usual}
    confidence = metadata.postprocess.confidence
    if confidence > usual:
        warnings.warn(
            f"{path}: NMS is part of the graph and leaves out what scores below {confidence:g}, so average "
            f"precision comes out lower than with the usual {usual:g}; to compare, export with --nms --conf "
            f"{usual:g}, or without --nms",
            stacklevel=4,
        )
    return {}


class DetectionTask(ImageTask):
    """Detection as a model needs it to be used, for raw maps of this ``head``. See :class:`detseg.tasks.base.Task`."""

    kind_name: ClassVar[str] = "boxes"
    forms: tuple[str, ...] = ("decoded", "raw", "nms")

    def __init__(
        self,
        config: Any,
        head: HeadMetadata,
        class_names: Sequence[str],
        category_ids: Sequence[int] | None = None,
    ) -> None:
        super().__init__(config, load_kind(self.kind_name), class_names, category_ids, stride=max(head.strides))
        self.head = head
        if head.one_to_one:
            require_no_suppression(config.postprocess)
            self.forms = ("e2e", "decoded", "raw")
        self._kept: Tensor | None = None
        self._nms_backend: NmsBackend = config.postprocess.nms_backend
        self.waits_for_host = self._nms_backend == "torchvision"

    def settle_on(self, device: torch.device) -> None:
        """Choose what suppresses boxes on ``device``, see :func:`detseg.ops.triton_probe.choose_nms_backend`.

        Raises:
            ValueError: what was asked for cannot run there.
        """
        self._nms_backend = choose_nms_backend(self.config.postprocess.nms_backend, device)
        self.waits_for_host = self._nms_backend == "torchvision"

    def only(self, kept: Tensor) -> Self:
        """The same for objects of the classes that are ``kept``, chosen before NMS and limit."""
        other = copy.copy(self)
        other._kept = kept
        return other

    def infer(self, model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        """Normalized ``[B, 3, H, W]`` -> :meth:`detect` of the model's raw maps."""
        return self.detect(model(images))

    def detect(self, raw: list[Tensor]) -> tuple[Tensor, ...]:
        """Raw maps per level, decoded, filtered, NMS applied -> detections ``[B, M, 6]`` in input pixels and counts
        ``[B]``, see :class:`detseg.ops.nms.BatchedDetections`. Of a one-to-one head the best, and how many there would
        be without a limit, see :class:`detseg.ops.top_k.BestDetections`."""
        if not self.head.one_to_one:
            found = self.suppress(raw)
            return found.detections, found.counts
        settings, head = self.config.postprocess, self.head
        boxes_xyxy, scores = decode(head.kind, raw, head.strides, head.reg_max)
        return batched_top_k(
            boxes_xyxy,
            scores,
            confidence=settings.confidence,
            max_detections=settings.max_detections,
            multi_label=settings.multi_label,
            kept=self._kept,
        )

    def suppress(self, raw: Sequence[Tensor]) -> BatchedDetections:
        """Raw maps per level, without coefficients of masks -> :func:`detseg.ops.nms.batched_nms` of their boxes."""
        settings, head = self.config.postprocess, self.head
        if self._takes_maps(raw[0]):
            return nms_of_maps(
                head.kind,
                raw,
                head.strides,
                head.reg_max,
                confidence=settings.confidence,
                iou=settings.iou,
                max_detections=settings.max_detections,
                multi_label=settings.multi_label,
                class_agnostic=settings.class_agnostic,
                kept=self._kept,
            )
        boxes_xyxy, scores = decode(head.kind, raw, head.strides, head.reg_max)
        return batched_nms(
            boxes_xyxy,
            scores,
            confidence=settings.confidence,
            iou=settings.iou,
            max_detections=settings.max_detections,
            multi_label=settings.multi_label,
            class_agnostic=settings.class_agnostic,
            backend=self._nms_backend,
            kept=self._kept,
        )

    def _takes_maps(self, level: Tensor) -> bool:
        """Whether candidates are found in the maps themselves, by kernels on a GPU."""
        return level.device.type == "cuda" and choose_nms_backend(self._nms_backend, level.device) == "detseg"

    def results(self, outputs: tuple[Tensor, ...], transforms: Sequence[LetterboxTransform]) -> list[Detections]:
        """What :meth:`detect` gave -> the objects in each image, in pixels of the original images."""
        detections, counts = (output.cpu().numpy() for output in outputs[:2])
        num_above = outputs[2].cpu().tolist() if self.head.one_to_one else [None] * len(counts)
        results = []
        for rows, count, above, transform in zip(detections, counts.tolist(), num_above, transforms, strict=True):
            found = rows[:count]
            num_left_out = (0 if count < len(rows) else None) if above is None else above - count
            boxes = transform.to_original(found[:, :4]), found[:, 4].copy(), found[:, 5].astype(np.int64)
            results.append(Detections(*boxes, num_left_out=num_left_out))
        return results

    def evaluator(
        self, class_names: Sequence[str], category_ids: Sequence[int], backend: str | None = None
    ) -> CocoEvaluator:
        """COCO's average precision for the classes of a data set."""
        return CocoEvaluator(class_names, category_ids, backend)

    def ground_truth(self, data: BoxSource, index: int) -> GroundTruth:
        """The annotated objects of image ``index``."""
        return data.ground_truth(index)

    def hardest_examples(self, class_names: Sequence[str], count: int, data: Any) -> HardestBoxes:
        """By the number of errors at the confidence of best F1."""
        return HardestBoxes(class_names, count, lambda index: data.read(index)[0])

    def export_graph(self, model: nn.Module, form: str) -> ExportGraph:
        """``decoded``: outputs ``boxes`` ``[B, A, 4]`` and ``scores`` ``[B, A, C]``, and so for ``nms``, before
        NMS is appended; ``raw``: one output ``raw`` ``[B, channels, A]``. A are the anchor points of all levels.
        ``e2e``, of a one-to-one head: one output ``detections`` ``[B, max_detections, 6]``, the best rows of any score:
        x1, y1, x2, y2, score, class."""
        if form == "e2e":
            return self.graph_of(_BestGraph(model, self.head, self.config.postprocess), ("detections",))
        module, outputs = (
            (_RawGraph(model), ("raw",)) if form == "raw" else (_DecodedGraph(model, self.head), ("boxes", "scores"))
        )
        return self.graph_of(module, outputs)

    def graph_of(self, module: nn.Module, outputs: tuple[str, ...]) -> ExportGraph:
        """``module`` with inputs of any batch and of sides that are multiples of the stride."""
        height, width = (self.stride * torch.export.Dim(name, min=1) for name in ("height", "width"))
        example = torch.zeros(2, 3, self.spec.height, self.spec.width)
        return ExportGraph(module, example, {0: torch.export.Dim("batch"), 2: height, 3: width}, outputs)

    def metadata(self) -> dict[str, Any]:
        """How raw maps are to be decoded; reg_max where the head has any."""
        head: dict[str, Any] = {"kind": self.head.kind, "strides": list(self.head.strides)}
        if self.head.kind == "dfl":
            head["reg_max"] = self.head.reg_max
        if self.head.one_to_one:
            head["one_to_one"] = True
        return {"head": head}


class DetectionCriterion:
    """What trains a detector: assignment of predictions to objects, and a loss. See
    :class:`detseg.tasks.base.Criterion`.

    Raises:
        ValueError: the loss does not fit the model's head.
    """

    def __init__(self, config: DetectionLossConfig, model: Detector, num_classes: int) -> None:
        self._num_classes = num_classes
        self.loss = config.build(num_classes=num_classes, strides=model.strides, reg_max=model.head.reg_max)
        if self.loss.head_kind != model.head.kind:
            raise ValueError(
                f"task.loss is {config.name!r}, which is for a {self.loss.head_kind!r} head; "
                f"the model's head is {model.head.kind!r}"
            )

    def prepare(self, data: BoxSource) -> dict[str, Any]:
        """Nothing: the loss needs to know nothing of the training set."""
        return {}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Samples of one size -> a batch with ``boxes_xyxy`` ``[B, M, 4]`` and ``labels`` ``[B, M]``, see
        :func:`box_targets`.

        Raises:
            ValueError: a label is no class.
        """
        targets = box_targets(samples)
        require_positions(targets["labels"], self._num_classes)
        return make_batch(samples, targets)

    def __call__(self, raw: list[Tensor], batch: Batch) -> LossSum:
        """Raw maps per level -> the loss parts of the configured assignment."""
        return self.loss(raw, batch.targets["boxes_xyxy"], batch.targets["labels"])


def box_targets(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """``boxes_xyxy`` ``[B, M, 4]`` and ``labels`` ``[B, M]`` of ``samples``, where M is the largest number of objects
    in an image and label -1 marks padding. Crowd regions are no targets."""
    kept = [~sample.crowd for sample in samples]
    most = max((int(keep.sum()) for keep in kept), default=0)
    boxes_xyxy = np.zeros((len(samples), most, 4), np.float32)
    labels = np.full((len(samples), most), -1, np.int64)
    for row, (sample, keep) in enumerate(zip(samples, kept, strict=True)):
        count = int(keep.sum())
        boxes_xyxy[row, :count] = sample.boxes_xyxy[keep]
        labels[row, :count] = sample.labels[keep]
    return {"boxes_xyxy": torch.from_numpy(boxes_xyxy), "labels": torch.from_numpy(labels)}


class _RawGraph(nn.Module):
    """Images -> the raw maps of all levels, flattened, ``[B, channels, A]``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return flatten_levels(self.network(images))


class _DecodedGraph(nn.Module):
    """Images -> boxes (xyxy, input pixels) ``[B, A, 4]`` and scores ``[B, A, C]``, before NMS."""

    def __init__(self, network: nn.Module, head: HeadMetadata) -> None:
        super().__init__()
        self.network = network
        self.head = head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return decode(self.head.kind, self.network(images), self.head.strides, self.head.reg_max)


class _BestGraph(nn.Module):
    """Images -> the best of a one-to-one head, ``[B, M, 6]``."""

    def __init__(self, network: nn.Module, head: HeadMetadata, settings: PostprocessConfig) -> None:
        super().__init__()
        self.decoded = _DecodedGraph(network, head)
        self.settings = settings

    def forward(self, images: Tensor) -> Tensor:
        boxes_xyxy, scores = self.decoded(images)
        settings = self.settings
        return best_rows(boxes_xyxy, scores, settings.max_detections, settings.multi_label, for_onnx=True)
