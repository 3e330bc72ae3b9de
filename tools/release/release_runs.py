"""The trainings behind a release: each is begun, gone on with, or found finished; then it is measured."""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch

from detseg.config import load_config
from detseg.data.open import open_dataset
from detseg.engine.evaluate import evaluate
from detseg.engine.logging.log import RECORDS_NAME, read_records
from detseg.engine.reports.examples import Examples
from detseg.engine.run import CONFIG_NAME, train
from detseg.engine.samples import as_samples
from detseg.engine.settings import RunConfig
from detseg.engine.training.checkpoint import STATE_NAME
from detseg.engine.training.interrupt import InterruptedRunError
from detseg.files import write_text
from detseg.runtime.onnx.cores import num_physical_cores
from detseg.tasks.model_file import default_device, load_model_file

METRICS_NAME = "metrics.json"
HARDWARE_NAME = "hardware.txt"
VIEWS_NAME = "views.json"
MAX_WORKERS = 14

Figures = Mapping[str, float]
Amp = Literal["none", "bf16"]


@dataclass(frozen=True)
class Speed:
    """Of a whole training: images per second while steps are made, the share of that time in which there was no batch
    to work on, and the seconds with all evaluations."""

    images_per_second: float
    waiting: float
    seconds: float


@dataclass(frozen=True)
class Run:
    """A finished training and its folder; ``before`` is the one from whose last weights it went on."""

    folder: Path
    config: RunConfig
    figures: Figures
    before: Run | None = None

    @property
    def best(self) -> Path:
        """The weights of the epoch that was best on val."""
        return self.folder / "best.safetensors"

    @property
    def last(self) -> Path:
        """The weights of the last epoch."""
        return self.folder / "last.safetensors"

    @property
    def stages(self) -> list[Run]:
        """The trainings that led to these weights, this one last."""
        return [*(self.before.stages if self.before else ()), self]

    @property
    def records(self) -> list[dict[str, Any]]:
        """What was noted after each epoch."""
        return read_records(self.folder / RECORDS_NAME)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The records of all stages, whose epochs are counted on."""
        found: list[dict[str, Any]] = []
        for stage in self.stages:
            first = len(found)
            found += [record | {"epoch": first + record["epoch"]} for record in stage.records]
        return found

    @property
    def hardware(self) -> str:
        """What all its stages were trained on."""
        texts = [(stage.folder / HARDWARE_NAME).read_text(encoding="utf-8") for stage in self.stages]
        return "; ".join(dict.fromkeys(line for text in texts for line in text.splitlines()))

    @property
    def speed(self) -> Speed:
        """How fast it was."""
        images_per_step = self.config.train.batch_size * self.config.train.accumulate
        records = self.records
        ends = [0, *(one["step"] for one in records)]
        steps = [after - before for before, after in pairwise(ends)]
        # The median, because an epoch that was interrupted has the seconds of its last part only.
        rates = [count * images_per_step / one["train_seconds"] for count, one in zip(steps, records, strict=True)]
        in_steps = sum(one["train_seconds"] for one in records)
        return Speed(
            statistics.median(rates),
            sum(one["wait_seconds"] for one in records) / in_steps,
            in_steps + sum(one.get("eval_seconds", 0.0) for one in records),
        )

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width that images were given for training."""
        return self.config.task.input.height, self.config.task.input.width

    def look(
        self,
        name: str,
        device: str,
        *,
        settings: Mapping[str, object] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Figures:
        """The figures of the best weights on val with other settings of the postprocessing or another size of the
        input; measured once."""
        path = self.folder / VIEWS_NAME
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if name not in known:
            known[name] = measure(self.best, self.config, device, settings=settings, size=size)
            write_text(path, json.dumps(known, indent=2) + "\n")
        found: Figures = known[name]
        return found


def complete(
    config_path: Path,
    settings: Sequence[str],
    folder: Path,
    device: str,
    amp: Amp | None,
    before: Run | None = None,
) -> Run:
    """Train in ``folder``, from the beginning or from where an earlier call was stopped; nothing if it is finished.

    A training begins with the last weights of the one ``before`` it, if there is one.
    Of several ``settings`` of one key, the last counts. ``amp`` is that of a training that begins; None: 16 bits on a
    GPU, elsewhere as configured.

    Raises:
        InterruptedRunError: told to stop; the state is saved.
        ValueError: the folder holds a training with other settings.
    """
    by_key = dict(text.partition("=")[::2] for text in settings)
    if before is not None:
        by_key["train.weights"] = str(before.last.resolve())
    wanted = load_config(RunConfig, config_path, [f"{key}={value}" for key, value in by_key.items()])
    begun = (folder / STATE_NAME).exists()
    if begun:
        found = load_config(RunConfig, folder / CONFIG_NAME)
        _require_same(found, wanted, folder)
        wanted = found
    if not (folder / METRICS_NAME).exists():
        on = default_device(device)
        print(f"{'going on with' if begun else 'training'} {folder}", flush=True)
        try:
            train(_placed(wanted, on, amp, begun), folder, resume=begun, bar=sys.stderr.isatty())
        finally:
            # Not before: a run begins in an empty folder.
            if (folder / STATE_NAME).exists():
                _note_hardware(folder / HARDWARE_NAME, on)
    found = json.loads((folder / METRICS_NAME).read_text(encoding="utf-8"))
    figures = {name: value for name, value in found.items() if isinstance(value, float)}
    return Run(folder, load_config(RunConfig, folder / CONFIG_NAME), figures, before)


def measure(
    weights: Path,
    config: RunConfig,
    device: str,
    *,
    settings: Mapping[str, object] | None = None,
    size: tuple[int, int] | None = None,
    images: Path | None = None,
) -> Figures:
    """The figures of a model file on the val split of ``config``, with other settings of the postprocessing or another
    size of the input; some ``images``, truth beside prediction, are drawn into that folder."""
    package, on = load_model_file(weights, postprocess=settings, size=size), default_device(device)
    data = config.data
    val_set = as_samples(
        open_dataset(data.path, data.val_split, data.format, config.task.target, data.description), package.task.spec
    )
    batch_size = config.train.eval_batch_size or config.train.batch_size
    model, bar = package.model.to(on), sys.stderr.isatty()
    draw = Examples(package.task, val_set, images) if images else None
    found = evaluate(model, package.task, val_set, batch_size=batch_size, device=on, bar=bar, on_result=draw)
    return dict(found.compute())


def mean_figures(several: Sequence[Figures]) -> Figures:
    """The mean of each figure over those that have it; -1 stands for none, as in the figures themselves."""
    names = dict.fromkeys(name for one in several for name in one)
    values = {name: [one[name] for one in several if one.get(name, -1) >= 0] for name in names}
    return {name: statistics.mean(found) if found else -1.0 for name, found in values.items()}


def stop_after(hours: float | None) -> None:
    """Have this process told to stop by SIGTERM, at once or after so many ``hours``.

    A training saves its state then; whatever else is under way ends, to be done again.
    """

    def leave(*_: object) -> None:
        raise InterruptedRunError("stopped between two steps of the work; what is finished is kept")

    def tell(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, leave)
    if hours is not None:
        signal.signal(signal.SIGALRM, tell)
        signal.setitimer(signal.ITIMER_REAL, hours * 3600)


def _placed(config: RunConfig, device: torch.device, amp: Amp | None, begun: bool) -> RunConfig:
    """``config`` with what keeps ``device`` busy; what is learned is not changed by it, save for the precision at the
    beginning of a training."""
    training = replace(config.train, device=str(device))
    data = config.data
    if device.type == "cuda":
        data = replace(data, num_workers=max(1, min(MAX_WORKERS, num_physical_cores() - 2)))
    if not begun:
        training = replace(training, amp=amp or ("bf16" if device.type == "cuda" else training.amp))
    return replace(config, train=training, data=data)


def _require_same(found: RunConfig, wanted: RunConfig, folder: Path) -> None:
    placed = replace(wanted.train, device=found.train.device, amp=found.train.amp)
    # The spacing of volumes was taken from the training set.
    task = replace(wanted.task, input=found.task.input) if wanted.task.target == "volumes" else wanted.task
    same_data = (found.data.path, found.data.train_split) == (wanted.data.path, wanted.data.train_split)
    same_settings = (found.model, found.task, found.augment, found.train) == (
        wanted.model,
        task,
        wanted.augment,
        placed,
    )
    if not (same_settings and same_data):
        raise ValueError(
            f"{folder} holds a training with other settings than those of today; move the folder away, or name another "
            "with --out"
        )


def _note_hardware(path: Path, device: torch.device) -> None:
    """Add what this call trains on to what earlier ones did."""
    num_cores = num_physical_cores()
    name = f"{num_cores} CPU core{'' if num_cores == 1 else 's'}, {platform.machine()}"
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)}, {name}"
    known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    line = f"{name}, torch {torch.__version__}"
    if line not in known:
        write_text(path, "\n".join([*known, line]) + "\n")
