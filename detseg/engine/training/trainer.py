"""The training loop: one step is the same whatever the task, the number of micro-batches or of processes."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detseg.data.loading.loader import TrainLoader
from detseg.data.loading.worker_pool import WorkerDiedError
from detseg.data.source import DatasetError
from detseg.engine.distributed import Group
from detseg.engine.logging.log import RunLog
from detseg.engine.settings import TrainConfig
from detseg.engine.training.awaited import Awaited
from detseg.engine.training.checkpoint import STATE_NAME, save_state
from detseg.engine.training.ema import ModelEMA
from detseg.engine.training.freezing import freeze, names_to_freeze
from detseg.engine.training.interrupt import InterruptedRunError, StopRequest
from detseg.engine.training.late import LateValues, StepOutcome, StepRecord
from detseg.engine.training.learner import Copies, Learner
from detseg.losses.base import LossSum
from detseg.runtime.media.images import ImageError
from detseg.structures import Metrics
from detseg.tasks.base import Batch, Criterion, Task
from detseg.tasks.start_weights import StartReport

AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class NonFiniteLossError(ValueError):
    """The loss or its gradient is not finite; nothing was learned from it and nothing was saved."""


@dataclass
class Progress:
    """How far a run is. ``batch`` counts the micro-batches of ``epoch`` that are done; ``step`` the optimizer steps of
    the run; ``sums`` the loss parts of the epoch so far, summed over ``num_steps`` steps. ``is_trained``: all steps of
    the epoch are done, its evaluation is not."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float = -math.inf
    best_epoch: int = -1
    num_steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    is_trained: bool = False


