"""Volume segmentation: a class for every voxel of a scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detseg.arrays import DoubleArray, FloatArray
from detseg.config import choice
from detseg.evaluation.hardest import HardestLabels
from detseg.evaluation.labels.dice import VolumeEvaluator
from detseg.evaluation.labels.label_scores import volume_scores
from detseg.losses import VOLUME_LOSSES
from detseg.losses.base import LabelLossConfig, LossSum
from detseg.losses.checks import require_labels
from detseg.losses.dice import DiceLossConfig
from detseg.losses.nested import RegionLoss
from detseg.ops.inferers import TENSOR_INFERER, average_over_flips, probabilities_of, sliding_window
from detseg.runtime.inputs.volume_boxes import VolumeBoxes
from detseg.runtime.inputs.volume_geometry import VolumeSpec, to_file_axes
from detseg.runtime.kinds import load_kind
from detseg.runtime.kinds.volumes import VolumeMetadata
from detseg.runtime.postprocess.components import clean_labels
from detseg.runtime.postprocess.config import WindowsConfig
from detseg.runtime.postprocess.results import best_voxel_classes
from detseg.runtime.postprocess.streamed import Look
from detseg.structures import IGNORE_INDEX, Target
from detseg.tasks.base import Batch, ExportGraph, compare, require_no_backend
from detseg.volumes import LabelVolume, Shape3, VolumeSample, VolumeTransform


class VolumeSource(Protocol):
    """What volume segmentation needs of a data set."""

    def spacings(self) -> DoubleArray:
        """Millimeters between voxels toward the right, the front and the top, ``[N, 3]``."""

    def foreground_statistics(self) -> Sequence[tuple[float, float, float, float]]:
        """Of each channel, where there are structures: percentiles 0.5 and 99.5, mean and standard deviation."""

    def label_volume(self, index: int) -> LabelVolume:
        """The class positions of the voxels of volume ``index``, on the grid of its file."""


@dataclass(frozen=True)
class VolumeTaskConfig:
    """Settings of volume segmentation."""

    target: ClassVar[Target] = "volumes"
    prediction_settings: ClassVar[dict[str, Any]] = {}
    first_category_id: ClassVar[int] = 0

    name: Literal["volume"] = "volume"
    input: VolumeSpec = field(default_factory=VolumeSpec)
    """The spacing that volumes are resampled to and how intensities are normalized."""
    patch: Shape3 = (64, 64, 64)
    """Depth, height and width of training patches, in voxels of that spacing."""
    loss: LabelLossConfig = choice(VOLUME_LOSSES, default="dice")
    """What is minimized, over voxels."""
    postprocess: WindowsConfig = field(default_factory=WindowsConfig)
    """How a volume goes through the model: in overlapping windows, also mirrored."""
    regions: tuple[tuple[int, ...], ...] = ()
    """Of which classes, by position, each class but the first consists, where they are regions that may lie in each
    other, each with a sigmoid of its own; taken from the training set, see the quickstart. Empty: classes exclude each
    other."""
    surface_tolerance_mm: float = 1.0
    """How far apart surfaces may lie, in millimeters, to count as the same in the surface Dice of evaluation."""

    def __post_init__(self) -> None:
        if len(self.patch) != 3 or min(self.patch) < 1:
            raise ValueError(f"patch must be a positive depth, height and width, got {self.patch}")
        if not self.surface_tolerance_mm >= 0:
            raise ValueError(f"surface_tolerance_mm must not be negative, got {self.surface_tolerance_mm}")

    @property
    def train_size(self) -> Shape3:
        """Depth, height and width of training patches."""
        return self.patch

    def adapted_to(self, data: VolumeSource) -> Self:
        """These settings with what is not given taken from the training set ``data``: the median spacing, the channels,
        and the statistics of intensities for ``ct``.

        Raises:
            ValueError: other channels are given.
        """
        spec = self.input if self.input.spacing is not None else self.input.completed(data.spacings())
        spec = spec.for_channels(getattr(data, "channels", ()))
        regions = self.regions or tuple(getattr(data, "regions", ()))
        if not all(channel.is_complete for channel in spec.per_channel):
            spec = spec.with_statistics(data.foreground_statistics())
        return self if spec is self.input and regions == self.regions else replace(self, input=spec, regions=regions)

    def finetuning_augment(self) -> dict[str, Any]:
        """Mirrored are the axes along which prediction may mirror."""
        return {"name": "volume", "flip": [0.5 if axis in self.postprocess.flip_axes else 0.0 for axis in range(3)]}

    def build(
        self, model: nn.Module | None, class_names: Sequence[str], category_ids: Sequence[int] | None = None
    ) -> VolumeTask:
        """The task for a model from volumes ``[B, 1, D, H, W]`` to logits ``[B, C, D, H, W]``; none is looked at.

        Raises:
            ValueError: there are no classes beside the background, or more than 8 bits hold.
        """
        if not 2 <= len(class_names) <= IGNORE_INDEX:
            raise ValueError(
                f"volume segmentation takes 2 to {IGNORE_INDEX} classes with the background, got {len(class_names)}"
            )
        known = range(1, len(class_names))
        if self.regions and (
            len(self.regions) != len(known)
            or any(own not in region or set(region) - set(known) for own, region in enumerate(self.regions, start=1))
        ):
            raise ValueError(
                f"regions must be one for each of {', '.join(class_names[1:])}, with positions from 1 to {len(known)} "
                f"and its own among them; got {self.regions}"
            )
        return VolumeTask(self, class_names, category_ids)

    def build_criterion(self, model: nn.Module, task: VolumeTask) -> VolumeCriterion:
        """The configured loss.

        Raises:
            ValueError: the loss does not fit the number of classes.
        """
        return VolumeCriterion(self.loss, len(task.class_names), self.regions)

    @classmethod
    def from_metadata(cls, metadata: VolumeMetadata) -> VolumeTask:
        """The task of an exported network for volumes."""
        config = cls(
            input=metadata.input,
            patch=metadata.patch,
            postprocess=metadata.postprocess,
            surface_tolerance_mm=metadata.surface_tolerance_mm,
            regions=metadata.regions,
        )
        return config.build(None, metadata.class_names, metadata.category_ids)

    @classmethod
    def evaluation_settings(cls, metadata: VolumeMetadata, path: Path) -> dict[str, Any]:
        """None: evaluation has the settings of prediction."""
        return {}


class VolumeTask:
    """Volume segmentation as a model needs it to be used. See :class:`detseg.tasks.base.Task`."""

    memory_format = torch.channels_last_3d
    stride = 1
    waits_for_host = False
    forms: tuple[str, ...] = ("logits",)

    def __init__(
        self, config: VolumeTaskConfig, class_names: Sequence[str], category_ids: Sequence[int] | None = None
    ) -> None:
        self.config = config
        self.name: str = config.name
        self.kind = load_kind("volumes")
        self.target = config.target
        self.spec = config.input
        self.class_names = tuple(class_names)
        self.category_ids = tuple(range(len(self.class_names)) if category_ids is None else category_ids)

    def stack(self, samples: Sequence[VolumeSample]) -> Batch:
        """Volumes of one shape -> a batch without targets."""
        return _make_batch(samples, {})

    def normalize(self, images: Tensor) -> Tensor:
        """Nothing is left to do: intensities are normalized for each volume as a whole, before patches are taken."""
        return images

    def infer(self, model: nn.Module, images: Tensor) -> Tensor:
        """Volumes ``[B, 1, D, H, W]`` window by window through ``model`` -> probabilities ``[B, C, D, H, W]``."""
        inferer = self.config.postprocess
        look = partial(
            sliding_window,
            model,
            window=self._window,
            overlap=inferer.overlap,
            weighting=inferer.weighting,
            batch_size=inferer.batch_size,
        )
        if inferer.flip:
            return average_over_flips(look, images, inferer.flip_axes, nested=self._nested)
        return probabilities_of(look(images), nested=self._nested)

    def look(self, model: nn.Module, boxes: VolumeBoxes, device: torch.device, dtype: torch.dtype) -> Look:
        """How ``model``, which is on ``device`` and takes ``dtype``, looks at a volume part by part."""

        def within(work: Callable[[], Any]) -> Any:
            with torch.inference_mode():
                return work()

        return Look(
            inferer=TENSOR_INFERER,
            predict=model,
            boxes=boxes,
            num_classes=len(self.class_names),
            settings=self.config.postprocess,
            window=self._window,
            nested=self._nested,
            finish=partial(clean_labels, cleaned=self.config.postprocess.clean, class_names=self.class_names),
            to_device=lambda array: torch.from_numpy(array).to(device, dtype),
            device=device,
            within=within,
        )

    def only(self, kept: Tensor) -> Self:
        """Nothing is limited."""
        return self

    def results(self, outputs: Tensor, transforms: Sequence[VolumeTransform]) -> list[LabelVolume]:
        """Probabilities ``[B, C, D, H, W]`` -> the best class of every voxel of the original volumes.

        They are resampled to the original grid (trilinear) before the best is chosen, which keeps borders smooth.
        """
        results = []
        for score, transform in zip(outputs, transforms, strict=True):
            labels = _best_classes(score, transform.oriented_shape, self._nested).cpu().numpy()
            found = LabelVolume(np.ascontiguousarray(to_file_axes(labels, transform)), transform.affine)
            results.append(clean_labels(found, self.config.postprocess.clean, self.class_names))
        return results

    def result_of(
        self, probabilities: FloatArray, transform: VolumeTransform, *, keeps_probabilities: bool = False
    ) -> LabelVolume:
        """The same of probabilities ``[C, D, H, W]`` on the host, which the result may keep."""
        found = best_voxel_classes(
            probabilities, transform, nested=self._nested, keeps_probabilities=keeps_probabilities
        )
        return clean_labels(found, self.config.postprocess.clean, self.class_names)

    def evaluator(
        self, class_names: Sequence[str], category_ids: Sequence[int], backend: str | None = None
    ) -> VolumeEvaluator:
        """Dice and surface distances for the classes of a data set."""
        require_no_backend(backend, self.kind)
        position = {name: place for place, name in enumerate(class_names)}
        names_of = dict(zip(self.class_names[1:], self._region_names(), strict=True))
        regions = [[position[one] for one in names_of[name] if one in position] for name in class_names[1:]]
        tolerance = self.config.surface_tolerance_mm
        return VolumeEvaluator(class_names, category_ids, tolerance, regions if self._nested else ())

    def ground_truth(self, data: VolumeSource, index: int) -> LabelVolume:
        """The labels of volume ``index`` on the grid of its file."""
        return data.label_volume(index)

    def hardest_examples(self, class_names: Sequence[str], count: int, data: Any) -> HardestLabels:
        """By the mean Dice of the volume by itself."""
        return HardestLabels(class_names, count, partial(compare, self.kind, data, class_names), "Dice", volume_scores)

    def export_graph(self, model: nn.Module, form: str) -> ExportGraph:
        """Input ``volumes`` ``[B, I, D, H, W]`` of ``I`` channels, output ``logits`` ``[B, C, D, H, W]``; all sides
        are free, without conditions: the network pads what it takes."""
        free = dict.fromkeys((0, 2, 3, 4), torch.export.Dim.DYNAMIC)
        return ExportGraph(model, torch.zeros(2, self.spec.num_channels, *self._window), free, ("logits",))

    def metadata(self) -> dict[str, Any]:
        """The size of windows where the settings name none, how surfaces are judged, and what regions consist of."""
        regions = [list(region) for region in self.config.regions]
        said = {"patch": list(self._window), "surface_tolerance_mm": self.config.surface_tolerance_mm}
        return {**said, "regions": regions} if regions else said

    @property
    def _nested(self) -> bool:
        """Whether classes are regions that may lie in each other."""
        return bool(self.config.regions)

    def _region_names(self) -> list[tuple[str, ...]]:
        """The classes of which each class but the first consists."""
        own = tuple((place,) for place in range(1, len(self.class_names)))
        return [tuple(self.class_names[place] for place in region) for region in self.config.regions or own]

    @property
    def _window(self) -> Shape3:
        """Those that slide over volumes."""
        return self.config.postprocess.window or self.config.patch


def _best_classes(scores: Tensor, shape: Shape3, nested: bool = False) -> Tensor:
    """The best of the scores ``[C, D, H, W]`` of every voxel on a grid of ``shape``, uint8, the first of equals; of
    ``nested`` regions the last one that is more probable than not."""
    if tuple(scores.shape[1:]) == shape and not nested:
        return scores.argmax(0).to(torch.uint8)
    best = labels = None
    for label, plane in enumerate(scores):
        # One class after the other: all of them on a fine grid could take many times the memory of the scan.
        values = F.interpolate(plane[None, None], size=shape, mode="trilinear")[0, 0]
        if best is None or labels is None:
            best, labels = values, torch.zeros(shape, dtype=torch.uint8, device=scores.device)
        else:
            labels[values > (0.5 if nested else best)] = label
            best = torch.maximum(best, values)
    assert labels is not None, "a model has classes"
    return labels


class VolumeCriterion:
    """What trains a network for volumes. See :class:`detseg.tasks.base.Criterion`.

    Raises:
        ValueError: the loss does not fit the number of classes.
    """

    def __init__(self, config: LabelLossConfig, num_classes: int, regions: Sequence[Sequence[int]] = ()) -> None:
        self._num_classes = num_classes
        self.loss: Any = RegionLoss(cast(DiceLossConfig, config), regions) if regions else config.build(num_classes)

    def prepare(self, data: VolumeSource) -> dict[str, Any]:
        """Nothing: the spacing was taken from the data before, see :meth:`VolumeTaskConfig.adapted_to`."""
        return {}

    def collate(self, samples: Sequence[VolumeSample]) -> Batch:
        """Samples of one shape -> a batch with ``labels`` ``[B, D, H, W]`` uint8, ``IGNORE_INDEX`` where there is no
        class, if the samples have labels.

        Raises:
            ValueError: a label is no class.
        """
        labels = [sample.labels for sample in samples if sample.labels is not None]
        assert len(labels) in (0, len(samples)), "labels for all samples or for none"
        if not labels:
            return _make_batch(samples, {})
        stacked = torch.from_numpy(np.stack(labels))
        require_labels(stacked, self._num_classes, "label volume")
        return _make_batch(samples, {"labels": stacked})

    def __call__(self, raw: Tensor | tuple[Tensor, ...], batch: Batch) -> LossSum:
        """Logits ``[B, C, D, H, W]``, with deep supervision those of coarser levels after them -> the configured loss.

        Raises:
            ValueError: the volumes have no labels.
        """
        if "labels" not in batch.targets:
            raise ValueError(f"{batch.paths[0]}: has no labels; training needs them for every volume")
        loss: LossSum = self.loss(raw, batch.targets["labels"])
        return loss


def _make_batch(samples: Sequence[VolumeSample], targets: dict[str, Tensor]) -> Batch:
    images = np.stack([sample.image for sample in samples])
    return Batch(
        images=torch.from_numpy(images if images.ndim == 5 else images[:, None]),
        targets=targets,
        image_ids=tuple(sample.image_id for sample in samples),
        paths=tuple(sample.path for sample in samples),
        transforms=tuple(sample.transform for sample in samples),
    )
