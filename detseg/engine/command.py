"""The verbs ``train`` and ``eval``: from command-line values to runs and reports."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from detseg.config import load_config
from detseg.data.open import open_dataset
from detseg.data.preview import preview
from detseg.engine.evaluate import evaluate
from detseg.engine.gallery import PICTURES_NAME, Gallery
from detseg.engine.interrupt import EXIT_INTERRUPTED, InterruptedRunError
from detseg.engine.report import write_metrics, write_report
from detseg.engine.run import CONFIG_NAME, train
from detseg.engine.samples import as_samples
from detseg.engine.settings import RunConfig
from detseg.evaluation.report import format_table
from detseg.models.load_weights import load_weights
from detseg.runtime.volume_geometry import VolumeSpec
from detseg.tasks.base import Task
from detseg.tasks.package import PackageConfig, adapt_task, default_device, load_package

# What may change when a run goes on: where things are and how fast they come, not what is learned.
_RESUME_OVERRIDES = ("data.path", "data.num_workers", "data.cache", "train.device")


def train_command(config_path: Path | None, overrides: Sequence[str], output: Path | None, resume: Path | None) -> int:
    """``detseg train``. Returns 0, or ``EXIT_INTERRUPTED`` where the run was stopped and can be resumed."""
    if resume is not None:
        refused = [text for text in overrides if text.partition("=")[0] not in _RESUME_OVERRIDES]
        refused += [str(config_path)] if config_path else []
        if refused or output is not None:
            what = ", ".join(refused) or "-o"
            raise ValueError(
                f"--resume goes on with the run as it was begun, got {what}; "
                f"only {', '.join(_RESUME_OVERRIDES)} may change"
            )
        config, run_dir = load_config(RunConfig, resume / CONFIG_NAME, overrides), resume
    elif config_path is None:
        raise ValueError(
            "no configuration given; name a YAML file, such as configs/detection/shapes.yaml, or --resume RUN"
        )
    else:
        config = load_config(RunConfig, config_path, overrides)
        run_dir = output or _free_folder(Path("runs") / config_path.stem)
    try:
        result = train(config, run_dir, resume=resume is not None)
    except InterruptedRunError as error:
        print(error, file=sys.stderr)
        return EXIT_INTERRUPTED
    if result.table:
        print(f"{result.table}\n\nbest model: {run_dir / 'best.safetensors'}\ncurves and metrics: {run_dir}")
    return 0


def _free_folder(wanted: Path) -> Path:
    numbered = re.compile(re.escape(wanted.name) + r"-(\d+)")
    taken = [
        int(match[1]) for path in wanted.parent.glob(f"{wanted.name}-*") if (match := numbered.fullmatch(path.name))
    ]
    return wanted.with_name(f"{wanted.name}-{max(taken, default=1) + 1}") if wanted.exists() else wanted


def eval_command(
    model_path: Path,
    *,
    weights: Path | None,
    data: str | None,
    format: str | None,
    split: str,
    batch_size: int,
    num_workers: int,
    device: str,
    json_path: Path | None,
    output: Path | None,
    postprocess: Mapping[str, Any],
    size: tuple[int, int] | None = None,
) -> int:
    """``detseg eval``. Returns 0."""
    chosen = default_device(device)
    model: nn.Module
    task: Task
    if model_path.suffix in (".yaml", ".yml"):
        if weights is None:
            raise ValueError(f"{model_path} is a configuration; name the weights to evaluate with --weights FILE")
        config = load_config(RunConfig, model_path)
        own = config.data if data is None else None
        data = data or str(config.data.path)
        chosen_format, description = (format or own.format, own.description) if own else (format, None)
        dataset = open_dataset(data, split, chosen_format, config.task.truth, description)
        task_config = adapt_task(config.task, postprocess, size)
        model, task = PackageConfig(config.model, task_config, dataset.class_names, dataset.category_ids).build()
        load_weights(model, weights)
    else:
        if data is None:
            raise ValueError("name the data to evaluate on: --data FOLDER_OR_YAML, or --data shapes")
        package = load_package(model_path, postprocess=postprocess, size=size)
        model, task = package.model, package.task
        dataset = open_dataset(data, split, format, task.truth)
    samples = as_samples(dataset, task.spec)
    evaluator = evaluate(
        model.to(chosen),
        task,
        samples,
        batch_size=batch_size,
        num_workers=num_workers,
        device=chosen,
        on_result=Gallery(task, samples, output / PICTURES_NAME) if output else None,
    )
    metrics = evaluator.compute()
    table = (
        write_report(evaluator, metrics, output) if output else format_table(metrics, evaluator.classes_without_truth())
    )
    print(f"{len(dataset)} images of {data}, split {split}\n\n{table}")
    if json_path:
        write_metrics(evaluator, metrics, json_path)
    return 0


def preview_command(data: str, output: Path, format: str | None, config_path: Path | None) -> list[Path]:
    """``detseg check --preview``: pictures of training batches as ``config_path`` would make them."""
    if config_path is None:
        return preview(data, output, format=format)
    config = load_config(RunConfig, config_path)
    return preview(
        data,
        output,
        format=format,
        truth=config.task.truth,
        config=config.augment,
        size=config.task.train_size,
        spec=config.task.input if isinstance(config.task.input, VolumeSpec) else None,
        seed=config.train.seed,
        batch_size=config.train.batch_size,
    )
