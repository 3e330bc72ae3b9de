"""The verbs ``eval`` and ``check --preview``: from command-line values to reports and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detseg.config import load_config
from detseg.engine.evaluated import Evaluation, open_evaluated
from detseg.engine.examples import PICTURES_NAME, Examples
from detseg.engine.html_report import write_html
from detseg.engine.preview import preview
from detseg.engine.report import REPORT_NAME, make_report, write_metrics, write_report
from detseg.engine.samples import file_names
from detseg.engine.settings import RunConfig
from detseg.shipped import find_config


def eval_command(model_path: Path, *, json_path: Path | None, **settings: Any) -> int:
    """``detseg eval``, see :func:`run_evaluation`. Returns 0."""
    made = run_evaluation(model_path, **settings)
    print(made.render())
    if json_path:
        write_metrics(made.evaluator, made.metrics, json_path)
    return 0


def run_evaluation(
    model_path: Path,
    *,
    weights: Path | None = None,
    data: str | None = None,
    format: str | None = None,
    split: str = "val",
    batch_size: int = 16,
    num_workers: int = 0,
    device: str = "auto",
    output: Path | None = None,
    report_path: Path | None = None,
    postprocess: Mapping[str, Any] | None = None,
    size: tuple[int, int] | None = None,
) -> Evaluation:
    """Measure a model, see :func:`detseg.engine.evaluated.open_evaluated`, and write what is asked for.

    Args:
        output: a folder for metrics, plots, pictures and the page.
        report_path: a file for the page alone.
    """
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
    if examples:
        settings, pictures = evaluated.describe(), examples.finish(evaluator)
        if output:
            write_report(evaluator, metrics, output, settings, pictures, names=file_names(evaluated.samples))
        if report_path:
            write_html(report_path, make_report(evaluator, metrics, settings, pictures))
    reports = tuple(filter(None, (output and output / REPORT_NAME, report_path)))
    return Evaluation(metrics, evaluator, len(evaluated.samples), evaluated.data, split, reports)


def preview_command(data: str, output: Path, format: str | None, config_path: Path | None) -> list[Path]:
    """``detseg check --preview``: pictures of training batches as ``config_path`` would make them."""
    if config_path is None:
        return preview(data, output, format=format)
    config = load_config(RunConfig, find_config(config_path))
    return preview(
        data,
        output,
        format=format,
        truth=config.task.truth,
        config=config.augment,
        task=config.task,
        model=config.model,
        size=config.task.train_size,
        seed=config.train.seed,
        batch_size=config.train.batch_size,
    )
