"""The verbs ``eval`` and ``check --preview``: from command-line values to reports and images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from detseg.config import load_config
from detseg.data.open import find_source
from detseg.data.source import require_outside
from detseg.engine.evaluated import Evaluated, Evaluation, open_evaluated
from detseg.engine.reports.examples import IMAGES_NAME, Examples
from detseg.engine.reports.html_report import is_html_report, write_html
from detseg.engine.reports.preview import SHEETS, preview
from detseg.engine.reports.report import (
    FILE_NAMES,
    METRICS_NAME,
    REPORT_NAME,
    is_metrics,
    make_report,
    write_metrics,
    write_report,
)
from detseg.engine.samples import file_names
from detseg.engine.settings import RunConfig
from detseg.evaluation.objects.coco_map import CocoEvaluator
from detseg.evaluation.report import all_metrics
from detseg.files import require_replaceable
from detseg.folders import claimed_folder
from detseg.runtime.foreign.options import ForeignOptions
from detseg.runtime.onnx.choice import RUNTIMES
from detseg.runtime.postprocess.class_settings import describe_confidences
from detseg.shipped import find_config
from detseg.structures import Target


def eval_command(model_path: Path, **settings: Any) -> int:
    """``detseg eval``, see :func:`run_evaluation`. Returns 0."""
    print(run_evaluation(model_path, **settings).render())
    return 0


def run_evaluation(
    model_path: Path,
    *,
    weights: Path | None = None,
    ensemble: Sequence[Path] = (),
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
    foreign: ForeignOptions | None = None,
    json_path: Path | None = None,
    overwrite: bool = False,
    evaluator: str | None = None,
    full: bool = False,
    precision: str = "fp32",
    runtime: str | None = None,
    runtime_cache: Path | None = None,
    skip_bad_images: int = 0,
) -> Evaluation:
    """Measure a model, see :func:`detseg.engine.evaluated.open_evaluated`, and write what is asked for.

    Where the folder ``output`` holds another evaluation, the results go to ``output-2`` and so on; nothing but numbers
    and pages of earlier evaluations is replaced, unless ``overwrite``, and nothing is written among the data.

    Args:
        output: a folder for metrics, plots, images and the page.
        report_path: a file for the page alone.
        json_path: a file for the metrics.
        evaluator: the program that counts boxes; None for the fastest that is installed.
        full: keep the images of the page large; otherwise it stays below 5 MB.
        precision: of the network: fp32, fp16 or bf16; of an exported file what its runtime has.
        runtime: what runs an exported file, as for ``detseg.load``.
        runtime_cache: where the choice of the runtime ``auto`` is kept.
        skip_bad_images: how many images that cannot be read may be left out, which the result names.
    """
    if skip_bad_images < 0:
        raise ValueError(f"skip_bad_images is a number of images, 0 or more, got {skip_bad_images}")
    if report_path is not None and report_path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--report writes one page, name a file that ends in .html, got {report_path}")
    evaluated = open_evaluated(
        model_path,
        weights=weights,
        ensemble=ensemble,
        data=data,
        format=format,
        split=split,
        device=device,
        postprocess=postprocess,
        size=size,
        foreign=foreign,
        runtime=runtime,
        precision=precision,
        runtime_cache=runtime_cache,
        skip_bad_images=skip_bad_images,
    )
    if runtime == "auto":
        print(f"runs in {evaluated.runs_in}", file=sys.stderr)
    with ExitStack() as stack:
        output = _checked_places(evaluated, json_path, report_path, output, overwrite, stack)
        examples = None
        if output or report_path:
            folder = output / IMAGES_NAME if output else None
            examples = Examples(evaluated.task, evaluated.samples, folder, full=full)
        judged = evaluated.evaluate(
            batch_size=batch_size, num_workers=num_workers, on_result=examples, backend=evaluator, precision=precision
        )
        confidences = evaluated.confidences()
        if confidences is not None:
            cast(CocoEvaluator, judged).choose(confidences)  # only boxes have confidences
        metrics = all_metrics(judged)
        if examples:
            settings, images = evaluated.describe(precision), examples.finish(judged)
            if output:
                write_report(judged, metrics, output, settings, images, names=file_names(evaluated.samples))
            if report_path:
                write_html(report_path, make_report(judged, metrics, settings, images))
        if json_path:
            write_metrics(judged, metrics, json_path)
    notes: tuple[str, ...] = ()
    if confidences is not None:
        chosen = describe_confidences(evaluated.samples.class_names, confidences.tolist())
        notes = (f"confidence by class: {chosen}; F1_chosen and the errors of the report are at these",)
    reports = tuple(filter(None, (output and output / REPORT_NAME, report_path)))
    on_gpu = evaluated.device is not None and evaluated.device.type == "cuda"
    gpu = evaluated.describe_device(precision) if on_gpu else ""
    return Evaluation(
        metrics, judged, len(evaluated.samples), evaluated.data, split, reports, evaluated.skipped, gpu, notes
    )


def _checked_places(
    evaluated: Evaluated,
    json_path: Path | None,
    report_path: Path | None,
    output: Path | None,
    overwrite: bool,
    stack: ExitStack,
) -> Path | None:
    """The folder for the results, where there is one, nobody else's until ``stack`` ends, after it is sure that nothing
    of the user's is lost."""
    for path, is_ours in ((json_path, is_metrics), (report_path, is_html_report)):
        if path is not None:
            evaluated.require_apart(path.parent)
            require_replaceable(path, overwrite=overwrite, is_ours=is_ours)
    if output is None:
        return None

    def require(folder: Path) -> None:
        evaluated.require_apart(folder)
        for name in (*FILE_NAMES, IMAGES_NAME):
            require_replaceable(folder / name, overwrite=overwrite)

    folder = stack.enter_context(claimed_folder(output, (METRICS_NAME,), require, overwrite=overwrite))
    if folder != output:
        print(f"{output} holds another evaluation; the results of this one go to {folder}")
    return folder


