"""Detection: boxes in images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from detseg.arrays import ByteArray, IntArray
from detseg.config import choice
from detseg.evaluation.coco_map import CocoEvaluator
from detseg.losses import DETECTION_LOSSES
from detseg.losses.base import LossSum
from detseg.models.detector import Detector
from detseg.ops.decode import decode
from detseg.ops.nms import batched_nms
from detseg.runtime.drawing.show import compare_boxes
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.postprocess.config import PostprocessConfig
from detseg.structures import Detections, GroundTruth, Placement, Sample, Truth
from detseg.tasks.base import Batch, make_batch, normalize_images


class BoxSource(Protocol):
    """What detection needs of a data set."""

    def ground_truth(self, index: int) -> GroundTruth:
        """The objects in image ``index``."""


@dataclass(frozen=True)
class DetectionTaskConfig:
    """Settings of detection; ``input`` is the size and the preprocessing that the model sees.

    ``prediction_settings`` replace those of ``postprocess`` where pictures are predicted, not evaluated.
    """

    truth: ClassVar[Truth] = "boxes"
    prediction_settings: ClassVar[dict[str, Any]] = {"confidence": 0.25}

    name: Literal["detection"] = "detection"
    input: InputSpec = field(default_factory=lambda: InputSpec(640, 640))
    loss: Any = choice(DETECTION_LOSSES, default="tal")
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)

    @property
    def train_size(self) -> tuple[int, int]:
        """Height and width of training images."""
        return self.input.height, self.input.width

    def adapted_to(self, data: BoxSource) -> Self:
        """These settings, as none of them is taken from the training set."""
        return self

    def build(
        self, model: Detector, class_names: Sequence[str], category_ids: Sequence[int] | None = None
    ) -> DetectionTask:
        """The task for ``model``, whose outputs it decodes.

        Raises:
            ValueError: the loss does not fit the model's head, or the input size its strides.
        """
        task = DetectionTask(self, model, class_names, category_ids)
        if self.input.height % task.stride or self.input.width % task.stride:
            raise ValueError(
                f"task.input is {self.input.height}x{self.input.width}; height and width must be multiples of the "
                f"model's largest stride, {task.stride}"
            )
        return task


class DetectionTask:
    """Collate, loss, postprocess and evaluator of detection. See :class:`detseg.tasks.base.Task`."""

    def __init__(
        self,
        config: DetectionTaskConfig,
        model: Detector,
        class_names: Sequence[str],
        category_ids: Sequence[int] | None = None,
    ) -> None:
        self.config = config
        self.name: str = config.name
        self.truth = config.truth
        self.spec = config.input
        self.train_size = config.train_size
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids or range(1, len(self.class_names) + 1))
        self.kind = model.head.kind
        self.strides = model.strides
        self.memory_format = torch.channels_last
        self.stride = max(model.strides)
        self.bins = model.head.bins
        self.criterion = config.loss.build(num_classes=len(self.class_names), strides=self.strides, bins=self.bins)
        if self.criterion.head_kind != self.kind:
            raise ValueError(
                f"task.loss is {config.loss.name!r}, which is for a {self.criterion.head_kind!r} head; "
                f"the model's head is {self.kind!r}"
            )

    def prepare(self, data: BoxSource) -> dict[str, Any]:
        """Nothing: the loss needs to know nothing of the training set."""
        return {}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Samples of one size -> a batch with ``boxes_xyxy`` ``[B, M, 4]`` and ``labels`` ``[B, M]``, where M is the
        largest number of objects in an image and label -1 marks padding. Crowd regions are no targets."""
        kept = [~sample.crowd for sample in samples]
        most = max((int(keep.sum()) for keep in kept), default=0)
        boxes_xyxy = np.zeros((len(samples), most, 4), np.float32)
        labels = np.full((len(samples), most), -1, np.int64)
        for row, (sample, keep) in enumerate(zip(samples, kept, strict=True)):
            count = int(keep.sum())
            boxes_xyxy[row, :count] = sample.boxes_xyxy[keep]
            labels[row, :count] = sample.labels[keep]
        targets = {"boxes_xyxy": torch.from_numpy(boxes_xyxy), "labels": torch.from_numpy(labels)}
        return make_batch(samples, targets)

    def normalize(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` uint8 RGB -> float32 ``(pixel - mean) / std`` in the model's channel order."""
        return normalize_images(images, self.spec)

    def loss(self, raw: list[Tensor], batch: Batch) -> LossSum:
        """Raw maps per level -> the loss parts of the configured assignment."""
        loss: LossSum = self.criterion(raw, batch.targets["boxes_xyxy"], batch.targets["labels"])
        return loss

    def infer(self, model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalized ``[B, 3, H, W]`` -> :meth:`detect` of the model's raw maps."""
        return self.detect(model(images))

    def detect(self, raw: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Raw maps per level, decoded, filtered, NMS applied -> detections ``[B, M, 6]`` in input pixels and counts
        ``[B]``, see :class:`detseg.ops.nms.BatchedDetections`."""
        settings = self.config.postprocess
        boxes_xyxy, scores = decode(self.kind, raw, self.strides, self.bins)
        found = batched_nms(
            boxes_xyxy,
            scores,
            confidence=settings.confidence,
            iou=settings.iou,
            max_detections=settings.max_detections,
            multi_label=settings.multi_label,
            class_agnostic=settings.class_agnostic,
            backend=settings.nms_backend,
        )
        return found.detections, found.counts

    def results(self, outputs: tuple[Tensor, Tensor], placements: Sequence[Placement]) -> list[Detections]:
        """Detections and counts of :meth:`detect` -> the objects in each image, in pixels of the original images."""
        detections, counts = (output.cpu().numpy() for output in outputs)
        results = []
        for rows, count, placement in zip(detections, counts, placements, strict=True):
            found = rows[:count]
            boxes_in_original = placement.to_original(found[:, :4])
            results.append(Detections(boxes_in_original, found[:, 4].copy(), found[:, 5].astype(np.int64)))
        return results

    def evaluator(self, class_names: Sequence[str], category_ids: Sequence[int]) -> CocoEvaluator:
        """COCO's average precision for the classes of a data set."""
        return CocoEvaluator(class_names, category_ids)

    def ground_truth(self, data: BoxSource, index: int) -> GroundTruth:
        """The annotated objects of image ``index``."""
        return data.ground_truth(index)

    def relabel(self, result: Detections, positions: IntArray) -> Detections:
        """``result`` with other class positions, without the objects whose class has position -1."""
        labels = positions[result.labels]
        return replace(result, labels=labels).select(labels >= 0)

    def compare(
        self, image: ByteArray, truth: GroundTruth, result: Detections, class_names: Sequence[str]
    ) -> ByteArray:
        """The annotated objects beside those found."""
        return compare_boxes(image, truth, result, class_names)
