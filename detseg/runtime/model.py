"""A model that is ready to predict, whatever runs it: what ``detseg.load`` gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from detseg.arrays import BoolArray, ByteArray
from detseg.runtime.background import iterate_ahead
from detseg.runtime.media.frames import Frame
from detseg.runtime.media.source_reader import OnError, read_frames
from detseg.runtime.media.sources import Source, find_sources
from detseg.runtime.media.video_reader import Section
from detseg.runtime.prediction import Prediction, predict_frames
from detseg.runtime.runner import Runner
from detseg.runtime.tracking.tracker import ByteTracker, TrackerConfig
from detseg.structures import VOID, Detections, LabelMap, Result
from detseg.volumes import Volume

Given = str | Path | Source | ByteArray | Volume
"""What can be predicted on: the name of a source, see :func:`detseg.runtime.media.sources.find_sources`, or the image
or volume itself, ``[H, W, 3]`` uint8 RGB."""


class Model:
    """A task (``detection``, ``semantic`` or ``volume``), its classes, and a runner that does the work."""

    def __init__(self, runner: Runner, task_name: str, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
        self.runner = runner
        self.task_name = task_name
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)

    def predict(
        self,
        sources: Given | Iterable[Given],
        batch_size: int = 1,
        *,
        section: Section | None = None,
        classes: Iterable[str] | None = None,
        track: TrackerConfig | None = None,
        allow_url: bool = False,
        ahead: int = 0,
        on_error: OnError | None = None,
    ) -> Iterator[Prediction]:
        """What is found in each image of ``sources``, in their order.

        Sources are taken as needed and a few batches of images are held, so they may be endless. Files are read ahead
        in threads. The result for an image does not depend on the others in its batch, whatever their sizes.

        Args:
            sources: one or many of ``Given``.
            batch_size: how many images go through the network together; volumes go one at a time.
            section: which frames of videos count.
            classes: the names of the classes that count; others are left out (in masks they become ``VOID``, in volumes
                background).
            track: follow objects from frame to frame of each video; still pictures in a row are one video.
            allow_url: open network addresses.
            ahead: take sources and decode videos in a thread, so many frames before they are needed.
            on_error: told of each source that cannot be read, or not to its end; the rest goes on.

        Raises:
            ValueError: impossible settings, sources or images, see ``find_sources``.
            ImageError: a source cannot be read, and ``on_error`` is None.
        """
        keep = self._filter(classes)
        if track is not None and self.task_name != "detection":
            raise ValueError(f"only boxes can be tracked, this model is for {self.task_name}")
        follow = _Tracks(track).follow if track is not None else None
        frames = read_frames(self._given(sources, allow_url), self.runner.spec.read, section, on_error)
        if ahead:
            frames = iterate_ahead(frames, ahead)
        return self._predictions(predict_frames(self.runner, frames, batch_size), keep, follow)

    def _predictions(
        self,
        found: Iterator[tuple[Frame, Result]],
        keep: Callable[[Result], Result] | None,
        follow: Callable[[Frame, Detections], Detections] | None,
    ) -> Iterator[Prediction]:
        for frame, result in found:
            if keep is not None:
                result = keep(result)
            if follow is not None:
                assert isinstance(result, Detections)
                result = follow(frame, result)
            yield Prediction(frame, result, self.class_names, self.category_ids)

    def _given(self, sources: Given | Iterable[Given], allow_url: bool) -> Iterator[Source | Frame]:
        if isinstance(sources, str | Path | Source | np.ndarray | Volume):
            sources = [sources]
        for given in sources:
            if isinstance(given, np.ndarray | Volume):
                yield Frame(given)
            elif isinstance(given, Source):
                yield given
            else:
                yield from find_sources([given], self.runner.spec.suffixes, allow_url=allow_url)

    def _filter(self, classes: Iterable[str] | None) -> Callable[[Result], Result] | None:
        if classes is None:
            return None
        wanted = list(classes)
        unknown = [name for name in wanted if name not in self.class_names]
        if unknown:
            raise ValueError(f"the model has no class {', '.join(unknown)}; it has {', '.join(self.class_names)}")
        kept = np.array([name in wanted for name in self.class_names])
        return lambda result: _only(result, kept)


def _only(result: Result, kept: BoolArray) -> Result:
    """``result`` without the classes that are not ``kept``, ``[C]``."""
    if isinstance(result, Detections):
        return result.select(kept[result.labels])
    table = np.arange(256, dtype=np.uint8)
    table[: len(kept)][~kept] = VOID if isinstance(result, LabelMap) else 0
    return replace(result, labels=table[result.labels])


class _Tracks:
    """Follows objects from frame to frame, and begins anew with each video."""

    def __init__(self, config: TrackerConfig) -> None:
        self._tracker = ByteTracker(config)
        self._last: Frame | None = None

    def follow(self, frame: Frame, detections: Detections) -> Detections:
        """``detections`` with the numbers of their tracks."""
        if self._last is not None and not frame.follows(self._last):
            self._tracker.reset()
        self._last = frame
        tracked: Detections = self._tracker.update(detections, frame.index)
        return tracked
