"""A model over a data set: the one evaluation that training, the command line and the exporter's report share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from detseg.data.loader import EvalLoader
from detseg.engine.distributed import Group
from detseg.engine.samples import Samples, eval_placing
from detseg.evaluation.base import Evaluator
from detseg.tasks.base import Batch, Task
from detseg.tasks.package import match_classes


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
    on_result: Callable[[int, Any, Any], None] | None = None,
) -> Evaluator:
    """Run ``model`` over ``dataset`` and gather all results in an evaluator, on every process of ``group``.

    The classes of the data set decide: a prediction of a class that the data set does not have is left out, and a class
    of the data set that the model does not have is an error. Volumes are of any size and go through one at a time,
    whatever the ``batch_size``. ``on_result`` is told of every image on this process: its
    index in the data set, what was found, and what is true.

    Raises:
        ValueError: the model does not know a class of the data set.
        ImageError: a picture cannot be read.
    """
    group = group or Group()
    to_dataset = np.full(len(task.class_names), -1, np.int64)
    to_dataset[match_classes(task.class_names, dataset.class_names)] = np.arange(len(dataset.class_names))
    evaluator = task.evaluator(dataset.class_names, dataset.category_ids)
    loader: EvalLoader[Batch] = EvalLoader(
        dataset,
        eval_placing(task.spec),
        task.collate,
        batch_size=batch_size if task.spec.one_size else 1,
        num_workers=num_workers,
        rank=group.rank,
        world_size=group.world_size,
    )
    was_training = model.training
    model.eval()
    indices = iter(loader.indices)
    batches = tqdm(loader, desc="evaluate", unit="batch", disable=not (bar and group.is_main), leave=False)
    try:
        with torch.inference_mode():
            for batch in batches:
                images = task.normalize(batch.images.to(device, non_blocking=True))
                for found in task.results(task.infer(model, images), batch.placements):
                    index = next(indices)
                    result, truth = task.relabel(found, to_dataset), task.ground_truth(dataset, index)
                    evaluator.update(dataset.image_id(index), result, truth)
                    if on_result is not None:
                        on_result(index, result, truth)
    finally:
        loader.close()
        model.train(was_training)
    if group.world_size > 1:
        evaluator.merge(_exchange(evaluator.state(), group, device))
    return evaluator


def _exchange(state: dict[str, Any], group: Group, device: torch.device) -> list[dict[str, Any]]:
    gathered = {name: group.gather(array, device) for name, array in state.items()}
    return [{name: arrays[rank] for name, arrays in gathered.items()} for rank in range(group.world_size)]
