"""The models of a cross-validation over the volumes that each has not learned from, taken together: one evaluation of
all cases, and which pieces of structures to leave out."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from detseg.arrays import ByteArray
from detseg.config import load_config, to_dict
from detseg.data.open import find_format, find_source, load_format, open_dataset
from detseg.engine.evaluate import evaluate
from detseg.engine.reports.describe import describe
from detseg.engine.reports.report import write_report
from detseg.engine.run_folder import CONFIG_NAME
from detseg.engine.samples import as_samples, file_names
from detseg.engine.settings import DataConfig, RunConfig
from detseg.evaluation.base import Evaluator, EvaluatorState
from detseg.evaluation.labels.cleaning import Choice, CleaningChooser
from detseg.files import write_text
from detseg.runtime.postprocess.components import CleanConfig, clean_labels
from detseg.runtime.weights.released import BEST
from detseg.structures import Metrics, Target
from detseg.tasks.model_file import default_device, load_model_file, read_header, save_model_file
from detseg.volumes import LabelVolume

CLEANING_NAME = "cleaning.json"

_FOLD = re.compile(r"fold(\d+)-train")


@dataclass(frozen=True)
class CrossValidation:
    """What all folds reached together: ``metrics`` of all cases with the pieces left out that ``choices`` say,
    ``raw_metrics`` of the models alone, ``of_folds`` the primary metric of each alone; and the table for the screen."""

    metrics: Metrics
    raw_metrics: Metrics
    choices: tuple[Choice, ...]
    of_folds: Mapping[int, float]
    table: str

    def render(self) -> str:
        """All of it, for people."""
        primary = self.metrics.primary
        folds = "\n".join(f"fold {fold}: {primary} {value:.4f}" for fold, value in self.of_folds.items())
        chosen = "\n".join(map(_describe, self.choices))
        return (
            f"{self.table}\n\n{folds}\nall cases, models alone: {primary} {self.raw_metrics[primary]:.4f}\n"
            f"all cases: {primary} {self.metrics[primary]:.4f}\n\n{chosen}"
        )


@dataclass(frozen=True)
class _Seen:
    """What a model found in a volume that it had not learned from, packed, with its truth still in the file."""

    image_id: int
    index: int
    samples: Any
    packed: bytes
    shape: tuple[int, ...]
    affine: Any

    @property
    def result(self) -> LabelVolume:
        labels: ByteArray = np.frombuffer(zlib.decompress(self.packed), np.uint8).reshape(self.shape)
        return LabelVolume(labels, self.affine)


@dataclass(frozen=True)
class _Fold:
    number: int
    task: Any
    samples: Any
    data: str
    seen: list[_Seen]
    names: dict[int, str]
    state: EvaluatorState
    score: float


def find_folds(data: DataConfig, target: Target) -> tuple[int, ...]:
    """The numbers of the folds that the data set is divided into.

    Raises:
        DatasetError: it cannot be opened.
        ValueError: it is not divided into folds; says how that is written.
    """
    source = find_source(data.path, data.description)
    names = load_format(find_format(source, data.format, target)).splits(source)
    found = tuple(int(match[1]) for name in names if (match := _FOLD.fullmatch(name)))
    if not found:
        raise ValueError(
            f"{data.path}: its splits are {', '.join(names)}, so there are no folds; write `split: {{folds: 5, "
            f"seed: 0}}` in the data set's YAML, or `split: splits_final.json` for nnU-Net's own"
        )
    return found


def cross_validate(
    run_dirs: Mapping[int, Path], output: Path, device: str = "auto", *, bar: bool = True
) -> CrossValidation:
    """Judge the best model of each run on its own validation split, all cases together; choose which pieces of
    structures to leave out, and store that in these models.

    Writes ``metrics.json``, ``cases.csv``, ``report.html`` and ``cleaning.json`` to ``output``. Each best model was
    chosen by its validation split, unless its run kept the last one, so that the numbers are a little too good.

    Raises:
        ValueError: a case is in the validation split of several folds.
        ImageError: a volume cannot be read.
    """
    on = default_device(device)
    folds: list[_Fold] = []
    for fold, run_dir in run_dirs.items():
        folds.append(_judge(fold, run_dir, sum(len(one.seen) for one in folds), on, bar))
    _require_apart(folds)
    task, samples = folds[0].task, folds[0].samples
    seen = [one for fold in folds for one in fold.seen]
    names = {number: name for fold in folds for number, name in fold.names.items()}
    raw: Evaluator = task.evaluator(samples.class_names, samples.category_ids)
    raw.merge([fold.state for fold in folds])
    choices = () if task.config.regions else _choose(seen, samples.class_names)
    clean = tuple(choice.config for choice in choices if choice.config is not None)
    final = _cleaned(seen, clean, task) if clean else raw
    for run_dir in run_dirs.values():
        _store(run_dir / BEST, clean)
    metrics, raw_metrics = final.compute(), raw.compute()
    of_folds = {fold.number: fold.score for fold in folds}
    facts = {f"fold {fold}": f"{metrics.primary} {value:.4f}" for fold, value in of_folds.items()}
    facts["models alone"] = f"{metrics.primary} {raw_metrics[metrics.primary]:.4f}"
    facts |= {choice.name: _describe(choice).partition(": ")[2] for choice in choices}
    first, *others = [run_dir / BEST for run_dir in run_dirs.values()]
    settings = describe(
        first,
        data=folds[0].data,
        split="validation splits of all folds",
        num_images=len(seen),
        settings=to_dict(replace(task.config, postprocess=replace(task.config.postprocess, clean=clean))),
        device=str(on),
        averaged_with=others,
    )
    table = write_report(final, metrics, output, {**settings, "Cross-validation": facts}, names=names)
    described = [{"name": one.name, "before": one.before, "after": one.after} for one in choices]
    content = {"clean": [to_dict(one) for one in clean], "Dice": described}
    write_text(output / CLEANING_NAME, json.dumps(content, indent=2) + "\n")
    return CrossValidation(metrics, raw_metrics, choices, of_folds, table)


def _choose(seen: Sequence[_Seen], class_names: Sequence[str]) -> tuple[Choice, ...]:
    """Which pieces to leave out. Not of regions that lie in each other: what is left of one would depend on others."""
    chooser = CleaningChooser(class_names)
    for one in seen:
        chooser.update(one.result, one.samples.label_volume(one.index))
    return tuple(chooser.choose())


def _judge(fold: int, run_dir: Path, offset: int, on: torch.device, bar: bool) -> _Fold:
    """The best model of ``run_dir`` over its validation split; ids of images are counted from ``offset`` on."""
    config = load_config(RunConfig, run_dir / CONFIG_NAME)
    model_file = load_model_file(run_dir / BEST, postprocess={"clean": ()})
    task, data = model_file.task, config.data
    dataset = open_dataset(data.path, data.val_split, data.format, task.target, data.description)
    samples: Any = as_samples(dataset, task.spec)
    seen: list[_Seen] = []

    def keep(index: int, result: LabelVolume, truth: LabelVolume) -> None:
        packed = zlib.compress(np.ascontiguousarray(result.labels).tobytes(), 1)
        number = offset + samples.image_id(index)
        seen.append(_Seen(number, index, samples, packed, result.labels.shape, result.affine))

    judged = evaluate(
        model_file.model.to(on), task, samples, batch_size=1, device=on, num_workers=0, bar=bar, on_result=keep
    )
    state, metrics = judged.state(), judged.compute()
    return _Fold(
        fold,
        task,
        samples,
        str(data.path),
        seen,
        {offset + number: name for number, name in file_names(samples).items()},
        {**state, "image_ids": state["image_ids"] + offset},
        metrics[metrics.primary],
    )


def _require_apart(folds: Sequence[_Fold]) -> None:
    """Raise ValueError where a case was held out twice: it would count twice."""
    fold_of: dict[str, int] = {}
    for fold in folds:
        for index in range(len(fold.samples)):
            path = fold.samples.path(index)
            if path in fold_of:
                raise ValueError(f"{path} is in the validation splits of folds {fold_of[path]} and {fold.number}")
            fold_of[path] = fold.number


def _cleaned(seen: Sequence[_Seen], clean: Sequence[CleanConfig], task: Any) -> Evaluator:
    """All cases judged once more, without the pieces that are left out."""
    samples = seen[0].samples
    made: Evaluator = task.evaluator(samples.class_names, samples.category_ids)
    for one in seen:
        found = clean_labels(one.result, clean, samples.class_names)
        made.update(one.image_id, found, one.samples.label_volume(one.index))
    return made


def _store(path: Path, clean: tuple[CleanConfig, ...]) -> None:
    """Write ``clean`` into the model file, whole or not at all."""
    config = read_header(path)
    task: Any = config.task
    if task.postprocess.clean == clean:
        return
    task = replace(task, postprocess=replace(task.postprocess, clean=clean))
    save_model_file(path, load_file(path), replace(config, task=task))


def _describe(choice: Choice) -> str:
    if choice.config is None:
        return f"{choice.name}: all pieces stay"
    what = "the largest piece alone" if choice.config.largest else f"pieces of {choice.config.min_ml:g} ml at least"
    return f"{choice.name}: {what}, Dice {choice.before:.4f} -> {choice.after:.4f}"


def finished_folds(run_dirs: Mapping[int, Path], finished: str) -> Iterator[int]:
    """The folds whose runs have come to their end."""
    for fold, run_dir in run_dirs.items():
        if (run_dir / finished).is_file() and (run_dir / BEST).is_file():
            yield fold
