"""Label volumes: a class for every voxel of a scan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from detseg.arrays import BoolArray, ByteArray, FloatArray, IntArray
from detseg.runtime.drawing.labels import classes_in
from detseg.runtime.drawing.palette import Palette
from detseg.runtime.drawing.volume import compare_axial, compare_volumes, draw_slices
from detseg.runtime.inputs.volume_boxes import VolumeBoxes
from detseg.runtime.inputs.volume_geometry import VolumeSpec, resample
from detseg.runtime.kinds.base import Kind, Metadata, Network, Save, logits_of, require_few_classes
from detseg.runtime.postprocess.components import clean_labels
from detseg.runtime.postprocess.config import WindowsConfig
from detseg.runtime.postprocess.inferers import ARRAY_INFERER, average_over_flips, probabilities_of, sliding_window
from detseg.runtime.postprocess.results import best_voxel_classes
from detseg.runtime.postprocess.streamed import Look, label_volume
from detseg.runtime.writers.volumes import (
    DicomSegmentationWriter,
    MontageWriter,
    NiftiWriter,
    ProbabilitiesWriter,
    SlicesWriter,
    TableWriter,
    volume_record,
)
from detseg.structures import IGNORE_INDEX
from detseg.volumes import LabelVolume, Shape3, Volume, VolumeSample, VolumeTransform, replaced


@dataclass(frozen=True, kw_only=True)
class VolumeMetadata(Metadata):
    """A network for volumes; ``patch``: depth, height and width of windows where ``postprocess`` names none.
    ``surface_tolerance_mm``: how far apart surfaces may lie to count as the same when it is evaluated. ``regions``: of
    which classes each but the first consists, where they do not exclude each other."""

    kind = "volumes"

    form: Literal["logits"]
    input: VolumeSpec
    patch: Shape3
    postprocess: WindowsConfig
    surface_tolerance_mm: float = 1.0
    regions: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        require_few_classes(self.class_names)
        if min(self.patch) < 1:
            raise ValueError(f"patch must be a positive depth, height and width, got {self.patch}")

    @property
    def sides(self) -> dict[str, tuple[str, ...]]:
        """Volumes in, logits of the same size out."""
        return dict.fromkeys(("volumes", "logits"), ("batch", "channels", "depth", "height", "width"))

    def resized(self, size: tuple[int, int]) -> Self:
        """There is no such input."""
        raise ValueError(f"volumes keep their size; got {size[0]}x{size[1]}; set a window instead")

    def pipeline(self, network: Network) -> VolumePipeline:
        """Windows and flips, then the best class of every voxel."""
        return VolumePipeline(network, self)


class VolumePipeline:
    """From volumes to their labels. See :class:`detseg.runtime.kinds.base.Pipeline`."""

    def __init__(self, network: Network, metadata: VolumeMetadata) -> None:
        self._spec = metadata.input
        self._inferer = metadata.postprocess
        self._class_names = metadata.class_names
        self._nested = bool(metadata.regions)
        window = self._inferer.window or metadata.patch
        self._window = window
        self._predict = partial(logits_of, network, len(metadata.class_names))
        network.require_shape((self._spec.num_channels, *window))

    def prepare(self, images: Sequence[Volume], slot: int) -> tuple[list[VolumeBoxes], list[VolumeTransform]]:
        """Volumes of any sizes, of which parts are placed and normalized when they are looked at."""
        boxes = [VolumeBoxes(volume, self._spec) for volume in images]
        return boxes, [one.transform for one in boxes]

    def results(self, inputs: list[VolumeBoxes], transforms: list[VolumeTransform]) -> list[LabelVolume]:
        """The labels of each volume."""
        return [label_volume([self.look(boxes)]) for boxes in inputs]

    def look(self, boxes: VolumeBoxes) -> Look:
        """How the network looks at a volume."""
        return Look(
            inferer=ARRAY_INFERER,
            predict=self._predict,
            boxes=boxes,
            num_classes=len(self._class_names),
            settings=self._inferer,
            window=self._window,
            nested=self._nested,
            finish=partial(clean_labels, cleaned=self._inferer.clean, class_names=self._class_names),
        )

    def result_of(
        self, probabilities: FloatArray, transform: VolumeTransform, *, keeps_probabilities: bool = False
    ) -> LabelVolume:
        """The best class of every voxel, without the pieces that are left out."""
        found = best_voxel_classes(
            probabilities, transform, nested=self._nested, keeps_probabilities=keeps_probabilities
        )
        return clean_labels(found, self._inferer.clean, self._class_names)

    def only(self, kept: BoolArray) -> Self:
        """Nothing is limited."""
        return self

    def probabilities(self, image: Volume) -> tuple[FloatArray, VolumeTransform]:
        """Those of the classes, ``[C, D, H, W]``, of a whole volume at once, and the way back."""
        placed, transform = self._spec.place(image)
        inferer, batch = self._inferer, placed[None]
        look = partial(
            sliding_window,
            self._predict,
            window=self._window,
            overlap=inferer.overlap,
            weighting=inferer.weighting,
            batch_size=inferer.batch_size,
        )
        if inferer.flip:
            averaged = average_over_flips(look, batch, inferer.flip_axes, nested=self._nested)
        else:
            averaged = probabilities_of(look(batch), nested=self._nested)
        first: FloatArray = averaged[0]
        return first, transform


class Volumes(Kind):
    """Results are :class:`detseg.volumes.LabelVolume`, and so is what they are judged by."""

    name = "volumes"
    counted = "volumes in which a class was found"
    metadata = VolumeMetadata
    writers: ClassVar[Mapping[str, Save]] = {
        "nifti": Save(
            lambda to: NiftiWriter(
                to.output / "labels", to.class_names, to.sources, category_ids=to.category_ids, outputs=to.outputs
            )
        ),
        "source": Save(
            lambda to: NiftiWriter(
                to.output / "labels",
                to.class_names,
                to.sources,
                category_ids=to.category_ids,
                outputs=to.outputs,
                as_source=True,
            )
        ),
        "dicom-seg": Save(
            lambda to: DicomSegmentationWriter(to.output / "segmentations", to.class_names, to.sources, to.outputs)
        ),
        "probabilities": Save(
            lambda to: ProbabilitiesWriter(to.output / "probabilities", to.class_names, to.sources, to.outputs),
            needs_probabilities=True,
        ),
        "table": Save(
            lambda to: TableWriter(
                to.table("volumes.csv", "volumes.json").parent, to.class_names, goes_on=to.outputs.goes_on
            ),
            opens_at_once=True,
        ),
        "slices": Save(
            lambda to: SlicesWriter(to.output / "slices", to.class_names, to.sources, to.outputs, to.palette)
        ),
        "montage": Save(
            lambda to: MontageWriter(to.output / "montages", to.class_names, to.sources, to.outputs, to.palette)
        ),
    }
    """``nifti``: labels with the data set's own numbers in ``labels``; ``source``: the same in the format of each
    source, where that is MetaImage or NRRD; ``dicom-seg``: DICOM segmentations of DICOM series in ``segmentations``;
    ``probabilities``: those of every class in ``probabilities``; ``table``:
    the milliliters of every class in ``volumes.csv`` and ``volumes.json``; ``slices`` and ``montage``: images of
    three planes in ``slices``, of many axial slices in ``montages``."""
    default_save = ("nifti", "table", "slices", "montage")
    has_probabilities = True

    def reader(self, spec: VolumeSpec, num_classes: int, num_kept: int = 0) -> Callable[[Path], Volume]:
        """One that refuses, before it is read, a volume that would need too much memory on its way to labels."""
        return partial(spec.read, num_classes=num_classes, num_kept=num_kept)

    def average(self, parts: Iterator[tuple[FloatArray, VolumeTransform]]) -> tuple[FloatArray, VolumeTransform]:
        """The mean of the probabilities ``[C, D, H, W]`` of several models."""
        total, transform = next(parts)
        count = 1
        for probabilities, other in parts:
            if count == 1:
                total = total.copy()
            count += 1
            if other.input_shape == transform.input_shape:
                total += probabilities
                continue
            for kept, values in zip(total, probabilities, strict=True):
                kept += resample(values, transform.input_shape, smooth=False)
        if count > 1:
            total /= count
        return total, transform

    def draw(
        self,
        image: Volume,
        result: LabelVolume,
        class_names: Sequence[str],
        line_width: int | None = None,
        palette: Palette | None = None,
    ) -> ByteArray:
        """Three planes with outlines."""
        return draw_slices(image, result, class_names, palette=palette)

    def compare(
        self,
        image: Volume,
        truth: LabelVolume,
        result: LabelVolume,
        class_names: Sequence[str],
        palette: Palette | None = None,
    ) -> ByteArray:
        """Target and prediction as contours on three planes."""
        return compare_volumes(image, truth, result, class_names, palette)

    def layers(
        self,
        image: Volume,
        truth: LabelVolume,
        result: LabelVolume,
        class_names: Sequence[str],
        palette: Palette | None = None,
    ) -> dict[str, ByteArray]:
        """Three planes, and axial slices, truth at the left of prediction."""
        slices = compare_axial(image, truth, result, class_names, palette=palette)
        return {"three planes": compare_volumes(image, truth, result, class_names, palette)} | {
            f"slice {number}": image for number, image in slices.items()
        }

    def draw_sample(
        self, sample: VolumeSample, class_names: Sequence[str], palette: Palette | None = None
    ) -> ByteArray:
        """Three planes of a patch with outlines, without letters for sides: patches may be mirrored."""
        assert sample.labels is not None, "training samples have labels"
        affine = np.diag([*sample.transform.input_spacing, 1.0])
        shown = np.where(sample.labels == IGNORE_INDEX, 0, sample.labels).astype(np.uint8)
        image = sample.image if sample.image.ndim == 3 else sample.image[0]
        notes, whole = [], sample.transform.input_shape
        if any(side > length for side, length in zip(image.shape, whole, strict=True)):
            notes.append(f"padded: a patch of {_by(image.shape)} voxels, a volume of {_by(whole)}")
        labels = LabelVolume(shown, affine)
        return draw_slices(Volume(image, affine), labels, class_names, has_sides=False, notes=notes, palette=palette)

    def keep(self, result: LabelVolume, kept: BoolArray) -> LabelVolume:
        """``result`` with background in place of what is not kept."""
        table = np.arange(256, dtype=np.uint8)
        table[: len(kept)][~kept] = 0
        return LabelVolume(replaced(result.labels, table), result.affine, result.probabilities)

    def relabel(self, result: LabelVolume, positions: IntArray) -> LabelVolume:
        """``result`` with other class positions; voxels of a class with position -1 become background, because nothing
        that the data set knows was found there."""
        table = np.zeros(256, np.uint8)
        known = positions >= 0
        table[: len(positions)][known] = positions[known]
        return LabelVolume(replaced(result.labels, table), result.affine)

    def count(self, result: LabelVolume, num_classes: int) -> IntArray:
        """1 where there is a voxel of the class."""
        return np.isin(np.arange(num_classes), classes_in(result.labels)).astype(np.int64)

    def record(self, result: LabelVolume, class_names: Sequence[str]) -> dict[str, Any]:
        """``spacing_mm`` and, by name, the ``voxels`` and ``milliliters`` of every class but the background."""
        return volume_record(result, class_names)


def _by(lengths: Sequence[int]) -> str:
    return "x".join(map(str, lengths))
