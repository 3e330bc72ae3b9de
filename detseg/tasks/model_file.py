"""A model as one file: safetensors whose header says what it is, so that the file alone is enough to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from detseg import __version__
from detseg.config import choice, from_dict, to_dict
from detseg.config_files import shorten
from detseg.files import atomic_path
from detseg.models import MODELS
from detseg.models.base import ModelConfig
from detseg.models.load_weights import require_finite
from detseg.runtime.class_names import find_spellings
from detseg.runtime.devices import parse_device
from detseg.runtime.postprocess.class_settings import require_class_settings, settle
from detseg.tasks import TASKS
from detseg.tasks.base import Task, TaskConfig
from detseg.tasks.header_fit import header_errors, open_model_file, require_fit

FORMAT = 1
_CHOSEN = ("class_confidences", "class_colors")
"""What a header holds only where something was chosen."""
_FOREIGN_SUFFIXES = (".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class ModelFileConfig:
    """What a model file's header holds beside the weights."""

    model: ModelConfig = choice(MODELS)
    task: TaskConfig = choice(TASKS)
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    class_confidences: tuple[float, ...] = ()
    """The lowest score of a box of each class that counts in prediction; empty: the task's own for all."""
    class_colors: tuple[tuple[int, int, int], ...] = ()
    """Red, green and blue of each class in drawings; empty: the usual ones."""

    def __post_init__(self) -> None:
        require_class_settings(self.class_confidences, self.class_colors, self.class_names)

    def build(self) -> tuple[nn.Module, Task]:
        """A model with fresh weights and its task."""
        model = self.model.build(num_classes=len(self.class_names))
        return model, self.task.build(model, self.class_names, self.category_ids)


@dataclass(frozen=True)
class ModelFile:
    """A model ready for use: in eval mode, with its task and the configuration it was made from."""

    model: nn.Module
    task: Task
    config: ModelFileConfig


def save_model_file(path: Path, weights: Mapping[str, Tensor], config: ModelFileConfig) -> None:
    """Write ``weights`` and what is needed to use them to ``path``, whole or not at all.

    Raises:
        detseg.files.SaveError: the disk is full or the folder cannot be written to.
    """
    config = replace(config, model=without_pretrained(config.model))
    described = {name: value for name, value in to_dict(config).items() if name not in _CHOSEN or value}
    header = {"format": FORMAT, "version": __version__, **described}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"detseg": json.dumps(header, sort_keys=True)})
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(f"safetensors could not write the weights: {error}") from error


