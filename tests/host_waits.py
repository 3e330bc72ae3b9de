"""What would make the host wait for a GPU, counted where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

_OPERATORS = {
    "aten::_local_scalar_dense",  # item, int, float, bool
    "aten::nonzero",
    "aten::masked_select",
    "aten::bincount",
    "aten::equal",
    "aten::_unique2",
    "aten::unique_consecutive",
    "aten::unique_dim",
}
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_"}
_METHODS = ("tolist", "numpy", "cpu", "new_tensor")


@dataclass
class Waits:
    """The names of what waited."""

    names: list[str] = field(default_factory=list)
    is_inside: bool = False


class _Mode(TorchDispatchMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        by_mask = name in _INDEXING and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        repeats = name == "aten::repeat_interleave" and (kwargs or {}).get("output_size") is None
        if not self._waits.is_inside and (name in _OPERATORS or by_mask or repeats):
            self._waits.names.append(name)
        return func(*args, **(kwargs or {}))


def _counting(function: Callable[..., Any], name: str, waits: Waits) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if waits.is_inside:
            return function(*args, **kwargs)
        waits.names.append(name)
        waits.is_inside = True
        try:
            return function(*args, **kwargs)
        finally:
            waits.is_inside = False

    return call


@contextmanager
def counted_waits() -> Iterator[Waits]:
    """Counts values that the host reads, shapes that depend on values, and tensors made of numbers of the host, which
    are copied after all work before them."""
    waits = Waits()
    with pytest.MonkeyPatch.context() as patch, _Mode(waits):
        for name in _METHODS:
            patch.setattr(torch.Tensor, name, _counting(getattr(torch.Tensor, name), name, waits))
        patch.setattr(torch, "tensor", _counting(torch.tensor, "tensor", waits))
        yield waits
