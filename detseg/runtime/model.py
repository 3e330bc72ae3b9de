"""A model that is ready to predict, whatever runs it, and what it finds: what ``detseg.load`` gives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from detseg.arrays import BoolArray, ByteArray
from detseg.runtime.devices import parse_device
from detseg.runtime.kinds.base import Kind
from detseg.runtime.live import take_ahead
from detseg.runtime.media.frames import Frame
from detseg.runtime.media.sources import OnError, Source, find_sources, read_frames
from detseg.runtime.media.video_reader import Section
from detseg.runtime.onnx.model import OnnxModel
from detseg.runtime.onnx.runner import OnnxRunner
from detseg.runtime.runner import Runner, predict_frames
from detseg.runtime.tracking.tracker import ByteTracker, TrackerConfig
from detseg.runtime.writers.boxes import detections_to_coco
from detseg.structures import Detections, Result
from detseg.volumes import Volume

Given = str | Path | Source | ByteArray | Volume
"""What can be predicted on: the name of a source, see :func:`detseg.runtime.media.sources.find_sources`, or the image
or volume itself, ``[H, W, 3]`` uint8 RGB."""
_PROVIDERS = {"cpu": ("CPUExecutionProvider",), "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider")}


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was found in a frame: ``result`` in pixels or voxels of its image, class positions as in ``class_names``."""

    frame: Frame
    result: Result
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    kind: Kind

    @property
    def image(self) -> ByteArray | Volume:
        """The image as it was read, ``[H, W, 3]`` uint8 RGB, or the volume."""
        return self.frame.image

    @property
    def path(self) -> Path | None:
        """The file it came from; None for what was not a file."""
        return self.frame.path

    def plot(self) -> ByteArray:
        """The image with the result drawn, ``[H, W, 3]`` uint8 RGB; of a volume three planes."""
        return self.kind.draw(self.image, self.result, self.class_names)

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """The boxes as entries of a COCO results file.

        Raises:
            TypeError: the result holds no boxes.
        """
        return list(detections_to_coco(image_id, self._boxes(), self.category_ids))

    def to_supervision(self) -> Any:
        """The boxes as ``supervision.Detections``, with class names, an array of text, and track ids, -1 where an
        object has none.

        Raises:
            ModuleNotFoundError: the package supervision is not installed.
            TypeError: the result holds no boxes.
        """
        import supervision

        boxes = self._boxes()
        return supervision.Detections(
            xyxy=boxes.boxes_xyxy,
            confidence=boxes.scores,
            class_id=boxes.labels,
            tracker_id=None if boxes.track_ids is None else np.where(boxes.track_ids, boxes.track_ids, -1),
            data={"class_name": np.array(self.class_names)[boxes.labels]},
        )

    def _boxes(self) -> Detections:
        if not self.kind.has_boxes:
            raise TypeError(f"only boxes can be converted, this result is a {type(self.result).__name__}")
        return cast(Detections, self.result)


class Model:
    """A task, such as ``detection``, ``semantic`` or ``volume``, its classes, and a runner that does the work.

    Threads may share a model, each with a call of :meth:`predict` of its own: what belongs to a call, such as the
    tracker, is made for the call, and the runner keeps batches apart. One iterator is for one thread. A model on a CPU
    can also be used in a forked child; one on a GPU is loaded there.
    """

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
        stop: threading.Event | None = None,
    ) -> Iterator[Prediction]:
        """What is found in each image of ``sources``, in their order.

        Sources are taken as needed and a few batches of images are held, so they may be endless. Files are read ahead
        in threads. The result for an image does not depend on the others in its batch, whatever their sizes.

        Of a camera, or an address without an end, the newest frame is taken, by itself: those that come while the model
        is at work overtake each other, and ``frame.num_overtaken`` counts them.

        Args:
            sources: one or many of ``Given``.
            batch_size: how many images go through the network together; volumes go one at a time.
            section: which frames of videos count.
            classes: the names of the classes that count; others are left out (in masks they become ``VOID``, in volumes
                background). Boxes are chosen before their number is limited, unless suppression is part of an
                ``.onnx`` file; a warning says where that may have cost some.
            track: follow objects from frame to frame of each video; still pictures in a row are one video. What is not
                followed stays, without a number, from ``track.high_score`` on.
            allow_url: open network addresses.
            ahead: take sources and decode videos in a thread, so many frames before they are needed.
            on_error: told of each source that cannot be read, or not to its end; the rest goes on.
            stop: once it is set, no more frames are taken, with ``ahead``; not even a camera that gives none is
                waited for.

        Raises:
            ValueError: impossible settings, sources or images, see ``find_sources``.
            ImageError: a source cannot be read, and ``on_error`` is None.
        """
        kept = self._kept(classes)
        if track is not None and not self.runner.kind.has_boxes:
            raise ValueError(f"only boxes can be tracked, this model is for {self.task_name}")
        follow = _Tracks(track).follow if track is not None else None
        frames = read_frames(self._given(sources, allow_url), self.runner.spec.read, section, on_error)
        found = predict_frames(self.runner, take_ahead(frames, ahead, stop), batch_size, kept)
        return self._predictions(found, kept, follow)

    def _predictions(
        self,
        found: Iterator[tuple[Frame, Result]],
        kept: BoolArray | None,
        follow: Callable[[Frame, Any], Result] | None,
    ) -> Iterator[Prediction]:
        for frame, result in found:
            if kept is not None:
                result = self.runner.kind.keep(result, kept)
            if follow is not None:
                result = follow(frame, result)
            yield Prediction(frame, result, self.class_names, self.category_ids, self.runner.kind)

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

    def _kept(self, classes: Iterable[str] | None) -> BoolArray | None:
        """Which classes are named, ``[C]``; None for all."""
        if classes is None:
            return None
        wanted = list(classes)
        unknown = [name for name in wanted if name not in self.class_names]
        if unknown:
            raise ValueError(f"the model has no class {', '.join(unknown)}; it has {', '.join(self.class_names)}")
        return np.array([name in wanted for name in self.class_names])


class _Tracks:
    """Follows objects from frame to frame, and begins anew with each video."""

    def __init__(self, config: TrackerConfig) -> None:
        self._tracker = ByteTracker(config)
        self._last: Frame | None = None

    def follow(self, frame: Frame, detections: Detections) -> Detections:
        """``detections`` with the numbers of their tracks; unsure ones only if they have one."""
        if self._last is not None and not frame.follows(self._last):
            self._tracker.reset()
        self._last = frame
        tracked: Detections = self._tracker.update(detections, frame.index)
        return tracked


def load_onnx(
    path: Path,
    device: str,
    precision: str,
    num_threads: int | None,
    size: tuple[int, int] | None,
    full_input: bool | None,
    settings: Mapping[str, Any],
) -> Model:
    """The model in an ``.onnx`` file; arguments and errors of ``detseg.load``."""
    if precision != "fp32":
        raise ValueError(f"{path}: an exported model has its own precision; leave {precision} out, or export it again")
    kind = parse_device(device).partition(":")[0]
    providers = None if kind == "auto" else _PROVIDERS.get(kind)
    if kind != "auto" and providers is None:
        raise ValueError(f"device must be auto, cpu or cuda for .onnx files, got {device}")
    model = OnnxModel(path, num_threads, providers)
    if full_input is None:
        full_input = not (model.kind.has_boxes and model.has_free_sides)
    runner = OnnxRunner(model, settings, size, full_input=full_input)
    return Model(runner, runner.task_name, runner.class_names, runner.category_ids)
