"""What a release leaves in the repository: the file of weights, its section of the model card, its row of the table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from release_rows import ROWS, Row
from release_runs import Figures, Run, Speed

from detseg.arrays import ByteArray
from detseg.engine.reports.plots import plot_history
from detseg.files import write_text
from detseg.runtime.media.images import read_image, write_image
from detseg.runtime.weights.released import Release, add_release, sha256_of
from detseg.tasks.model_file import load_model_file, save_model_file

PRIMARY = {"detection": "AP", "instance": "AP", "semantic": "mIoU", "volume": "Dice"}
CARD_NAME = "README.md"
TABLE_HEAD = "# Weights of a trial, in the format of detseg/runtime/released.yaml.\nurl: null\nweights: {}\n"
LICENSE = "Apache-2.0"
PRECISIONS = {"none": "float32", "bf16": "bfloat16 where autocast takes it", "fp16": "float16 where autocast takes it"}
NUM_IMAGES = 3
MAX_IMAGE_WIDTH = 1200

_HEAD = "# Released weights\n"
_OVERALL = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AP_box", "AP50_box"),
    *("mIoU", "pixel_accuracy", "Dice", "HD95"),
)
_BY_SIZE = ("AP", "AP50", "AP75", "mIoU")
_PER_CLASS = ("AP", "AP50", "IoU", "Dice", "HD95")


@dataclass(frozen=True)
class Tried:
    """A candidate with its finished runs, one for each fold, and the mean of their figures."""

    name: str
    about: str
    runs: Sequence[Run]
    figures: Figures

    @property
    def speed(self) -> Speed:
        """The mean speed of the runs, and the seconds of all of them."""
        speeds = [run.speed for run in self.runs]
        return Speed(
            float(np.mean([one.images_per_second for one in speeds])),
            float(np.mean([one.waiting for one in speeds])),
            sum(one.seconds for one in speeds),
        )


@dataclass(frozen=True)
class Made:
    """What a release was made from: the ``chosen`` of the ``tried`` ways, the last training on more data if there was
    one, the figures on val by the way of looking at an image, and of the best weights by the size of the input, the
    best size first."""

    tried: Sequence[Tried]
    chosen: Tried
    final: Run | None
    figures: Mapping[str, Figures]
    command: str
    sizes: Mapping[tuple[int, int], Figures] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int] | None:
        """The input size of the release; None where only that of training was tried."""
        return next(iter(self.sizes), None)


def store(
    source: Path, target: Path, *, half: bool, max_bytes: int | None, size: tuple[int, int] | None = None
) -> None:
    """Copy a model file, with another ``size`` of its input if one is given; with ``half``, matrices and kernels in 16
    bits, which are 32 again when the file is loaded. What there is once per channel, norms among it, costs little and
    stays as it is.

    Raises:
        ValueError: a weight is too large for 16 bits, or the file is larger than ``max_bytes``; it is not kept.
    """
    package = load_model_file(source, size=size)
    weights = package.model.state_dict()
    if half:
        weights = {
            name: value.half() if value.is_floating_point() and value.ndim > 1 else value
            for name, value in weights.items()
        }
        lost = [name for name, value in weights.items() if not torch.isfinite(value).all()]
        if lost:
            raise ValueError(f"{source}: weights too large for 16 bits: {', '.join(lost[:5])}; store it in 32 bits")
    save_model_file(target, weights, package.config)
    num_bytes = target.stat().st_size
    if max_bytes is not None and num_bytes > max_bytes:
        target.unlink()
        raise ValueError(
            f"{target.name} would have {num_bytes:,} bytes, {max_bytes:,} are allowed; train a smaller model"
        )


def publish(name: str, made: Made, images_of_val: Path, folder: Path, table: Path) -> Release:
    """Write images, section and row of the weights ``folder/NAME.safetensors``; returns the row.

    In the folder ``images_of_val`` lie some that show truth beside prediction.
    """
    row, weights = ROWS[name], folder / f"{name}.safetensors"
    release = Release(
        file=weights.name,
        sha256=sha256_of(weights),
        num_bytes=weights.stat().st_size,
        task=row.task,
        data=row.final_data if made.final else row.data,
        license=f"{LICENSE}; data: {row.data_license}",
        quality=_quality(row, made),
    )
    images = folder / "images"
    run = made.final or made.chosen.runs[0]
    curve, shown = images / f"{name}_curve.png", images / f"{name}_val.jpg"
    # Of the run on train alone: what was measured while training on val as well says nothing.
    plot_history(made.chosen.runs[0].history, curve)
    _stack(sorted(images_of_val.glob("*.jpg"))[:NUM_IMAGES], shown)
    write_section(folder / CARD_NAME, name, _section(row, made, run, release, weights))
    if not table.exists():
        write_text(table, TABLE_HEAD)
    add_release(name, release, table)
    return release


def write_section(path: Path, name: str, text: str) -> None:
    """Put the section ``name`` into the page at ``path``, in place of the one there; sections come in the order of the
    rows, and what stands before the first is kept."""
    page = path.read_text(encoding="utf-8") if path.exists() else _HEAD
    head, *sections = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    by_name = {section.splitlines()[0].removeprefix("## ").strip(): section.strip() for section in sections}
    by_name[name] = f"## {name}\n\n{text.strip()}"
    ordered = sorted(by_name, key=lambda one: list(ROWS).index(one) if one in ROWS else len(ROWS))
    write_text(path, "\n\n".join([head.strip(), *(by_name[one] for one in ordered)]) + "\n")


def results(made: Made, primary: str) -> list[str]:
    """The candidates, with what they reach and how fast they train, as a table."""
    rows = [
        (
            f"**{one.name}**" if one is made.chosen else one.name,
            one.about,
            f"{one.figures[primary]:.4f}",
            *_speed_cells(one.speed),
        )
        for one in made.tried
    ]
    if made.final:
        speed = replace(made.final.speed, seconds=_seconds(made.final))
        rows.append(("final", "the chosen way, on all of it", "-", *_speed_cells(speed)))
    return _table(("training", "", f"{primary} on val", "images/s", "waiting for data", "minutes"), rows)


def _speed_cells(speed: Speed) -> tuple[str, str, str]:
    return f"{speed.images_per_second:.1f}", f"{speed.waiting:.1%}", f"{speed.seconds / 60:.1f}"


def _seconds(run: Run) -> float:
    """How long it took with the trainings that it goes on from."""
    return sum(stage.speed.seconds for stage in run.stages)


def _quality(row: Row, made: Made) -> str:
    primary = PRIMARY[row.task]
    usual, *others = [f"{figures[primary]:.4f}{f' ({view})' if view else ''}" for view, figures in made.figures.items()]
    where = f"in cross-validation, {len(made.chosen.runs)} of {row.num_folds} folds" if row.num_folds else "on val"
    seen = " by the same training without val" if made.final and not row.num_folds else ""
    return f"{primary} {', '.join([usual, *others])} {where}{seen}"


def _section(row: Row, made: Made, run: Run, release: Release, weights: Path) -> str:
    name = weights.stem
    parameters = sum(parameter.numel() for parameter in load_model_file(weights).model.parameters())
    facts = {
        "file": f"`{release.file}`, {release.num_bytes:,} bytes{', weights of 16 bits' if row.half else ''}",
        "sha256": f"`{release.sha256}`",
        "parameters": f"{parameters:,}",
        "trained on": release.data,
        "license": f"{LICENSE}; of the data: {row.data_license}",
        "command": f"`{made.command}`",
        "training": _training(row, made.chosen.name),
        "seed": str(run.config.train.seed),
        "epochs": " + ".join(str(len(stage.records)) for stage in run.stages),
        **({"input": _pixels(made.size)} if made.size else {}),
        "precision": PRECISIONS[run.config.train.amp],
        "duration": f"{_seconds(run) / 60:.1f} minutes, {run.speed.images_per_second:.1f} images per second, "
        f"{run.speed.waiting:.1%} of the time of the steps waiting for data",
        "hardware": run.hardware,
        "goal": row.goal,
    }
    if row.num_folds:
        folds = f"{len(made.chosen.runs)} of {row.num_folds} folds"
        where = f"on volumes left out, by the epoch best there, mean of {folds}; the release learned from all"
    elif made.final:
        where = "on val, by the best epoch of the same training on train alone; the release learned from val as well"
    else:
        too = ", the way of training and the size of the input" if made.sizes else " and the way of training"
        where = f"on val, by the released file; the epoch{too} were chosen there"
    lines = [f"{row.title[0].upper()}{row.title[1:]}.", "", *_table(("", ""), facts.items()), ""]
    lines += [f"Figures {where}:", "", *_figures(made.figures, _overall(made.figures)), ""]
    lines += [*_per_class(made.figures), "", "What was tried:", "", *results(made, PRIMARY[row.task]), ""]
    if made.sizes:
        lines += ["The same weights with other sizes of the input (before they were stored):", "", *_sizes(made), ""]
    lines += [f"![Course of the training](images/{name}_curve.png)", ""]
    lines += [f"![Images of val: truth and prediction](images/{name}_val.jpg)"]
    return "\n".join(lines)


def _training(row: Row, name: str) -> str:
    """A candidate in words, after the one that it goes on from."""
    chosen = row.candidates[name]
    return f"{f'{_training(row, chosen.after)}; then ' if chosen.after else ''}{name}: {chosen.about}"


def _overall(figures: Mapping[str, Figures]) -> list[str]:
    return [name for name in _OVERALL if any(name in one for one in figures.values())]


def _figures(figures: Mapping[str, Figures], names: Iterable[str]) -> list[str]:
    views = list(figures)
    rows = [(name, *(_cell(figures[view], name) for view in views)) for name in names]
    return _table(("", *(view or "as usual" for view in views)), rows)


def _sizes(made: Made) -> list[str]:
    names, trained = [name for name in _overall(made.figures) if name in _BY_SIZE], made.chosen.runs[0].input_size
    rows = []
    for size, figures in sorted(made.sizes.items()):
        text = f"{_pixels(size)}{', as in training' if size == trained else ''}"
        cells = (_cell(figures, name) for name in names)
        rows.append((f"**{text}**" if size == made.size else text, *cells))
    return _table(("input", *names), rows)


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _per_class(figures: Mapping[str, Figures]) -> list[str]:
    """A row for each class; a column for each figure and view."""
    found = [name for one in figures.values() for name in one if name.partition("/")[0] in _PER_CLASS and "/" in name]
    classes = list(dict.fromkeys(name.partition("/")[2] for name in found))
    columns = [(metric, view) for metric in _PER_CLASS for view in figures if f"{metric}/{classes[0]}" in figures[view]]
    header = ("class", *(f"{metric}{f', {view}' if view else ''}" for metric, view in columns))
    rows = [(one, *(_cell(figures[view], f"{metric}/{one}") for metric, view in columns)) for one in classes]
    return _table(header, rows)


def _cell(figures: Figures, name: str) -> str:
    value = figures.get(name, -1.0)
    return f"{value:.4f}" if value >= 0 else "-"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [" | ".join(cells) for cells in (header, ["---"] * len(header), *rows)]
    return [f"| {line} |" for line in lines]


def _stack(images: Sequence[Path], target: Path) -> None:
    """The images below each other, on white where one is narrower."""
    read = [_reduced(read_image(path)) for path in images]
    width = max(image.shape[1] for image in read)
    padded = [np.pad(one, ((0, 0), (0, width - one.shape[1]), (0, 0)), constant_values=255) for one in read]
    write_image(target, np.concatenate(padded))


def _reduced(image: ByteArray) -> ByteArray:
    """``image``, no wider than a page shows."""
    height, width = image.shape[:2]
    if width <= MAX_IMAGE_WIDTH:
        return image
    size = (MAX_IMAGE_WIDTH, round(height * MAX_IMAGE_WIDTH / width))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
