"""Every entry of every public table is what its table promises: it is imported, made, built and asked for its parts."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

from detseg.augment import AUGMENTS
from detseg.cli.arguments import TARGETS
from detseg.config import from_dict, load_entry
from detseg.data import DATASETS
from detseg.data.format import DatasetFormat
from detseg.engine.settings import AugmentConfig, RunConfig
from detseg.exporters import COMPARISONS
from detseg.exporters.base import Comparison
from detseg.losses import DETECTION_LOSSES, INSTANCE_LOSSES, SEGMENTATION_LOSSES, VOLUME_LOSSES
from detseg.losses.base import LabelLoss, LabelLossConfig
from detseg.losses.detection import DetectionLoss, DetectionLossConfig
from detseg.losses.instances import InstanceLoss, InstanceLossConfig
from detseg.models import MODELS
from detseg.models.backbones import BACKBONES
from detseg.models.base import Backbone, BackboneConfig, Head, HeadConfig, Model, ModelConfig, Neck, NeckConfig
from detseg.models.heads import HEADS
from detseg.models.necks import NECKS
from detseg.runtime.foreign import LAYOUTS
from detseg.runtime.foreign.base import Found, Layout, UnfitError
from detseg.runtime.foreign.options import LayoutName
from detseg.runtime.kinds import KINDS, load_kind
from detseg.runtime.kinds.base import Kind, Metadata
from detseg.runtime.postprocess.config import PostprocessConfig
from detseg.structures import Target
from detseg.tasks import TASKS
from detseg.tasks.base import Criterion, Task, TaskConfig

NAMES = ("background", "one", "two")
NEEDS_ARCH = {"torchvision": "resnet18", "timm": "resnet18"}
SMALL = {
    "detector": {},
    "letnet": {},
    "semantic_fpn": {},
    "vnet": {"width": 4, "num_convolutions": (1, 1), "kernel_size": 3},
}
CHANNELS, STRIDES = (16, 32, 64), (8, 16, 32)


def entries(table: Mapping[str, str]) -> Callable[..., Any]:
    return pytest.mark.parametrize("name", list(table))


def config_of(table: Mapping[str, str], name: str, protocol: Any, **settings: Any) -> Any:
    """The entry as it is made from a configuration that names it: frozen, of its own name, and what the table says."""
    entry = load_entry(table, name)
    assert dataclasses.is_dataclass(entry)
    config: Any = entry(name=name, **settings)
    assert config.name == name
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.name = "other"
    require(config, protocol)
    return config


def require(one: Any, protocol: Any) -> None:
    """``one`` has what ``protocol`` names, and its methods can be called as those of the protocol."""
    assert isinstance(one, protocol)
    hints = {name for base in protocol.__mro__ for name in getattr(base, "__annotations__", {})}
    members = hints | {name for name in vars(protocol) if not name.startswith("_") or name == "__call__"}
    for member in members:
        assert hasattr(one, member), f"{type(one).__name__} has no {member}"
        promised = inspect.getattr_static(protocol, member, None)
        if inspect.isfunction(promised) or isinstance(promised, classmethod):
            require_callable(getattr(one, member), promised)


def require_callable(method: Any, promised: Any) -> None:
    """``method`` takes the arguments that ``promised`` does; it may take more that have defaults."""
    wanted = list(inspect.signature(getattr(promised, "__func__", promised)).parameters.values())[1:]
    positional = [one for one in wanted if one.kind is not one.KEYWORD_ONLY]
    inspect.signature(method).bind(
        *(object() for _ in positional), **{one.name: object() for one in wanted if one.kind is one.KEYWORD_ONLY}
    )


@entries(MODELS)
def test_models(name: str) -> None:
    config = config_of(MODELS, name, ModelConfig, **SMALL[name])
    with torch.device("meta"):
        model = config.build(num_classes=3)
    assert isinstance(model, nn.Module)
    require(model, Model)
    assert model.num_classes == 3


@entries(BACKBONES)
def test_backbones(name: str) -> None:
    settings = {"arch": NEEDS_ARCH[name]} if name in NEEDS_ARCH else {}
    config = config_of(BACKBONES, name, BackboneConfig, **settings)
    with torch.device("meta"):
        backbone = config.build()
    assert isinstance(backbone, Backbone)
    assert len(backbone.channels) == len(backbone.strides) > 0


@entries(NECKS)
def test_necks(name: str) -> None:
    neck = config_of(NECKS, name, NeckConfig).build(CHANNELS, STRIDES)
    assert isinstance(neck, Neck)
    assert neck.strides == STRIDES


@entries(HEADS)
def test_heads(name: str) -> None:
    head = config_of(HEADS, name, HeadConfig).build(CHANNELS, STRIDES, 3)
    assert isinstance(head, Head)
    assert (head.num_classes, head.reg_max >= 1) == (3, True)


@entries(DETECTION_LOSSES)
def test_losses_of_boxes(name: str) -> None:
    require(config_of(DETECTION_LOSSES, name, DetectionLossConfig).build(3, STRIDES, 16), DetectionLoss)


@entries(INSTANCE_LOSSES)
def test_losses_of_objects_with_masks(name: str) -> None:
    require(config_of(INSTANCE_LOSSES, name, InstanceLossConfig).build(3, STRIDES, 16), InstanceLoss)


@pytest.mark.parametrize(
    ("table", "name"), [(table, name) for table in (SEGMENTATION_LOSSES, VOLUME_LOSSES) for name in table]
)
def test_losses_of_labels(table: Mapping[str, str], name: str) -> None:
    require(config_of(table, name, LabelLossConfig).build(3), LabelLoss)


@entries(TASKS)
def test_tasks(name: str) -> None:
    config = config_of(TASKS, name, TaskConfig)
    with torch.device("meta"):
        settings = {"head": {"name": "dfl_masks"}} if config.target == "instances" else {}
        model = from_dict(load_entry(MODELS, "detector"), settings, "test").build(len(NAMES))
    task = config.build(model, NAMES)
    require(task, Task)
    assert (task.name, task.target, task.class_names) == (name, config.target, NAMES)
    assert task.category_ids[0] == config.first_category_id
    require(config.build_criterion(model, task), Criterion)


@entries(AUGMENTS)
def test_augmentations(name: str) -> None:
    config = config_of(AUGMENTS, name, AugmentConfig)
    assert set(config.targets) <= set(KINDS)
    assert callable(config.build())


@entries(DATASETS)
def test_data_sets(name: str) -> None:
    made = load_entry(DATASETS, name)()
    assert isinstance(made, DatasetFormat)
    assert set(made.targets) <= set(KINDS)


@entries(KINDS)
def test_kinds_of_results(name: str) -> None:
    kind = load_kind(name)
    assert isinstance(kind, Kind)
    assert (kind.name, kind.metadata.kind) == (name, name)
    assert issubclass(kind.metadata, Metadata)
    assert set(kind.default_save) <= set(kind.writers)


@entries(LAYOUTS)
def test_layouts_of_foreign_files(name: str) -> None:
    """Each looks at outputs that are none of its own, and says so."""
    layout = load_entry(LAYOUTS, name)
    assert issubclass(layout, Layout)
    assert name in get_args(LayoutName)
    with pytest.raises(UnfitError):
        layout.recognize(Found({"x": np.zeros((1, 2, 3, 4, 5), np.float32)}, 64, 64), chosen=True)


@entries(COMPARISONS)
def test_comparisons(name: str) -> None:
    assert name in KINDS
    about: Any = SimpleNamespace(postprocess=PostprocessConfig(), class_names=NAMES)
    require(load_entry(COMPARISONS, name).of(about), Comparison)


def test_a_run_is_made_of_what_the_tables_hold() -> None:
    tables = [field.metadata["choice"] for field in dataclasses.fields(RunConfig) if "choice" in field.metadata]
    assert tables == [MODELS, TASKS, AUGMENTS]


class Forgetful:
    """A criterion whose ``collate`` wants more than it gets, and that cannot be called."""

    def prepare(self, data: Any) -> dict[str, Any]:
        return {}

    def collate(self, samples: Any, device: Any) -> Any:
        return samples


def test_what_breaks_a_promise_is_found() -> None:
    with pytest.raises((AssertionError, TypeError)):
        require(Forgetful(), Criterion)
    with pytest.raises(TypeError, match="device"):
        require_callable(Forgetful().collate, Criterion.collate)
    with pytest.raises(AssertionError):
        require(object(), ModelConfig)


def test_the_command_line_names_every_truth() -> None:
    assert get_args(Target) == TARGETS
    assert set(TARGETS) == set(KINDS)
