"""A training run from its configuration: builds the parts, hands them to the trainer, leaves a report."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detseg.augment.pipeline import PlanPipeline
from detseg.config import save_config, to_dict
from detseg.data.loading.loader import TrainLoader
from detseg.engine.distributed import Group, join_group, leave_group
from detseg.engine.evaluate import evaluate
from detseg.engine.logging.callbacks import Callback
from detseg.engine.logging.log import RECORDS_NAME, RunLog, read_records
from detseg.engine.logging.loggers import make_loggers
from detseg.engine.notices import notice_of_size, warn_of_mirroring, warn_of_vanishing
from detseg.engine.peers import watched_peers
from detseg.engine.reports.describe import describe
from detseg.engine.reports.examples import IMAGES_NAME, Examples
from detseg.engine.reports.report import write_report
from detseg.engine.run_data import open_run_data
from detseg.engine.run_folder import CONFIG_NAME, RunFolder
from detseg.engine.samples import Samples, as_samples, file_names, for_channels
from detseg.engine.settings import RunConfig, TrainConfig
from detseg.engine.start_report import announce
from detseg.engine.training.checkpoint import load_state
from detseg.engine.training.group_norms import synchronize_norms
from detseg.engine.training.trainer import AMP_TYPES, Trainer
from detseg.engine.training.val_loss import ValLoss
from detseg.engine.undrawn import CollateUndrawn
from detseg.evaluation.report import all_metrics
from detseg.files import remove_partial_files, write_text
from detseg.ops.pictures import require_exact_places
from detseg.ops.precision import gpu_arithmetic, require_precision
from detseg.runtime.weights.released import BEST
from detseg.structures import Metrics
from detseg.tasks.base import Batch, settle_on
from detseg.tasks.model_file import ModelFileConfig, load_model_file, match_classes, save_model_file
from detseg.tasks.start_weights import load_start_weights

_MIN_FOR_WORKERS = 64


@dataclass(frozen=True)
class RunResult:
    """Where a finished run left its files, and what its best model reached."""

    run_dir: Path
    metrics: Metrics
    table: str

    @property
    def best(self) -> Path:
        """The model of the best epoch."""
        return self.run_dir / BEST


Adapt = Callable[[int, Sequence[str]], tuple[RunConfig, Sequence[str]]]
"""From the number of training samples and their classes to the configuration of a run, and what was chosen and why."""


def train(
    config: RunConfig,
    run_dir: Path,
    *,
    resume: bool = False,
    accept_changed_data: bool = False,
    bar: bool = True,
    adapt: Adapt | None = None,
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Train as ``config`` says, or as ``adapt`` makes of it once the data is open; everything goes to ``run_dir``,
    which no other run may write to meanwhile.

    ``accept_changed_data``: a run whose data set has changed goes on all the same, at its next epoch. ``bar``: say on
    the screen what happens. ``callbacks`` are told of it beside the loggers of the run.

    Raises:
        FileExistsError: ``run_dir`` holds a run already, or anything else, and ``resume`` is False.
        FileNotFoundError: ``resume`` is True and there is no state to go on from.
        RunInUseError: another process writes to ``run_dir``.
        ValueError: the configuration, the data or the weights do not fit together.
        detseg.engine.training.interrupt.InterruptedRunError: told to stop; the state is saved.
        detseg.engine.meeting.PeerError: another process of the run has ended, or has never come.
    """
    if config.train.num_threads is not None:
        torch.set_num_threads(config.train.num_threads)
    group, device = join_group(config.train.device)
    folder = RunFolder(run_dir, group, device)
    with ExitStack() as stack:
        stack.callback(leave_group)
        stack.callback(folder.release)
        stack.enter_context(watched_peers(group, device, run_dir))
        folder.resume() if resume else folder.require_free()
        state = load_state(run_dir) if resume else None
        data = config.data
        opened = open_run_data(data, config.task.target, group, device, bar=bar)
        changes = opened.require_same(state, run_dir, accept_changed_data) if state else ""
        notes: Sequence[str] = ()
        if adapt is not None:
            config, notes = adapt(len(opened.train), opened.train.class_names)
        config = replace(
            config,
            task=config.task.adapted_to(opened.usable_train),
            train=_that_fits(config.train, len(opened.train)),
        )
        config = replace(config, model=for_channels(config.model, config.task.input))
        train_set = as_samples(opened.train, config.task.input, data.cache, data.cache_max_side)
        # Never reduced: a validation image is measured as it is.
        val_set = as_samples(opened.val, config.task.input, data.cache)
        match_classes(train_set.class_names, val_set.class_names)  # now, not after the first epoch
        file_config = ModelFileConfig(
            config.model,
            config.task,
            train_set.class_names,
            train_set.category_ids,
            class_colors=train_set.class_colors,
        )
        trainer = build_trainer(config, file_config, train_set, val_set, run_dir, group, device, bar=bar)
        learned_from_data = trainer.criterion.prepare(opened.usable_train if opened.bad_train else train_set)
        trainer.data_identity, trainer.has_truth = opened.identity, opened.has_truth
        if not resume:
            folder.begin()
        if group.is_main:
            remove_partial_files(run_dir)
            save_config(config, run_dir / CONFIG_NAME)
            for name, content in learned_from_data.items():
                write_text(run_dir / f"{name}.json", json.dumps(content, indent=2) + "\n")
        group.barrier()
        if state is not None:
            trainer.load_state_dict(state)
            if changes:
                trainer.leave_epoch()
        log = RunLog(
            run_dir,
            enabled=group.is_main,
            num_epochs_done=trainer.progress.epoch,
            num_epochs=config.train.epochs,
            bar=bar,
            callbacks=[*make_loggers(config.train.loggers), *callbacks],
        )
        try:
            announce(log, config, run_dir, opened, trainer, notes)
            for text in (
                *opened.warnings(),
                *warn_of_mirroring(config, train_set.class_names),
                *(warn_of_vanishing(train_set, config.task.input) if group.is_main else ()),
                *filter(None, [changes]),
            ):
                log.warn(text)
            if notice := notice_of_size(config, opened.train):
                log.say(notice)
            with gpu_arithmetic(tf32=config.train.tf32, fixed_shapes=config.augment.multi_scale is None):
                trainer.fit(log)
                trainer.loader.close()
                result = _report(config, val_set, opened.bad_val, run_dir, group, device, bar=bar)
            log.result(result.metrics)
        finally:
            log.close()
            trainer.loader.close()
        return result