class Trainer:
    """Trains ``model`` on what ``loader`` gives, evaluates it with ``evaluate`` and leaves its files in ``run_dir``.

    ``evaluate(model)`` returns metrics; ``save_model(path, weights)`` writes a model file. The model is on ``device``.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        task: Task,
        criterion: Criterion,
        loader: TrainLoader[Batch],
        config: TrainConfig,
        evaluate: Callable[[nn.Module], Metrics],
        save_model: Callable[[Path, dict[str, Tensor]], None],
        run_dir: Path,
        group: Group,
        device: torch.device,
    ) -> None:
        self.model = model
        self.task = task
        self.criterion = criterion
        self.loader = loader
        self.config = config
        self.evaluate = evaluate
        self.save_model = save_model
        self.run_dir = run_dir
        self.group = group
        self.device = device
        self.steps_per_epoch = math.ceil(loader.batches_per_epoch / config.accumulate)
        self.optimizer = config.optimizer.build(model)
        self.learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.frozen_names = names_to_freeze(model, config.freeze)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
        self.ema = ModelEMA(model, config.ema) if config.ema else None
        self.learner = Learner(model, config, group.world_size)
        self.copies = Copies(device)
        self.progress = Progress()
        self._unread: StepRecord | None = None
        self._is_stopping = False
        self.started_from: StartReport | None = None
        self.data_identity: dict[str, Any] = {}
        """What the data are that the run learns from, kept in its state."""
        self.has_truth = True
        """Whether the metric means anything: there is something to find in the validation split."""
        self.stop = StopRequest()
        self.val_loss: Callable[[nn.Module], dict[str, float]] | None = None
        """The loss on the validation split, where it is asked for."""

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on; order of the data and random numbers follow from ``progress``."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema else {},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": dataclasses.asdict(self.progress),
            "num_threads": torch.get_num_threads(),
            "data": self.data_identity,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`, bit by bit.

        Raises:
            ValueError: it is the state of another run.
        """
        try:
            self.model.load_state_dict(state["model"])
            if self.ema:
                self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.progress = Progress(**state["progress"])
            torch.set_num_threads(state["num_threads"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            what = f"it has no {error}" if isinstance(error, KeyError) else error
            raise ValueError(
                f"{self.run_dir / STATE_NAME} is no state of the run that the configuration beside it describes: {what}"
            ) from error

    def leave_epoch(self) -> None:
        """Leave the epoch that was broken off: its batches were those of other data. Go on with the next one, or begin
        the last one again; an epoch of which only the evaluation is left keeps it."""
        progress = self.progress
        if progress.batch and not progress.is_trained:
            epoch = min(progress.epoch + 1, self.config.epochs - 1)
            self.progress = progress = dataclasses.replace(progress, epoch=epoch, batch=0, num_steps=0, sums={})
        # The learning rate follows the steps, of which an epoch may have more or fewer now.
        progress.step = (progress.epoch + progress.is_trained) * self.steps_per_epoch

    def fit(self, log: RunLog) -> None:
        """Train to the last epoch, telling ``log``.

        Raises:
            InterruptedRunError: SIGTERM or SIGINT came; the state is saved.
            NonFiniteLossError: the loss is not finite; the state saved last is kept.
        """
        with self.stop:
            while self.progress.epoch < self.config.epochs and not self._out_of_patience():
                started = time.monotonic()
                wait_seconds = self._train_epoch(log)
                self._finish_epoch(log, time.monotonic() - started, wait_seconds)

    def _out_of_patience(self) -> bool:
        waited = self.progress.epoch - 1 - self.progress.best_epoch
        return self.config.patience is not None and self.progress.best_epoch >= 0 and waited >= self.config.patience

    def _train_epoch(self, log: RunLog) -> float:
        """Take the steps that are left of the epoch; returns the seconds in which there was no batch to work on."""
        if self.progress.is_trained:
            return 0.0
        try:
            return self._take_steps(log)
        except (WorkerDiedError, ImageError, DatasetError):
            # It came between two steps. Other processes wait for this one in the next, so nobody is waited for.
            self.settle()
            if self.group.is_main and self.progress.step:
                save_state(self.run_dir, self.state_dict())
                log.say(
                    f"what was learned up to step {self.progress.step} is saved; when the cause below is removed, go "
                    f"on with: detseg train --resume {self.run_dir}"
                )
            raise

    def _take_steps(self, log: RunLog) -> float:
        progress, config = self.progress, self.config
        self.model.train()
        frozen = self.frozen_names if config.freeze_epochs is None or progress.epoch < config.freeze_epochs else set()
        freeze(self.model, frozen, self.learned, norms=config.freeze_norms)
        model = self.learner.joined()
        batches = Awaited(self.loader.epoch(progress.epoch, start_batch=progress.batch))
        with log.epoch_bar(progress.epoch, config.epochs, self.steps_per_epoch, progress.num_steps) as bar:
            for micro_batches in _chunks(batches, config.accumulate):
                told_to_stop = self._step(model, micro_batches)
                progress.batch += len(micro_batches)
                progress.step += 1
                bar.update({name: value / max(1, progress.num_steps) for name, value in progress.sums.items()})
                for message in self.loader.bad_images_of_epoch.values():
                    log.warn(describe_skipped(message))
                if told_to_stop:
                    self._save_and_stop()
                if config.save_steps and progress.step % config.save_steps == 0:
                    self._save()
        return batches.seconds

    def _step(self, model: nn.Module, batches: list[Batch]) -> bool:
        """One optimizer step on ``batches``; returns whether some process was told to stop, of several at the step
        before this one.

        Each batch's loss is divided by a ``reference``, and the gradient at the end by what the sum of all normalizers
        differs from it: equal to one loss over all batches of all processes, divided by their common normalizer.

        The host waits for none of it. What it wants to know of the step it reads during the next one, see
        :meth:`settle`; a step whose loss or gradient is not finite changes no weights.
        """
        step = self.progress.step
        torch.manual_seed(_mix(self.config.seed, step, self.group.rank))
        self._set_learning_rate()
        self.learner.begin(self.optimizer)
        summed: list[Tensor] = []
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(batches, start=1):
            with self.learner.micro_batch(model, is_last=number == len(batches)):
                loss = self._forward(model, batch)
                total = loss.sum()
                is_bad = (~torch.isfinite(total.detach())).to(total.dtype)
                flags = [total.new_full((), float(bool(self.stop))), is_bad, loss.normalizer]
                summed.append(self.group.sum(torch.stack(flags)))
                reference = summed[0][2].clamp(min=1)
                scaled = self.scaler.scale(total * (self.group.world_size / reference))
                torch.autograd.backward(scaled)
            for name, part in loss.parts.items():
                sums[name] = sums.get(name, torch.zeros_like(part)) + part.detach()
        stops, failures, normalizers = torch.stack(summed).unbind(dim=1)
        factor = reference / normalizers.sum().clamp(min=1) if len(batches) > 1 else None
        norm = self._scale_gradient(factor)
        parts = self.group.sum(torch.stack(list(sums.values())))
        values = torch.cat([torch.stack([stops.sum(), failures.sum(), norm]), normalizers, parts])
        paths = tuple(path for batch in batches for path in batch.paths)
        record = StepRecord(step, paths, len(batches), tuple(sums), LateValues(values))
        self.settle()  # the step before
        self._unread = record
        self._learn(~(torch.isfinite(norm) & (failures.sum() == 0)))
        return self._is_stopping if self.group.world_size > 1 else bool(self.stop)

    def settle(self) -> None:
        """Read what the last step left on the device, and count it.

        Raises:
            NonFiniteLossError: its loss or its gradient was not finite.
        """
        if self._unread is None:
            return
        record, self._unread = self._unread, None
        outcome = StepOutcome.of(record)
        if outcome.num_failures:
            self._refuse(f"the loss is not finite in step {record.step}", record, outcome)
        # With fp16 the scaler skips such a step and lowers its scale; without it something is wrong.
        if not self.scaler.is_enabled() and not math.isfinite(outcome.gradient_norm):
            self._refuse(f"the gradient is not finite in step {record.step}", record, outcome)
        self.progress.num_steps += 1
        for name, value in outcome.parts.items():
            self.progress.sums[name] = self.progress.sums.get(name, 0.0) + value / outcome.normalizer
        self._is_stopping = self._is_stopping or outcome.was_stopped

    def _forward(self, model: nn.Module, batch: Batch) -> LossSum:
        batch = self.copies.copied(batch)
        amp_type = AMP_TYPES.get(self.config.amp)
        images = self.task.normalize(batch.images)
        with torch.autocast(self.device.type, dtype=amp_type, enabled=amp_type is not None):
            raw = model(images)
        return self.criterion(raw, batch)

    def _scale_gradient(self, factor: Tensor | None) -> Tensor:
        """Multiply the gradient by ``factor`` and shorten it where it is too long; its length before that."""
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.learned if p.grad is not None]
        if factor is not None:
            torch._foreach_mul_(gradients, factor)
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.learned, self.config.clip_norm, norm)
        return norm

    def _learn(self, is_bad: Tensor) -> None:
        """Change the weights, unless ``is_bad``."""
        optimizer: Any = self.optimizer
        if self.scaler.is_enabled():  # which looks for itself
            self.scaler.step(optimizer)
            self.scaler.update()
        elif getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.grad_scale, optimizer.found_inf = None, is_bad.float()
            optimizer.step()
            del optimizer.grad_scale, optimizer.found_inf
        else:
            self.settle()
            optimizer.step()
        if self.ema:
            self.ema.update()

    def _refuse(self, what: str, record: StepRecord, outcome: StepOutcome) -> None:
        parts = ", ".join(f"{name}={part:g}" for name, part in outcome.parts.items())
        raise NonFiniteLossError(
            f"{what} ({parts}); images of the batch: {', '.join(record.paths)}. Nothing of this step was learned or "
            f"saved; the last good state is in {self.run_dir}. Look at these images with `detseg check`, or lower "
            "train.optimizer.learning_rate"
        )

    def _set_learning_rate(self) -> None:
        num_steps = self.steps_per_epoch * self.config.epochs
        factor = self.config.schedule.factor(self.progress.step, self.steps_per_epoch, num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.optimizer.learning_rate * factor

    def _finish_epoch(self, log: RunLog, train_seconds: float, wait_seconds: float) -> None:
        self.settle()
        progress, config = self.progress, self.config
        num_steps = max(1, progress.num_steps)
        record: dict[str, Any] = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "train_seconds": round(train_seconds, 3),
            "wait_seconds": round(wait_seconds, 3),
        }
        record["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        record |= {f"loss/{name}": value / num_steps for name, value in progress.sums.items()}
        record["loss"] = sum(progress.sums.values()) / num_steps
        record |= self._skipped_in_epoch(log)
        progress.is_trained = True
        if self.group.sum(torch.tensor(float(bool(self.stop)), device=self.device)) > 0:
            self._save_and_stop()
        judged = self.ema.model if self.ema else self.model
        last_epoch = progress.epoch + 1 == config.epochs
        if last_epoch or (progress.epoch + 1) % config.evaluate_epochs == 0:
            self._save()  # whatever happens to the evaluation, the epoch is not lost
            started = time.monotonic()
            metrics = self.evaluate(judged)
            losses = self.val_loss(judged) if self.val_loss is not None else {}
            record |= {**losses, "eval_seconds": round(time.monotonic() - started, 3), **metrics}
            self._keep_best(metrics[metrics.primary], judged)
        self.progress = dataclasses.replace(
            progress, epoch=progress.epoch + 1, batch=0, num_steps=0, sums={}, is_trained=False
        )
        self._write_model("last.safetensors", judged)
        # Logged first: a record without its state is dropped on resume, a state without its record would be lost.
        log.epoch_record(record)
        self._save()

    def _keep_best(self, value: float, model: nn.Module) -> None:
        """Keep ``model`` if its metric is better than all before; where none means anything, the last is best."""
        progress = self.progress
        is_measured = self.has_truth and value >= 0
        if is_measured and value <= progress.best:
            return
        if is_measured:
            progress.best, progress.best_epoch = value, progress.epoch
        self._write_model("best.safetensors", model)

    def _skipped_in_epoch(self, log: RunLog) -> dict[str, Any]:
        """What all processes skipped in this epoch, for its record; nothing where there was nothing."""
        parts = self.group.gather_json(list(self.loader.bad_images_of_epoch.items()), self.device)
        messages = dict(sorted((index, message) for part in parts for index, message in part))
        for message in messages.values():
            log.warn(describe_skipped(message))
        return {"num_skipped": len(messages), "skipped": list(messages.values())} if messages else {}

    def _write_model(self, name: str, model: nn.Module) -> None:
        if self.group.is_main:
            self.save_model(self.run_dir / name, model.state_dict())

    def _save(self) -> None:
        self.settle()
        if self.group.is_main:
            save_state(self.run_dir, self.state_dict())
        self.group.barrier()

    def _save_and_stop(self) -> None:
        self._save()
        raise InterruptedRunError(
            f"stopped by {self.stop.received or 'another process'} in epoch {self.progress.epoch + 1} after step "
            f"{self.progress.step}; the state is saved, go on with: detseg train --resume {self.run_dir}"
        )


def describe_skipped(message: str) -> str:
    """What to say of a training image that cannot be used, where ``message`` says why."""
    return f"skipped, another takes its place: {message}"


def _chunks(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    while chunk := list(islice(batches, size)):
        yield chunk


def _mix(seed: int, step: int, rank: int) -> int:
    """One seed for torch; distinct for runs of up to 2^24 steps on up to 2^10 ranks."""
    return (seed * 2**34 + step * 2**10 + rank) % 2**63
