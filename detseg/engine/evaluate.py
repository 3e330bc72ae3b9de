"""A model over a data set: the one evaluation that training, the command line and the exporter's report share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from detseg.data.loading.loader import EvalLoader
from detseg.engine.distributed import Group
from detseg.engine.samples import Samples, eval_placing
from detseg.evaluation.base import Evaluator
from detseg.inference.load import make_runner
from detseg.models.base import fused
from detseg.ops.precision import require_precision
from detseg.runtime.runner import Runner, predict_frames
from detseg.runtime.sources.frames import Frame
from detseg.structures import Result
from detseg.tasks.base import Batch, Task, settle_on
from detseg.tasks.model_file import match_classes

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

OnResult = Callable[[int, Any, Any], None]
"""Told of an image: its index in the data set, what was found, and what is true."""


def evaluate(
    model: nn.Module,
    task: Task,
    dataset: Samples,
    *,
    batch_size: int,
    device: torch.device,
    num_workers: int = 0,
    group: Group | None = None,
    bar: bool = True,
    on_result: OnResult | None = None,
    backend: str | None = None,
    precision: str = "fp32",
) -> Evaluator:
    """Run ``model`` over ``dataset`` and gather all results in an evaluator, on every process of ``group``.

    A copy of the model is run, its batch norms folded as in prediction; in fp16 or bf16 where the ``precision`` says so
    (torch's autocast). In tiles and views, where the task's settings name some, it is run as prediction does.

    The classes of the data set decide: a prediction of a class that the data set does not have is left out, and a class
    of the data set that the model does not have is an error. Volumes are of any size and go through one at a time,
    whatever the ``batch_size``. ``on_result`` is told of every image on this process; ``backend`` names
    the program that counts, see :meth:`detseg.tasks.base.Task.evaluator`.

    Raises:
        ValueError: the model does not know a class of the data set, or the backend or the precision cannot be used.
        ImageError: an image cannot be read.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    require_precision(PRECISIONS[precision], device)
    settle_on(task, device)
    group = group or Group()
    if task.kind.views(task.config.postprocess) is not None:
        network = fused(copy.deepcopy(model).eval())
        runner = make_runner(network, task, device, precision, cuda_graph=False)
        found = _evaluate_runner(runner, task, dataset, batch_size, num_workers, group, bar, on_result, backend)
        return _merged(found, group, device)
    loader: EvalLoader[Batch] = EvalLoader(
        dataset,
        eval_placing(task.spec),
        task.stack,
        batch_size=batch_size if task.spec.one_size else 1,
        num_workers=num_workers,
        rank=group.rank,
        world_size=group.world_size,
        pin_memory=device.type == "cuda",
    )
    results = _results_of_network(model, task, loader, device, PRECISIONS[precision])
    evaluator = _judge(results, loader.indices, task, dataset, bar and group.is_main, on_result, backend)
    return _merged(evaluator, group, device)


def evaluate_runner(
    runner: Runner,
    task: Task,
    dataset: Samples,
    *,
    batch_size: int,
    num_workers: int = 0,
    bar: bool = True,
    on_result: OnResult | None = None,
    backend: str | None = None,
) -> Evaluator:
    """The same for what runs a model as prediction does, such as an exported file; ``task`` judges what it finds.

    Raises:
        ValueError, ImageError: see :func:`evaluate`.
    """
    return _evaluate_runner(runner, task, dataset, batch_size, num_workers, Group(), bar, on_result, backend)


def _evaluate_runner(
    runner: Runner,
    task: Task,
    dataset: Samples,
    batch_size: int,
    num_workers: int,
    group: Group,
    bar: bool,
    on_result: OnResult | None,
    backend: str | None,
) -> Evaluator:
    """The share of this process of ``group``."""
    loader: EvalLoader[list[Any]] = EvalLoader(
        _AsRead(dataset),
        None,
        list,
        batch_size=batch_size if task.spec.one_size else 1,
        num_workers=num_workers,
        rank=group.rank,
        world_size=group.world_size,
    )
    results = _results_of_runner(runner, loader, batch_size)
    return _judge(results, loader.indices, task, dataset, bar and group.is_main, on_result, backend)


def _results_of_network(
    model: nn.Module, task: Task, loader: EvalLoader[Batch], device: torch.device, dtype: torch.dtype
) -> Generator[Result]:
    # What is trained keeps its batch norms.
    network = fused(copy.deepcopy(model).eval())
    try:
        for batch in loader:
            with torch.inference_mode():
                images = task.normalize(batch.images.to(device, non_blocking=True))
                with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                    outputs = task.infer(network, images)
                found = task.results(outputs, batch.transforms)
            yield from found
    finally:
        loader.close()


def _results_of_runner(runner: Runner, loader: EvalLoader[list[Any]], batch_size: int) -> Generator[Result]:
    try:
        frames = (Frame(image) for images in loader for image in images)
        for _, result in predict_frames(runner, frames, batch_size):
            yield result
    finally:
        loader.close()


class _AsRead:
    """The images or volumes of a data set as their files have them, for the loader: runners place them themselves."""

    def __init__(self, dataset: Samples) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def load(self, index: int) -> Any:
        image, _ = self._dataset.read(index)
        return image


def _judge(
    results: Generator[Result],
    indices: Sequence[int],
    task: Task,
    dataset: Samples,
    bar: bool,
    on_result: OnResult | None,
    backend: str | None,
) -> Evaluator:
    """The ``results`` for the images ``indices`` of ``dataset``, in an evaluator."""
    to_dataset = np.full(len(task.class_names), -1, np.int64)
    to_dataset[match_classes(task.class_names, dataset.class_names)] = np.arange(len(dataset.class_names))
    evaluator = task.evaluator(dataset.class_names, dataset.category_ids, backend)
    progress = tqdm(indices, desc="evaluate", unit="image", disable=None if bar else True, leave=False)
    with closing(results), progress:
        for index, found in zip(progress, results, strict=True):
            result, truth = task.kind.relabel(found, to_dataset), task.ground_truth(dataset, index)
            evaluator.update(dataset.image_id(index), result, truth)
            if on_result is not None:
                on_result(index, result, truth)
    return evaluator


def _merged(evaluator: Evaluator, group: Group, device: torch.device) -> Evaluator:
    """With what all processes of ``group`` have found."""
    if group.world_size > 1:
        evaluator.merge(_exchange(evaluator.state(), group, device))
    return evaluator


def _exchange(state: dict[str, Any], group: Group, device: torch.device) -> list[dict[str, Any]]:
    gathered = {name: group.gather(array, device) for name, array in state.items()}
    return [{name: arrays[rank] for name, arrays in gathered.items()} for rank in range(group.world_size)]
