from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.foreign.limits import ForeignFileError, Limits
from detseg.foreign.torch_file import read_torch_file
from tests.foreign.files import archive, call, name, number, pickled, storage, tensor, text, tuple_of


def read(tmp_path: Path, pickle: bytes, members: dict[str, bytes] | None = None, **limits: int) -> Any:
    path = tmp_path / "a.pt"
    path.write_bytes(archive(pickle, members))
    return read_torch_file(path, Limits(**limits)).content


VIEWS = [
    # offset, size, stride, values in a storage of 0, 1, 2, 3
    (0, (4,), (1,), [0, 1, 2, 3]),
    (1, (2,), (2,), [1, 3]),
    (0, (2, 2), (1, 2), [[0, 2], [1, 3]]),
    (3, (), (), 3),
    (2, (2, 3), (1, 0), [[2, 2, 2], [3, 3, 3]]),
    (0, (3, 2), (1, 1), [[0, 1], [1, 2], [2, 3]]),
    (3, (1, 1), (2**61, 7), [[3]]),
    (4, (0,), (1,), []),
    (9, (2, 0), (2**50, 1), np.empty((2, 0))),
]


@pytest.mark.parametrize(("offset", "size", "stride", "values"), VIEWS)
def test_views(tmp_path: Path, offset: int, size: tuple[int, ...], stride: tuple[int, ...], values: Any) -> None:
    array = read(tmp_path, pickled(tensor(storage(), offset, size, stride)))
    np.testing.assert_array_equal(array, np.array(values, np.float32))
    assert array.shape == size
    assert array.dtype == np.float32
    assert not array.flags.writeable


FOUR_FLOATS = struct.pack("<4f", 0, 1, 2, 3)
HOSTILE = {
    "one element too many": (tensor(storage(), 0, (5,), (1,)), "reaches to element 4"),
    "offset of one too many": (tensor(storage(), 1, (4,), (1,)), "reaches to element 4"),
    "stride of one too many": (tensor(storage(), 0, (2,), (4,)), "reaches to element 4"),
    "scalar behind the end": (tensor(storage(), 4, (), ()), "reaches to element 4"),
    "negative size": (tensor(storage(), 0, (-1,), (1,)), "sizes of a tensor are"),
    "negative stride": (tensor(storage(), 3, (4,), (-1,)), "strides of a tensor are"),
    "negative offset": (tensor(storage(), -1, (1,), (1,)), "offset -1"),
    "overflow of 64 bits": (tensor(storage(), 0, (2**31, 2**31), (2**31, 2**31)), "reaches to element"),
    "sizes that multiply to 0 in 64 bits": (tensor(storage(), 0, (2**32, 2**32), (0, 0)), "times the file"),
    "sizes of more than 64 bits": (tensor(storage(), 0, (2**62,), (1,)), "sizes of a tensor are"),
    "empty and too large": (tensor(storage(), 0, (0, 2**40, 2**40), (1, 1, 1)), "empty tensor of"),
    "33 dimensions": (tensor(storage(), 0, (1,) * 33, (1,) * 33), "up to 32"),
    "sizes without strides": (tensor(storage(), 0, (2, 2), (1,)), "the strides"),
    "sizes that are no numbers": (
        call("torch._utils", "_rebuild_tensor_v2", storage(), number(0), text("4"), text("1"), b"\x89", b"}"),
        "sizes of a tensor are '4'",
    ),
    "sizes that are truths": (
        call("torch._utils", "_rebuild_tensor_v2", storage(), number(0), b"\x88\x85", b"\x88\x85", b"\x89", b"}"),
        "sizes of a tensor are",
    ),
    "too few arguments": (call("torch._utils", "_rebuild_tensor_v2", storage()), "cannot be called with 1"),
    "too many arguments": (call("torch._utils", "_rebuild_parameter", *[b"N"] * 9), "cannot be called with 9"),
    "no storage": (tensor(b"N", 0, (1,), (1,)), "over a NoneType"),
    "tensor of a tensor": (tensor(tensor(storage(), 0, (2, 2), (2, 1)), 0, (1,), (1,)), "expected a storage"),
    "parameter of a number": (call("torch._utils", "_rebuild_parameter", number(1), b"\x89", b"}"), "cannot be called"),
    "metadata that is a tensor": (
        call(
            "torch._utils", "_rebuild_tensor_v2", storage(), number(0), b")", b")", b"\x89", b"}",
            tensor(storage(), 0, (4,), (1,)),
        ),
        "conjugate",
    ),
    "storage that is not there": (storage("1"), "'1' is not there"),
    "storage outside the folder": (storage("../../etc/passwd"), "is not there"),
    "storage with too many elements": (storage("0", 5), "is of 16"),
    "storage with -1 elements": (storage("0", -1), "and -1 elements"),
    "storage with 2**62 elements": (storage("0", 2**62), "elements"),
    "storage with 2**61 elements": (storage("0", 2**61), "is of 16"),
    "storage of an unknown type": (storage(kind="ObjectStorage"), "torch.ObjectStorage"),
    "storage with a number for a key": (
        tuple_of(text("storage"), name("torch", "FloatStorage"), number(0), text("cpu"), number(4)) + b"Q",
        "the key 0",
    ),
    "storage with a view": (
        tuple_of(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), number(4), b")") + b"Q",
        "neither a storage",
    ),
    "storage of two types": (storage() + b"0" + storage(kind="IntStorage"), "4 of int32 too"),
    "storage of two sizes": (storage() + b"0" + storage("0", 3), "3 of float32 too"),
    "bool of other bytes": (storage("0", 16, "BoolStorage"), "other bytes than 0 and 1"),
}  # fmt: skip


