"""The command line: all verbs over one contract. Each verb imports what it needs when it is used."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from detseg.cli.arguments import make_parser
from detseg.cli.common_arguments import foreign_settings, postprocess_settings
from detseg.cli.errors import explain, in_options, leave_broken_output
from detseg.cli.output import printable_output, shortened
from detseg.cli.predict import predict
from detseg.cli.process import open_streams, run_until_stopped
from detseg.cli.use_verbs import colors, serve, store
from detseg.files import require_possible
from detseg.habits import advice

EXIT_USER_ERROR = 2
_WRITTEN = ("output", "json", "report", "preview", "to")
"""The options that say where results go."""
_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. A user's mistake, or what the machine lacks, is one line on standard
    error, never a traceback."""
    open_streams()
    with printable_output():
        return run_until_stopped(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    parser = make_parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse ends a list of words at the first option; the words of `train` may stand on either side of it.
    if options.verb == "train" and not any(word.startswith("-") for word in rest):
        options.words += rest
    elif rest:
        parser.error(_describe_unknown(rest))
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            for place in (getattr(options, name, None) for name in _WRITTEN):
                if place is not None:
                    require_possible(place)
            if getattr(options, "data", None) is not None:
                _warn_of_encoding()
            exit_code = _VERBS[options.verb](options)
            sys.stdout.flush()
            return exit_code
    except Exception as error:
        line = explain(error)
        if line is None or options.traceback:
            raise
        leave_broken_output()
        with contextlib.suppress(BrokenPipeError):  # nobody reads the errors either
            said = line if options.verb == "train" else in_options(line)
            print(f"detseg {options.verb}: {shortened(said)}", file=sys.stderr)
        return EXIT_USER_ERROR


def _warn_of_encoding() -> None:
    if (encoding := sys.getfilesystemencoding()) != "utf-8":
        warnings.warn(
            f"names of files are {encoding} here: what files of a data set name in other characters is not found; set "
            "PYTHONUTF8=1 in the environment",
            stacklevel=2,
        )


def _describe_unknown(words: Sequence[str]) -> str:
    """The message about ``words`` that no verb takes, with what those that other programs take are called here."""
    told = [f"{word}{known}" for word in words if word.startswith("-") and (known := advice(word.partition("=")[0]))]
    return f"unknown arguments: {' '.join(words)}" + "".join(f"\n  {line}" for line in told)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"detseg: warning: {shortened(message)}", file=file or sys.stderr)


def _names(listed: str | None) -> list[str] | None:
    return None if listed is None else [name.strip() for name in listed.split(",")]


def _check(options: argparse.Namespace) -> int:
    from detseg.data.check import check_dataset

    splits = _names(options.splits)
    report = check_dataset(options.data, options.format, splits, decode=not options.fast, target=options.target)
    if options.doubts is not None:
        report = _with_doubts(report, options.doubts)
    print(report.render())
    if options.json:
        report.write_json(options.json, overwrite=options.overwrite)
    if options.preview:
        from detseg.engine.command import preview_command

        images = preview_command(
            options.data, options.preview, options.format, options.config, options.overwrite, options.target
        )
        for path in images:
            print(f"preview: {path}")
    return report.exit_code


def _with_doubts(report: Any, path: Path) -> Any:
    """The report of a check with the labels in doubt of an evaluation."""
    from detseg.data.findings import Finding
    from detseg.evaluation.doubts import read_doubts

    return report.with_worklist([Finding("D501", one.file, one.words()) for one in read_doubts(path)])


def _split(options: argparse.Namespace) -> int:
    from detseg.data.split import split_dataset

    ratios = options.ratios or (None if options.folds else "6:2:2")
    made = split_dataset(
        options.data,
        ratios,
        options.seed,
        options.output,
        options.format,
        _names(options.splits),
        folds=options.folds,
        group_by=options.group_by,
    )
    print(made.render())
    return 0


def _plan(options: argparse.Namespace) -> int:
    from detseg.cli.plan import plan_command

    return plan_command(
        options.data,
        options.output,
        format=options.format,
        split=options.split,
        memory_gb=options.memory,
        json_path=options.json,
        overwrite=options.overwrite,
    )


