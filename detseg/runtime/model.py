"""A model that is ready to predict, whatever runs it, and what it finds: what ``detseg.load`` gives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from detseg.arrays import BoolArray
from detseg.runtime.drawing.known_colors import Color
from detseg.runtime.drawing.palette import stored_palette
from detseg.runtime.ensemble import EnsembleRunner, as_members
from detseg.runtime.live import take_ahead
from detseg.runtime.network_faults import NetworkFaults
from detseg.runtime.onnx.forking import tell_of_forks
from detseg.runtime.postprocess.class_settings import Confidence, below, reaches, settle
from detseg.runtime.prediction import Prediction
from detseg.runtime.runner import Runner, predict_frames
from detseg.runtime.sources.finding import OnError, Source, find_sources
from detseg.runtime.sources.frames import Frame
from detseg.runtime.sources.given import Channels, Item, items_of
from detseg.runtime.sources.reading import read_frames
from detseg.runtime.sources.video_reader import Section
from detseg.runtime.tracker import Tracker, tracker_for
from detseg.runtime.tracking.tracker import TrackerConfig
from detseg.structures import Detections, Result
from detseg.volumes import Volume

Remake = Callable[[Mapping[str, Any], TrackerConfig | None], Runner]
"""The same network with other settings of its postprocessing, by their names, and for this tracker, where given."""

_MAX_VARIANTS = 8


class Model:
    """A task, such as ``detection``, ``semantic`` or ``volume``, its classes, and a runner that does the work.

    Threads may share a model, each with a call of :meth:`predict` of its own: what belongs to a call, such as the
    tracker, is made for the call, and the runner keeps batches apart. One iterator is for one thread. A model on a CPU
    can also be used in a forked child; one on a GPU is loaded there.
    """

    def __init__(
        self,
        runner: Runner,
        task_name: str,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        remake: Remake | None = None,
        *,
        keeps_probabilities: bool = False,
        confidence: float | None = None,
        class_confidences: Sequence[float] = (),
        class_colors: Sequence[Color] = (),
        runs_in: str = "torch",
        gpu: str = "",
    ) -> None:
        self.runs_in = runs_in
        """What runs the network, and in which precision."""
        self.runner = runner
        self._keeps_probabilities = keeps_probabilities
        self.task_name = task_name
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self.confidence = confidence
        """The lowest score that a box has; None where results are no boxes, or where nobody said."""
        self.class_confidences = tuple(class_confidences)
        """The lowest score of a box of each class, where the file or who loaded it says so; else nothing."""
        self.palette = stored_palette(class_colors, self.class_names)
        """The colors that the file has for the classes; None for the usual ones."""
        self.gpu = gpu
        """Which GPU torch runs it on, and in what that computes; "" elsewhere."""
        self._remake = remake
        self._variants: dict[tuple[Any, ...], Runner] = {}
        self._lock = threading.Lock()
        tell_of_forks(self)

    def after_fork(self) -> None:
        """In the child nobody gives back what another thread held."""
        self._lock = threading.Lock()

    def __call__(self, given: Any, batch_size: int = 1, **options: Any) -> list[Prediction]:
        """:meth:`predict` at once: one prediction for each image, in a list, also where there is one image only.

        For what is long or has no end, such as videos and cameras, :meth:`predict` holds only what it needs.
        """
        return list(self.predict(given, batch_size, **options))

    def __repr__(self) -> str:
        names = ", ".join(self.class_names[:5]) + (", ..." if len(self.class_names) > 5 else "")
        return f"Model({self.task_name}, {len(self.class_names)} classes: {names})"

    def predict(
        self,
        given: Any,
        batch_size: int = 1,
        *,
        confidence: Confidence | None = None,
        iou: float | None = None,
        max_detections: int | None = None,
        tiles: int | tuple[int, int] | None = None,
        overlap: float | None = None,
        scales: Sequence[float] | None = None,
        flip: bool | None = None,
        classes: Iterable[str | int] | None = None,
        track: bool | TrackerConfig | Tracker | None = None,
        channels: Channels = "rgb",
        spacing: Sequence[float] | None = None,
        section: Section | None = None,
        allow_url: bool = False,
        ahead: int = 0,
        on_error: OnError | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[Prediction]:
        """What is found in each image of ``given``, in their order.

        Images are taken as needed and a few batches of them are held, so they may be endless. Files are read ahead in
        threads. The result for an image does not depend on the others in its batch, whatever their sizes.

        Of a camera, or an address without an end, the newest frame is taken, by itself: those that come while the model
        is at work overtake each other, and ``frame.num_overtaken`` counts them.

        Args:
            given: names of files, folders, globs, videos, cameras; numpy arrays ``[H, W, 3]`` uint8, **RGB unless**
                ``channels="bgr"``, also gray or with alpha; torch tensors ``[3, H, W]``; PIL images; encoded bytes and
                open files; volumes of nibabel, SimpleITK or numpy; batches, lists and iterators of these. See
                :data:`detseg.runtime.sources.given.TAKEN`.
            batch_size: how many images go through the network together; volumes go one at a time.
            confidence: lowest score of a box that counts, in place of the model's own: one number, or a mapping from
                the names of classes, see :meth:`class_confidences`. Boxes below that of their class are left out last.
            iou: overlap above which boxes of one class are one object, in place of the model's own.
            max_detections: most boxes per image, or per tile, in place of the model's own.
            tiles: look at each image in tiles of this size, one number or height and width in its pixels, see
                :mod:`detseg.runtime.postprocess.tiles`. With tiles a batch is of images still.
            overlap: share by which tiles overlap.
            scales: fuse what is found with the input at these scales, see
                :mod:`detseg.runtime.postprocess.fusion`.
            flip: fuse what is found in mirror images as well.
            classes: the classes that count, by name or position; others are left out (in masks they become
                ``IGNORE_INDEX``, in volumes background). Boxes are chosen before their number is limited, unless NMS is
                part of an ``.onnx`` file; a warning says where that may have cost some.
            track: follow objects from frame to frame of each video; still images in a row are one video. What is not
                followed stays, without a number, from ``track.high_score`` on. True takes the confidence for that.
                Numbers begin anew with each call, unless ``track`` is a :class:`detseg.Tracker`.
            channels: the order of channels in arrays and tensors: ``rgb``, or ``bgr`` as OpenCV reads images.
            spacing: millimeters along X, Y and Z of numpy arrays that are volumes.
            section: which frames of videos count.
            allow_url: open network addresses.
            ahead: take images and decode videos in a thread, so many frames before they are needed.
            on_error: told of each source that cannot be read, or not to its end, or that the network fails on
                (:class:`~detseg.runtime.network_faults.NetworkError`); the rest goes on, unless the network fails on
                all.
            stop: once it is set, no more frames are taken, with ``ahead``; not even a camera that gives none is
                waited for.

        Raises:
            TypeError: ``given`` is nothing that can be predicted on; lists what can.
            ValueError: impossible settings, sources or images, see
                :func:`detseg.runtime.sources.finding.find_sources`.
            ImageError: a source cannot be read, and ``on_error`` is None.
        """
        kept = self._kept(classes)
        wanted, floors = settle(
            {} if confidence is None else {"confidence": confidence}, self.class_confidences, self.class_names
        )
        settings = {
            "confidence": None if confidence is None else wanted["confidence"],
            "iou": iou,
            "max_detections": max_detections,
            "tiles": (tiles, tiles) if isinstance(tiles, int) else None if tiles is None else tuple(tiles),
            "overlap": overlap,
            "scales": None if scales is None else tuple(scales),
            "flip": flip,
        }
        follow, tracker = None, None
        if track:
            if not self.runner.kind.has_boxes:
                raise ValueError(f"only boxes can be tracked, this model is for {self.task_name}")
            if isinstance(track, Tracker):
                tracks = track
            else:
                sure = None if floors or confidence is None else wanted["confidence"]
                tracks = Tracker(config=tracker_for(sure) if isinstance(track, bool) else track)
            tracker = None if isinstance(track, TrackerConfig) else tracks.config
            if not tracks.config.has_usual_scores and confidence is None:
                floors = ()
            elif floors and tracker is not None:
                tracker = replace(tracker, low_score=min(tracker.low_score, below(floors)))
            follow = partial(tracks.follow, floors=floors) if floors else tracks.follow
        runner = self._with({name: value for name, value in settings.items() if value is not None}, tracker)
        items = items_of(given, channels=channels, spacing=spacing, volumes=not runner.spec.one_size)
        num_classes = len(self.class_names)
        read = runner.kind.reader(runner.spec, num_classes, num_classes * self._keeps_probabilities)
        faults = None if on_error is None else NetworkFaults(on_error)
        given_up = () if faults is None else faults.given_up
        frames = read_frames(self._sources(items, allow_url), read, section, on_error, given_up, runner.spec.max_ahead)
        found = predict_frames(runner, take_ahead(frames, ahead, stop), batch_size, kept, faults)
        return self._predictions(found, kept, follow, floors)

    def with_probabilities(self) -> Model:
        """The same model, whose results carry the probabilities of all classes.

        Raises:
            ValueError: it has none.
        """
        runner = self.runner
        if not isinstance(runner, EnsembleRunner):
            runner = EnsembleRunner(as_members([runner]), [self.class_names])
        runner = runner.keeping_probabilities()
        return Model(
            runner,
            self.task_name,
            self.class_names,
            self.category_ids,
            keeps_probabilities=True,
            class_colors=() if self.palette is None else self.palette.colors,
            runs_in=self.runs_in,
            gpu=self.gpu,
        )

    def run_by(self, runner: Runner) -> Model:
        """The same model with ``runner`` in place of its own."""
        kept = self._keeps_probabilities
        return Model(
            runner,
            self.task_name,
            self.class_names,
            self.category_ids,
            keeps_probabilities=kept,
            confidence=self.confidence,
            class_confidences=self.class_confidences,
            class_colors=() if self.palette is None else self.palette.colors,
            runs_in=self.runs_in,
            gpu=self.gpu,
        )

    def _with(self, settings: Mapping[str, Any], tracker: TrackerConfig | None) -> Runner:
        """The runner with these settings, with boxes enough for ``tracker``; the last few are kept."""
        if not settings and tracker is None:
            return self.runner
        if self._remake is None:
            raise ValueError(f"the settings {', '.join(settings) or 'for tracking'} of this model cannot be changed")
        key = (tuple(sorted(settings.items())), tracker)
        with self._lock:
            if key not in self._variants:
                if len(self._variants) == _MAX_VARIANTS:
                    del self._variants[next(iter(self._variants))]
                self._variants[key] = self._remake(settings, tracker)
            return self._variants[key]

    def _predictions(
        self,
        found: Iterator[tuple[Frame, Result]],
        kept: BoolArray | None,
        follow: Callable[[Frame, Any], Result] | None,
        floors: Sequence[float],
    ) -> Iterator[Prediction]:
        for frame, result in found:
            if kept is not None:
                result = self.runner.kind.keep(result, kept)
            if follow is not None:
                result = follow(frame, result)
            elif floors:
                result = cast(Detections, result).select(reaches(cast(Detections, result), floors))
            yield Prediction(frame, result, self.class_names, self.category_ids, self.runner.kind, self.palette)

    def _sources(self, items: Iterator[Item], allow_url: bool) -> Iterator[Source | Frame]:
        for item in items:
            if isinstance(item, np.ndarray | Volume):
                yield Frame(item)
            elif isinstance(item, Source):
                yield item
            else:
                spec = self.runner.spec
                yield from find_sources([item], spec.suffixes, allow_url=allow_url, num_files=spec.num_files)

    def _kept(self, classes: Iterable[str | int] | None) -> BoolArray | None:
        """Which classes are named, ``[C]``; None for all."""
        if classes is None:
            return None
        wanted = [classes] if isinstance(classes, str | int) else list(classes)
        count = len(self.class_names)
        unknown = [
            str(one)
            for one in wanted
            if one not in self.class_names and not (isinstance(one, int | np.integer) and 0 <= one < count)
        ]
        if unknown:
            shown = ", ".join(one or "''" for one in unknown)
            raise ValueError(
                f"the model has no class {shown}; it has {', '.join(self.class_names)}, or by position 0 to {count - 1}"
            )
        return np.array([name in wanted or position in wanted for position, name in enumerate(self.class_names)])


def average(models: Sequence[Model]) -> Model:
    """Several models as one, which averages their probabilities.

    Raises:
        ValueError: they have none, or do not have the same classes and channels.
    """
    first = models[0]
    if len(models) == 1:
        return first
    runner = EnsembleRunner(as_members([model.runner for model in models]), [model.class_names for model in models])
    return Model(
        runner,
        first.task_name,
        first.class_names,
        first.category_ids,
        class_colors=() if first.palette is None else first.palette.colors,
        runs_in=first.runs_in,
        gpu=first.gpu,
    )


def confidence_of(postprocess: Any) -> float | None:
    """The lowest score of the settings ``postprocess``; None where these know of none."""
    found: float | None = getattr(postprocess, "confidence", None)
    return found


def require_boxes(has_boxes: bool, path: Path, task_name: str) -> None:
    """Refuse to follow what is no object.

    Raises:
        ValueError: results are not boxes.
    """
    if not has_boxes:
        raise ValueError(f"{path}: only boxes can be tracked, this model is for {task_name}; leave tracking out")
