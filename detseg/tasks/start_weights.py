"""Weights to start training from: a model for other classes, or for the same in another order, takes what it can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from detseg.models.base import ModelConfig
from detseg.models.load_weights import NAMES_SHOWN, WeightsError, load_weights
from detseg.tasks.model_file import ModelFileConfig, read_header, without_pretrained

_MANY = 1000
"""More classes than any layer's width depends on, so that only what belongs to single classes grows with one more."""


@dataclass(frozen=True)
class StartReport:
    """What a model took from a file.

    ``mapped``, ``missing``: names of the model's tensors that came from the file, and that start fresh. ``kept`` and
    ``new`` are the classes that the file knows and does not know; both empty where the file names none.
    """

    mapped: tuple[str, ...]
    missing: tuple[str, ...]
    kept: tuple[str, ...] = ()
    new: tuple[str, ...] = ()


def load_start_weights(model: nn.Module, config: ModelFileConfig, path: Path, *, partial: bool) -> StartReport:
    """Load the weights in ``path`` into ``model``, in place; classes meet by name.

    Args:
        model: as ``config`` builds it.
        config: of the model.
        path: a model file, whose header names its classes: what belongs to a class goes to the class of this name,
            wherever it stands. Or a file of another program, see :func:`detseg.models.load_weights.load_weights`, whose
            classes are taken by position.
        partial: take what fits. Otherwise all must fit, and the classes must be the same, in any order.

    Raises:
        WeightsError: the file cannot be read, does not fit, or nothing of it fits.
    """
    names = _class_names(path)
    if names is None:
        report = load_weights(model, path, strict=not partial)
        return StartReport(report.mapped, report.missing)
    kept = tuple(name for name in config.class_names if name in names)
    new = tuple(name for name in config.class_names if name not in names)
    if not partial and len(kept) != max(len(names), len(config.class_names)):
        raise WeightsError(
            f"{path} is for the classes {', '.join(names)}, the data set has {', '.join(config.class_names)}; to take "
            "what fits and learn the others anew, set train.partial_weights=true"
        )
    rows = [(config.class_names.index(name), names.index(name)) for name in kept]
    weights = load_file(path)
    expected = model.state_dict()
    fitted: dict[str, Tensor] = {}
    of_classes = class_dimensions(config.model)
    for name, own in expected.items():
        if name in weights:
            found = _fit(own, weights[name], of_classes.get(name), rows)
            if found is not None:
                fitted[name] = found
    missing = tuple(name for name in expected if name not in fitted)
    if not fitted or (missing and not partial):
        shown = ", ".join(missing[:NAMES_SHOWN]) + (", ..." if len(missing) > NAMES_SHOWN else "")
        raise WeightsError(
            f"{path} does not fit the model: {len(fitted)} of {len(expected)} tensors fit; missing, or of another "
            f"shape: {shown}"
        )
    model.load_state_dict(fitted, strict=False)
    return StartReport(tuple(fitted), missing, kept, new)


def _class_names(path: Path) -> tuple[str, ...] | None:
    """The classes that the header of ``path`` names; None for a file of another program."""
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if "detseg" not in (file.metadata() or {}):
                return None
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a whole safetensors file: {error}") from error
    return read_header(path).class_names


def class_dimensions(config: ModelConfig) -> dict[str, int]:
    """For each tensor of ``config``'s model that has a row, or a channel, for every class: along which dimension."""
    config = without_pretrained(config)
    with torch.device("meta"):
        fewer, more = (config.build(num_classes=count).state_dict() for count in (_MANY, _MANY + 1))
    found = {}
    for name, tensor in fewer.items():
        grown = [
            dim
            for dim, (a, b) in enumerate(zip(tensor.shape, more[name].shape, strict=True))
            if (a, b) == (_MANY, _MANY + 1)
        ]
        if grown:
            found[name] = grown[0]
    return found


def _fit(own: Tensor, given: Tensor, dim: int | None, rows: Sequence[tuple[int, int]]) -> Tensor | None:
    """``given`` in the shape of ``own``, with the ``rows`` (position in ``own``, in ``given``) of classes along ``dim``
    in their places and the others as in ``own``; None where the shapes do not allow it."""
    if dim is None:
        return given if given.shape == own.shape else None
    sizes = [list(tensor.shape) for tensor in (own, given)]
    if len(sizes[0]) != len(sizes[1]) or _without(sizes[0], dim) != _without(sizes[1], dim) or not rows:
        return None
    own_rows, given_rows = (torch.tensor(positions) for positions in zip(*rows, strict=True))
    return own.detach().cpu().clone().index_copy_(dim, own_rows, given.to(own.dtype).index_select(dim, given_rows))


def _without(sizes: list[int], dim: int) -> list[int]:
    return sizes[:dim] + sizes[dim + 1 :]
