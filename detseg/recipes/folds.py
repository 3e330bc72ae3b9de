"""The verb ``train`` for the folds of a cross-validation: one run after the other in folders beside each other, which
goes on where it was broken off."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detseg.engine.cross_validation import CrossValidation, cross_validate, find_folds, finished_folds
from detseg.engine.reports.report import METRICS_NAME
from detseg.engine.training.checkpoint import STATE_NAME
from detseg.engine.training.interrupt import EXIT_INTERRUPTED, InterruptedRunError
from detseg.files import read_text, write_text
from detseg.recipes.command import refusal, resume_run, run_folder, start_run
from detseg.recipes.plan import Options, plan_run
from detseg.runtime.weights.released import FOLDS_NAME

ALL_FOLDS = "all"


def is_folds_folder(path: Path) -> bool:
    """Whether ``path`` holds the runs of a cross-validation."""
    return (path / FOLDS_NAME).is_file()


def folds_command(
    model: str | None,
    options: Options,
    overrides: Sequence[str],
    output: Path | None,
    resume: Path | None,
    folds: str | None,
) -> int:
    """``detseg train --folds``, and ``--resume`` with the folder of a cross-validation. Returns 0, or
    ``EXIT_INTERRUPTED`` where it was stopped and can be resumed."""
    try:
        if resume is None and model is not None and folds is not None:
            result = train_folds(model, options, overrides, output, folds)
        elif resume is None or folds is not None:
            raise ValueError(
                "--folds begins a cross-validation: name a model, and a folder with -o; to go on with one, name its "
                "folder with --resume alone"
            )
        elif model is not None or output is not None or overrides or options != Options():
            raise refusal(model or "other settings", resume)
        else:
            result = resume_folds(resume)
    except InterruptedRunError as error:
        print(error, file=sys.stderr)
        return EXIT_INTERRUPTED
    print(result.render())
    return 0


def train_folds(
    model: str,
    options: Options,
    overrides: Sequence[str],
    output: Path | None,
    folds: str,
    *,
    bar: bool = True,
) -> CrossValidation:
    """Train a model for each of ``folds``, ``all`` or numbers such as ``0,2``, in ``output/fold0``, ``output/fold1``,
    ..., and judge them over all cases. Where ``output`` holds the beginning of the same, it goes on.

    Raises:
        ValueError: the data set has no such folds, its splits are named, or ``output`` holds another cross-validation.
        InterruptedRunError: told to stop; what is there can be resumed.
    """
    fixed = [text for text in overrides if text.startswith(("data.train_split=", "data.val_split="))]
    if fixed:
        raise ValueError(f"--folds says what is learned from and judged by; leave out {', '.join(fixed)}")
    plan = plan_run(model, options, overrides)
    there = find_folds(plan.config.data, plan.config.task.target)
    wanted = _parse(folds, there)
    begun = {
        "model": _absolute(model),
        "options": {**asdict(options), "data": None if options.data is None else _absolute(options.data)},
        "overrides": list(overrides),
        "folds": list(wanted),
    }
    with run_folder(output, f"{plan.name}_folds") as folder:
        if is_folds_folder(folder):
            if _read(folder) != json.loads(json.dumps(begun)):
                raise ValueError(
                    f"{folder} holds a cross-validation that was begun otherwise ({FOLDS_NAME} says how); go on with "
                    f"--resume {folder}, or choose another folder with -o"
                )
        elif folder.exists() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty; choose a new or an empty folder with -o")
        else:
            write_text(folder / FOLDS_NAME, json.dumps(begun, indent=2) + "\n")
        return _go_on(folder, bar=bar)


def resume_folds(folder: Path, *, bar: bool = True) -> CrossValidation:
    """Go on with the cross-validation in ``folder`` as it was begun."""
    return _go_on(folder, bar=bar)


def _go_on(folder: Path, *, bar: bool) -> CrossValidation:
    begun = _read(folder)
    size = begun["options"].get("size")
    options = Options(**{**begun["options"], "size": None if size is None else (size[0], size[1])})
    run_dirs = {fold: folder / f"fold{fold}" for fold in begun["folds"]}
    done = set(finished_folds(run_dirs, METRICS_NAME))
    for number, (fold, run_dir) in enumerate(run_dirs.items(), start=1):
        if fold in done:
            print(f"fold {fold} ({number} of {len(run_dirs)}) is there already: {run_dir}")
            continue
        print(f"fold {fold} ({number} of {len(run_dirs)}): {run_dir}")
        if (run_dir / STATE_NAME).is_file():
            resume_run(run_dir, Options(), bar=bar)
        else:
            splits = [f"data.train_split=fold{fold}-train", f"data.val_split=fold{fold}-val"]
            start_run(begun["model"], options, [*begun["overrides"], *splits], run_dir, bar=bar)
    return cross_validate(run_dirs, folder, options.device or "auto", bar=bar)


def _read(folder: Path) -> dict[str, Any]:
    try:
        begun: Any = json.loads(read_text(folder / FOLDS_NAME, "utf-8"))
        if not isinstance(begun, dict) or not {"model", "options", "overrides", "folds"} <= begun.keys():
            raise ValueError("it lacks what a cross-validation is begun with")
    except ValueError as error:
        raise ValueError(f"{folder / FOLDS_NAME}: is damaged: {error}; begin anew in another folder") from error
    return begun


def _parse(folds: str, there: Sequence[int]) -> tuple[int, ...]:
    if folds == ALL_FOLDS:
        return tuple(there)
    if re.fullmatch(r"\d{1,4}(,\d{1,4})*", folds) is None:
        raise ValueError(f"--folds: expected all or numbers such as 0,2; got {folds!r}")
    wanted = tuple(dict.fromkeys(map(int, folds.split(","))))
    missing = [str(fold) for fold in wanted if fold not in there]
    if missing:
        raise ValueError(f"--folds: there is no fold {', '.join(missing)}; there are {', '.join(map(str, there))}")
    return wanted


def _absolute(name: str) -> str:
    """The name of a file from anywhere; of what is none, such as released weights, as it is."""
    return str(Path(name).absolute()) if Path(name).exists() else name
