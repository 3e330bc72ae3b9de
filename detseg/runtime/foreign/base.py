"""What a layout is: which outputs of a foreign graph hold what, and how they become those of our own files.

Shape legend: B batch, K boxes, A grid cells, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import FloatArray
from detseg.memory import usable_memory
from detseg.runtime.inputs.geometry import InputSpec, StretchedInputSpec
from detseg.runtime.kinds.base import Metadata, Network, Outputs

MEMORY_SHARE = 0.25
"""Of what this process may use, for one array that is made of outputs."""

Anchor = Literal["center", "top_left", "stretch"]
Triple = tuple[float, float, float]


class UnfitError(ValueError):
    """A graph that is not of a layout, or of none; the message says why, without the path. ``is_near``: number and
    dimensions of the outputs are those of the layout, so that the reason is worth telling."""

    def __init__(self, reason: str, *, is_near: bool = True) -> None:
        super().__init__(reason)
        self.is_near = is_near


@dataclass(frozen=True)
class Pixels:
    """How a network wants its input: ``(pixel * scale - mean) / std`` of gray levels from 0 to 255, ``mean`` and
    ``std`` in the order of channels that it sees; ``anchor``: where an image lies whose aspect ratio is kept, or
    ``stretch``."""

    scale: float
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    bgr: bool = False
    anchor: Anchor = "center"

    def spec(self, height: int, width: int) -> InputSpec:
        """The input of ``height`` x ``width`` pixels. Raises ValueError: a value is not allowed."""
        if not self.scale > 0:
            raise ValueError(f"scale must be positive, such as 1/255, got {self.scale:g}")
        first, second, third = (value / self.scale for value in self.mean)
        divisors = tuple(value / self.scale for value in self.std)
        stretched = self.anchor == "stretch"
        made: type[InputSpec] = StretchedInputSpec if stretched else InputSpec
        return made(
            height,
            width,
            anchor="top_left" if self.anchor == "stretch" else self.anchor,
            channel_order="bgr" if self.bgr else "rgb",
            mean=(first, second, third),
            std=(divisors[0], divisors[1], divisors[2]),
        )


UNIT = Pixels(1 / 255)
"""From 0 to 1, as Ultralytics wants it."""
IMAGENET = Pixels(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), anchor="stretch")


@dataclass(frozen=True)
class Found:
    """What a graph gave for one empty input of ``height`` x ``width`` pixels, by name. ``num_names``: how many classes
    are named, None where nobody names them; ``task``: what the file says it is for, "" where it says nothing."""

    outputs: Mapping[str, NDArray[Any]]
    height: int
    width: int
    num_names: int | None = None
    task: str = ""

    def named(self, num_dimensions: int, kinds: str = "f") -> list[str]:
        """The outputs of so many dimensions and, by numpy's letters, such types."""
        return [name for name, one in self.outputs.items() if one.ndim == num_dimensions and one.dtype.kind in kinds]

    def describe(self) -> str:
        """All outputs with their shapes."""
        return ", ".join(f"{name} {list(one.shape)} {one.dtype}" for name, one in self.outputs.items())


@dataclass(frozen=True)
class Description:
    """What metadata of every kind is made of."""

    graph_input: str
    class_names: tuple[str, ...]
    input: InputSpec
    stride: int


@dataclass(frozen=True)
class Layout(ABC):
    """``outputs``: the names of the outputs that are read; ``num_classes``: as far as their shapes tell."""

    pixels: ClassVar[Pixels] = UNIT
    """What such networks want unless they are told otherwise."""
    one_at_a_time: ClassVar[bool] = False
    """Whether outputs may have no axis for the batch, so that images go through one by one."""

    outputs: tuple[str, ...]
    num_classes: int | None

    @classmethod
    @abstractmethod
    def recognize(cls, found: Found, *, chosen: bool) -> Self:
        """The layout of ``found``. ``chosen``: the user says that it is this one, so that it need not be the only one
        that fits.

        Raises:
            UnfitError: it is another one.
        """

    @property
    def stride(self) -> int:
        """What sides of inputs are multiples of."""
        return 1

    @property
    def note(self) -> str:
        """What of the outputs is left out, "" where nothing is."""
        return ""

    @abstractmethod
    def read(self, outputs: Outputs, height: int, width: int, num_classes: int) -> dict[str, NDArray[Any]]:
        """``outputs`` for inputs of ``height`` x ``width`` pixels as one of our forms gives them.

        Raises:
            ValueError: they are not what they were when the file was opened.
        """

    @abstractmethod
    def describe(self, description: Description) -> Metadata:
        """The metadata of a file of this layout."""


@dataclass(frozen=True, kw_only=True)
class ForeignNames:
    """What metadata of foreign files has beside that of our own: the names in the graph, and its layout."""

    graph_input: str
    layout: Layout

    @property
    def sides(self) -> dict[str, tuple[str, ...]]:
        """The input and the outputs that are read."""
        return {self.graph_input: ("batch", "channels", "height", "width"), **dict.fromkeys(self.layout.outputs, ())}


class AdaptedNetwork:
    """``network``, whose outputs ``layout`` brings into one of our forms. See
    :class:`detseg.runtime.kinds.base.Network`."""

    def __init__(self, network: Network, layout: Layout, num_classes: int) -> None:
        self.path: Path = network.path
        self._network = network
        self._layout = layout
        self._num_classes = num_classes

    @property
    def has_free_sides(self) -> bool:
        """Whether inputs may be of any size."""
        return self._network.has_free_sides

    def require_shape(self, shape: Sequence[int]) -> None:
        """Raise ValueError unless one input may have this ``shape``."""
        self._network.require_shape(shape)

    def run(self, inputs: FloatArray) -> Outputs:
        """``inputs`` through the network, and its outputs as one of our forms."""
        portions = [inputs[row : row + 1] for row in range(len(inputs))] if self._layout.one_at_a_time else [inputs]
        read = []
        for portion in portions:
            try:
                height, width = portion.shape[2:]
                found = self._layout.read(self._network.run(portion), height, width, self._num_classes)
            except UnfitError as error:
                raise ValueError(f"{self.path}: {error}") from error
            read.append(found)
        return read[0] if len(read) == 1 else {name: _stacked([one[name] for one in read]) for name in read[0]}


def _stacked(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Arrays ``[1, K, ...]`` as one ``[B, K, ...]``; K is the largest, what is missing 0."""
    longest = max(array.shape[1] for array in arrays)
    stacked = np.zeros((len(arrays), longest, *arrays[0].shape[2:]), arrays[0].dtype)
    for row, array in zip(stacked, arrays, strict=True):
        row[: array.shape[1]] = array[0]
    return stacked


def require_memory(num_bytes: int, what: str) -> None:
    """Raise UnfitError where an array of ours would take more memory than a quarter of what this process may use: what
    ONNX Runtime gives has limits of its own, and a small output can stand for much."""
    most = MEMORY_SHARE * usable_memory()
    if num_bytes > most:
        raise UnfitError(f"{what} would take {num_bytes / 1e9:.3g} GB; at most {most / 1e9:.3g} GB may go to that")


def require_classes(found: Found, num_classes: int) -> None:
    """Raise UnfitError unless as many classes are named, where any are."""
    if found.num_names not in (None, num_classes):
        raise UnfitError(f"it would have {num_classes} classes, and {found.num_names} are named")
