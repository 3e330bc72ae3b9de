"""Exported models over images and volumes: what the tasks do around a network with torch, without it.

Shape legend: B images, A anchor points, C classes, M the largest number of detections; H, W and D, H, W sides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from detseg.arrays import ByteArray, FloatArray
from detseg.runtime.inputs.geometry import FittedInputSpec, InputSpec, fitted
from detseg.runtime.inputs.network_input import InputWriter
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.onnx.metadata import DetectionMetadata, ModelMetadata, SemanticMetadata, VolumeMetadata
from detseg.runtime.onnx.model import OnnxModel, Outputs
from detseg.runtime.postprocess.decode import decode_above
from detseg.runtime.postprocess.results import best_classes, best_voxel_classes, detect, detections_of_graph
from detseg.runtime.postprocess.views import average_over_flips, average_over_views, sliding_window, softmax
from detseg.structures import Detections, LabelMap, Placement
from detseg.volumes import LabelVolume, Volume, VolumePlacement

MAX_LANES = 4
"""How many batches share the cores."""


@dataclass(frozen=True, slots=True)
class OnnxPending:
    """A batch in the network, or through it already."""

    future: Future[list[Any]]

    def results(self) -> list[Any]:
        """Wait for the batch; one result per image, in pixels or voxels of the original."""
        return self.future.result()


class OnnxRunner:
    """Runs ``model`` over batches in threads of its own, so that the next batch is prepared and the results of the
    last one are used meanwhile. See :class:`detseg.runtime.runner.Runner`.

    On a CPU a batch of images that comes alone gets all cores. Those that come while others are in the network share
    the cores between them, up to ``MAX_LANES`` at a time: threads of one network spend much of their time waiting for
    each other, the more so when others read and write on the same cores.

    ``overrides`` replace settings of ``model.metadata.postprocess`` by their names, such as ``{"confidence": 0.25}``,
    ``size`` the height and width of the input. Without ``full_input`` a detector's images are padded no further than
    its stride asks for, see :class:`detseg.runtime.inputs.geometry.FittedInputSpec`.

    Raises:
        ValueError: there is no such setting, or its value is not allowed; suppression is in the graph, which cannot be
            changed any more; the file has a fixed input size other than that which it would be given.
    """

    good_batch_size = 1

    def __init__(
        self,
        model: OnnxModel,
        overrides: Mapping[str, Any] | None = None,
        size: tuple[int, int] | None = None,
        *,
        full_input: bool = True,
    ) -> None:
        metadata = _adapted(model, overrides or {}, size)
        if not full_input:
            metadata = _without_padding(metadata, model)
        self.spec: InputSpec | VolumeSpec = metadata.input
        self.task_name: str = metadata.task
        self.class_names = metadata.class_names
        self.category_ids = metadata.category_ids
        self._model = model
        self._metadata = metadata
        self._road = _road(model, metadata)
        self._shared_road: _Road | None = None
        shares = metadata.input.one_size and model.runs_on_cpu
        self._num_lanes = min(MAX_LANES, model.num_threads) if shares else 1
        self._threads = ThreadPoolExecutor(self._num_lanes, thread_name_prefix="onnx-runner")
        self.num_pending = self._num_lanes + 1
        # The batches under way, by the memory that they are in.
        self._under_way: list[Future[list[Any]] | None] = [None] * self.num_pending
        self._next = 0

    def submit(self, images: Sequence[Any]) -> OnnxPending:
        """Prepare a batch of images ``[H, W, 3]`` uint8 RGB, or of volumes, and start with it. Images may be of any
        sizes, those without ``full_input`` of any that give inputs of one size.

        Raises:
            ValueError: there are no images, or one is none, or their inputs differ in size.
            VolumeError: a volume would become too large.
        """
        if not len(images):
            raise ValueError("a batch needs at least one image, got none")
        slot = self._next
        before = self._under_way[slot]
        if before is not None:
            wait([before])
        inputs, placements = self._road.prepare(images, slot)
        future = self._threads.submit(self._choose_road().results, inputs, placements)
        self._under_way[slot] = future
        self._next = (slot + 1) % self.num_pending
        return OnnxPending(future)

    def _choose_road(self) -> _Road:
        """That with all cores, unless others are in the network now."""
        alone = all(future is None or future.done() for future in self._under_way)
        if alone or self._num_lanes == 1:
            return self._road
        if self._shared_road is None:
            num_threads = round(self._model.num_threads / self._num_lanes)
            self._shared_road = _road(OnnxModel(self._model.path, num_threads), self._metadata)
        return self._shared_road


def _adapted(model: OnnxModel, overrides: Mapping[str, Any], size: tuple[int, int] | None) -> ModelMetadata:
    """The metadata of ``model`` with other settings and another size."""
    metadata = model.metadata
    if size is not None:
        if isinstance(metadata, VolumeMetadata):
            raise ValueError(f"{model.path}: volumes keep their size; got {size[0]}x{size[1]}; set a window instead")
        if any(side % metadata.stride for side in size):
            raise ValueError(
                f"{model.path}: height and width must be multiples of {metadata.stride}, got {size[0]}x{size[1]}"
            )
        metadata = replace(metadata, input=replace(metadata.input, height=size[0], width=size[1]))
    known = [one.name for one in fields(metadata.postprocess)]
    unknown = [name for name in overrides if name not in known]
    if unknown:
        raise ValueError(
            f"{model.path}: the task {metadata.task} has no setting {', '.join(unknown)}; its settings are "
            f"{', '.join(known)}"
        )
    changed = [name for name, value in overrides.items() if value != getattr(metadata.postprocess, name)]
    if changed and isinstance(metadata, DetectionMetadata) and metadata.form == "nms":
        raise ValueError(
            f"{model.path}: suppression is part of the graph, so {', '.join(changed)} cannot be changed any more; "
            "export the model again with other settings, or without suppression"
        )
    # mypy cannot tell that each kind of metadata gets its own kind of settings back.
    settings: Any = replace(metadata.postprocess, **overrides)
    return replace(metadata, postprocess=settings)


def _without_padding(metadata: ModelMetadata, model: OnnxModel) -> ModelMetadata:
    """``metadata`` with an input that fits each image."""
    if not isinstance(metadata, DetectionMetadata):
        raise ValueError(f"{model.path}: full_input can be False for boxes only, this model is for {metadata.task}")
    return replace(metadata, input=fitted(metadata.input, metadata.stride))


class _Road(Protocol):
    """The way of a batch from images to results. ``prepare`` is called by the user's thread, ``results`` by the
    runner's."""

    def prepare(self, images: Sequence[Any], slot: int) -> tuple[Any, list[Any]]:
        """The input of the network in the memory ``slot``, and the way back for each image."""

    def results(self, inputs: Any, placements: list[Any]) -> list[Any]:
        """One result per image."""


