"""The few functions and classes whose results are known to be plain values; all others become records.

They are recognized by their names, and what they would do is written here again: nothing of theirs runs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from detseg.foreign.limits import RefusedError, brief
from detseg.foreign.plain_values import add_to_set, set_pairs
from detseg.foreign.records import GlobalName, Record
from detseg.foreign.tensors import Tensors

Charge = Callable[[int], None]
"""Counts work that is more than one operation. Raises RefusedError: it is too much."""
Arguments = tuple[object, ...]

_BYTES_PER_CHARGE = 100
_NOT_READ = {
    "torch._utils._rebuild_qtensor": "a quantized tensor; dequantize() it before it is saved",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor; save its to_dense()",
    "torch._utils._rebuild_nested_tensor": "a nested tensor; save the tensors in it",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor of the device meta, which has no values",
    "torch._utils._rebuild_wrapper_subclass": "a tensor of a class that has no values of its own",
}


class Constructors:
    """What names, arguments and persistent ids of one file's pickle stand for."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors

    def make(self, name: str, arguments: Arguments, charge: Charge) -> object:
        """The value of calling ``name``, or a `Record` of it.

        Raises:
            RefusedError: a known name has arguments that it cannot have, or makes what is not read.
        """
        if name in _NOT_READ:
            raise RefusedError(_NOT_READ[name])
        if name in _TENSORS:
            return self._rebuild(name, arguments)
        if name in _PLAIN:
            return _PLAIN[name](name, arguments, charge)
        return Record(name, arguments)

    def persistent(self, identity: object) -> object:
        """What a persistent id stands for: a storage, or in the older form a class, whose source is dropped."""
        match identity:
            case (str("storage"), storage_type, key, _, num_elements, *view) if not view or view[0] is None:
                return self._tensors.storage(storage_type, key, num_elements)
            case (str("module"), GlobalName() as name, _, _):
                return name
        raise RefusedError(f"a persistent id that is neither a storage nor a class: {brief(identity)}")

    def _rebuild(self, name: str, arguments: Arguments) -> object:
        match name.rpartition(".")[2], arguments:
            case "_rebuild_tensor", (storage, offset, size, stride):
                return self._tensors.tensor(storage, offset, size, stride)
            case "_rebuild_tensor_v2", (storage, offset, size, stride, _, _, *metadata):
                _require_no_metadata(metadata)
                return self._tensors.tensor(storage, offset, size, stride)
            case "_rebuild_tensor_v3", (storage, offset, size, stride, _, _, dtype, *metadata):
                _require_no_metadata(metadata)
                return self._tensors.tensor(storage, offset, size, stride, dtype)
            case "_rebuild_parameter", (np.ndarray() as array, _, _):
                return array
            case "_rebuild_parameter_with_state", (np.ndarray() as array, _, _, _):
                return array
            case "_rebuild_from_type_v2", (GlobalName(function), GlobalName(), tuple() as inner, _) if (
                function in _TENSORS and not function.endswith("_rebuild_from_type_v2")
            ):
                return self._rebuild(function, inner)
        raise _unusable(name, arguments)


def _require_no_metadata(metadata: list[object]) -> None:
    if metadata and not (isinstance(metadata[0], dict) and not metadata[0]):
        raise RefusedError("a tensor that is a conjugate or negative view; save its resolve_conj().resolve_neg()")


def _unusable(name: str, arguments: Arguments) -> RefusedError:
    kinds = ", ".join(type(argument).__name__ for argument in arguments[:10])
    return RefusedError(f"{name} cannot be called with {len(arguments)} arguments ({kinds})")


def _dictionary(name: str, arguments: Arguments, charge: Charge) -> object:
    values: dict[object, object] = {}
    match arguments:
        case ():
            pass
        case (dict() as source,):
            charge(len(source))
            values.update(source)
        case (list() as pairs,) if all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            charge(len(pairs))
            set_pairs(values, pairs)
        case _:
            raise _unusable(name, arguments)
    return values


def _default_dictionary(name: str, arguments: Arguments, charge: Charge) -> object:
    return _dictionary(name, arguments[1:], charge)


def _set(name: str, arguments: Arguments, charge: Charge) -> object:
    values: set[object] = set()
    match arguments:
        case ():
            pass
        case (list() | tuple() as members,):
            charge(len(members))
            add_to_set(values, members)
        case _:
            raise _unusable(name, arguments)
    return values


def _size(name: str, arguments: Arguments, _: Charge) -> object:
    match arguments:
        case (tuple() as sizes,):
            return sizes
    raise _unusable(name, arguments)


def _device(name: str, arguments: Arguments, _: Charge) -> object:
    match arguments:
        case (str() as kind,):
            return kind
        case (str() as kind, int() as index) if len(kind) < 20:
            return f"{kind}:{index}"
    raise _unusable(name, arguments)


def _encode(name: str, arguments: Arguments, charge: Charge) -> object:
    """The way in which protocol 2 writes bytes: as text, with a character for each byte."""
    match arguments:
        case (str() as text, str("latin1" | "latin-1")):
            charge(len(text) // _BYTES_PER_CHARGE)
            try:
                return text.encode("latin-1")
            except UnicodeEncodeError as error:
                raise RefusedError("bytes written as text that is not Latin-1") from error
    raise _unusable(name, arguments)


def _bytes(name: str, arguments: Arguments, _: Charge) -> object:
    if arguments:
        raise _unusable(name, arguments)
    return b""


def _scalar(name: str, arguments: Arguments, _: Charge) -> object:
    """A numpy scalar as Python's own; a record where it is no plain number."""
    match arguments:
        case (Record("numpy.dtype", (str() as code, *_), (_, str() as order, *_)), bytes() as data):
            if code in _SCALAR_CODES and order in _BYTE_ORDERS and len(data) == np.dtype(code).itemsize:
                return np.frombuffer(data, np.dtype(order + code))[0].item()
    return Record(name, arguments)


_SCALAR_CODES = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})
_BYTE_ORDERS = frozenset({"<", ">", "|"})
_TENSORS = frozenset(
    {
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._tensor._rebuild_from_type_v2",
    }
)
_PLAIN: dict[str, Callable[[str, Arguments, Charge], object]] = {
    "collections.OrderedDict": _dictionary,
    "collections.defaultdict": _default_dictionary,
    "builtins.set": _set,
    "builtins.frozenset": _set,
    "builtins.bytes": _bytes,
    "torch.Size": _size,
    "torch.device": _device,
    "_codecs.encode": _encode,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
}
