"""What ``detseg eval`` measures: a model in any of its forms, opened together with its data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from detseg.arrays import DoubleArray
from detseg.config import load_config, to_dict
from detseg.data.open import find_source, open_dataset
from detseg.data.source import require_outside
from detseg.engine.evaluate import PRECISIONS, OnResult, evaluate, evaluate_runner
from detseg.engine.exported import load_exported
from detseg.engine.reports.describe import describe
from detseg.engine.run_data import AnyDataset, without_bad
from detseg.engine.samples import Samples, as_samples
from detseg.engine.settings import RunConfig
from detseg.evaluation.base import Evaluator
from detseg.evaluation.report import format_table
from detseg.files import printable, require_apart
from detseg.models.load_weights import load_weights
from detseg.ops.precision import describe_arithmetic
from detseg.runtime.ensemble import EnsembleRunner, as_members
from detseg.runtime.foreign.options import ForeignOptions, require_onnx
from detseg.runtime.onnx.forms import is_exported_name
from detseg.runtime.postprocess.class_settings import USUAL_CONFIDENCE, confidences_of
from detseg.runtime.runner import Runner
from detseg.runtime.weights.released import find_model, find_models
from detseg.shipped import find_config
from detseg.structures import Metrics
from detseg.tasks.base import Task
from detseg.tasks.member import TorchMember
from detseg.tasks.model_file import ModelFileConfig, adapt_task, default_device, load_model_file

_CONFIGURATIONS = (".yaml", ".yml")


@dataclass(frozen=True)
class Evaluated:
    """A model with the task that judges it, and the ``samples`` of the ``split`` of ``data`` that it is to be judged
    on.

    ``class_confidences``: from which score on boxes of each class of the model count, as its file or the user says.
    ``path`` is the file with the weights; ``device`` where torch runs them, None where another runner does;
    ``averaged_with``: the other models of an ensemble; ``skipped``: what was wrong with each image that is left out;
    ``runs_in``: the runtime of an exported file, and its precision.
    """

    path: Path
    network: nn.Module | Runner
    task: Task
    samples: Samples
    data: str
    split: str
    device: torch.device | None
    averaged_with: tuple[Path, ...] = ()
    skipped: tuple[str, ...] = ()
    class_confidences: tuple[float, ...] = ()
    runs_in: str = ""

    def confidences(self) -> DoubleArray | None:
        """``class_confidences`` for the classes of the data, ``[C]``; None where nothing is chosen."""
        if not self.class_confidences:
            return None
        chosen = dict(zip(self.task.class_names, self.class_confidences, strict=True))
        return np.array([chosen.get(name, USUAL_CONFIDENCE) for name in self.samples.class_names])

    def evaluate(
        self,
        *,
        batch_size: int,
        num_workers: int,
        on_result: OnResult | None = None,
        backend: str | None = None,
        precision: str = "fp32",
    ) -> Evaluator:
        """Run the model over the samples; see :func:`detseg.engine.evaluate.evaluate`. ``precision``: of what torch
        runs; an exported file was opened in its own.
        """
        if not isinstance(self.network, nn.Module):
            return evaluate_runner(
                self.network,
                self.task,
                self.samples,
                batch_size=batch_size,
                num_workers=num_workers,
                on_result=on_result,
                backend=backend,
            )
        assert self.device is not None
        return evaluate(
            self.network.to(self.device),
            self.task,
            self.samples,
            batch_size=batch_size,
            num_workers=num_workers,
            device=self.device,
            on_result=on_result,
            backend=backend,
            precision=precision,
        )

    def require_apart(self, folder: Path) -> None:
        """Refuse a ``folder`` for results that lies among the data: in a folder that was named as data, or that images,
        masks or labels are read from.

        Raises:
            ValueError: it does.
        """
        source = find_source(self.data)
        if source.root.exists():
            root = source.data_root()
            # A YAML may lie in the folder where the user works, and results too.
            if Path(self.data).is_dir() or root.resolve() != source.root.resolve():
                require_outside(folder, root)
        require_apart(folder, self._files_read())

    def _files_read(self) -> list[Path]:
        """One file of each folder that images, masks or labels are read from."""
        kinds = [self.samples.path]
        for name, kind in (("has_masks", "mask_path"), ("has_labels", "label_path")):
            if getattr(self.samples, name, False):
                kinds.append(getattr(self.samples, kind))
        found: dict[str, str] = {}
        for of_index in kinds:
            for index in range(len(self.samples)):
                path = str(of_index(index))
                found.setdefault(os.path.dirname(path), path)  # noqa: PTH120 - there may be many thousands
        # Those that are drawn have names and no files.
        return [path for path in map(Path, found.values()) if path.exists()]

    def describe_device(self, precision: str) -> str:
        """Where torch runs the network and, on a GPU, in what it computes."""
        assert self.device is not None
        arithmetic = describe_arithmetic(self.device, PRECISIONS[precision])
        return f"{self.device}, {arithmetic}" if arithmetic else str(self.device)

    def describe(self, precision: str = "fp32") -> dict[str, dict[str, str]]:
        """What is measured, on what, and with what settings, for a report; ``precision`` is that of the network."""
        num_parameters, device = None, self.runs_in
        if isinstance(self.network, nn.Module):
            num_parameters = sum(parameter.numel() for parameter in self.network.parameters())
            device = f"torch, {self.describe_device(precision)}"
        return describe(
            self.path,
            data=self.data,
            split=self.split,
            num_images=len(self.samples),
            settings=to_dict(self.task.config),
            num_parameters=num_parameters,
            device=device,
            averaged_with=self.averaged_with,
            num_skipped=len(self.skipped),
        )


@dataclass(frozen=True, repr=False)
class Evaluation:
    """What a model reached: ``metrics`` by name, over ``num_images`` of a ``split`` of ``data``; ``reports`` are the
    pages that were written, ``evaluator`` holds all that was judged, ``skipped`` says what was wrong with each image
    that was left out, ``gpu`` on what GPU it was computed, and in what, ``notes`` what else is to be said."""

    metrics: Metrics
    evaluator: Evaluator
    num_images: int
    data: str
    split: str
    reports: tuple[Path, ...] = ()
    skipped: tuple[str, ...] = ()
    gpu: str = ""
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> float:
        return self.metrics[name]

    @property
    def table(self) -> str:
        """The metrics as a table for the screen."""
        return format_table(self.metrics, self.evaluator.classes_without_truth())

    def render(self) -> str:
        """What was measured and what came of it, for people."""
        on = f", on {self.gpu}" if self.gpu else ""
        head = f"{self.num_images} images of {self.data}, split {self.split}{on}\n\n{self.table}"
        skipped = [f"skipped: {printable(message)}" for message in self.skipped]
        return "\n".join([*skipped, *self.notes, head, *(f"report: {path}" for path in self.reports)])

    def __repr__(self) -> str:
        primary = self.metrics.primary
        return (
            f"Evaluation({primary} {self.metrics[primary]:.4f}, {self.num_images} images of {self.data}, {self.split})"
        )


def open_evaluated(
    model_path: Path,
    *,
    weights: Path | None = None,
    ensemble: Sequence[Path] = (),
    data: str | None = None,
    format: str | None = None,
    split: str = "val",
    device: str = "auto",
    postprocess: Mapping[str, Any] | None = None,
    size: tuple[int, int] | None = None,
    foreign: ForeignOptions | None = None,
    runtime: str | None = None,
    precision: str = "fp32",
    runtime_cache: Path | None = None,
    skip_bad_images: int = 0,
) -> Evaluated:
    """Open ``model_path`` and the data to evaluate it on.

    Args:
        model_path: a ``.safetensors`` file, an ``.onnx`` file, a configuration, or the name of released weights.
        weights: the weights of a configuration.
        ensemble: further models, whose class probabilities are averaged with those of the first.
        data: a folder, a YAML, or the name of drawn data; None for that of the configuration.
        format: of the data, where its layout is ambiguous.
        split: of the data.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ....
        postprocess: settings that replace those of evaluation, such as ``{"iou": 0.6}``.
        size: height and width of the input, in place of the model's own.
        foreign: what the user says of an ``.onnx`` file of another program.
        runtime: what runs an exported file, as for ``detseg.load``.
        precision: in which the runtime shall run it; what torch runs, :meth:`Evaluated.evaluate` is told of.
        runtime_cache: where the choice of the runtime ``auto`` is kept.
        skip_bad_images: how many images that cannot be read may be left out; they are looked for before anything else,
            unless it is 0.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of these forms, the data cannot be opened, or a setting is impossible.
    """
    model_path = _find(model_path, weights)
    settings, suffix = dict(postprocess or {}), model_path.suffix.lower()
    by_class = settings.pop("confidence") if isinstance(settings.get("confidence"), Mapping) else None
    require_onnx(foreign, model_path)
    if suffix in _CONFIGURATIONS:
        if weights is None:
            raise ValueError(f"{model_path} is a configuration; name the weights to evaluate with --weights FILE")
        return _open_configuration(model_path, weights, data, format, split, device, settings, size, skip_bad_images)
    if weights is not None:
        raise ValueError(f"--weights is for configurations, and {model_path} is none; leave one of them out")
    if data is None:
        raise ValueError("name the data to evaluate on: --data FOLDER_OR_YAML, or --data shapes")
    paths = [path for one in (model_path, *ensemble) for path in find_models(one)]
    if runtime is not None and (len(paths) > 1 or not is_exported_name(model_path)):
        raise ValueError(f"--runtime is for one exported file, such as .onnx; leave {runtime} out")
    if len(paths) > 1:
        return _open_ensemble(paths, data, format, split, device, settings, skip_bad_images)
    network: nn.Module | Runner
    chosen, runs_in = None, ""
    if is_exported_name(model_path):
        network, task, runs_in, stored = load_exported(
            model_path, device, settings, size, foreign, runtime, precision, runtime_cache
        )
    else:
        model_file = load_model_file(model_path, postprocess=settings, size=size)
        network, task, chosen = model_file.model, model_file.task, default_device(device)
        stored = model_file.config.class_confidences
    if by_class is not None:
        if not task.kind.has_boxes:
            raise ValueError(f"{model_path}: only boxes have a confidence, this model is for {task.name}")
        stored = confidences_of(by_class, task.class_names, "confidence")
    elif "confidence" in settings:
        stored = ()
    dataset, skipped = _readable(open_dataset(data, split, format, task.target), skip_bad_images)
    return Evaluated(
        model_path,
        network,
        task,
        as_samples(dataset, task.spec),
        data,
        split,
        chosen,
        skipped=skipped,
        runs_in=runs_in,
        class_confidences=stored,
    )


def _readable(dataset: AnyDataset, limit: int) -> tuple[AnyDataset, tuple[str, ...]]:
    return without_bad(dataset, limit) if limit else (dataset, ())


def _open_ensemble(
    paths: Sequence[Path],
    data: str,
    format: str | None,
    split: str,
    device: str,
    settings: Mapping[str, Any],
    skip_bad_images: int,
) -> Evaluated:
    members, tasks = [], []
    for path in paths:
        if is_exported_name(path):
            runner, task, *_ = load_exported(path, device, settings, None)
            members += as_members([runner])
        else:
            model_file = load_model_file(path, postprocess=settings)
            task = model_file.task
            if not task.kind.has_probabilities:
                raise ValueError(f"{path}: only models for volumes can be averaged, this one is for {task.name}")
            on = default_device(device)
            members.append(TorchMember(model_file.model.to(on), task, on))
        tasks.append(task)
    runner = EnsembleRunner(members, [task.class_names for task in tasks])
    dataset, skipped = _readable(open_dataset(data, split, format, tasks[0].target), skip_bad_images)
    samples = as_samples(dataset, tasks[0].spec)
    return Evaluated(paths[0], runner, tasks[0], samples, data, split, None, tuple(paths[1:]), skipped)


def _find(named: Path, weights: Path | None) -> Path:
    """The file that ``named`` means: with ``weights`` a configuration, by name too, else a model."""
    if weights is not None and named.suffix.lower() not in (".safetensors", ".onnx"):
        return find_config(named)
    return find_model(named)


def _open_configuration(
    config_path: Path,
    weights: Path,
    data: str | None,
    format: str | None,
    split: str,
    device: str,
    settings: Mapping[str, Any],
    size: tuple[int, int] | None,
    skip_bad_images: int,
) -> Evaluated:
    chosen = default_device(device)
    config = load_config(RunConfig, config_path)
    own = config.data if data is None else None
    data = data or str(config.data.path)
    chosen_format, description = (format or own.format, own.description) if own else (format, None)
    dataset = open_dataset(data, split, chosen_format, config.task.target, description)
    task_config = adapt_task(config.task, settings, size)
    model, task = ModelFileConfig(config.model, task_config, dataset.class_names, dataset.category_ids).build()
    load_weights(model, weights)
    usable, skipped = _readable(dataset, skip_bad_images)
    return Evaluated(weights, model, task, as_samples(usable, task.spec), data, split, chosen, skipped=skipped)
