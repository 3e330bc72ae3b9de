from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detseg.foreign.limits import ForeignFileError
from detseg.foreign.torch_file import read_torch_file
from tests.foreign.files import name, number, pickled, storage, text, tuple_of

MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
VERSION = pickled(number(1001))
SYSTEM = pickled(b"}", text("little_endian"), b"\x88s")
HEAD = MAGIC + VERSION + SYSTEM
CONTENT = pickled(storage())
KEYS = pickled(b"](", text("0"), b"e")
STORAGE = struct.pack("<q4f", 4, 0, 1, 2, 3)


def read(tmp_path: Path, data: bytes) -> Any:
    path = tmp_path / "a.pth"
    path.write_bytes(data)
    return read_torch_file(path).content


def test_a_file_made_by_hand(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(tmp_path, HEAD + CONTENT + KEYS + STORAGE), np.float32([0, 1, 2, 3]))


def test_the_head_is_that_of_torch() -> None:
    stream = io.BytesIO()
    torch.save([], stream, _use_new_zipfile_serialization=False)
    assert stream.getvalue().startswith(MAGIC)


def test_a_class_with_its_source_is_its_name(tmp_path: Path) -> None:
    module = tuple_of(text("module"), name("a", "B"), text("a.py"), text("import os")) + b"Q"
    assert read(tmp_path, HEAD + pickled(module) + pickled(b"]")).name == "a.B"


HOSTILE = {
    "magic number": (pickled(number(7)) + VERSION + SYSTEM + CONTENT + KEYS + STORAGE, "magic number is 7"),
    "version": (MAGIC + pickled(number(1002)) + SYSTEM + CONTENT + KEYS + STORAGE, "version 1002"),
    "system": (MAGIC + VERSION + pickled(b"]") + CONTENT + KEYS + STORAGE, "big-endian"),
    "storage in the head": (MAGIC + pickled(storage()) + SYSTEM + CONTENT + KEYS + STORAGE, "outside the content"),
    "storage among the keys": (HEAD + CONTENT + pickled(storage()), "outside the content"),
    "no content": (HEAD, "claimed"),
    "no keys": (HEAD + CONTENT, "claimed"),
    "too few keys": (HEAD + CONTENT + pickled(b"]"), "not that of those in use"),
    "another key": (HEAD + CONTENT + pickled(b"](", text("1"), b"e") + STORAGE, "not that of those in use"),
    "keys in a number": (HEAD + CONTENT + pickled(number(0)) + STORAGE, "not that of those in use"),
    "keys that are lists": (HEAD + CONTENT + pickled(b"]]a") + STORAGE, "not that of those in use"),
    "a key twice": (HEAD + CONTENT + pickled(b"](", text("0"), text("0"), b"e") + STORAGE * 2, "names one twice"),
    "no storages": (HEAD + CONTENT + KEYS, "truncated"),
    "half a storage": (HEAD + CONTENT + KEYS + STORAGE[:-1], "truncated"),
    "too much": (HEAD + CONTENT + KEYS + STORAGE + b"\0", "truncated"),
    "another number of elements": (HEAD + CONTENT + KEYS + struct.pack("<q3f", 3, 0, 1, 2), "3 elements, 4 are"),
    "negative number of elements": (HEAD + CONTENT + KEYS + struct.pack("<q4f", -4, 0, 1, 2, 3), "elements, 4 are"),
    "storage larger than the file": (HEAD + pickled(storage("0", 2**40)) + KEYS + STORAGE, "larger than the file"),
    "storages larger than the file together": (
        HEAD + pickled(tuple_of(*(storage(str(i), 20) for i in range(90)))) + KEYS + STORAGE,
        "larger than the file",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(ForeignFileError, match=words):
        read(tmp_path, data)
