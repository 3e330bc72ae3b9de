"""From a data set to batches: loading, augmentation and collation, in the main process or in workers.

A batch is a pure function of (seed, epoch, batch number), whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar, get_args

from detseg.data.loading.batch_plan import PlannedBatch, TrainPlan, eval_batches
from detseg.data.loading.worker_pool import WorkerPool
from detseg.data.source import DatasetError
from detseg.runtime.media.images import ImageError

Batch = TypeVar("Batch")
BadImagePolicy = Literal["fail", "skip"]

_MAX_KEPT_BYTES = 2**28
"""Pixels of images that a worker keeps while it makes a batch."""


class SampleSource(Protocol):
    """What the loaders need of a data set."""

    def __len__(self) -> int:
        """The number of samples."""

    def load(self, index: int) -> Any:
        """The sample of an index; raises ImageError for a file that is no usable image.

        Where a pipeline has a ``needed_size``, it is called with that as second argument, see
        :meth:`detseg.data.datasets.dataset.Dataset.load`.
        """


class Pipeline(Protocol):
    """What makes training samples, as :class:`detseg.augment.pipeline.TrainPipeline` does."""

    def __call__(
        self,
        load: Callable[[int], Any],
        num_samples: int,
        index: int,
        seed: int,
        epoch: int,
        size: Any,
        close_mosaic: bool = False,
        partners: Sequence[int] | None = None,
        /,
    ) -> Any:
        """The augmented sample ``index``, of this ``size``; others are taken from ``partners``, where given."""


class BadImagesError(ImageError):
    """More images could not be read than the policy allows."""


class TrainLoader(Generic[Batch]):
    """Batches for training, epoch by epoch.

    ``batch_size`` counts the images of all ranks together; the batches of all ranks put together in order of rank are
    those of a single process. ``size`` is (height, width) or (depth, height, width), with ``multi_scale`` one random
    size per batch. In the last ``close_mosaic_epochs`` of ``num_epochs`` mosaic and mixup are off. ``collate`` makes a
    batch of a list of samples.

    ``on_bad_image``: with "fail" an image that cannot be read ends the run and its path is named; with "skip" the next
    image of the data set takes its place, and more than ``max_bad_images`` different ones end the run.

    ``neighborhood``: of how many samples mosaic and mixup take their partners, see :class:`TrainPlan`; None: of all.
    ``reduced_decoding``: images are decoded no larger than the pipeline's ``needed_size`` asks for, where it has one.

    Raises:
        ValueError: for impossible settings, among them a data set that does not fill a batch.
    """

    def __init__(
        self,
        dataset: SampleSource,
        pipeline: Pipeline,
        collate: Callable[[list[Any]], Batch],
        batch_size: int,
        seed: int,
        size: tuple[int, ...],
        num_workers: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        multi_scale: tuple[float, float] | None = None,
        num_epochs: int | None = None,
        close_mosaic_epochs: int = 0,
        stride: int = 32,
        pin_memory: bool = False,
        on_bad_image: BadImagePolicy = "fail",
        max_bad_images: int = 10,
        neighborhood: int | None = None,
        reduced_decoding: bool = False,
    ) -> None:
        if on_bad_image not in get_args(BadImagePolicy):
            raise ValueError(f"on_bad_image must be one of {', '.join(get_args(BadImagePolicy))}, got {on_bad_image!r}")
        self.plan = TrainPlan(
            num_samples=len(dataset),
            batch_size=batch_size,
            seed=seed,
            size=size,
            stride=stride,
            rank=rank,
            world_size=world_size,
            multi_scale=multi_scale,
            close_mosaic_from=None if num_epochs is None else num_epochs - close_mosaic_epochs,
            neighborhood=neighborhood,
        )
        self.bad_images: dict[int, str] = {}
        """The images that were skipped so far: index in the data set and what was wrong, which begins with the path."""
        self.bad_images_of_epoch: dict[int, str] = {}
        """Those that were skipped since the epoch began."""
        self._max_bad_images = max_bad_images if on_bad_image == "skip" else 0
        job = _TrainJob(dataset, pipeline, collate, seed, self._max_bad_images, reduced_decoding)
        self._pool: WorkerPool[PlannedBatch, _Loaded[Batch]] = WorkerPool(job, num_workers, pin_memory)

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches in an epoch, the same on every rank and at least 1."""
        return self.plan.batches_per_epoch

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number ``start_batch`` on; one epoch at a time.

        Raises:
            ImageError: for an image that cannot be read, unless it is skipped.
            BadImagesError: when more images were skipped than allowed.
            WorkerDiedError: when a worker process was killed or crashed.
        """
        self.bad_images_of_epoch = {}
        for loaded in self._pool.run(self.plan.epoch(epoch, start_batch)):
            self.bad_images.update(loaded.bad_images)
            self.bad_images_of_epoch.update(loaded.bad_images)
            _require_few(self.bad_images, self._max_bad_images)
            yield loaded.batch

    def close(self) -> None:
        """End the worker processes. A later epoch starts new ones."""
        self._pool.close()


class EvalLoader(Generic[Batch]):
    """Batches for evaluation: every image once, in order, made to fit the network by ``place``, where given; the last
    batch may be smaller.

    Each rank gets one run of the images, in order of rank, and none where there are fewer images than ranks. An image
    that cannot be read always ends the run: a metric without it would be one of another data set.
    """

    def __init__(
        self,
        dataset: SampleSource,
        place: Callable[[Any], Any] | None,
        collate: Callable[[list[Any]], Batch],
        batch_size: int,
        num_workers: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self._batches = eval_batches(len(dataset), batch_size, rank, world_size)
        job = _EvalJob(dataset, place, collate)
        # Workers that would never get a batch are not started.
        self._pool: WorkerPool[PlannedBatch, Batch] = WorkerPool(job, min(num_workers, len(self._batches)), pin_memory)

    def __len__(self) -> int:
        """The number of batches on this rank."""
        return len(self._batches)

    @property
    def indices(self) -> tuple[int, ...]:
        """The indices in the data set of the images on this rank, in the order in which they come."""
        return tuple(index for batch in self._batches for index in batch.indices)

    def __iter__(self) -> Iterator[Batch]:
        return self._pool.run(self._batches)

    def close(self) -> None:
        """End the worker processes. A later iteration starts new ones."""
        self._pool.close()


class _Loaded(NamedTuple, Generic[Batch]):
    batch: Batch
    bad_images: dict[int, str]


class _TrainJob(Generic[Batch]):
    """Make a planned training batch; runs in a worker."""

    def __init__(
        self,
        dataset: SampleSource,
        pipeline: Pipeline,
        collate: Callable[[list[Any]], Batch],
        seed: int,
        max_bad_images: int,
        reduced_decoding: bool,
    ) -> None:
        self._dataset = dataset
        self._pipeline = pipeline
        self._collate = collate
        self._seed = seed
        self._max_bad_images = max_bad_images
        self._needed_size = getattr(pipeline, "needed_size", None) if reduced_decoding else None

    def __call__(self, planned: PlannedBatch) -> _Loaded[Batch]:
        bad_images: dict[int, str] = {}
        needed = () if self._needed_size is None else (self._needed_size(planned.size),)
        load = _Kept(lambda index: self._load(index, needed, bad_images)) if planned.partners else None
        samples = [
            self._pipeline(
                load or (lambda index: self._load(index, needed, bad_images)),
                len(self._dataset),
                index,
                self._seed,
                planned.epoch,
                planned.size,
                planned.close_mosaic,
                *([partners] if planned.partners else []),
            )
            for index, partners in zip_longest(planned.indices, planned.partners)
        ]
        return _Loaded(self._collate(samples), bad_images)

    def _load(self, index: int, needed: tuple[Any, ...], bad_images: dict[int, str]) -> Any:
        if self._max_bad_images == 0:
            return self._dataset.load(index, *needed)
        while True:
            try:
                return self._dataset.load(index, *needed)
            except (ImageError, DatasetError) as error:
                bad_images[index] = str(error)
                _require_few(bad_images, min(self._max_bad_images, len(self._dataset) - 1))
            index = (index + 1) % len(self._dataset)


class _Kept:
    """``load`` for one batch, in which a sample may be asked for several times: up to a limit of memory it is loaded
    once. Nothing changes a sample that was loaded."""

    def __init__(self, load: Callable[[int], Any]) -> None:
        self._load = load
        self._kept: dict[int, Any] = {}
        self._num_bytes = 0

    def __call__(self, index: int) -> Any:
        if index in self._kept:
            return self._kept[index]
        sample = self._load(index)
        self._num_bytes += sample.image.nbytes
        if self._num_bytes <= _MAX_KEPT_BYTES:
            self._kept[index] = sample
        return sample


class _EvalJob(Generic[Batch]):
    """Make a planned evaluation batch; runs in a worker."""

    def __init__(
        self, dataset: SampleSource, place: Callable[[Any], Any] | None, collate: Callable[[list[Any]], Batch]
    ) -> None:
        self._dataset = dataset
        self._place = place
        self._collate = collate

    def __call__(self, planned: PlannedBatch) -> Batch:
        samples = [self._dataset.load(index) for index in planned.indices]
        return self._collate(samples if self._place is None else [self._place(sample) for sample in samples])


def _require_few(bad_images: dict[int, str], limit: int) -> None:
    if len(bad_images) > limit:
        shown: Sequence[str] = [bad_images[index] for index in sorted(bad_images)[:5]]
        listed = "\n  ".join(shown)
        raise BadImagesError(
            f"{len(bad_images)} images cannot be read, {limit} may be skipped (data.max_bad_images); among them\n"
            f"  {listed}"
        )
