"""The verbs ``train`` and ``eval``: from command-line values to runs and reports."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detseg.config import load_config
from detseg.engine.evaluated import open_evaluated
from detseg.engine.examples import PICTURES_NAME, Examples
from detseg.engine.html_report import write_html
from detseg.engine.interrupt import EXIT_INTERRUPTED, InterruptedRunError
from detseg.engine.preview import preview
from detseg.engine.report import REPORT_NAME, make_report, write_metrics, write_report
from detseg.engine.run import CONFIG_NAME, train
from detseg.engine.settings import RunConfig
from detseg.evaluation.report import format_table

# What may change when a run goes on: where things are and how fast they come, not what is learned.
# A run that goes on has its weights in its state, so the file it began from may be gone: train.weights=null.
_RESUME_OVERRIDES = ("data.path", "data.num_workers", "data.cache", "train.device", "train.weights")


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
    report_path: Path | None = None,
    postprocess: Mapping[str, Any],
    size: tuple[int, int] | None = None,
) -> int:
    """``detseg eval``. Returns 0."""
    if report_path is not None and report_path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--report writes one page, name a file that ends in .html, got {report_path}")
    evaluated = open_evaluated(
        model_path,
        weights=weights,
        data=data,
        format=format,
        split=split,
        device=device,
        postprocess=postprocess,
        size=size,
    )
    examples = None
    if output or report_path:
        examples = Examples(evaluated.task, evaluated.samples, output / PICTURES_NAME if output else None)
    evaluator = evaluated.evaluate(batch_size=batch_size, num_workers=num_workers, on_result=examples)
    metrics = evaluator.compute()
    table = format_table(metrics, evaluator.classes_without_truth())
    if examples:
        settings, pictures = evaluated.describe(), examples.finish(evaluator)
        if output:
            write_report(evaluator, metrics, output, settings, pictures)
        if report_path:
            write_html(report_path, make_report(evaluator, metrics, settings, pictures))
    print(f"{len(evaluated.samples)} images of {evaluated.data}, split {split}\n\n{table}")
    for path in filter(None, (output and output / REPORT_NAME, report_path)):
        print(f"report: {path}")
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
        task=config.task,
        size=config.task.train_size,
        seed=config.train.seed,
        batch_size=config.train.batch_size,
    )
