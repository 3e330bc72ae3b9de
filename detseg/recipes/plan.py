"""What a training run is asked for, in a few words: a configuration or weights, data, and settings that win."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from detseg.config import build_config, to_dict
from detseg.config_files import COMMAND_LINE, ConfigError, Layer, override_layers, read_layers
from detseg.engine.settings import RunConfig
from detseg.engine.training.auto_batch import choose_batch_size
from detseg.models.base import ModelConfig
from detseg.recipes.finetune import ALWAYS, KNOWN, NEW, describe_classes, read_recipe, size_layer
from detseg.recipes.start import Start, find_start
from detseg.runtime.weights.released import find_model, read_table
from detseg.shipped import find_config

_OF_DATA = ("path", "format", "description", "train_split", "val_split")
"""What a recipe says of its own data set, and so nothing of another."""


@dataclass(frozen=True)
class Options:
    """What can be said of a run without knowing a key; None leaves it to the recipe.

    ``size`` is height and width of the input, ``batch_size`` ``auto`` for as many as fit.
    """

    data: str | None = None
    epochs: int | None = None
    size: tuple[int, int] | None = None
    batch_size: int | Literal["auto"] | None = None
    device: str | None = None
    seed: int | None = None
    num_workers: int | None = None

    def overrides(self) -> list[str]:
        """The same as ``key=value``, but for ``data`` and ``size``."""
        batch_size = None if self.batch_size == "auto" else self.batch_size
        given = {
            "train.epochs": self.epochs,
            "train.batch_size": batch_size,
            "train.device": None if self.device is None else json.dumps(self.device),
            "train.seed": self.seed,
            "data.num_workers": self.num_workers,
        }
        return [f"{key}={value}" for key, value in given.items() if value is not None]


@dataclass(frozen=True)
class Plan:
    """A run before its data is known: ``config``, what it begins with, and the layers it was built from.

    ``chosen`` are the layers of the user, which win over all others.
    """

    name: str
    config: RunConfig
    start: Start
    below: tuple[Layer, ...]
    chosen: tuple[Layer, ...]
    auto_batch: bool = False

    def adapted_to(self, num_samples: int, class_names: Sequence[str]) -> tuple[RunConfig, tuple[str, ...]]:
        """The configuration for a training set of ``num_samples`` with these classes, and what was chosen and why."""
        config, reasons = self._finetuned(num_samples, class_names)
        if self.auto_batch:
            batch_size, reason = choose_batch_size(config, len(class_names), num_samples)
            config = replace(config, train=replace(config.train, batch_size=batch_size))
            reasons = (*reasons, reason)
        return config, reasons

    def _finetuned(self, num_samples: int, class_names: Sequence[str]) -> tuple[RunConfig, tuple[str, ...]]:
        if self.start.class_names is None:
            return self.config, ()
        kept = [name for name in class_names if name in self.start.class_names]
        section = KNOWN if len(kept) == len(class_names) else NEW
        is_chosen = any(_has(layer.value, "train", "batch_size") for layer in self.chosen)
        sizes, reason = size_layer(num_samples, self.config.train.batch_size, is_chosen=is_chosen)
        layers = [*self.below, read_recipe(self.config.task.name)[section], sizes, *self.chosen]
        config = build_config(RunConfig, layers)
        return config, (describe_classes(config.train, len(kept), len(class_names) - len(kept)), reason)


def plan_run(model: Path | str, options: Options, overrides: Sequence[str] = ()) -> Plan:
    """The run that ``model``, ``options`` and ``overrides`` (``key.sub=value``) ask for.

    Args:
        model: a configuration, by file or by the name of one that comes with detseg; or what to fine-tune: a model
            file, a run folder, the name of released weights, or a file that ``detseg convert`` reads.
        options: what the user named.
        overrides: further settings of the user.

    Raises:
        detseg.config.ConfigError: there is no such configuration, a key or value is not allowed, or no data is named.
        ValueError: weights cannot be read.
    """
    start = find_start(model)
    below = list(_recipe(start))
    if options.data is not None:
        below = [_without_data(layer) for layer in below]
    chosen = [*_data_layers(options), *override_layers([*options.overrides(), *overrides])]
    below, chosen = ([_with_weights(layer) for layer in layers] for layers in (below, chosen))
    config = build_config(RunConfig, [*below, *chosen])
    _require_data([*below, *chosen])
    if options.size is not None and not config.task.input.one_size:
        raise ConfigError(
            f"{COMMAND_LINE}: --size: the task {config.task.name} has no input size, as volumes keep theirs; the "
            "patches that it learns from have one: task.patch=[64,64,64]"
        )
    if options.size is not None:
        chosen = [_size_layer(*options.size, below), *chosen]
        config = build_config(RunConfig, [*below, *chosen])
    return Plan(start.name, config, start, tuple(below), tuple(chosen), options.batch_size == "auto")


def load_model_config(config: Path | str, overrides: Sequence[str] = ()) -> ModelConfig:
    """The section ``model`` of a configuration, by file or by name.

    Raises:
        detseg.config.ConfigError: there is no such configuration, or a key or value is not allowed.
    """
    # Neither the data nor the weights of the recipe need be there.
    layers = [
        *read_layers(find_config(config)),
        *override_layers(["data.path=shapes", "train.weights=null", *overrides]),
    ]
    return build_config(RunConfig, layers).model


def _recipe(start: Start) -> list[Layer]:
    """The layers below what the user says."""
    if start.config is not None:
        return read_layers(start.config)
    assert start.header is not None
    task = start.header.task
    known = {
        "model": to_dict(start.header.model),
        "task": to_dict(task),
        "augment": task.finetuning_augment(),
        "train": {"weights": str(start.weights)},
    }
    return [read_recipe(task.name)[ALWAYS], Layer(known, str(start.weights), Path.cwd())]


def _without_data(layer: Layer) -> Layer:
    if not isinstance(layer.value, dict) or not isinstance(layer.value.get("data"), dict):
        return layer
    value = copy.copy(layer.value)
    value["data"] = {key: item for key, item in value["data"].items() if key not in _OF_DATA}
    return replace(layer, value=value)


def _with_weights(layer: Layer) -> Layer:
    """``layer`` with the file in place of the name of released weights, or of a run's folder, in ``train.weights``."""
    if not _has(layer.value, "train", "weights") or not isinstance(layer.value["train"]["weights"], str):
        return layer
    named = Path(layer.value["train"]["weights"])
    if (layer.folder / named).is_file() or not (str(named) in read_table().weights or named.is_dir()):
        return layer  # a path like any other
    return replace(layer, value={**layer.value, "train": {**layer.value["train"], "weights": str(find_model(named))}})


def _data_layers(options: Options) -> list[Layer]:
    return [] if options.data is None else [Layer({"data": {"path": options.data}}, COMMAND_LINE, Path.cwd())]


def _size_layer(height: int, width: int, below: Sequence[Layer]) -> Layer:
    value: dict[str, Any] = {"task": {"input": {"height": height, "width": width}}}
    if any(_has(layer.value, "augment", "fit") for layer in below):
        value["augment"] = {"fit": [height, width]}
    return Layer(value, COMMAND_LINE, Path.cwd())


def _require_data(layers: Sequence[Layer]) -> None:
    if not any(_has(layer.value, "data", "path") for layer in layers):
        raise ConfigError(
            f"{COMMAND_LINE}: no data is named; give a folder or a YAML with --data, or --data shapes for drawn images"
        )


def _has(value: Any, section: str, key: str) -> bool:
    return isinstance(value, dict) and isinstance(value.get(section), dict) and key in value[section]