def _that_fits(settings: TrainConfig, num_samples: int) -> TrainConfig:
    """``settings`` with a batch no larger than the training set."""
    if not 0 < num_samples < settings.batch_size:
        return settings
    warnings.warn(
        f"the training set has {num_samples} images, so batches are of {num_samples}, not {settings.batch_size}",
        stacklevel=3,
    )
    return replace(settings, batch_size=num_samples)


def _eval_workers(config: RunConfig, val_set: Samples) -> int:
    """The processes that read for an evaluation; few images are read sooner than processes are started."""
    return config.data.num_workers if len(val_set) >= _MIN_FOR_WORKERS else 0


def build_trainer(
    config: RunConfig,
    file_config: ModelFileConfig,
    train_set: Samples,
    val_set: Samples,
    run_dir: Path,
    group: Group,
    device: torch.device,
    *,
    bar: bool = False,
) -> Trainer:
    """The trainer of a run, ready to fit; the model's weights are those of the seed, or of ``train.weights``."""
    settings = config.train
    torch.manual_seed(settings.seed)
    model, task = file_config.build()
    require_precision(AMP_TYPES.get(settings.amp), device)
    settle_on(task, device)  # now, not after the first epoch
    criterion = file_config.task.build_criterion(model, task)
    report = None
    if settings.weights is not None:
        report = load_start_weights(model, file_config, settings.weights, partial=settings.partial_weights)
        if report.missing and group.is_main:
            shown = ", ".join(report.missing[:5]) + (", ..." if len(report.missing) > 5 else "")
            warnings.warn(
                f"{settings.weights}: {len(report.mapped)} tensors loaded, {len(report.missing)} of the model had no "
                f"match and start fresh: {shown}",
                stacklevel=2,
            )
    model = model.to(device)
    if settings.channels_last:
        model = model.to(memory_format=task.memory_format)
    model = synchronize_norms(model, group.world_size)
    pipeline = config.augment.build()
    collate: Callable[[Sequence[Any]], Batch] = criterion.collate
    if config.augment.device == "model":
        require_exact_places(device)
        pipeline, collate = PlanPipeline(pipeline), CollateUndrawn(collate)
    loader: TrainLoader[Batch] = TrainLoader(
        train_set,
        pipeline,
        collate,
        batch_size=settings.batch_size,
        seed=settings.seed,
        size=config.task.train_size,
        num_epochs=settings.epochs,
        close_mosaic_epochs=config.augment.close_mosaic_epochs,
        num_workers=config.data.num_workers,
        rank=group.rank,
        world_size=group.world_size,
        multi_scale=config.augment.multi_scale,
        stride=task.stride,
        on_bad_image=config.data.on_bad_image,
        max_bad_images=config.data.max_bad_images,
        neighborhood=config.augment.neighborhood,
        reduced_decoding=config.data.reduced_decoding,
        pin_memory=device.type == "cuda",
    )

    def judge(judged: nn.Module) -> Metrics:
        return evaluate(
            judged,
            task,
            val_set,
            batch_size=settings.eval_batch_size or settings.batch_size,
            device=device,
            num_workers=_eval_workers(config, val_set),
            precision=settings.eval_precision,
            group=group,
            bar=bar,
        ).compute()

    def save(path: Path, weights: dict[str, Tensor]) -> None:
        save_model_file(path, weights, file_config)

    trainer = Trainer(
        model=model,
        task=task,
        criterion=criterion,
        loader=loader,
        config=settings,
        evaluate=judge,
        save_model=save,
        run_dir=run_dir,
        group=group,
        device=device,
    )
    trainer.started_from = report
    # The numbers of classes are those of the model only where both splits have the same ones.
    if settings.val_loss and val_set.class_names == train_set.class_names and getattr(val_set, "has_labels", True):
        trainer.val_loss = ValLoss(
            task,
            criterion,
            val_set,
            settings,
            config.augment,
            config.task.train_size,
            group=group,
            device=device,
            num_workers=_eval_workers(config, val_set),
        )
    return trainer


