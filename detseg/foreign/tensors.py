"""Storages and tensors of a file as arrays: views of the file's bytes, every size, offset and stride checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeGuard

import numpy as np

from detseg.foreign.limits import Limits, RefusedError, brief
from detseg.foreign.records import ForeignArray, GlobalName

BFLOAT16 = "bfloat16"
_DTYPES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": BFLOAT16,
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.storage.UntypedStorage": "uint8",
    "torch.UntypedStorage": "uint8",
}
_UNTYPED_DTYPES = {f"torch.{name}": name for name in ("uint16", "uint32", "uint64")}
"""Types without a storage of their own: their tensors give the type themselves, over bytes."""
_MAX_DIMENSIONS = 32
_ALWAYS_ALLOWED_BYTES = 2**26

ByteOrder = Literal["little", "big"]
BYTE_ORDERS: tuple[ByteOrder, ...] = ("little", "big")
ReadStorage = Callable[[str, int, int], memoryview]
"""The bytes of the storage with this key, this number of elements and this size of an element in bytes.

Raises RefusedError: there is no such storage, or it has fewer bytes."""


class Tensors:
    """Makes the arrays of one file.

    Args:
        read_storage: finds the bytes of a storage.
        byte_order: ``little`` or ``big``.
        num_file_bytes: the size of the file, which limits what its tensors may be together.
    """

    def __init__(self, read_storage: ReadStorage, byte_order: ByteOrder, num_file_bytes: int, limits: Limits) -> None:
        self._read_storage = read_storage
        self._order = byte_order
        self._limits = limits
        self._bytes_left = max(_ALWAYS_ALLOWED_BYTES, num_file_bytes * limits.max_expansion)
        self._num_tensors = 0
        self._storages: dict[str, tuple[str, ForeignArray]] = {}

    def storage(self, storage_type: object, key: object, num_elements: object) -> ForeignArray:
        """The elements of a storage, one-dimensional; the same array each time."""
        dtype = _dtype_of_storage(storage_type)
        if not isinstance(key, str) or not _is_count(num_elements):
            raise RefusedError(f"a storage with the key {brief(key)} and {brief(num_elements)} elements")
        if key not in self._storages:
            stored = np.dtype("uint16" if dtype == BFLOAT16 else dtype).newbyteorder(self._order)
            data = self._read_storage(key, num_elements, stored.itemsize)
            values = np.frombuffer(data, stored, num_elements) if num_elements else np.empty(0, stored)
            self._storages[key] = dtype, _elements(values, dtype, key)
        known_dtype, elements = self._storages[key]
        if known_dtype != dtype or len(elements) != num_elements:
            raise RefusedError(
                f"storage {brief(key)} has {len(elements)} elements of {known_dtype}, and {num_elements} of {dtype} too"
            )
        return elements

    def tensor(
        self, elements: object, offset: object, size: object, stride: object, dtype: object = None
    ) -> ForeignArray:
        """A view of a storage's ``elements``; ``offset`` and ``stride`` count elements.

        ``dtype``: the `GlobalName` of a type that has no storage of its own, for a storage of bytes.
        """
        self._num_tensors += 1
        if self._num_tensors > self._limits.max_tensors:
            raise RefusedError(f"more than {self._limits.max_tensors:,} tensors")
        if not isinstance(elements, np.ndarray) or elements.ndim != 1:
            raise RefusedError(f"a tensor over a {type(elements).__name__}, expected a storage")
        if dtype is not None:
            elements = self._as_type(elements, dtype)
        sizes, strides = _counts(size, "sizes"), _counts(stride, "strides")
        if len(sizes) != len(strides) or not _is_count(offset):
            raise RefusedError(f"a tensor of the sizes {sizes}, the strides {strides} and the offset {brief(offset)}")
        is_empty = 0 in sizes
        last = offset + sum((length - 1) * step for length, step in zip(sizes, strides, strict=True))
        if not is_empty and last >= len(elements):
            raise RefusedError(
                f"a tensor reaches to element {last:,} of a storage of {len(elements):,}: its sizes are {sizes}, its "
                f"strides {strides}, its offset {offset}"
            )
        num_bytes = math.prod(sizes) * elements.itemsize
        self._bytes_left -= num_bytes
        if self._bytes_left < 0:
            raise RefusedError(
                f"its tensors would take more than {self._limits.max_expansion} times the file; clone() them"
            )
        if is_empty:
            return _empty(sizes, elements.dtype)
        # The stride along a single element means nothing, and could be too large for numpy.
        steps = [step * elements.itemsize if length > 1 else 0 for length, step in zip(sizes, strides, strict=True)]
        return np.ndarray(sizes, elements.dtype, elements, offset * elements.itemsize, steps)

    def _as_type(self, elements: ForeignArray, dtype: object) -> ForeignArray:
        name = dtype.name if isinstance(dtype, GlobalName) else type(dtype).__name__
        if name not in _UNTYPED_DTYPES or elements.dtype != np.uint8 or self._order == "big":
            raise RefusedError(f"a tensor of the type {name}, which cannot be read here; save it as float32")
        target = np.dtype(_UNTYPED_DTYPES[name])
        return elements[: len(elements) // target.itemsize * target.itemsize].view(target)


def _dtype_of_storage(storage_type: object) -> str:
    """The name of the elements' type."""
    name = storage_type.name if isinstance(storage_type, GlobalName) else type(storage_type).__name__
    if name not in _DTYPES:
        raise RefusedError(f"a storage of the type {name}, which is none of plain numbers; save the weights as float32")
    return _DTYPES[name]


def _elements(stored: ForeignArray, dtype: str, key: str) -> ForeignArray:
    # Aligned and in the machine's byte order, which most often takes no copy.
    elements: ForeignArray = np.require(stored, stored.dtype.newbyteorder("="), ["C", "A"])
    if dtype == BFLOAT16:  # the upper half of a float32
        elements = (elements.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype == "bool" and elements.size and int(elements.view(np.uint8).max()) > 1:
        raise RefusedError(f"storage {brief(key)} is of bool and holds other bytes than 0 and 1")
    elements.flags.writeable = False
    return elements


def _empty(sizes: tuple[int, ...], dtype: np.dtype[Any]) -> ForeignArray:
    if math.prod(max(length, 1) for length in sizes) > 2**48:
        raise RefusedError(f"an empty tensor of the sizes {sizes}")
    array = np.empty(sizes, dtype)
    array.flags.writeable = False
    return array


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _counts(values: object, what: str) -> tuple[int, ...]:
    counts = [value for value in values if _is_count(value)] if isinstance(values, tuple | list) else []
    if not isinstance(values, tuple | list) or len(counts) != len(values) or len(counts) > _MAX_DIMENSIONS:
        raise RefusedError(f"the {what} of a tensor are {_listing(values)}; expected up to {_MAX_DIMENSIONS} counts")
    return tuple(counts)


def _listing(values: object) -> str:
    return f"({', '.join(map(brief, values[:5]))}, ...)" if isinstance(values, tuple | list) else brief(values)
