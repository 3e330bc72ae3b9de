"""Objects in images, each with a box, a class, a score and the mask of its pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import ByteArray, IntArray
from detseg.run_lengths import RunLengths
from detseg.runtime.drawing.boxes import colors_for
from detseg.runtime.drawing.compare import compare_instances
from detseg.runtime.drawing.instances import draw_instances, tint
from detseg.runtime.drawing.palette import Palette
from detseg.runtime.kinds.base import Network, Outputs, Save
from detseg.runtime.kinds.boxes import Boxes, BoxPipeline, DetectionMetadata
from detseg.runtime.postprocess.decode import decode_places
from detseg.runtime.postprocess.fusion import Fused, majority
from detseg.runtime.postprocess.masks import PrototypeMetadata, with_masks
from detseg.runtime.postprocess.results import detect_places, detections_of_graph
from detseg.runtime.postprocess.tiles import Tile
from detseg.runtime.writers.boxes import CocoWriter
from detseg.runtime.writers.instances import (
    NumberWriter,
    YoloOutlineWriter,
    instance_records,
    instances_to_coco,
    mask_runs,
)
from detseg.runtime.writers.parquet import ParquetWriter
from detseg.structures import Detections, GroundTruth, Instances, LetterboxTransform, Sample

_PROTOTYPES = ("batch", "prototypes", "prototype_rows", "prototype_columns")
_SIDES: dict[str, dict[str, tuple[str, ...]]] = {
    "raw": {"raw": ("batch", "channels", "anchors"), "prototypes": _PROTOTYPES},
    "decoded": {
        "boxes": ("batch", "anchors", "xyxy"),
        "scores": ("batch", "anchors", "classes"),
        "coefficients": ("batch", "anchors", "prototypes"),
        "prototypes": _PROTOTYPES,
    },
    "nms": {
        "boxes": ("batch", "detections", "xyxy"),
        "scores": ("batch", "detections"),
        "labels": ("batch", "detections"),
        "counts": ("batch",),
        "coefficients": ("batch", "detections", "prototypes"),
        "prototypes": _PROTOTYPES,
    },
}


@dataclass(frozen=True, kw_only=True)
class InstanceMetadata(DetectionMetadata):
    """A detector that gives masks as well: prototypes, and coefficients for each box; ``form`` says whether raw maps
    (coefficients are their last channels), decoded boxes, or boxes after NMS."""

    kind = "instances"

    form: Literal["raw", "decoded", "nms"]
    prototypes: PrototypeMetadata

    @property
    def sides(self) -> dict[str, tuple[str, ...]]:
        """Images in, and what the form says out."""
        return {"images": ("batch", "channels", "height", "width"), **_SIDES[self.form]}

    def pipeline(self, network: Network) -> InstancePipeline:
        """Decoding and NMS, as far as they are not in the graph, then masks."""
        return InstancePipeline(network, self)


class InstancePipeline(BoxPipeline):
    """From images to objects with masks. See :class:`detseg.runtime.kinds.base.Pipeline`."""

    def __init__(self, network: Network, metadata: InstanceMetadata) -> None:
        super().__init__(network, metadata)
        self._prototypes = metadata.prototypes

    def _detections(
        self, outputs: Outputs, size: tuple[int, int], row: int, transform: LetterboxTransform
    ) -> Instances:
        prototypes = outputs["prototypes"][row]
        stride, count = self._prototypes.stride, self._prototypes.count
        expected = (count, *(-(-side // stride) for side in size))
        if prototypes.shape != expected:
            raise ValueError(f"{self._network.path}: gives prototypes {prototypes.shape}, expected are {expected}")
        found, coefficients = self._objects(outputs, size, row, transform)
        return with_masks(found, coefficients, prototypes, transform, stride)

    def _objects(
        self, outputs: Outputs, size: tuple[int, int], row: int, transform: LetterboxTransform
    ) -> tuple[Detections, NDArray[Any]]:
        """The objects in image ``row`` and their coefficients."""
        settings = self._metadata.postprocess
        match self._metadata.form:
            case "nms":
                boxes_xyxy, scores, labels, counts = (outputs[name] for name in ("boxes", "scores", "labels", "counts"))
                found = detections_of_graph(
                    boxes_xyxy[row], scores[row], labels[row], int(counts[row]), transform, self._num_classes
                )
                anchors: IntArray = np.arange(len(found))
                if self._kept is not None:
                    anchors = np.flatnonzero(self._kept[found.labels])
                    found = self._chosen(found, self._kept, scores.shape[1])
                return found, self._coefficients(outputs, row, scores.shape[1])[anchors]
            case "raw":
                raw, count = outputs["raw"][row], self._prototypes.count
                decoded = decode_places(raw[:-count], self._metadata.head, *size, settings.confidence)
                self._require_classes(decoded.scores)
                found, rows = detect_places(decoded.boxes_xyxy, decoded.scores, transform, settings, self._kept)
                return found, np.ascontiguousarray(raw[-count:, decoded.anchors[rows]].T)
            case "decoded":
                scores = outputs["scores"][row]
                self._require_classes(scores)
                found, rows = detect_places(outputs["boxes"][row], scores, transform, settings, self._kept)
                return found, self._coefficients(outputs, row, len(scores))[rows]
            case "e2e":
                raise AssertionError("no form of instances")

    def _coefficients(self, outputs: Outputs, row: int, num_places: int) -> NDArray[Any]:
        """Those of image ``row``, ``[num_places, K]``."""
        coefficients: NDArray[Any] = outputs["coefficients"][row]
        expected = (num_places, self._prototypes.count)
        if coefficients.shape != expected:
            raise ValueError(f"{self._network.path}: gives coefficients {coefficients.shape}, expected are {expected}")
        return coefficients


class InstanceMasks(Boxes):
    """Results are :class:`detseg.structures.Instances`, judged by :class:`detseg.structures.GroundTruth` with masks."""

    name = "instances"
    metadata = InstanceMetadata
    writers: ClassVar[Mapping[str, Save]] = {
        **Boxes.writers,
        "coco": Save(
            lambda to: CocoWriter(
                to.table("detections.json", "detections_images.json"),
                to.class_names,
                to.category_ids,
                instances_to_coco,
                goes_on=to.outputs.goes_on,
            ),
            opens_at_once=True,
        ),
        "parquet": Save(
            lambda to: ParquetWriter(
                to.table("objects.parquet"), to.class_names, mask_runs, goes_on=to.outputs.goes_on
            ),
            opens_at_once=True,
        ),
        "index": Save(lambda to: NumberWriter(to.output / "index", to.sources, to.outputs)),
        "yolo": Save(lambda to: YoloOutlineWriter(to.output / "labels", to.sources, to.outputs)),
    }
    """As for boxes; ``coco`` and ``parquet`` have masks as runs, ``yolo`` outlines. ``index``: PNG files in
    ``index`` that hold the number of the object at every pixel."""

    def mirror(self, result: Detections, width: int) -> Instances:
        """Boxes and masks with left and right exchanged."""
        found = cast(Instances, super().mirror(result, width))
        return replace(found, masks=tuple(_mirrored(mask) for mask in found.masks))

    def reduced(self, result: Detections, factor: int, size: tuple[int, int]) -> Instances:
        """Boxes, and of masks the pixels that are there."""
        found = cast(Instances, super().reduced(result, factor, size))
        return replace(found, masks=tuple(_reduced(mask, factor, size) for mask in found.masks))

    def _moved(self, result: Detections, tile: Tile, size: tuple[int, int]) -> Instances:
        found = cast(Instances, super()._moved(result, tile, size))
        return replace(found, masks=tuple(_placed(mask, tile, size) for mask in found.masks))

    def _joined(self, parts: Sequence[Detections]) -> Instances:
        return _with_masks(super()._joined(parts), (mask for one in parts for mask in cast(Instances, one).masks))

    def _merged(self, together: Detections, merged: Sequence[Fused]) -> Instances:
        """The masks of cut objects are united."""
        masks = cast(Instances, together).masks
        unions = (
            masks[one.rows[0]] if len(one.rows) == 1 else RunLengths.union([masks[row] for row in one.rows])
            for one in merged
        )
        return _with_masks(super()._merged(together, merged), unions)

    def _fused(self, together: Detections, fused: Sequence[Fused]) -> Instances:
        """Of masks the pixels that those with more than half of all scores cover."""
        masks = cast(Instances, together).masks
        votes = (majority([masks[row] for row in one.rows], together.scores[one.rows]) for one in fused)
        return _with_masks(super()._fused(together, fused), votes)

    def draw(
        self,
        image: ByteArray,
        result: Detections,
        class_names: Sequence[str],
        line_width: int | None = None,
        palette: Palette | None = None,
    ) -> ByteArray:
        """``image`` with tinted objects and their boxes, which carry names, scores and the numbers of tracks."""
        return draw_instances(image, cast(Instances, result), class_names, line_width, palette)

    def compare(
        self,
        image: ByteArray,
        truth: GroundTruth,
        result: Detections,
        class_names: Sequence[str],
        palette: Palette | None = None,
    ) -> ByteArray:
        """The annotated objects beside those found, with masks."""
        return compare_instances(image, truth, cast(Instances, result), class_names, palette)

    def draw_sample(self, sample: Sample, class_names: Sequence[str], palette: Palette | None = None) -> ByteArray:
        """The objects with their masks; crowd regions say so in their names."""
        masks: Any = () if sample.object_masks is None else sample.object_masks
        colors = colors_for(sample.labels[: len(masks)], class_names, None, palette)
        tinted = tint(sample.image, ((mask, 0, 0) for mask in masks), colors)
        return super().draw_sample(replace(sample, image=tinted, mask=None), class_names, palette)

    def coco_records(self, result: Detections, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """Entries of masks."""
        return instances_to_coco(image_id, cast(Instances, result), category_ids)

    def record(self, result: Detections, class_names: Sequence[str]) -> dict[str, Any]:
        """``detections``: as of boxes, with the ``mask`` of each as COCO's runs."""
        return {"detections": instance_records(cast(Instances, result), class_names)}


def _with_masks(found: Detections, masks: Iterable[RunLengths]) -> Instances:
    return Instances(found.boxes_xyxy, found.scores, found.labels, found.track_ids, tuple(masks))


def _placed(mask: RunLengths, tile: Tile, size: tuple[int, int]) -> RunLengths:
    """The mask of an object in ``tile``, in the image of ``size``."""
    crop, left, top = mask.to_crop()
    return RunLengths.from_crop(crop, tile.left + left, tile.top + top, *size)


def _mirrored(mask: RunLengths) -> RunLengths:
    crop, left, top = mask.to_crop()
    return RunLengths.from_crop(crop[:, ::-1], mask.width - left - crop.shape[1], top, mask.height, mask.width)


def _reduced(mask: RunLengths, factor: int, size: tuple[int, int]) -> RunLengths:
    """Every pixel of ``mask`` whose row and column ``factor`` divides, in an image of ``size``."""
    crop, left, top = mask.to_crop()
    return RunLengths.from_crop(
        np.ascontiguousarray(crop[-top % factor :: factor, -left % factor :: factor]),
        min(-(-left // factor), size[1]),
        min(-(-top // factor), size[0]),
        *size,
    )
