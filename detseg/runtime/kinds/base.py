"""What a kind of results must say of itself, so that nothing else asks which one it has."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import BoolArray, ByteArray, FloatArray, IntArray
from detseg.runtime.drawing.palette import Palette
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.network_input import InputWriter
from detseg.runtime.postprocess.class_settings import require_class_settings, require_in_graph
from detseg.runtime.writers.base import ResultWriter
from detseg.structures import IGNORE_INDEX, LetterboxTransform

Precision = Literal["fp32", "fp16", "int8"]
Outputs = Mapping[str, NDArray[Any]]
"""What a network gives, by name."""


class Network(Protocol):
    """An exported network, whatever runs it."""

    path: Path
    """Its file, for errors."""

    @property
    def has_free_sides(self) -> bool:
        """Whether inputs may be of any size."""

    def run(self, inputs: FloatArray) -> Outputs:
        """``inputs`` ``[B, channels, *spatial]`` float32, normalized, through the network."""

    def require_shape(self, shape: Sequence[int]) -> None:
        """Raise ValueError unless one input may have this ``shape``, ``(channels, *spatial)``."""


class Pipeline(Protocol):
    """The way of a batch from images to results. ``prepare`` is called by the user's thread, ``results`` by that of the
    runner."""

    def prepare(self, images: Sequence[Any], slot: int) -> tuple[Any, list[Any]]:
        """The input of the network in the memory ``slot``, and the way back for each image."""

    def results(self, inputs: Any, transforms: list[Any]) -> list[Any]:
        """One result per image."""

    def only(self, kept: BoolArray) -> Self:
        """The same for classes that are ``kept``, ``[C]``, where these must be chosen before the number of objects is
        limited; what else of a result is not kept, :meth:`Kind.keep` leaves out."""


@dataclass(frozen=True, kw_only=True)
class Metadata(ABC):
    """What all exported files say of themselves: class ``c`` has the name ``class_names[c]`` and the number
    ``category_ids[c]`` in annotation files; sides of inputs are multiples of ``stride``; ``version`` of detseg wrote
    the file. ``class_confidences`` and ``class_colors``: what was chosen for each class, or nothing, see
    :mod:`detseg.runtime.postprocess.class_settings`."""

    kind: ClassVar[str]
    """The name of the kind of results."""
    settings_after_graph: ClassVar[tuple[str, ...]] = ()
    """What of ``postprocess`` is never part of a graph."""

    version: str
    task: str
    form: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    stride: int = 1
    precision: Precision = "fp32"
    input: Any
    postprocess: Any
    class_confidences: tuple[float, ...] = ()
    class_colors: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        require_class_settings(self.class_confidences, self.class_colors, self.class_names)
        if self.class_confidences and self.postprocess_in_graph:
            require_in_graph(self.class_confidences, self.postprocess.confidence)
        if not self.class_names:
            raise ValueError("class_names must name at least one class")
        if len(self.category_ids) != len(self.class_names):
            raise ValueError(f"there are {len(self.category_ids)} category_ids for {len(self.class_names)} class_names")
        if self.stride < 1:
            raise ValueError(f"stride must be at least 1, got {self.stride}")

    @property
    @abstractmethod
    def sides(self) -> dict[str, tuple[str, ...]]:
        """The names of the dimensions of the network's input, then of every output."""

    @property
    def input_name(self) -> str:
        """What the network takes."""
        return next(iter(self.sides))

    @property
    def output_names(self) -> tuple[str, ...]:
        """What the network gives."""
        return tuple(self.sides)[1:]

    @property
    def postprocess_in_graph(self) -> bool:
        """Whether the settings of ``postprocess`` are part of the graph, and so cannot be changed any more."""
        return False

    def resized(self, size: tuple[int, int]) -> Self:
        """The same for an input of another height and width.

        Raises:
            ValueError: there is no such input.
        """
        if any(side % self.stride for side in size):
            raise ValueError(f"height and width must be multiples of {self.stride}, got {size[0]}x{size[1]}")
        return replace(self, input=replace(self.input, height=size[0], width=size[1]))

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """The same with other settings of ``postprocess``, by their names.

        Raises:
            ValueError: there is no such setting, its value is not allowed, or it is fixed in the graph.
        """
        known = [one.name for one in fields(self.postprocess)]
        unknown = [name for name in settings if name not in known]
        if unknown:
            raise ValueError(
                f"the task {self.task} has no setting {', '.join(unknown)}; its settings are {', '.join(known)}"
            )
        fixed = [name for name in settings if name not in self.settings_after_graph]
        changed = [name for name in fixed if settings[name] != getattr(self.postprocess, name)]
        if changed and self.postprocess_in_graph:
            raise ValueError(
                f"NMS is part of the graph, so {', '.join(changed)} cannot be changed any more; "
                "export the model again with other settings, or without NMS"
            )
        return replace(self, postprocess=replace(self.postprocess, **settings))

    def without_padding(self) -> Self:
        """The same with an input that fits each image.

        Raises:
            ValueError: results would not be the same.
        """
        raise ValueError(f"full_input can be False for boxes only, this model is for {self.task}")

    @abstractmethod
    def pipeline(self, network: Network) -> Pipeline:
        """The way from images through ``network``, the graph of the file, to results.

        Raises:
            ValueError: the network does not take such inputs.
        """


