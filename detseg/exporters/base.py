"""What kind of file is made, and how its results are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self, get_args, runtime_checkable

from torch import Tensor

from detseg.runtime.kinds.base import Precision

MIN_OPSET, MAX_OPSET, DEFAULT_OPSET = 18, 23, 18
"""The exporter of torch writes 18 and above; the later ones are for runtimes that want them."""


class ParityError(ValueError):
    """The exported file does not give the results of the model; it was not kept."""


@dataclass(frozen=True)
class ExportSettings:
    """What kind of file is made.

    ``precision``: of the network's weights and arithmetic; inputs and outputs are float32 in any case. ``form``: which
    outputs the graph has, one of the task's. ``opset``: of the ONNX standard. ``dynamic``: whether batch and size are
    free; otherwise a batch is one input of the size in the model file.
    """

    precision: Precision
    form: str
    opset: int = DEFAULT_OPSET
    dynamic: bool = True

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {self.precision!r}")
        if not MIN_OPSET <= self.opset <= MAX_OPSET:
            raise ValueError(f"opset must be from {MIN_OPSET} to {MAX_OPSET}, got {self.opset}")


@runtime_checkable
class Comparison(Protocol):
    """Gathers the differences between results of torch and of the exported file, input by input."""

    compares_outputs: bool
    """Whether the network's own outputs are compared as well as the results."""

    @classmethod
    def of(cls, metadata: Any) -> Self:
        """A fresh comparison for a file that says this of itself."""

    def add(self, expected: Any, found: Any) -> None:
        """One input: the result of torch and that of the file."""

    def add_outputs(self, expected: Tensor, found: Any) -> None:
        """One batch: what the network itself gave, where that is compared."""

    def report(self) -> dict[str, Any]:
        """The differences, as plain data."""

    def problems(self) -> list[str]:
        """What is beyond the tolerance of float32, in words; empty where all is well."""
