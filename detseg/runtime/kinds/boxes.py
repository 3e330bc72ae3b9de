"""Boxes in images, each with a class and a score."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np

from detseg.arrays import BoolArray, ByteArray, FloatArray, IntArray
from detseg.runtime.drawing.boxes import draw_boxes, draw_mask
from detseg.runtime.drawing.compare import compare_boxes
from detseg.runtime.drawing.palette import Palette, palette_of
from detseg.runtime.inputs.geometry import FittedInputSpec, InputSpec, fitted
from detseg.runtime.kinds.base import ImageInputs, Kind, Metadata, Network, Outputs, Save
from detseg.runtime.kinds.saving import IMAGE_WRITERS, JSON_LINES
from detseg.runtime.postprocess.config import HeadMetadata, PostprocessConfig, require_no_suppression
from detseg.runtime.postprocess.decode import decode_above
from detseg.runtime.postprocess.fusion import Fused, fuse_views
from detseg.runtime.postprocess.results import detect, detections_of_graph, detections_of_rows
from detseg.runtime.postprocess.tiles import Tile, merge_seen
from detseg.runtime.writers.boxes import CocoWriter, CsvWriter, YoloWriter, box_records, detections_to_coco
from detseg.runtime.writers.crops import CropWriter
from detseg.runtime.writers.parquet import ParquetWriter
from detseg.structures import Detections, GroundTruth, LetterboxTransform, Sample

_SIDES: dict[str, dict[str, tuple[str, ...]]] = {
    "raw": {"raw": ("batch", "channels", "anchors")},
    "decoded": {"boxes": ("batch", "anchors", "xyxy"), "scores": ("batch", "anchors", "classes")},
    "nms": {
        "boxes": ("batch", "detections", "xyxy"),
        "scores": ("batch", "detections"),
        "labels": ("batch", "detections"),
        "counts": ("batch",),
    },
    "e2e": {"detections": ("batch", "detections", "columns")},
}


@dataclass(frozen=True, kw_only=True)
class DetectionMetadata(Metadata):
    """A detector; ``form`` says what it gives: raw maps, decoded boxes, boxes after NMS, or the best rows of a
    one-to-one head, ``[M, 6]``: x1, y1, x2, y2, score, class."""

    kind = "boxes"
    settings_after_graph = ("tiles", "overlap", "scales", "flip")

    form: Literal["raw", "decoded", "nms", "e2e"]
    input: InputSpec
    head: HeadMetadata
    postprocess: PostprocessConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head.one_to_one:
            require_no_suppression(self.postprocess)
            if self.form == "nms":
                raise ValueError("the form nms is not for a one-to-one head, whose objects have one prediction each")
        elif self.form == "e2e":
            raise ValueError("the form e2e is for a one-to-one head, and this head needs NMS")

    @property
    def sides(self) -> dict[str, tuple[str, ...]]:
        """Images in, and what the form says out."""
        return {"images": ("batch", "channels", "height", "width"), **_SIDES[self.form]}

    @property
    def postprocess_in_graph(self) -> bool:
        """Whether NMS is part of the graph."""
        return self.form == "nms"

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """The same with other settings; where the best are chosen in the graph, they can be fewer, not more.

        Raises:
            ValueError: there is no such setting, its value is not allowed, or it is fixed in the graph.
        """
        changed = super().with_settings(settings)
        if self.form == "e2e":
            if changed.postprocess.multi_label != self.postprocess.multi_label:
                raise ValueError(
                    "the best are chosen in the graph, so multi_label cannot be changed any more; export the model "
                    "again"
                )
            most = self.postprocess.max_detections
            if changed.postprocess.max_detections > most:
                raise ValueError(
                    f"the graph gives the {most} best, so max_detections cannot be more, got "
                    f"{changed.postprocess.max_detections}; export the model again with a larger --max-det"
                )
        return changed

    def without_padding(self) -> Self:
        """The same with images padded no further than the stride asks for."""
        return replace(self, input=fitted(self.input, self.stride))

    def pipeline(self, network: Network) -> BoxPipeline:
        """Decoding and NMS, or the choice of the best, as far as they are not in the graph."""
        return BoxPipeline(network, self)


class BoxPipeline(ImageInputs):
    """From images to boxes. See :class:`detseg.runtime.kinds.base.Pipeline`."""

    def __init__(self, network: Network, metadata: DetectionMetadata) -> None:
        super().__init__(metadata.input)
        self._network = network
        self._metadata = metadata
        self._num_classes = len(metadata.class_names)
        self._kept: BoolArray | None = None
        sides = (metadata.input.height, metadata.input.width)
        network.require_shape((3, *sides))
        if isinstance(metadata.input, FittedInputSpec) and not network.has_free_sides:
            raise ValueError(
                f"{network.path}: takes inputs of {sides[0]}x{sides[1]} only, and full_input is False; export the "
                "model again without --fixed"
            )

    def only(self, kept: BoolArray) -> Self:
        """The same for objects of the classes that are ``kept``, chosen before NMS, unless that is in the
        graph."""
        other = copy.copy(self)
        other._kept = kept
        return other

    def results(self, inputs: FloatArray, transforms: list[LetterboxTransform]) -> list[Detections]:
        """The objects in each image. Where NMS in the graph gave as many as it can, and only some classes are
        kept, a warning says that there may be more of these."""
        outputs, size = self._network.run(inputs), (inputs.shape[2], inputs.shape[3])
        return [self._detections(outputs, size, row, transform) for row, transform in enumerate(transforms)]

    def _detections(
        self, outputs: Outputs, size: tuple[int, int], row: int, transform: LetterboxTransform
    ) -> Detections:
        settings = self._metadata.postprocess
        match self._metadata.form:
            case "nms":
                boxes_xyxy, scores, labels, counts = (outputs[name] for name in ("boxes", "scores", "labels", "counts"))
                found = detections_of_graph(
                    boxes_xyxy[row], scores[row], labels[row], int(counts[row]), transform, self._num_classes
                )
                return found if self._kept is None else self._chosen(found, self._kept, scores.shape[1])
            case "e2e":
                rows = outputs["detections"][row]
                found = detections_of_rows(rows, transform, settings, self._num_classes, self._kept)
                if self._kept is not None and found.num_left_out is None:
                    self._warn_of_limit(self._kept, len(rows), "")
                return found
            case "raw":
                boxes_xyxy, scores = decode_above(outputs["raw"][row], self._metadata.head, *size, settings.confidence)
            case "decoded":
                boxes_xyxy, scores = outputs["boxes"][row], outputs["scores"][row]
        self._require_classes(scores)
        one_to_one = self._metadata.head.one_to_one
        return detect(boxes_xyxy, scores, transform, settings, self._kept, one_to_one=one_to_one)

    def _require_classes(self, scores: FloatArray) -> None:
        if scores.shape[1] != self._num_classes:
            raise ValueError(
                f"{self._network.path}: gives scores of {scores.shape[1]} classes and names {self._num_classes}"
            )

    def _chosen(self, found: Detections, kept: BoolArray, limit: int) -> Detections:
        if len(found) == limit:
            self._warn_of_limit(kept, limit, "without --nms, or ")
        return found.select(kept[found.labels])

    def _warn_of_limit(self, kept: BoolArray, limit: int, other_way: str) -> None:
        names = ", ".join(name for name, is_kept in zip(self._metadata.class_names, kept, strict=True) if is_kept)
        chosen = "NMS is part of the graph" if other_way else "the best are chosen in the graph"
        warnings.warn(
            f"{self._network.path}: {chosen}, which gave the {limit} best objects of all "
            f"classes, as many as it can, before {names} were chosen of them, so that some may be missing; export "
            f"the model again {other_way}with a larger --max-det",
            stacklevel=3,
        )


class Boxes(Kind):
    """Results are :class:`detseg.structures.Detections`, judged by :class:`detseg.structures.GroundTruth`."""

    name = "boxes"
    counted = "objects found"
    metadata: ClassVar[type[Metadata]] = DetectionMetadata
    has_boxes = True
    writers: ClassVar[Mapping[str, Save]] = {
        **IMAGE_WRITERS,
        "coco": Save(
            lambda to: CocoWriter(
                to.table("detections.json", "detections_images.json"),
                to.class_names,
                to.category_ids,
                goes_on=to.outputs.goes_on,
            ),
            opens_at_once=True,
        ),
        "csv": Save(
            lambda to: CsvWriter(to.table("detections.csv"), to.class_names, goes_on=to.outputs.goes_on),
            opens_at_once=True,
        ),
        "parquet": Save(
            lambda to: ParquetWriter(to.table("objects.parquet"), to.class_names, goes_on=to.outputs.goes_on),
            opens_at_once=True,
        ),
        "jsonl": JSON_LINES,
        "crops": Save(lambda to: CropWriter(to.output / "crops", to.class_names, to.sources, to.outputs)),
        "yolo": Save(lambda to: YoloWriter(to.output / "labels", to.sources, to.outputs)),
    }
    """Beside images and lines: ``coco``: COCO results in ``detections.json``; ``csv``: ``detections.csv``;
    ``parquet``: ``objects.parquet``; ``yolo``: text files in ``labels``; ``crops``: each object as an image, by class,
    in ``crops``."""
    default_save = ("drawn", "coco")

    def views(self, settings: PostprocessConfig) -> PostprocessConfig | None:
        """The settings, where they name tiles, scales or mirror images."""
        return settings if settings.has_views else None

    def mirror(self, result: Detections, width: int) -> Detections:
        """Boxes with left and right exchanged."""
        left, top, right, bottom = result.boxes_xyxy.T
        return replace(result, boxes_xyxy=np.stack([width - right, top, width - left, bottom], axis=1))

    def reduced(self, result: Detections, factor: int, size: tuple[int, int]) -> Detections:
        """Boxes with sides by the ``factor`` shorter."""
        return replace(result, boxes_xyxy=result.boxes_xyxy / np.float32(factor))

    def merge_tiles(
        self, found: Sequence[Detections], tiles: Sequence[Tile], size: tuple[int, int], settings: PostprocessConfig
    ) -> Detections:
        """Each object once, see :mod:`detseg.runtime.postprocess.tiles`; their number is not limited again."""
        together = self._joined([self._moved(one, tile, size) for one, tile in zip(found, tiles, strict=True)])
        counts = [len(one) for one in found]
        boxes, scores, labels = together.boxes_xyxy, together.scores, together.labels
        merged = merge_seen(boxes, scores, labels, counts, tiles, size, settings.class_agnostic)
        return self._merged(together, merged)

    def fuse_views(self, found: Sequence[Detections], settings: PostprocessConfig) -> Detections:
        """Weighted boxes fusion, see :mod:`detseg.runtime.postprocess.fusion`."""
        together = self._joined(found)
        fused = fuse_views(
            together.boxes_xyxy,
            together.scores,
            together.labels,
            [len(one) for one in found],
            confidence=settings.confidence,
            max_detections=settings.max_detections,
            class_agnostic=settings.class_agnostic,
        )
        return self._fused(together, fused)

    def _moved(self, result: Detections, tile: Tile, size: tuple[int, int]) -> Detections:
        """What was found in ``tile``, in pixels of the image of ``size``."""
        offset = np.array([tile.left, tile.top] * 2, np.float32)
        return replace(result, boxes_xyxy=result.boxes_xyxy + offset)

    def _joined(self, parts: Sequence[Detections]) -> Detections:
        """All objects of ``parts``, at least one, in their order."""
        arrays = zip(*((one.boxes_xyxy, one.scores, one.labels) for one in parts), strict=True)
        return Detections(*(np.concatenate(one) for one in arrays))

    def _merged(self, together: Detections, merged: Sequence[Fused]) -> Detections:
        """Those of tiles."""
        boxes = np.array([one.box_xyxy for one in merged], np.float32).reshape(-1, 4)
        scores = np.array([one.score for one in merged], np.float32)
        return Detections(boxes, scores, np.array([one.label for one in merged], np.int64))

    def _fused(self, together: Detections, fused: Sequence[Fused]) -> Detections:
        """Those of views."""
        return Boxes._merged(self, together, fused)

    def draw(
        self,
        image: ByteArray,
        result: Detections,
        class_names: Sequence[str],
        line_width: int | None = None,
        palette: Palette | None = None,
    ) -> ByteArray:
        """``image`` with boxes that carry names, scores and the numbers of tracks."""
        boxes = result.boxes_xyxy, result.labels, class_names, result.scores
        return draw_boxes(image, *boxes, line_width=line_width, track_ids=result.track_ids, palette=palette)

    def compare(
        self,
        image: ByteArray,
        truth: GroundTruth,
        result: Detections,
        class_names: Sequence[str],
        palette: Palette | None = None,
    ) -> ByteArray:
        """The annotated objects beside those found."""
        return compare_boxes(image, truth, result, class_names, palette)

    def layers(
        self,
        image: ByteArray,
        truth: GroundTruth,
        result: Detections,
        class_names: Sequence[str],
        palette: Palette | None = None,
    ) -> dict[str, ByteArray]:
        """The image, on which a page draws boxes itself."""
        return {"image": image}

    def draw_sample(self, sample: Sample, class_names: Sequence[str], palette: Palette | None = None) -> ByteArray:
        """The objects; crowd regions say so in their names. Where there is a mask, it tints the image."""
        image = sample.image if sample.mask is None else draw_mask(sample.image, sample.mask)
        names = [*class_names, *(f"{name} (crowd)" for name in class_names)]
        labels = sample.labels + np.where(sample.crowd, len(class_names), 0)
        return draw_boxes(image, sample.boxes_xyxy, labels, names, palette=palette or palette_of(class_names))

    def keep(self, result: Detections, kept: BoolArray) -> Detections:
        """The objects of classes that are kept."""
        return result.select(kept[result.labels])

    def relabel(self, result: Detections, positions: IntArray) -> Detections:
        """``result`` with other class positions, without the objects whose class has position -1."""
        labels = positions[result.labels]
        return replace(result, labels=labels).select(labels >= 0)

    def count(self, result: Detections, num_classes: int) -> IntArray:
        """Objects."""
        return np.bincount(result.labels, minlength=num_classes)

    def left_out(self, result: Detections) -> int | None:
        """What the result says."""
        return result.num_left_out

    def coco_records(self, result: Detections, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """Entries of boxes."""
        return detections_to_coco(image_id, result, category_ids)

    def record(self, result: Detections, class_names: Sequence[str]) -> dict[str, Any]:
        """``detections``: a list of ``class``, ``class_index``, ``score``, ``box_xyxy`` in pixels and, of tracked
        objects, ``track_id``."""
        return {"detections": box_records(result, class_names)}