def _road(model: OnnxModel, metadata: ModelMetadata) -> _Road:
    match metadata:
        case DetectionMetadata():
            return _BoxRoad(model, metadata)
        case SemanticMetadata():
            return _MaskRoad(model, metadata)
        case VolumeMetadata():
            return _VolumeRoad(model, metadata)


class _ImageRoad:
    """What boxes and masks have in common: images are written into batches, whose memory is kept."""

    def __init__(self, spec: InputSpec) -> None:
        self._writer = InputWriter(spec)
        self._memory: dict[int, FloatArray] = {}

    def prepare(self, images: Sequence[ByteArray], slot: int) -> tuple[FloatArray, list[Placement]]:
        """Images, placed and normalized ``[B, 3, H, W]``."""
        shape = self._writer.shape(images)
        size = math.prod(shape)
        memory = self._memory.get(slot)
        if memory is None or memory.size < size:
            memory = self._memory[slot] = np.empty(size, np.float32)
        batch = memory[:size].reshape(shape)
        return batch, self._writer.write(images, batch)


class _BoxRoad(_ImageRoad):
    def __init__(self, model: OnnxModel, metadata: DetectionMetadata) -> None:
        super().__init__(metadata.input)
        self._model = model
        self._metadata = metadata
        self._num_classes = len(metadata.class_names)
        sides = (metadata.input.height, metadata.input.width)
        model.require_shape((3, *sides))
        if isinstance(metadata.input, FittedInputSpec) and not model.has_free_sides:
            raise ValueError(
                f"{model.path}: takes inputs of {sides[0]}x{sides[1]} only, and full_input is False; export the model "
                "again without --fixed"
            )

    def results(self, inputs: FloatArray, placements: list[Placement]) -> list[Detections]:
        """The objects in each image."""
        outputs, size = self._model.run(inputs), (inputs.shape[2], inputs.shape[3])
        return [self._detections(outputs, size, row, placement) for row, placement in enumerate(placements)]

    def _detections(self, outputs: Outputs, size: tuple[int, int], row: int, placement: Placement) -> Detections:
        settings = self._metadata.postprocess
        match self._metadata.form:
            case "nms":
                boxes_xyxy, scores, labels, counts = (outputs[name] for name in ("boxes", "scores", "labels", "counts"))
                return detections_of_graph(
                    boxes_xyxy[row], scores[row], labels[row], int(counts[row]), placement, self._num_classes
                )
            case "raw":
                boxes_xyxy, scores = decode_above(outputs["raw"][row], self._metadata.head, *size, settings.confidence)
            case "decoded":
                boxes_xyxy, scores = outputs["boxes"][row], outputs["scores"][row]
        if scores.shape[1] != self._num_classes:
            raise ValueError(
                f"{self._model.path}: gives scores of {scores.shape[1]} classes and names {self._num_classes}"
            )
        return detect(boxes_xyxy, scores, placement, settings)


