"""The seam between exporting and the tasks: what a task must say about its graph, and how its results are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import onnx
import torch
from torch import Tensor, nn

Precision = Literal["fp32", "fp16", "int8"]

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


class Comparison(Protocol):
    """Gathers the differences between results of torch and of the exported file, input by input."""

    def add(self, expected: Any, found: Any) -> None:
        """One input: the result of torch and that of the file."""

    def add_outputs(self, expected: Tensor, found: Any) -> None:
        """One batch: what the network itself gave, where that is compared."""

    def report(self) -> dict[str, Any]:
        """The differences, as plain data."""

    def problems(self) -> list[str]:
        """What is beyond the tolerance of float32, in words; empty where all is well."""


class Exporter(Protocol):
    """What differs by task."""

    forms: tuple[str, ...]
    """The forms of the outputs, the default first."""
    input_name: str
    compares_outputs: bool
    """Whether the network's own outputs are compared as well as the results."""

    task: Any

    def __init__(self, model: nn.Module, task: Any, form: str) -> None:
        """For a fused model in evaluation mode."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs of :meth:`graph`."""

    def graph(self) -> nn.Module:
        """A module from one batch of inputs to the outputs, made of what ONNX can say."""

    def example(self) -> Tensor:
        """A batch of inputs to trace the graph with."""

    def free_sides(self) -> Mapping[int, Any]:
        """The dimensions of the input that may vary, and what is known of them."""

    def finish(self, network: onnx.ModelProto) -> onnx.ModelProto:
        """The exported graph with what follows it in the file."""

    def sides(self) -> dict[str, tuple[str, ...]]:
        """The names of the dimensions of every input and output of the file."""

    def metadata(self) -> dict[str, Any]:
        """What the file says of itself beyond what all files say."""

    def comparison(self) -> Comparison:
        """A fresh comparison of results."""


def batch_side() -> Any:
    """The number of inputs in a batch, free."""
    return torch.export.Dim("batch")