def without_pretrained(config: Any) -> Any:
    """``config`` with every ``pretrained`` off: the weights in the file replace those, which need not be at hand."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    changes = {name: without_pretrained(value) for name, value in values.items() if is_dataclass(value)}
    if "pretrained" in values:
        changes["pretrained"] = False
    return replace(config, **changes)


def read_header(path: Path) -> ModelFileConfig:
    """What the model file says of itself; no weights are read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no safetensors file, or not one of detseg's.
    """
    if path.suffix.lower() in _FOREIGN_SUFFIXES:
        raise ValueError(
            f"{path} is a file of another program; use what "
            f"`detseg convert {path} -o {path.stem}.safetensors` makes of it"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no model file at {path}")
    with open_model_file(path) as file:
        metadata = file.metadata() or {}
    if "detseg" not in metadata:
        raise ValueError(
            f"{path} has no detseg header, so its model and classes are unknown; "
            "give a configuration with --weights instead: detseg eval CONFIG.yaml --weights FILE"
        )
    try:
        header = json.loads(metadata["detseg"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its detseg header is no JSON: {error}") from error
    if not isinstance(header, dict) or type(header.get("format")) is not int:
        raise ValueError(f"{path}: its detseg header is not one that detseg writes: it has no format number")
    version = header.pop("version", "(unknown)")
    if header.pop("format") != FORMAT:
        raise ValueError(f"{path} was written by detseg {shorten(version)}, whose file format this version cannot read")
    with header_errors(path, "its header does not say what a model needs"):
        config = from_dict(ModelFileConfig, header, "its header", is_ours=True)
    if getattr(config.task.postprocess, "nms_backend", None) == "detseg":
        # What ran where the file was made is nobody's demand here; it was also the default once.
        config = replace(config, task=adapt_task(config.task, {"nms_backend": "auto"}))
    return replace(config, model=without_pretrained(config.model))


def load_model_file(
    path: Path,
    *,
    postprocess: Mapping[str, Any] | None = None,
    size: tuple[int, int] | None = None,
    for_prediction: bool = False,
) -> ModelFile:
    """Read a model file on the CPU.

    Args:
        path: a ``.safetensors`` file written by :func:`save_model_file`.
        postprocess: settings that replace those in the header, such as ``{"confidence": 0.25}``.
        size: height and width of the input, in place of that in the header.
        for_prediction: begin with the task's settings for prediction instead of those for evaluation. Then a
            ``confidence`` may be a mapping from the names of classes, and takes the place of those in the header.

    Raises:
        FileNotFoundError, ValueError: see :func:`read_header`; also where weights and header disagree, for weights that
            are NaN or infinite, and for settings that the task does not have.
    """
    config = read_header(path)
    settings = dict(postprocess or {})
    if for_prediction:
        settings, floors = settle(settings, config.class_confidences, config.class_names)
        settings = {**config.task.prediction_settings, **settings}
        config = replace(config, class_confidences=floors)
    config = replace(config, task=adapt_task(config.task, settings, size))
    require_fit(path, config.model, len(config.class_names))
    with header_errors(path, "its header describes a model and a task that do not fit each other"):
        model, task = config.build()
    weights = load_file(path)
    require_finite(weights, path)
    model.load_state_dict(weights)
    return ModelFile(model.eval(), task, config)


def adapt_task(config: Any, postprocess: Mapping[str, Any], size: tuple[int, int] | None = None) -> Any:
    """The configuration of a task with other settings of its postprocessing, and another input size.

    Raises:
        ValueError: the task has no such setting, or its value is not allowed.
    """
    known = [one.name for one in fields(config.postprocess)]
    unknown = [name for name in postprocess if name not in known]
    if unknown:
        raise ValueError(
            f"the task {config.name} has no setting {', '.join(unknown)}; its settings are {', '.join(known)}"
        )
    config = replace(config, postprocess=replace(config.postprocess, **postprocess))
    if size is not None:
        if not config.input.one_size:
            raise ValueError(
                f"the task {config.name} has no input size, as volumes keep theirs; got "
                f"{'x'.join(map(str, size))}; set --window instead"
            )
        config = replace(config, input=replace(config.input, height=size[0], width=size[1]))
    return config


def match_classes(model_names: Sequence[str], data_names: Sequence[str]) -> list[int]:
    """For each class of the data set, its position in the model's classes; they meet by name, never by position.

    Raises:
        ValueError: a class of the data set is unknown to the model; lists both sides.
    """
    position = {name: index for index, name in enumerate(model_names)}
    unknown = [name for name in data_names if name not in position]
    if unknown:
        spellings = find_spellings(unknown, model_names)
        renaming = ", ".join(f"{json.dumps(old)}: {json.dumps(new)}" for old, new in spellings.items())
        advice = f"; other spellings of one name are made one by `classes: {{{renaming}}}` in the data YAML"
        raise ValueError(
            f"the model does not know {len(unknown)} classes of the data set: {', '.join(unknown)}; "
            f"the model has: {', '.join(model_names)}; the data set has: {', '.join(data_names)}"
            f"{advice if spellings else ''}"
        )
    return [position[name] for name in data_names]


def default_device(name: str) -> torch.device:
    """The device that a user means, see :func:`detseg.runtime.devices.parse_device`; ``auto`` is the first CUDA device
    where there is one, else the CPU.

    Raises:
        ValueError: it is no device, or there is none such.
    """
    parsed = parse_device(name)
    if parsed == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(parsed)
    if device.type == "cpu":
        return device
    counts = {
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
        "xpu": torch.xpu.device_count() if torch.xpu.is_available() else 0,
    }
    count = counts[device.type]
    if (device.index or 0) >= count:
        there = (
            f"torch sees {count} of this kind, counted from 0"
            if count
            else f"torch sees no {device.type.upper()} device"
        )
        raise ValueError(f"device {name} was asked for, but {there}; use cpu or auto, or install a driver")
    return device
