"""A model that is ready to predict, whatever runs it, and what it finds: what ``detseg.load`` gives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from detseg.arrays import BoolArray
from detseg.runtime.devices import parse_device
from detseg.runtime.ensemble import EnsembleRunner, as_members
from detseg.runtime.foreign.options import ForeignOptions
from detseg.runtime.kinds.base import Metadata
from detseg.runtime.live import take_ahead
from detseg.runtime.network_faults import NetworkFaults
from detseg.runtime.onnx.forking import tell_of_forks
from detseg.runtime.onnx.model import OnnxModel, import_onnxruntime
from detseg.runtime.onnx.providers import open_on
from detseg.runtime.onnx.runner import OnnxRunner
from detseg.runtime.prediction import Prediction
from detseg.runtime.runner import Runner, predict_frames
from detseg.runtime.sources.finding import OnError, Source, find_sources
from detseg.runtime.sources.frames import Frame
from detseg.runtime.sources.given import Channels, Item, items_of
from detseg.runtime.sources.reading import read_frames
from detseg.runtime.sources.video_reader import Section
from detseg.runtime.tracker import Tracker, tracker_for
from detseg.runtime.tracking.tracker import TrackerConfig
from detseg.runtime.views import with_views
from detseg.structures import Result
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
    ) -> None:
        self.runner = runner
        self._keeps_probabilities = keeps_probabilities
        self.task_name = task_name
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self.confidence = confidence
        """The lowest score that a box has; None where results are no boxes, or where nobody said."""
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
        confidence: float | None = None,
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
            confidence: lowest score of a box that counts, in place of the model's own.
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
        settings = {
            "confidence": confidence,
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
                tracks = Tracker(config=tracker_for(confidence) if isinstance(track, bool) else track)
            tracker = None if isinstance(track, TrackerConfig) else tracks.config
            follow = tracks.follow
        runner = self._with({name: value for name, value in settings.items() if value is not None}, tracker)
        items = items_of(given, channels=channels, spacing=spacing, volumes=not runner.spec.one_size)
        # What is kept takes as much memory once more.
        num_values = len(self.class_names) * (1 + self._keeps_probabilities)
        read = runner.kind.reader(runner.spec, num_values)
        faults = None if on_error is None else NetworkFaults(on_error)
        given_up = () if faults is None else faults.given_up
        frames = read_frames(self._sources(items, allow_url), read, section, on_error, given_up)
        found = predict_frames(runner, take_ahead(frames, ahead, stop), batch_size, kept, faults)
        return self._predictions(found, kept, follow)

    def with_probabilities(self) -> Model:
        """The same model, whose results carry the probabilities of all classes.

        Raises:
            ValueError: it has none.
        """
        runner = self.runner
        if not isinstance(runner, EnsembleRunner):
            runner = EnsembleRunner(as_members([runner]), [self.class_names])
        runner = runner.keeping_probabilities()
        return Model(runner, self.task_name, self.class_names, self.category_ids, keeps_probabilities=True)

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
    ) -> Iterator[Prediction]:
        for frame, result in found:
            if kept is not None:
                result = self.runner.kind.keep(result, kept)
            if follow is not None:
                result = follow(frame, result)
            yield Prediction(frame, result, self.class_names, self.category_ids, self.runner.kind)

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
    return Model(runner, first.task_name, first.class_names, first.category_ids)


def load_onnx(
    path: Path,
    device: str,
    precision: str,
    num_threads: int | None,
    size: tuple[int, int] | None,
    full_input: bool | None,
    settings: Mapping[str, Any],
    track: TrackerConfig | None = None,
    foreign: ForeignOptions | None = None,
    runtime: str = "onnxruntime",
) -> Model:
    """The model in an ``.onnx`` file; arguments and errors of ``detseg.load``."""
    if precision != "fp32" and runtime == "onnxruntime":
        raise ValueError(
            f"{path}: an exported model has its own precision; leave {precision} out, or export it again; bf16 is for "
            "--runtime openvino"
        )
    model = open_onnx(path, device, num_threads, size, foreign)
    if runtime != "onnxruntime":
        model = in_openvino(model, runtime, precision)
    if track is not None:
        require_boxes(model.kind.has_boxes, path, model.metadata.task)
    if full_input is None:
        full_input = model.is_foreign or not (model.kind.has_boxes and model.has_free_sides)
    fits = full_input

    def plain(others: Mapping[str, Any], tracker: TrackerConfig | None = None) -> OnnxRunner:
        wanted = {**settings, **others}
        if tracker is not None:
            wanted = _settings_for_tracking(wanted, tracker, model.metadata)
        return OnnxRunner(model, wanted, size, full_input=fits)

    def remake(others: Mapping[str, Any], tracker: TrackerConfig | None = None) -> Runner:
        return onnx_with_views(plain(others, tracker), model, full_input=fits)

    runner = plain({}, track)
    lowest = confidence_of(runner.postprocess)
    viewed = onnx_with_views(runner, model, full_input=fits)
    return Model(viewed, runner.task_name, runner.class_names, runner.category_ids, remake, confidence=lowest)


def onnx_with_views(runner: OnnxRunner, model: OnnxModel, *, full_input: bool) -> Runner:
    """``runner`` of ``model``, in tiles and views where its settings say so. Raises ValueError: it cannot look so."""

    def make(changed: Mapping[str, Any], size: tuple[int, int]) -> OnnxRunner:
        known = {one.name: getattr(runner.postprocess, one.name) for one in fields(runner.postprocess)}
        return OnnxRunner(model, {**known, **changed}, size, full_input=full_input)

    fixed = model.metadata.postprocess_in_graph
    try:
        return with_views(runner, make, runner.postprocess, model.metadata.stride, fixed=fixed)
    except ValueError as error:
        named = str(error) if str(error).startswith(str(model.path)) else f"{model.path}: {error}"
        raise ValueError(named) from error


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


def _settings_for_tracking(settings: Mapping[str, Any], track: TrackerConfig, metadata: Metadata) -> dict[str, Any]:
    """Boxes from ``track.low_score`` on. Where NMS is in the graph, these are as they are, and a confidence
    above that of the graph is left to the tracker."""
    if not metadata.postprocess_in_graph:
        return {**settings, "confidence": track.low_score}
    wanted = settings.get("confidence")
    if wanted is not None and metadata.postprocess.confidence < wanted <= track.high_score:
        return {name: value for name, value in settings.items() if name != "confidence"}
    return dict(settings)


def open_onnx(
    path: Path,
    device: str,
    num_threads: int | None = None,
    size: tuple[int, int] | None = None,
    foreign: ForeignOptions | None = None,
) -> OnnxModel:
    """The network in an ``.onnx`` file, on ``device``; ``size`` and ``foreign`` are for files of other programs."""
    available = import_onnxruntime().get_available_providers()
    return open_on(
        parse_device(device),
        available,
        lambda providers: OnnxModel(path, num_threads, providers, foreign=foreign, size=size),
    )


def in_openvino(model: OnnxModel, runtime: str, precision: str) -> OnnxModel:
    """The same network in OpenVINO.

    Raises:
        ValueError: ``runtime`` is another one, the network is not on the CPU, or the precision is not there.
    """
    if runtime != "openvino":
        raise ValueError(f"runtime must be onnxruntime or openvino, got {runtime}")
    if not model.runs_on_cpu:
        raise ValueError("OpenVINO runs on the CPU here; take --device cpu, or --runtime onnxruntime")
    return OnnxModel(model.path, model.num_threads, metadata=model.metadata, precision=precision)
