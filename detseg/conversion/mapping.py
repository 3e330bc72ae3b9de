"""Every tensor of a checkpoint to its place in a model of detseg, or an error that names those without one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detseg.conversion.report import ConversionError
from detseg.foreign.records import ForeignArray
from detseg.models.foreign_names import own_name
from detseg.models.foreign_weights import to_tensor

NAMES_SHOWN = 40

# What checkpoints hold beside weights: the end of a name, and why no model of detseg needs it.
_CONSTANTS = (
    (re.compile(r"\.anchors$"), "the points of the grid, which follow from the strides"),
    (re.compile(r"\.strides?$"), "the strides, which follow from the layers"),
)
_COUNTER = ".num_batches_tracked"


@dataclass(frozen=True)
class Mapped:
    """``weights`` by detseg's names; the rest as in :class:`detseg.conversion.report.ConversionReport`."""

    weights: dict[str, Tensor]
    mapped: tuple[tuple[str, str], ...]
    unused: tuple[tuple[str, str], ...] = ()
    missing: tuple[tuple[str, str], ...] = ()


def expected_tensors(model_config: Any, num_classes: int) -> dict[str, Tensor]:
    """The tensors of a model without their values (on torch's meta device), by name.

    Raises:
        ConversionError: there is no such model.
    """
    try:
        with torch.device("meta"):
            expected: dict[str, Tensor] = model_config.build(num_classes=num_classes).state_dict()
    except ValueError as error:
        raise ConversionError(f"the shapes belong to no network: {error}") from error
    return expected


def map_tensors(arrays: Mapping[str, ForeignArray], expected: Mapping[str, Tensor]) -> Mapped:
    """``arrays`` by their foreign names -> the weights of the model whose tensors are ``expected``.

    Raises:
        ConversionError: a tensor has no place or another shape or kind of number, is not finite, or is missing; all of
            them are listed.
    """
    weights: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    unused: list[tuple[str, str]] = []
    problems: list[str] = []
    for name, array in arrays.items():
        own = own_name(name)
        reason = next((reason for pattern, reason in _CONSTANTS if pattern.search(name)), None)
        if own not in expected and reason is not None:
            unused.append((name, reason))
        elif own not in expected:
            problems.append(f"unused: {name} {list(array.shape)}")
        elif own in sources:
            problems.append(f"twice: {sources[own]} and {name} are the same tensor of the network")
        else:
            sources[own] = name
            problem = _misfit(array, expected[own])
            if problem is None:
                weights[own] = to_tensor(array).to(expected[own].dtype)
            else:
                problems.append(f"{name} {problem}")
    missing = []
    for own in expected:
        if own not in sources and own.endswith(_COUNTER):
            weights[own] = torch.zeros((), dtype=expected[own].dtype)
            missing.append((own, "a count of training steps that results do not depend on"))
        elif own not in sources:
            problems.append(f"missing: what detseg calls {own}, {list(expected[own].shape)}")
    if problems:
        raise ConversionError(
            f"{len(problems)} of {len(arrays)} tensors do not fit, so nothing was written: {_listing(problems)}"
        )
    return Mapped(weights, tuple((name, own) for own, name in sources.items()), tuple(unused), tuple(missing))


def check_fit(name: str, array: ForeignArray, expected: Tensor) -> Tensor:
    """The array called ``name`` in place of ``expected``. Raises ConversionError: it does not fit."""
    problem = _misfit(array, expected)
    if problem is not None:
        raise ConversionError(f"{name} {problem}")
    return to_tensor(array).to(expected.dtype)


def _misfit(array: ForeignArray, expected: Tensor) -> str | None:
    if array.shape != tuple(expected.shape):
        return f"has the shape {list(array.shape)}, the network needs {list(expected.shape)}"
    if (array.dtype.kind == "f") != expected.is_floating_point() or array.dtype.kind not in "fiu":
        return f"holds {array.dtype} numbers, the network needs {str(expected.dtype).removeprefix('torch.')}"
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return "holds values that are not finite"
    return None


def _listing(problems: list[str]) -> str:
    rest = len(problems) - NAMES_SHOWN
    return "; ".join(problems[:NAMES_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")
