"""What stands for Python objects that are not built: names and records, inert."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg.foreign.limits import ForeignFileError, brief

ForeignArray = npt.NDArray[Any]
"""A tensor's values, read-only; bool, integers, floats of 16 to 64 bits, or complex."""

_MAX_MODULES = 100_000
_MAX_MODULE_DEPTH = 100
_MAX_NAME_LENGTH = 1000


@dataclass(frozen=True, slots=True)
class GlobalName:
    """A class, function or constant that a file names, such as ``torch.float32``; the name is all there is."""

    name: str


@dataclass(slots=True, eq=False, repr=False)
class Record:
    """An object that a file describes and that is not built.

    Attributes:
        name: the class, or the function that would make the object, as ``module.Class``.
        arguments: what it would be called with; keyword arguments come last, as a dictionary.
        state: what the object's attributes would be set from, mostly a dictionary; None without.
        items: what would be appended to it, or pairs of what would be set in it, for kinds of lists and dictionaries.
    """

    name: str
    arguments: tuple[object, ...] = ()
    state: object = None
    items: list[object] = field(default_factory=list)

    def __repr__(self) -> str:
        # Not the fields: what they hold may lead back here.
        return f"Record({self.name!r})"


def module_tensors(record: Record) -> dict[str, ForeignArray]:
    """The state dict of a pickled ``torch.nn.Module``: its parameters and persistent buffers, in the module's order.

    Args:
        record: a module, as `read_torch_file` gives it; names are those of ``Module.state_dict``.

    Raises:
        ForeignFileError: the record, or one inside it, is no module, or contains itself.
    """
    tensors: dict[str, ForeignArray] = {}
    waiting: list[tuple[str, object, tuple[int, ...]]] = [("", record, ())]
    num_modules = 0
    while waiting:
        prefix, module, parents = waiting.pop()
        num_modules += 1
        if num_modules > _MAX_MODULES or len(parents) > _MAX_MODULE_DEPTH or id(module) in parents:
            raise ForeignFileError(
                f"{record.name}: the module at {prefix[:_MAX_NAME_LENGTH]!r} contains itself, or there are too many; "
                "save the state_dict() instead"
            )
        parameters, buffers, children = _parts(module, prefix)
        for name, value in (parameters | buffers).items():
            if not isinstance(value, np.ndarray):
                raise ForeignFileError(f"{record.name}: {prefix}{name} is a {type(value).__name__}, expected a tensor")
            tensors[f"{prefix}{name}"] = value
        inside = (*parents, id(module))
        waiting += [(f"{prefix}{name}.", child, inside) for name, child in reversed(children.items())]
    return tensors


_Parts = tuple[dict[str, object], dict[str, object], dict[str, object]]


def _parts(module: object, prefix: str) -> _Parts:
    """Parameters, persistent buffers and child modules."""
    name = module.name if isinstance(module, Record) else type(module).__name__
    match module:
        case Record(state={"_parameters": dict(own), "_buffers": dict(buffers), "_modules": dict(children), **rest}):
            not_persistent = rest.get("_non_persistent_buffers_set")
            left_out = not_persistent if isinstance(not_persistent, set) else set()
            persistent = {key: value for key, value in buffers.items() if key not in left_out}
            return _named(own, name), _named(persistent, name), _named(children, name)
    raise ForeignFileError(f"{name}{f' at {prefix!r}' if prefix else ''} is no pickled torch.nn.Module")


def _named(values: dict[object, object], module: str) -> dict[str, object]:
    """``values`` without those that are None, once their keys are known to be names."""
    named: dict[str, object] = {}
    for key, value in values.items():
        if not isinstance(key, str) or len(key) > _MAX_NAME_LENGTH:
            raise ForeignFileError(
                f"{module}: {brief(key)} as a name in a module, expected up to {_MAX_NAME_LENGTH} characters"
            )
        if value is not None:
            named[key] = value
    return named
