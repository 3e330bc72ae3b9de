"""The proof of an export: the same images through torch and through the torch-free runtime, end to end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from detseg.exporters.base import Comparison
from detseg.exporters.verification import VerificationImages
from detseg.runtime.onnx.model import OnnxModel
from detseg.runtime.onnx.runner import OnnxRunner
from detseg.structures import Metrics
from detseg.tasks.base import Task
from detseg.tasks.model_file import match_classes

BATCH_SIZE = 4


@dataclass(frozen=True)
class Side:
    """One way to run the file, named for reports, with what gathers how it differs."""

    name: str
    model: OnnxModel
    runner: OnnxRunner
    comparison: Comparison


@dataclass(frozen=True)
class Parity:
    """How the file compares with the model: the ``differences`` by name, what of them is beyond the tolerance of
    float32, and, where there were annotations, the ``metrics`` of torch and of the file; ``others``: the same of other
    runtimes and precisions, by name."""

    images: str
    differences: dict[str, Any]
    problems: list[str]
    metrics: dict[str, Metrics] = field(default_factory=dict)
    others: dict[str, Parity] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for ``parity.json``."""
        report: dict[str, Any] = {"images": self.images, "differences": self.differences, "problems": self.problems}
        if self.metrics:
            primary = self.metrics["torch"].primary
            report["metrics"] = {name: dict(metrics) for name, metrics in self.metrics.items()}
            report["loss"] = {primary: self.metrics["torch"][primary] - self.metrics["onnx"][primary]}
        if self.others:
            report["runtimes"] = {
                name: {
                    key: value for key, value in other.as_dict().items() if key in ("differences", "metrics", "loss")
                }
                for name, other in self.others.items()
            }
        return report

    def lines(self) -> list[str]:
        """The same for people."""
        lines = [f"{name.replace('_', ' ')}: {_show(value)}" for name, value in self.differences.items()]
        if self.metrics:
            torch_metrics, onnx_metrics = self.metrics["torch"], self.metrics["onnx"]
            primary = torch_metrics.primary
            before, after = torch_metrics[primary], onnx_metrics[primary]
            lines.append(f"{primary}: torch {before:.4f}, ONNX {after:.4f}, loss {before - after:.4f}")
            for name, other in self.others.items():
                found = other.metrics["onnx"][primary]
                lines.append(f"{primary} in {name}: {found:.4f}, loss {before - found:.4f}")
        return lines


def compare(
    model: nn.Module,
    task: Task,
    side: Side,
    images: VerificationImages,
    others: Sequence[Side] = (),
    *,
    batch_size: int = BATCH_SIZE,
) -> Parity:
    """Run ``images`` through ``model`` and ``task``, and through the file as ``side`` and ``others`` run it.

    Raises:
        ImageError: an image cannot be read.
    """
    sides = [side, *others]
    names = ["torch", *(one.name for one in sides)]
    judges = _Judges(task, images.dataset, names) if images.dataset is not None else None
    index = 0
    with torch.inference_mode():
        for batch in _batches(images, batch_size if task.spec.one_size else 1):
            placed = [task.spec.place(image) for image in batch]
            inputs = task.normalize(torch.from_numpy(np.stack([array for array, _ in placed])).contiguous())
            expected = task.results(task.infer(model, inputs), [transform for _, transform in placed])
            found = [one.runner.submit(batch).results() for one in sides]
            if side.comparison.compares_outputs:
                raw = model(inputs)
                for one in sides:
                    (outputs,) = one.model.run(inputs.numpy()).values()
                    one.comparison.add_outputs(raw, outputs)
            for row, result in enumerate(expected):
                for one, results in zip(sides, found, strict=True):
                    one.comparison.add(result, results[row])
                if judges is not None:
                    judges.add(index, result, *(results[row] for results in found))
                index += 1
    metrics = {} if judges is None else judges.metrics()

    def parity_of(one: Side) -> Parity:
        own = {"torch": metrics["torch"], "onnx": metrics[one.name]} if metrics else {}
        return Parity(images.name, one.comparison.report(), one.comparison.problems(), own)

    return replace(parity_of(side), others={one.name: parity_of(one) for one in others})


class _Judges:
    """The evaluators of all sides."""

    def __init__(self, task: Task, dataset: Any, names: Sequence[str]) -> None:
        self._task = task
        self._dataset = dataset
        self._to_dataset = np.full(len(task.class_names), -1, np.int64)
        positions = match_classes(task.class_names, dataset.class_names)
        self._to_dataset[positions] = np.arange(len(dataset.class_names))
        self._evaluators = {name: task.evaluator(dataset.class_names, dataset.category_ids) for name in names}

    def add(self, index: int, *results: Any) -> None:
        """Image ``index`` of the data set: what torch and what the file found."""
        truth = self._task.ground_truth(self._dataset, index)
        for evaluator, result in zip(self._evaluators.values(), results, strict=True):
            evaluator.update(self._dataset.image_id(index), self._task.kind.relabel(result, self._to_dataset), truth)

    def metrics(self) -> dict[str, Metrics]:
        """What all sides reach."""
        return {side: evaluator.compute() for side, evaluator in self._evaluators.items()}


def _batches(images: Iterable[Any], batch_size: int) -> Iterator[Sequence[Any]]:
    waiting = iter(images)
    while batch := list(islice(waiting, batch_size)):
        yield batch


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_show(one)}" for name, one in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)