def _train(options: argparse.Namespace) -> int:
    from detseg.recipes.command import train_command
    from detseg.recipes.folds import folds_command, is_folds_folder
    from detseg.recipes.plan import Options

    overrides = [word for word in options.words if _OVERRIDE.match(word)]
    models = [word for word in options.words if not _OVERRIDE.match(word)]
    if len(models) > 1:
        raise ValueError(f"got {len(models)} things to train: {', '.join(models)}; name one, and settings as key=value")
    chosen = Options(
        data=options.data,
        epochs=options.epochs,
        size=options.size,
        batch_size=options.batch_size,
        device=options.device,
        seed=options.seed,
        num_workers=options.workers,
    )
    model = models[0] if models else None
    if options.folds is not None or (options.resume is not None and is_folds_folder(options.resume)):
        return folds_command(model, chosen, overrides, options.output, options.resume, options.folds)
    return train_command(
        model,
        chosen,
        overrides,
        options.output,
        options.resume,
        accept_changed_data=options.accept_changed_data,
    )


def _configs(options: argparse.Namespace) -> int:
    from detseg.runtime.weights.released import read_table
    from detseg.shipped import render_configs

    print(f"{render_configs()}\n\nweights, to be fine-tuned or used as they are:\n")
    for name, release in read_table().weights.items():
        print(f"{name:28} {release.quality}")
    return 0


def _config(options: argparse.Namespace) -> int:
    from detseg.cli.config import config_command

    return config_command(options.key)


def _evaluate(options: argparse.Namespace) -> int:
    from detseg.engine.command import eval_command
    from detseg.runtime.foreign.options import foreign_options

    return eval_command(
        options.model,
        weights=options.weights,
        ensemble=options.ensemble,
        data=options.data,
        format=options.format,
        split=options.split,
        batch_size=options.batch_size,
        num_workers=options.workers,
        device=options.device,
        json_path=options.json,
        precision=options.precision,
        runtime=options.runtime,
        runtime_cache=options.runtime_cache,
        output=options.output,
        report_path=options.report,
        postprocess=postprocess_settings(options),
        size=options.size,
        foreign=foreign_options(**foreign_settings(options)),
        overwrite=options.overwrite,
        evaluator=options.evaluator,
        full=options.full,
        skip_bad_images=options.skip_bad_images,
    )


def _compare(options: argparse.Namespace) -> int:
    from detseg.engine.reports.compare import compare_command

    return compare_command(
        options.runs, options.output, options.json, options.samples, options.seed, overwrite=options.overwrite
    )


def _merge(options: argparse.Namespace) -> int:
    from detseg.runtime.commands.merge import merge_command

    return merge_command(options.folders, options.output)


def _bench(options: argparse.Namespace) -> int:
    from detseg.runtime.commands.bench import bench_command
    from detseg.runtime.weights.released import find_model

    path, quality = find_model(options.model), None
    if options.data is not None:
        from detseg.engine.command import quality_of

        quality = quality_of(path, options.data, options.format, options.split, options.size)
    return bench_command(
        path,
        samples=options.images,
        num_threads=options.threads,
        size=options.size,
        seconds=options.seconds,
        quality=quality,
    )


def _export(options: argparse.Namespace) -> int:
    from detseg.exporters.command import export_command

    return export_command(
        options.model,
        options.output,
        format=options.format,
        precision=options.precision,
        form=options.form,
        opset=options.opset,
        size=options.size,
        dynamic=not options.fixed,
        calibrate=options.calibrate,
        verify=options.verify,
        postprocess=postprocess_settings(options),
        overwrite=options.overwrite,
    )


def _convert(options: argparse.Namespace) -> int:
    from detseg.conversion.command import convert_command

    return convert_command(
        options.file,
        options.output,
        names=None if options.names is None else options.names.split(","),
        config=options.config,
        json_path=options.json,
        overwrite=options.overwrite,
    )


def _download(options: argparse.Namespace) -> int:
    from detseg.runtime.weights.download import download_command

    return download_command(options.names, options.to, options.url)


_VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "check": _check,
    "split": _split,
    "plan": _plan,
    "config": _config,
    "configs": _configs,
    "train": _train,
    "eval": _evaluate,
    "compare": _compare,
    "predict": predict,
    "merge": _merge,
    "serve": serve,
    "colors": colors,
    "set": store,
    "bench": _bench,
    "export": _export,
    "convert": _convert,
    "download": _download,
}


if __name__ == "__main__":
    sys.exit(main())