@dataclass(frozen=True)
class Save:
    """One thing that results can be saved as. ``opens_at_once``: its files are there before the first result.
    ``needs_probabilities``: results must carry them.
    ``make`` takes a :class:`detseg.runtime.kinds.saving.Saving`."""

    make: Callable[[Any], ResultWriter]
    opens_at_once: bool = False
    needs_probabilities: bool = False


class Kind(ABC):
    """One kind of results. Images are ``[H, W, 3]`` uint8 RGB, or volumes."""

    name: ClassVar[str]
    """As in the table of kinds."""
    metadata: ClassVar[type[Metadata]]
    """What exported files with such results say of themselves."""
    writers: ClassVar[Mapping[str, Save]]
    """What results can be saved as, by the names that users know."""
    default_save: ClassVar[tuple[str, ...]]
    """What they are saved as if the user does not say."""
    counted: ClassVar[str]
    """What :meth:`count` counts, for a summary."""
    has_legend: ClassVar[bool] = False
    """Whether drawn images have a legend unless the user says otherwise."""
    has_boxes: ClassVar[bool] = False
    """Whether results are boxes: objects that can be followed through a video, and converted to other programs' boxes;
    then images need no more padding than the stride asks for."""
    has_probabilities: ClassVar[bool] = False
    """Whether models say how probable each class is everywhere, see :meth:`average`."""

    def reader(self, spec: Any, num_classes: int, num_kept: int = 0) -> Callable[[Path], Any]:
        """How files are read as ``spec`` wants them, for a network that tells ``num_classes`` apart, the probabilities
        of ``num_kept`` of which are kept."""
        read: Callable[[Path], Any] = spec.read
        return read

    def average(self, parts: Iterator[tuple[FloatArray, Any]]) -> tuple[FloatArray, Any]:
        """The mean of ``parts``, the probabilities of each model with the way back from its grid, in that of the
        first."""
        raise NotImplementedError(f"{self.name} have no probabilities")

    def views(self, settings: Any) -> Any:
        """How images are looked at in tiles or in several views around the network, by the ``settings`` of
        postprocessing, a :class:`detseg.runtime.postprocess.config.PostprocessConfig`; None where they go through it
        once, or all that is part of the network's own way."""
        return None

    def mirror(self, result: Any, width: int) -> Any:
        """What was found in the mirror image, left to right, of one of ``width``, in this one."""
        raise NotImplementedError(f"{self.name} are not mirrored")

    def merge_tiles(self, found: Sequence[Any], tiles: Sequence[Any], size: tuple[int, int], settings: Any) -> Any:
        """The result of an image of ``size`` (height, width) from those ``found`` in its ``tiles``, each in pixels of
        its tile."""
        raise NotImplementedError(f"{self.name} are not merged from tiles")

    def fuse_views(self, found: Sequence[Any], settings: Any) -> Any:
        """The result of an image from those ``found`` in its views."""
        raise NotImplementedError(f"{self.name} are not fused")

    def reduced(self, result: Any, factor: int, size: tuple[int, int]) -> Any:
        """What was found in an image, in the one that holds the first of every ``factor`` of its rows and columns,
        of ``size`` (height, width)."""
        raise NotImplementedError(f"{self.name} are not reduced")

    @abstractmethod
    def draw(
        self,
        image: Any,
        result: Any,
        class_names: Sequence[str],
        line_width: int | None = None,
        palette: Palette | None = None,
    ) -> ByteArray:
        """A copy of ``image`` with what was found in it, in lines of ``line_width`` pixels and the colors of
        ``palette``, where these have a meaning.

        Raises:
            ValueError: the result is not one of this image, or of other classes.
        """

    @abstractmethod
    def compare(
        self, image: Any, truth: Any, result: Any, class_names: Sequence[str], palette: Palette | None = None
    ) -> ByteArray:
        """One image that shows ``image`` with its truth and what was found, in the colors of ``palette``."""

    def layers(
        self, image: Any, truth: Any, result: Any, class_names: Sequence[str], palette: Palette | None = None
    ) -> dict[str, ByteArray]:
        """Images of one size that a page may show in turn, by what they show; the first where nothing is asked for.
        Those called ``truth`` and ``prediction`` are seen side by side."""
        return {"comparison": self.compare(image, truth, result, class_names, palette)}

    @abstractmethod
    def draw_sample(self, sample: Any, class_names: Sequence[str], palette: Palette | None = None) -> ByteArray:
        """The image of a training sample with what is to be learned from it."""

    @abstractmethod
    def keep(self, result: Any, kept: BoolArray) -> Any:
        """``result`` without the classes that are not ``kept``, ``[C]``."""

    @abstractmethod
    def relabel(self, result: Any, positions: IntArray) -> Any:
        """``result`` with class ``positions[label]`` in place of ``label``; what has position -1 is left out."""

    @abstractmethod
    def count(self, result: Any, num_classes: int) -> IntArray:
        """How often each class is in ``result``, ``[C]``: objects, or 1 where there is any of it."""

    def left_out(self, result: Any) -> int | None:
        """How many more objects than ``result`` holds a limit left out; None where it holds as many as that allows, and
        how many more is not known."""
        return 0

    def coco_records(self, result: Any, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """The objects in ``result`` as entries of a COCO results file.

        Raises:
            TypeError: results hold no boxes.
        """
        raise TypeError(f"only boxes can be converted, this result is a {type(result).__name__}")

    @abstractmethod
    def record(self, result: Any, class_names: Sequence[str]) -> dict[str, Any]:
        """``result`` as plain data, for a line of JSON."""


class ImageInputs:
    """Images into the inputs of a network, in memory that is kept."""

    def __init__(self, spec: InputSpec) -> None:
        self._writer = InputWriter(spec)
        self._memory: dict[int, FloatArray] = {}

    def prepare(self, images: Sequence[ByteArray], slot: int) -> tuple[FloatArray, list[LetterboxTransform]]:
        """Images, placed and normalized ``[B, 3, H, W]``, in the memory ``slot``; the way back for each."""
        shape = self._writer.shape(images)
        size = math.prod(shape)
        memory = self._memory.get(slot)
        if memory is None or memory.size < size:
            memory = self._memory[slot] = np.empty(size, np.float32)
        batch = memory[:size].reshape(shape)
        return batch, self._writer.write(images, batch)

    def only(self, kept: BoolArray) -> Self:
        """Nothing is limited."""
        return self


def logits_of(network: Network, num_classes: int, inputs: FloatArray) -> FloatArray:
    """The logits of ``network``, ``[B, C, *spatial]`` for inputs ``[B, channels, *spatial]``."""
    logits: FloatArray = network.run(inputs)["logits"]
    if logits.ndim != inputs.ndim or logits.shape[1] != num_classes:
        raise ValueError(f"{network.path}: names {num_classes} classes and gives logits of shape {logits.shape}")
    return logits.astype(np.float32, copy=False)


def require_few_classes(class_names: Sequence[str]) -> None:
    """Raise ValueError where there are more classes than a mask of 8 bits holds beside ``IGNORE_INDEX``."""
    if len(class_names) > IGNORE_INDEX:
        raise ValueError(f"a mask of 8 bits holds {IGNORE_INDEX} classes at most, got {len(class_names)}")
