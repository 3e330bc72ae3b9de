"""Whether the weights in a model file are those of the model in its header, found out before memory is taken for it.

A header of a kilobyte can describe a network of any size. So it is made without memory first, on torch's meta device,
and no further than the file has tensors for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from detseg.models.base import ModelConfig

_BUILD_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError)
"""What a network that nobody could train raises beside ValueError when it is made."""
_SPARE_PARAMETERS = 1000
_REGISTRATIONS_EACH = 4
"""How often a parameter may be set while a network is made: parts may be built for measure, or replaced."""


@dataclass(frozen=True)
class StoredTensor:
    """What a file says of a tensor: its ``shape`` and whether it holds numbers of floating point."""

    shape: tuple[int, ...]
    is_floating: bool


@contextmanager
def open_model_file(path: Path) -> Iterator[Any]:
    """The safetensors file ``path``. Raises ValueError: it is none, or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no readable safetensors file: {error}") from error


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """What is in the safetensors file ``path``, by name; no weights are read."""
    with open_model_file(path) as file:
        found = {}
        for name in list(file.keys()):
            one = file.get_slice(name)
            found[name] = StoredTensor(tuple(one.get_shape()), one.get_dtype().startswith(("F", "BF")))
        return found


def require_fit(path: Path, config: ModelConfig, num_classes: int) -> None:
    """Raise ValueError unless the tensors in ``path`` are those of the model that ``config`` describes, by name, shape
    and kind of number."""
    stored = stored_tensors(path)
    limit = _SPARE_PARAMETERS + _REGISTRATIONS_EACH * len(stored)
    cannot = "its header describes a model that cannot be made"
    with header_errors(path, cannot), _parameters_limited(limit), torch.device("meta"), _Unfilled():
        expected = config.build(num_classes=num_classes).state_dict()
    wanted = {name: StoredTensor(tuple(one.shape), one.is_floating_point()) for name, one in expected.items()}
    wrong = sorted(
        (stored.keys() ^ wanted.keys())
        | {name for name in stored.keys() & wanted.keys() if stored[name] != wanted[name]}
    )
    if wrong:
        raise ValueError(f"{path}: header and weights disagree about {len(wrong)} tensors: {', '.join(wrong[:5])}")


@contextmanager
def header_errors(path: Path, what: str) -> Iterator[None]:
    """Errors of what is made from the header of ``path`` become a ValueError that names it; ``what`` is wrong then."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except _BUILD_ERRORS as error:
        lines = str(error).splitlines() or [""]
        raise ValueError(f"{path}: {what}: {type(error).__name__}: {lines[0][:200]}") from error


class _Unfilled(TorchFunctionMode):
    """Random numbers are not drawn: on the meta device that would do nothing, but would load torch's compiler first."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[Any], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def _parameters_limited(limit: int) -> Iterator[None]:
    """A network with more than ``limit`` parameters raises RuntimeError while this thread makes it."""
    owner, count = threading.get_ident(), 0

    def count_up(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        if threading.get_ident() == owner:
            count += 1
            if count > limit:
                raise RuntimeError("it has many more weights than there are in the file")

    handle = register_module_parameter_registration_hook(count_up)
    try:
        yield
    finally:
        handle.remove()