@pytest.mark.parametrize(("attack", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_tensors_are_refused(tmp_path: Path, attack: bytes, words: str) -> None:
    with pytest.raises(ForeignFileError, match=words):
        read(tmp_path, pickled(attack))


def test_a_storage_may_be_longer_than_what_is_used(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(tmp_path, pickled(storage("0", 3))), np.float32([0, 1, 2]))


def test_repeated_elements_are_limited_together(tmp_path: Path) -> None:
    # 4 million elements of 4 bytes: the 64 MiB that any file may have hold four of them.
    expanded = tensor(storage(), 0, (2**22,), (0,))
    assert len(read(tmp_path, pickled(tuple_of(*[expanded] * 4)))) == 4
    with pytest.raises(ForeignFileError, match="times the file"):
        read(tmp_path, pickled(tuple_of(*[expanded] * 5)))


def test_big_endian_storages(tmp_path: Path) -> None:
    members = {"data/0": struct.pack(">4f", 0, 1, 2, 3)}
    path = tmp_path / "a.pt"
    path.write_bytes(archive(pickled(storage()), {**members, "byteorder": b"big"}))
    array: Any = read_torch_file(path).content
    np.testing.assert_array_equal(array, np.float32([0, 1, 2, 3]))
    assert array.dtype.isnative
    path.write_bytes(archive(pickled(storage()), {**members, "byteorder": b"middle"}))
    with pytest.raises(ForeignFileError, match="byte order is b'middle'"):
        read_torch_file(path)


def test_bfloat16_is_widened_once_for_all_views(tmp_path: Path) -> None:
    # 1.0 and -2.0 in the upper halves of their float32.
    members = {"data/0": struct.pack("<2H", 0x3F80, 0xC000)}
    pair = storage("0", 2, "BFloat16Storage")
    one, other = read(tmp_path, pickled(tuple_of(tensor(pair, 0, (2,), (1,)), tensor(pair, 1, (1,), (1,)))), members)
    np.testing.assert_array_equal(one, np.float32([1, -2]))
    np.testing.assert_array_equal(other, np.float32([-2]))
    assert np.shares_memory(one, other)
