"""What runs a network over images, whatever runs it: torch on a CPU or a GPU, or ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.structures import Result


class Pending(Protocol):
    """A batch that is on its way."""

    def results(self) -> Sequence[Result]:
        """Wait for the batch; one result per image, in pixels or voxels of the original."""


class Runner(Protocol):
    """Takes batches of images as they were read and gives their results, batch after batch."""

    spec: InputSpec | VolumeSpec
    """How files are read and placed in the input."""
    num_pending: int
    """How many batches it works on at a time: before a further one is handed in, the results of the oldest must have
    been asked for."""

    good_batch_size: int
    """How many images make a batch where the user does not say."""

    def submit(self, images: Sequence[Any]) -> Pending:
        """Start with a batch of images ``[H, W, 3]`` uint8 RGB whose inputs, by ``spec``, have one size, or of
        volumes."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A batch whose results are there already."""

    found: Sequence[Result]

    def results(self) -> Sequence[Result]:
        """The results; nothing is waited for."""
        return self.found