class _MaskRoad(_ImageRoad):
    def __init__(self, model: OnnxModel, metadata: SemanticMetadata) -> None:
        super().__init__(metadata.input)
        self._views = metadata.postprocess
        self._look = partial(_logits, model, len(metadata.class_names))
        if self._views.window is not None:
            self._look = partial(
                sliding_window,
                self._look,
                window=self._views.window,
                overlap=self._views.overlap,
                weighting=self._views.weighting,
            )
        model.require_shape((3, *(self._views.window or (metadata.input.height, metadata.input.width))))

    def results(self, inputs: FloatArray, placements: list[Placement]) -> list[LabelMap]:
        """The mask of each image."""
        if self._views.flip or self._views.scales != (1.0,):
            scores = average_over_views(self._look, inputs, self._views.scales, self._views.flip)
        else:
            scores = self._look(inputs)
        return [best_classes(one, placement) for one, placement in zip(scores, placements, strict=True)]


class _VolumeRoad:
    def __init__(self, model: OnnxModel, metadata: VolumeMetadata) -> None:
        self._spec = metadata.input
        self._views = metadata.postprocess
        window = self._views.window or metadata.patch
        self._look = partial(
            sliding_window,
            partial(_logits, model, len(metadata.class_names)),
            window=window,
            overlap=self._views.overlap,
            weighting=self._views.weighting,
            batch_size=self._views.batch_size,
        )
        model.require_shape((1, *window))

    def prepare(self, images: Sequence[Volume], slot: int) -> tuple[list[FloatArray], list[VolumePlacement]]:
        """Volumes of any sizes, placed and normalized, ``[1, D, H, W]`` each."""
        placed = [self._spec.place(volume) for volume in images]
        return [array for array, _ in placed], [placement for _, placement in placed]

    def results(self, inputs: list[FloatArray], placements: list[VolumePlacement]) -> list[LabelVolume]:
        """The labels of each volume."""
        return [self._labels(array[None], placement) for array, placement in zip(inputs, placements, strict=True)]

    def _labels(self, volume: FloatArray, placement: VolumePlacement) -> LabelVolume:
        look, views = self._look, self._views
        probabilities = average_over_flips(look, volume, views.flip_axes) if views.flip else softmax(look(volume))
        return best_voxel_classes(probabilities[0], placement)


def _logits(model: OnnxModel, num_classes: int, inputs: FloatArray) -> FloatArray:
    """The logits of the network, ``[B, C, *spatial]`` for inputs ``[B, channels, *spatial]``."""
    logits: FloatArray = model.run(inputs)["logits"]
    if logits.ndim != inputs.ndim or logits.shape[1] != num_classes:
        raise ValueError(f"{model.path}: names {num_classes} classes and gives logits of shape {logits.shape}")
    return logits.astype(np.float32, copy=False)
