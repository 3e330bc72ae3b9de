"""Where the weights are in what a torch file holds, and the way from numpy to torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detseg.foreign.records import ForeignArray, Record, module_tensors

HOLDERS = ("ema", "model", "state_dict")
"""The keys of a checkpoint that may hold its weights; a moving average, where there is one, is what was evaluated."""


@dataclass(frozen=True)
class FoundWeights:
    """``arrays`` by name, and where they were: under ``key`` of the file (None: the file is them), in ``module``, a
    whole network (None: a state dict)."""

    arrays: dict[str, ForeignArray]
    key: str | None
    module: Record | None


def find_weights(content: object) -> FoundWeights:
    """The weights in the ``content`` of a torch file: a state dict or a network, itself or under one of ``HOLDERS``.

    Raises:
        ValueError: there are none; the message names no path.
    """
    key, held = None, content
    if isinstance(content, Mapping):
        key = next((key for key in HOLDERS if isinstance(content.get(key), Mapping | Record)), None)
        held = content if key is None else content[key]
    if isinstance(held, Record):
        return FoundWeights(module_tensors(held), key, held)
    if (
        not isinstance(held, Mapping)
        or not held
        or not all(isinstance(name, str) and isinstance(value, np.ndarray) for name, value in held.items())
    ):
        raise ValueError(
            f"it must hold a state dict (tensors by name) or a network, or one of them under "
            f"{', '.join(map(repr, HOLDERS))}; it holds {_describe(content)}"
        )
    return FoundWeights(dict(held), key, None)


def to_tensors(arrays: Mapping[str, ForeignArray]) -> dict[str, Tensor]:
    """Copies of ``arrays`` for torch; half precision becomes float32."""
    return {name: to_tensor(array) for name, array in arrays.items()}


def to_tensor(array: ForeignArray) -> Tensor:
    """A copy of ``array`` for torch; half precision becomes float32."""
    dtype = np.float32 if array.dtype == np.float16 else array.dtype
    return torch.from_numpy(array.astype(dtype, order="C", copy=True))


def _describe(content: object) -> str:
    if isinstance(content, Mapping):
        keys = [str(key) for key in content]
        return f"a dictionary with {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}" if keys else "nothing"
    return f"an object {content.name}" if isinstance(content, Record) else f"a {type(content).__name__}"
