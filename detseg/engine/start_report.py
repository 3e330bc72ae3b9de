"""What a run says before its first step: what learns from what, and how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from detseg.config import to_dict
from detseg.engine.logging.callbacks import RunStart
from detseg.engine.logging.log import RunLog
from detseg.engine.run_data import AnyDataset, RunData
from detseg.engine.settings import RunConfig, TrainConfig
from detseg.engine.training.trainer import AMP_TYPES, Trainer
from detseg.ops.precision import describe_arithmetic
from detseg.tasks.start_weights import StartReport

_NUM_NAMED = 8


def announce(
    log: RunLog, config: RunConfig, run_dir: Path, data: RunData, trainer: Trainer, notes: Sequence[str] = ()
) -> None:
    """Tell ``log`` that ``trainer`` begins, or goes on; ``notes`` say what was chosen for the user and why."""
    start = RunStart(
        run_dir=run_dir,
        config=to_dict(config),
        class_names=data.train.class_names,
        num_parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        num_train=len(data.train),
        num_val=len(data.val),
        num_epochs_done=trainer.progress.epoch,
    )
    log.start(start, _lines(start, config, data, trainer, notes))


def _lines(start: RunStart, config: RunConfig, data: RunData, trainer: Trainer, notes: Sequence[str]) -> Iterator[str]:
    settings, num_processes = config.train, trainer.group.world_size
    several = f", {num_processes} processes" if num_processes > 1 else ""
    yield f"device: {_describe_device(trainer.device, settings)}{several}"
    size = "x".join(map(str, config.task.train_size))
    yield f"model: {config.model.name}, {start.num_parameters:,} parameters, {config.task.name} at {size}"
    if trainer.started_from is not None:
        yield f"weights: {settings.weights}: {_describe_start(trainer.started_from)}"
    yield f"data: {config.data.path}"
    for name, dataset in ((config.data.train_split, data.train), (config.data.val_split, data.val)):
        yield f"  {name}: {_describe_split(dataset)}"
    yield f"classes: {len(start.class_names)}: {_some(start.class_names)}"
    for note in notes:
        yield f"chosen: {note}"
    accumulate = f", {settings.accumulate} of them in a step" if settings.accumulate > 1 else ""
    yield (
        f"batches of {settings.batch_size}{accumulate}, {trainer.steps_per_epoch} steps in an epoch, "
        f"{settings.epochs} epochs{f', {start.num_epochs_done} of them done' if start.num_epochs_done else ''}"
    )
    yield f"run folder: {start.run_dir}"


def _describe_device(device: torch.device, settings: TrainConfig) -> str:
    if device.type == "cuda":
        arithmetic = describe_arithmetic(device, AMP_TYPES.get(settings.amp), tf32=settings.tf32)
        return f"{device} ({torch.cuda.get_device_name(device)}), {arithmetic}, torch {torch.__version__}"
    return f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _describe_start(report: StartReport) -> str:
    text = f"{len(report.mapped)} of {len(report.mapped) + len(report.missing)} tensors"
    if report.kept or report.new:
        text += f"; classes taken over: {_some(report.kept) or 'none'}"
        text += f"; new: {_some(report.new)}" if report.new else ""
    return text


def _describe_split(dataset: AnyDataset) -> str:
    count = dataset.num_objects
    objects = "" if count is None else f", {count:,} objects"
    return f"{len(dataset):,} {dataset.unit}{objects}"


def _some(names: Sequence[str]) -> str:
    more = f", ... ({len(names) - _NUM_NAMED} more)" if len(names) > _NUM_NAMED else ""
    return ", ".join(names[:_NUM_NAMED]) + more