def _report(
    config: RunConfig,
    val_set: Samples,
    skipped: Sequence[str],
    run_dir: Path,
    group: Group,
    device: torch.device,
    *,
    bar: bool,
) -> RunResult:
    """Evaluate the best model once more and draw the run's curves."""
    path = run_dir / BEST
    best = load_model_file(path)
    batch_size = config.train.eval_batch_size or config.train.batch_size
    examples = Examples(best.task, val_set, run_dir / IMAGES_NAME)
    evaluator = evaluate(
        best.model.to(device),
        best.task,
        val_set,
        batch_size=batch_size,
        device=device,
        num_workers=_eval_workers(config, val_set),
        precision=config.train.eval_precision,
        group=group,
        bar=bar,
        on_result=examples,
    )
    metrics = all_metrics(evaluator)
    images = examples.finish(evaluator, group, device)
    table = ""
    if group.is_main:
        settings = describe(
            path,
            data=str(config.data.path),
            split=config.data.val_split,
            num_images=len(val_set),
            settings=to_dict(best.config.task),
            num_parameters=sum(parameter.numel() for parameter in best.model.parameters()),
            device=str(device),
        )
        records = read_records(run_dir / RECORDS_NAME)
        table = write_report(evaluator, metrics, run_dir, settings, images, records, skipped, file_names(val_set))
    return RunResult(run_dir, metrics, table)