def quality_of(
    path: Path, data: str, format: str | None, split: str, size: tuple[int, int] | None
) -> Callable[[str, str], tuple[str, float]]:
    """What ``detseg bench`` asks for the quality of the ``.onnx`` file ``path`` in a runtime and a precision: the name
    of the main metric on ``data``, and what it is."""

    def measure(runtime: str, precision: str) -> tuple[str, float]:
        evaluated = open_evaluated(
            path,
            data=data,
            format=format,
            split=split,
            device="cpu",
            size=size,
            runtime=runtime if runtime in RUNTIMES else None,
            precision=precision,
        )
        metrics = evaluated.evaluate(batch_size=1, num_workers=0).compute()
        return metrics.primary, metrics[metrics.primary]

    return measure


def preview_command(
    data: str,
    output: Path,
    format: str | None,
    config_path: Path | None,
    overwrite: bool = False,
    target: Target | None = None,
) -> list[Path]:
    """``detseg check --preview``: images of training batches as ``config_path`` would make them, or with usual
    settings for this ``truth``. Where there are some in the folder ``output``, they go to ``output-2`` and so on,
    unless ``overwrite``."""
    config = None if config_path is None else load_config(RunConfig, find_config(config_path))
    source = find_source(data)

    def require(folder: Path) -> None:
        if source.root.exists():
            require_outside(folder, source.data_root())

    with claimed_folder(output, SHEETS, require, overwrite=overwrite) as folder:
        if config is None:
            return preview(data, folder, format=format, target=target)
        return preview(
            data,
            folder,
            format=format,
            target=config.task.target,
            config=config.augment,
            task=config.task,
            model=config.model,
            size=config.task.train_size,
            seed=config.train.seed,
            batch_size=config.train.batch_size,
        )
