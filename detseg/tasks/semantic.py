"""Semantic segmentation: a class for every pixel of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detseg.arrays import ByteArray
from detseg.config import choice
from detseg.evaluation.hardest import HardestLabels
from detseg.evaluation.labels.label_scores import mask_scores
from detseg.evaluation.labels.miou import SegmentationEvaluator
from detseg.losses import SEGMENTATION_LOSSES
from detseg.losses.base import LabelLossConfig, LossSum
from detseg.losses.checks import require_labels
from detseg.losses.class_weights import WEIGHT_RULES, ClassHistogram, class_histogram
from detseg.models.base import min_side, stride_for
from detseg.ops.inferers import average_over_tta, sliding_window
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.kinds import load_kind
from detseg.runtime.kinds.masks import SemanticMetadata
from detseg.runtime.postprocess.config import InfererConfig
from detseg.structures import IGNORE_INDEX, LabelMap, LetterboxTransform, Sample, Target
from detseg.tasks.base import Batch, ExportGraph, ImageTask, compare, make_batch, require_no_backend

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


_TILE_MULTIPLE = 32
"""What sides of inputs are multiples of, for any network."""


class MaskSource(Protocol):
    """What semantic segmentation needs of a data set."""

    def __len__(self) -> int:
        """The number of images."""

    def mask(self, index: int) -> ByteArray:
        """The class positions of the pixels of image ``index``, at its original size."""


@dataclass(frozen=True)
class SemanticTaskConfig:
    """Settings of semantic segmentation."""

    target: ClassVar[Target] = "masks"
    prediction_settings: ClassVar[dict[str, Any]] = {}
    first_category_id: ClassVar[int] = 0

    name: Literal["semantic"] = "semantic"
    input: InputSpec = field(default_factory=lambda: InputSpec(360, 480, mean=IMAGENET_MEAN, std=IMAGENET_STD))
    """Size and preprocessing of images in evaluation and prediction, where the whole image is fitted into it."""
    crop: tuple[int, int] | None = None
    """Height and width of training images; null: those of ``input``."""
    loss: LabelLossConfig = choice(SEGMENTATION_LOSSES, default="segmentation")
    """What is minimized, over pixels."""
    postprocess: InfererConfig = field(default_factory=InfererConfig)
    """How an image is looked at: as a whole, in windows, at several scales, mirrored."""

    def __post_init__(self) -> None:
        if self.crop is not None and min(self.crop) < 1:
            raise ValueError(f"crop must be a positive height and width, got {self.crop}")

    @property
    def train_size(self) -> tuple[int, int]:
        """Height and width of training images."""
        return self.crop or (self.input.height, self.input.width)

    def adapted_to(self, data: MaskSource) -> Self:
        """These settings, as none of them is taken from the training set."""
        return self

    def tile_settings(self, size: tuple[int, int]) -> tuple[str, ...]:
        """The settings with which images of ``size`` (height, width) are learned from and looked at as they are, in
        tiles as large as training images are now: random ones in training, then windows that overlap."""
        height, width = (-(-side // _TILE_MULTIPLE) * _TILE_MULTIPLE for side in size)
        tile = f"[{self.train_size[0]},{self.train_size[1]}]"
        return (
            f"task.input.height={height}",
            f"task.input.width={width}",
            f"task.crop={tile}",
            f"task.postprocess.window={tile}",
            f"augment.fit=[{size[0]},{size[1]}]",
            "augment.crop=true",
            "augment.mosaic=0",
            "augment.translate=0",
        )

    def finetuning_augment(self) -> dict[str, Any]:
        """Images are learned at the scale at which they will be judged."""
        return {"fit": [self.input.height, self.input.width]}

    def build(
        self, model: nn.Module | None, class_names: Sequence[str], category_ids: Sequence[int] | None = None
    ) -> SemanticTask:
        """The task for a model that gives logits ``[B, C, H, W]`` for images ``[B, 3, H, W]``; none is looked at.

        Raises:
            ValueError: a mask of 8 bits cannot hold so many classes.
        """
        if not 1 <= len(class_names) <= IGNORE_INDEX:
            raise ValueError(f"semantic segmentation takes 1 to {IGNORE_INDEX} classes, got {len(class_names)}")
        stride = stride_for(model, (self.input.height, self.input.width))
        return SemanticTask(self, class_names, category_ids, stride)

    def build_criterion(self, model: nn.Module, task: SemanticTask) -> SemanticCriterion:
        """The configured loss.

        Raises:
            ValueError: the loss does not fit the number of classes, or there is only one.
        """
        if len(task.class_names) == 1:
            only = task.class_names[0]
            raise ValueError(
                f"{only} is the only class, so every pixel is {only} whatever a model sees, and there is nothing to "
                f"learn: give the background a name too, such as `names: {{0: background, 1: {only}}}` in the YAML of "
                "the data set; `detseg check` says which values its masks hold"
            )
        return SemanticCriterion(self.loss, task.class_names)

    @classmethod
    def from_metadata(cls, metadata: SemanticMetadata) -> SemanticTask:
        """The task of an exported network for masks."""
        config = cls(input=metadata.input, postprocess=metadata.postprocess)
        return config.build(None, metadata.class_names, metadata.category_ids)

    @classmethod
    def evaluation_settings(cls, metadata: SemanticMetadata, path: Path) -> dict[str, Any]:
        """None: evaluation has the settings of prediction."""
        return {}


class SemanticTask(ImageTask):
    """Semantic segmentation as a model needs it to be used. See :class:`detseg.tasks.base.Task`."""

    forms: tuple[str, ...] = ("logits",)

    def __init__(
        self,
        config: SemanticTaskConfig,
        class_names: Sequence[str],
        category_ids: Sequence[int] | None = None,
        stride: int = 1,
    ) -> None:
        super().__init__(config, load_kind("masks"), class_names, category_ids, stride)
        self.config: SemanticTaskConfig = config

    def infer(self, model: nn.Module, images: Tensor) -> Tensor:
        """Normalized ``[B, 3, H, W]``, looked at as ``postprocess`` says -> logits or probabilities
        ``[B, C, H, W]``."""
        inferer = self.config.postprocess
        look: Callable[[Tensor], Tensor] = model
        if inferer.window is not None:
            look = partial(
                sliding_window, model, window=inferer.window, overlap=inferer.overlap, weighting=inferer.weighting
            )
        if inferer.flip or inferer.scales != (1.0,):
            return average_over_tta(look, images, inferer.scales, inferer.flip)
        return look(images)

    def results(self, outputs: Tensor, transforms: Sequence[LetterboxTransform]) -> list[LabelMap]:
        """Logits or probabilities ``[B, C, H, W]`` -> the best class of every pixel of the original images.

        They are resized to the original image (bilinear) before the best is chosen, which keeps borders smooth. Where
        they are on a GPU this is done there, and the classes of all images are fetched together.
        """
        maps = [_best_classes(scores, transform) for scores, transform in zip(outputs, transforms, strict=True)]
        fetched = torch.cat([labels.flatten() for labels in maps]).cpu().numpy()
        ends = np.cumsum([labels.numel() for labels in maps])[:-1]
        return [
            LabelMap(flat.reshape(labels.shape)) for flat, labels in zip(np.split(fetched, ends), maps, strict=True)
        ]

    def evaluator(
        self, class_names: Sequence[str], category_ids: Sequence[int], backend: str | None = None
    ) -> SegmentationEvaluator:
        """IoU for the classes of a data set."""
        require_no_backend(backend, self.kind)
        return SegmentationEvaluator(class_names, category_ids)

    def ground_truth(self, data: MaskSource, index: int) -> ByteArray:
        """The mask of image ``index`` at its original size."""
        return data.mask(index)

    def hardest_examples(self, class_names: Sequence[str], count: int, data: Any) -> HardestLabels:
        """By the mean IoU of the image by itself."""
        draw = partial(compare, self.kind, data, class_names)
        return HardestLabels(class_names, count, draw, "mIoU", mask_scores, pools_pixels=True)

    def export_graph(self, model: nn.Module, form: str) -> ExportGraph:
        """Input ``images`` ``[B, 3, H, W]``, output ``logits`` ``[B, C, H, W]``; height and width are no less than the
        network takes, multiples of its stride, and those of the input only where these are none."""
        example = torch.zeros(2, 3, self.spec.height, self.spec.width)
        free: dict[int, Any] = {0: torch.export.Dim("batch")}
        if self.stride < getattr(model, "stride", 1):
            return ExportGraph(model, example, free, ("logits",))
        least = -(-max(2, min_side(model)) // self.stride)
        for axis in (2, 3):
            side = torch.export.Dim(f"side_{axis}", min=least)
            free[axis] = side if self.stride == 1 else self.stride * side
        return ExportGraph(model, example, free, ("logits",))


class SemanticCriterion:
    """What trains a network for masks of ``class_names``. See :class:`detseg.tasks.base.Criterion`.

    Raises:
        ValueError: the loss does not fit the number of classes.
    """

    def __init__(self, config: LabelLossConfig, class_names: Sequence[str]) -> None:
        self._class_names = tuple(class_names)
        self.loss: Any = config.build(len(self._class_names))

    def prepare(self, data: MaskSource) -> dict[str, Any]:
        """Give the loss its class weights where it takes them from the data; returns them with the pixel counts."""
        rule: str | None = getattr(self.loss, "weighting", None)
        if rule is None:
            return {}
        histogram = _histogram(data, len(self._class_names))
        weights = WEIGHT_RULES[rule](histogram)
        self.loss.set_class_weights(weights.tolist())
        rows = zip(self._class_names, histogram.pixels.tolist(), weights.tolist(), strict=True)
        return {"class_weights": {name: {"pixels": pixels, "weight": weight} for name, pixels, weight in rows}}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Samples of one size -> a batch with ``mask`` ``[B, H, W]`` uint8, ``IGNORE_INDEX`` where there is no class.

        Raises:
            ValueError: a sample has no mask, or one with a label that is no class.
        """
        masks = []
        for sample in samples:
            if sample.mask is None:
                raise ValueError(f"{sample.path}: has no mask; semantic segmentation needs one for every image")
            masks.append(sample.mask)
        stacked = torch.from_numpy(np.stack(masks))
        require_labels(stacked, len(self._class_names), "mask")
        return make_batch(samples, {"mask": stacked})

    def __call__(self, raw: Tensor, batch: Batch) -> LossSum:
        """Logits ``[B, C, H, W]`` -> the parts of the configured loss."""
        loss: LossSum = self.loss(raw, batch.targets["mask"])
        return loss


def _best_classes(scores: Tensor, transform: LetterboxTransform) -> Tensor:
    """Scores ``[C, H, W]`` of an input -> the best classes ``[H, W]`` uint8 of the original image."""
    fitted = _without_padding(scores[None], transform)
    size = (transform.original_height, transform.original_width)
    if fitted.shape[-2:] != size:
        fitted = F.interpolate(fitted.float(), size=size, mode="bilinear", align_corners=False)
    return fitted[0].argmax(0).to(torch.uint8)


def _without_padding(scores: Tensor, transform: LetterboxTransform) -> Tensor:
    top, left = int(transform.offset_y), int(transform.offset_x)
    height = round(transform.original_height * transform.scale_y)
    width = round(transform.original_width * transform.scale_x)
    return scores[..., top : top + height, left : left + width]


def _histogram(data: MaskSource, num_classes: int) -> ClassHistogram:
    with ThreadPoolExecutor() as pool:
        counts = pool.map(lambda index: class_histogram([data.mask(index)], num_classes), range(len(data)))
        total = class_histogram([], num_classes)
        for count in counts:
            total += count
    return total
