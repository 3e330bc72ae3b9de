"""Exported models over images and volumes, several batches at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from detseg.arrays import BoolArray
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.kinds.base import Metadata, Pipeline
from detseg.runtime.onnx.forking import tell_of_forks
from detseg.runtime.onnx.model import OnnxModel

MAX_STREAMS = 4
"""How many batches share the cores."""


@dataclass(frozen=True, slots=True)
class OnnxPending:
    """A batch in the network, or through it already."""

    future: Future[list[Any]]
    process: int = field(default_factory=os.getpid)

    def results(self) -> list[Any]:
        """Wait for the batch; one result per image, in pixels or voxels of the original.

        Raises:
            RuntimeError: the batch was handed in before this process was forked; the network of the parent has it.
        """
        if os.getpid() != self.process:
            raise RuntimeError(
                "this batch was handed in before the process was forked, and only the parent has its results; hand it "
                "in again here"
            )
        return self.future.result()


class OnnxRunner:
    """Runs ``model`` over batches in threads of its own, so that the next batch is prepared and the results of the
    last one are used meanwhile. See :class:`detseg.runtime.runner.Runner`.

    On a CPU a batch of images that comes alone gets all cores. Those that come while others are in the network share
    the cores between them, up to ``MAX_STREAMS`` at a time: threads of one network spend much of their time waiting for
    each other, the more so when others read and write on the same cores.

    Threads may share a runner: a batch has its memory for itself from :meth:`submit` until it is through the network,
    and whoever finds all of it taken waits. Results that nobody asks for hold nothing up. After a fork the child has
    threads of its own; what was handed in before stays with the parent.

    ``overrides`` replace settings of ``model.metadata.postprocess`` by their names, such as ``{"confidence": 0.25}``,
    ``size`` the height and width of the input. Without ``full_input`` a detector's images are padded no further than
    its stride asks for, see :class:`detseg.runtime.inputs.geometry.FittedInputSpec`.

    Raises:
        ValueError: there is no such setting, or its value is not allowed; NMS is in the graph, which cannot be
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
        self.postprocess = metadata.postprocess
        self._model = model
        self._metadata = metadata
        self._pipeline = metadata.pipeline(model)
        self._shared_pipeline: Pipeline | None = None
        shares = metadata.input.one_size and model.runs_on_cpu and model.runs_several
        self._num_streams = min(MAX_STREAMS, model.num_threads) if shares else 1
        self.max_in_flight = self._num_streams + 1
        self._start()
        tell_of_forks(self)

    def _start(self) -> None:
        """Threads, and the places in memory that are free: all of them."""
        self._threads = ThreadPoolExecutor(self._num_streams, thread_name_prefix="onnx-runner")
        self._free: SimpleQueue[int] = SimpleQueue()
        for slot in range(self.max_in_flight):
            self._free.put(slot)
        self._lock = threading.Lock()
        self._num_under_way = 0

    def after_fork(self) -> None:
        """In the child there is none of the threads, and what they had on their hands is lost."""
        self._start()

    def submit(self, images: Sequence[Any], kept: BoolArray | None = None) -> OnnxPending:
        """Prepare a batch of images ``[H, W, 3]`` uint8 RGB, or of volumes, and start with it. Images may be of any
        sizes, those without ``full_input`` of any that give inputs of one size. Where a result holds a limited number
        of objects, these are of the classes that are ``kept``, ``[C]``.

        Raises:
            ValueError: there are no images, or one is none, or their inputs differ in size.
            VolumeError: a volume would become too large.
        """
        if not len(images):
            raise ValueError("a batch needs at least one image, got none")
        free = self._free
        slot = free.get()
        try:
            inputs, transforms = self._pipeline.prepare(images, slot)
            future = self._threads.submit(self._run, inputs, transforms, kept)
        except BaseException:
            free.put(slot)
            raise
        # The network is done with the memory then, whether anybody asks for the results or not.
        future.add_done_callback(lambda _: free.put(slot))
        return OnnxPending(future)

    def look(self, image: Any) -> Any:
        """See :class:`detseg.runtime.ensemble.Member`."""
        pipeline: Any = self._pipeline
        (boxes,), _ = pipeline.prepare([image], 0)
        return pipeline.look(boxes)

    def probabilities(self, image: Any) -> tuple[Any, Any]:
        """See :class:`detseg.runtime.ensemble.Member`."""
        pipeline: Any = self._pipeline
        found: tuple[Any, Any] = pipeline.probabilities(image)
        return found

    def result_of(self, probabilities: Any, transform: Any, *, keeps_probabilities: bool = False) -> Any:
        """See :class:`detseg.runtime.ensemble.Member`."""
        pipeline: Any = self._pipeline
        return pipeline.result_of(probabilities, transform, keeps_probabilities=keeps_probabilities)

    def _run(self, inputs: Any, transforms: list[Any], kept: BoolArray | None) -> list[Any]:
        with self._lock:
            pipeline = self._choose_pipeline()
            self._num_under_way += 1
        try:
            return (pipeline if kept is None else pipeline.only(kept)).results(inputs, transforms)
        finally:
            with self._lock:
                self._num_under_way -= 1

    def _choose_pipeline(self) -> Pipeline:
        """That with all cores, unless others are in the network now."""
        if self._num_under_way == 0 or self._num_streams == 1:
            return self._pipeline
        if self._shared_pipeline is None:
            num_threads = round(self._model.num_threads / self._num_streams)
            shared = self._model.with_threads(num_threads, self._num_streams)
            self._shared_pipeline = self._metadata.pipeline(shared)
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
