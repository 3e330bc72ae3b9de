"""The loss on the validation split, beside that of training: the first thing to say that a model learns by heart."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from detseg.data.loading.loader import EvalLoader, TrainLoader
from detseg.engine.distributed import Group
from detseg.engine.samples import Samples, eval_placing
from detseg.engine.settings import AugmentConfig, TrainConfig
from detseg.inference.load import PRECISIONS
from detseg.tasks.base import Batch, Criterion, Task

_KEPT_AS_TRAINED = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
"""Layers that behave in training as they do not in use."""


class ValLoss:
    """The loss of ``criterion`` over ``dataset``: of images as evaluation places them, of volumes in patches of the
    size of training, the same ones each time. Every process of ``group`` takes a share.

    The network gives what it gives in training, auxiliary outputs too, with the statistics of its batch norms and
    without dropout.
    """

    def __init__(
        self,
        task: Task,
        criterion: Criterion,
        dataset: Samples,
        config: TrainConfig,
        augment: AugmentConfig,
        size: tuple[int, ...],
        *,
        group: Group,
        device: torch.device,
        num_workers: int = 0,
    ) -> None:
        self._task = task
        self._criterion = criterion
        self._dataset = dataset
        self._config = config
        self._augment = augment
        self._size = size
        self._group = group
        self._device = device
        self._num_workers = num_workers

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """``val_loss`` and its parts, ``val_loss/<part>``; nothing where no sample can be had of the split."""
        network = copy.deepcopy(model).train()
        for module in network.modules():
            if isinstance(module, _KEPT_AS_TRAINED):
                module.eval()
        dtype = PRECISIONS[self._config.eval_precision]
        sums: dict[str, Tensor] = {}
        normalizer = torch.zeros((), device=self._device)
        for batch in self._batches():
            there = batch.to(self._device)
            with torch.autocast(self._device.type, dtype=dtype, enabled=dtype != torch.float32):
                raw = network(self._task.normalize(there.images))
            loss = self._criterion(raw, there)
            normalizer += loss.normalizer
            for name, part in loss.parts.items():
                sums[name] = sums.get(name, torch.zeros_like(part)) + part
        parts = self._group.gather_json([[name, float(value)] for name, value in sums.items()], self._device)
        divisor = max(1.0, float(self._group.sum(normalizer)))
        totals: dict[str, float] = {}
        for name, value in (entry for part in parts for entry in part):
            totals[name] = totals.get(name, 0.0) + value / divisor
        if not totals or not all(map(math.isfinite, totals.values())):
            return {}
        return {"val_loss": sum(totals.values())} | {f"val_loss/{name}": value for name, value in totals.items()}

    def _batches(self) -> Iterator[Batch]:
        """This process's share."""
        batch_size = self._config.eval_batch_size or self._config.batch_size
        if self._task.spec.one_size:
            loader: EvalLoader[Batch] = EvalLoader(
                self._dataset,
                eval_placing(self._task.spec),
                self._criterion.collate,
                batch_size=batch_size,
                num_workers=self._num_workers,
                rank=self._group.rank,
                world_size=self._group.world_size,
                pin_memory=self._device.type == "cuda",
            )
            try:
                yield from loader
            finally:
                loader.close()
            return
        if len(self._dataset) < self._group.world_size:
            return
        patches: TrainLoader[Batch] = TrainLoader(
            self._dataset,
            self._augment.build(),
            self._criterion.collate,
            batch_size=min(self._config.batch_size, len(self._dataset)),
            seed=self._config.seed,
            size=self._size,
            num_workers=0,
            stride=self._task.stride,
            rank=self._group.rank,
            world_size=self._group.world_size,
        )
        try:
            yield from patches.epoch(0)
        finally:
            patches.close()
