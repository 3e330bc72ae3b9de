"""Exported models over images and volumes, several batches at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.kinds.base import Metadata, Pipeline
from detseg.runtime.onnx.model import OnnxModel

MAX_STREAMS = 4
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
    the cores between them, up to ``MAX_STREAMS`` at a time: threads of one network spend much of their time waiting for
    each other, the more so when others read and write on the same cores.

    ``overrides`` replace settings of ``model.metadata.postprocess`` by their names, such as ``{"confidence": 0.25}``,
    ``size`` the height and width of the input. Without ``full_input`` a detector's images are padded no further than
    its stride asks for, see :class:`detseg.runtime.inputs.geometry.FittedInputSpec`.

    Raises:
        ValueError: there is no such setting, or its value is not allowed; suppression is in the graph, which cannot be
            changed any more; the file has a fixed input size other than that which it would be given.
    """

    default_batch_size = 1

    def __init__(
        self,
        model: OnnxModel,
        overrides: Mapping[str, Any] | None = None,
        size: tuple[int, int] | None = None,
        *,
        full_input: bool = True,
    ) -> None:
        metadata = _adapted(model, overrides or {}, size, full_input)
        self.spec: InputSpec | VolumeSpec = metadata.input
        self.kind = model.kind
        self.task_name: str = metadata.task
        self.class_names = metadata.class_names
        self.category_ids = metadata.category_ids
        self._model = model
        self._metadata = metadata
        self._pipeline = metadata.pipeline(model)
        self._shared_pipeline: Pipeline | None = None
        shares = metadata.input.one_size and model.runs_on_cpu
        self._num_streams = min(MAX_STREAMS, model.num_threads) if shares else 1
        self._threads = ThreadPoolExecutor(self._num_streams, thread_name_prefix="onnx-runner")
        self.max_in_flight = self._num_streams + 1
        # The batches under way, by the memory that they are in.
        self._under_way: list[Future[list[Any]] | None] = [None] * self.max_in_flight
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
        inputs, placements = self._pipeline.prepare(images, slot)
        future = self._threads.submit(self._choose_pipeline().results, inputs, placements)
        self._under_way[slot] = future
        self._next = (slot + 1) % self.max_in_flight
        return OnnxPending(future)

    def _choose_pipeline(self) -> Pipeline:
        """That with all cores, unless others are in the network now."""
        alone = all(future is None or future.done() for future in self._under_way)
        if alone or self._num_streams == 1:
            return self._pipeline
        if self._shared_pipeline is None:
            num_threads = round(self._model.num_threads / self._num_streams)
            self._shared_pipeline = self._metadata.pipeline(OnnxModel(self._model.path, num_threads))
        return self._shared_pipeline


def _adapted(
    model: OnnxModel, overrides: Mapping[str, Any], size: tuple[int, int] | None, full_input: bool
) -> Metadata:
    """The metadata of ``model`` with other settings and another input."""
    metadata = model.metadata
    try:
        if size is not None:
            metadata = metadata.resized(size)
        metadata = metadata.with_settings(overrides)
        return metadata if full_input else metadata.without_padding()
    except ValueError as error:
        raise ValueError(f"{model.path}: {error}") from error
