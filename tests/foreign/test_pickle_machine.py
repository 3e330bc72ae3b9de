from __future__ import annotations

import builtins
import importlib
import os
import pickle
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detseg.foreign.limits import ForeignFileError, Limits
from detseg.foreign.records import Record
from detseg.foreign.torch_file import read_torch_file
from tests.foreign.files import archive, call, name, number, pickled, storage, tensor, text, tuple_of


class Calls:
    """Pickles as a call of ``function``, as an attack would."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def read(tmp_path: Path, pickle: bytes, limits: Limits | None = None) -> Any:
    path = tmp_path / "a.pt"
    path.write_bytes(archive(pickle))
    return read_torch_file(path, limits or Limits()).content


CODE_THAT_RUNS = [
    lambda sentinel: Calls(os.system, f"touch {sentinel}"),
    lambda sentinel: Calls(eval, f"open({sentinel!r}, 'w')"),
    lambda sentinel: Calls(exec, f"open({sentinel!r}, 'w')"),
    lambda sentinel: Calls(open, sentinel, "w"),
    lambda sentinel: Calls(os.mkdir, sentinel),
    lambda sentinel: Calls(builtins.__import__, f"no_module_{len(sentinel)}"),
    lambda sentinel: Calls(importlib.import_module, f"no_module_{len(sentinel)}"),
    lambda sentinel: Calls(list, Calls(map, os.mkdir, [sentinel])),
    lambda sentinel: Calls(subprocess.run, ["touch", sentinel]),
]


@pytest.mark.parametrize("make", CODE_THAT_RUNS)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_code_becomes_a_record_and_does_not_run(tmp_path: Path, make: Callable[[str], Calls], protocol: int) -> None:
    sentinel = tmp_path / "sentinel"
    attack = pickle.dumps({"x": make(str(sentinel))}, protocol)
    content = read(tmp_path, attack)
    assert isinstance(content["x"], Record)
    assert not sentinel.exists()


def test_the_same_code_runs_in_a_real_unpickler(tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    pickle.loads(pickle.dumps(Calls(os.mkdir, str(sentinel)), 2))
    assert sentinel.exists(), "otherwise the test above would show nothing"


def test_arguments_are_kept_inert(tmp_path: Path) -> None:
    content = read(tmp_path, pickled(call("posix", "system", text("true"))))
    assert (content.name, content.arguments, content.state) == ("posix.system", ("true",), None)


NESTED_CALL = name("os", "system") + tuple_of(call("builtins", "eval", text("1"))) + b"R"


def test_a_call_within_a_call(tmp_path: Path) -> None:
    (inner,) = read(tmp_path, pickled(NESTED_CALL)).arguments
    assert (inner.name, inner.arguments) == ("builtins.eval", ("1",))


HOSTILE = {
    # name: (pickle, words of the refusal)
    "result called": (pickled(call("a", "b"), b")R"), "Record is called"),
    "INST": (pickled(b"(", text("true"), b"ios\nsystem\n"), "INST"),
    "OBJ": (pickled(b"(", name("os", "system"), text("true"), b"o"), "OBJ"),
    "EXT1": (pickled(b"\x82\x01"), "EXT1"),
    "EXT2": (pickled(b"\x83\x01\x00"), "EXT2"),
    "EXT4": (pickled(b"\x84\x01\x00\x00\x00"), "EXT4"),
    "PERSID": (pickled(b"Pstorage\n"), "PERSID"),
    "out-of-band buffer": (pickled(b"\x97"), "NEXT_BUFFER"),
    "unknown opcode": (pickled(b"\xff"), "unknown opcode"),
    "text integer": (pickled(b"I" + b"9" * 100_000 + b"\n"), "INT"),
    "protocol 0": (b"(lp0\n.", "no pickle of protocols 2"),
    "protocol 6": (b"\x80\x06N.", "no pickle of protocols 2"),
    "protocol in the middle": (pickled(b"\x80\x02N"), "PROTO"),
    "BINUNICODE8 of 2**60 bytes": (pickled(b"\x8d" + struct.pack("<Q", 2**60)), "string of"),
    "BINUNICODE of 4 GB": (pickled(b"X\xff\xff\xff\xff"), "string of"),
    "BINBYTES8 of 1 MB, not there": (pickled(b"\x8e" + struct.pack("<Q", 2**20)), "claimed"),
    "LONG4 of 2 GB": (pickled(b"\x8b\xff\xff\xff\x7f"), "integer of"),
    "LONG4 of a negative length": (pickled(b"\x8b\xff\xff\xff\xff"), "integer of"),
    "frame of 2**63 bytes": (pickled(b"\x95" + struct.pack("<Q", 2**63), b"N"), "frame of"),
    "text that is no UTF-8": (pickled(b"X\x01\0\0\0\xff"), "not UTF-8"),
    "lone surrogate": (pickled(b"X\x03\0\0\0\xed\xa0\x80"), "not UTF-8"),
    "endless name": (pickled(b"c" + b"a" * 5000), "does not end"),
    "name with escape codes": (pickled(text("os"), text("\x1b[2Jsystem"), b"\x93"), "cannot be shown"),
    "name of a number": (pickled(number(1), text("system"), b"\x93"), "no text"),
    "empty stack": (pickled(), "0 values"),
    "too many values": (pickled(b"NN"), "2 values"),
    "mark at the end": (pickled(b"N("), "1 marks"),
    "pop of nothing": (pickled(b"0N"), "empty stack"),
    "pop below a mark": (pickled(b"N(0"), "empty stack"),
    "tuple without a mark": (pickled(b"Nt"), "no mark"),
    "tuple of too few": (pickled(b"N\x87"), "empty stack"),
    "memo before it is set": (pickled(b"h\x05"), "before it is remembered"),
    "call of a string": (pickled(text("os.system"), b")R"), "str is called"),
    "arguments in a list": (pickled(name("os", "system"), b"]R"), "a list, expected a name and a tuple"),
    "append to a number": (pickled(number(1), b"Na"), "appended to a int"),
    "item of a list": (pickled(b"]NNs"), "set in a list"),
    "key without a value": (pickled(b"}(Nu"), "key without"),
    "member added to a list": (pickled(b"](N\x90"), "added to a list"),
    "state for a list": (pickled(b"]}b"), "a state for a plain value"),
    "state for a tensor": (pickled(tensor(storage(), 0, (1,), (1,)), b"}b"), "a state for a plain value"),
    "second state": (pickled(call("a", "B"), b"}b}b"), "a state for Record"),
    "keywords in a list": (pickled(name("a", "B"), b")]\x92"), "keywords in a list"),
    "list as a key": (pickled(b"}]Ns"), "a list as the key"),
    "deep tuple as a key": (pickled(b"}", b")", b"\x85" * 1000, b"Ns"), "a tuple as the key"),
    "colliding integers as keys": (pickled(b"}", number(2**61 - 1), b"Ns"), "a large integer as the key"),
    "tensor in a set": (pickled(b"\x8f(", tensor(storage(), 0, (1,), (1,)), b"\x90"), "a ndarray as the key"),
    "persistent id of a string": (pickled(text("0"), b"Q"), "neither a storage nor a class"),
    "persistent id of a tensor": (
        pickled(tuple_of(tensor(storage(), 0, (4,), (1,)), b"N", b"N", b"N", b"N") + b"Q"),
        "neither a storage",
    ),
    "cut off in a string": (b"\x80\x02X\x10\0\0\0abc", "claimed"),
    "cut off before the end": (b"\x80\x02N", "claimed"),
    "goes on after the end": (pickled(b"N") + b"N.", "goes on"),
}


@pytest.mark.parametrize(("attack", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_pickles_are_refused(tmp_path: Path, attack: bytes, words: str) -> None:
    with pytest.raises(ForeignFileError, match=words):
        read(tmp_path, attack)


LIMITED = {
    "operations": (pickled(b"N0" * 50, b"N"), Limits(max_operations=101), Limits(max_operations=100)),
    "stack": (pickled(b"(", b"N" * 9, b"t"), Limits(max_stack=10), Limits(max_stack=9)),
    "marks": (pickled(b"(" * 9, b"t" + b"t" * 8), Limits(max_stack=9), Limits(max_stack=8)),
    "memo": (pickled(b"N", *(b"q" + bytes((i,)) for i in range(9))), Limits(max_memo=9), Limits(max_memo=8)),
    "string": (pickled(text("a" * 9)), Limits(max_string_bytes=9), Limits(max_string_bytes=8)),
    "integer": (pickled(number(1)), Limits(max_integer_bytes=9), Limits(max_integer_bytes=8)),
    "pickle": (pickled(text("a" * 5)), Limits(max_pickle_bytes=13), Limits(max_pickle_bytes=12)),
    "tensors": (
        pickled(tuple_of(*[tensor(storage(), 0, (1,), (1,))] * 3)),
        Limits(max_tensors=3),
        Limits(max_tensors=2),
    ),
    "set of a list, again and again": (
        # 19 operations, and one for each element.
        pickled(tuple_of(b"](", b"N" * 8, b"eq\0", call("builtins", "set", b"h\0"))),
        Limits(max_operations=27),
        Limits(max_operations=26),
    ),
}


@pytest.mark.parametrize(("data", "enough", "too_low"), LIMITED.values(), ids=LIMITED)
def test_limits_are_exact(tmp_path: Path, data: bytes, enough: Limits, too_low: Limits) -> None:
    read(tmp_path, data, enough)
    with pytest.raises(ForeignFileError):
        read(tmp_path, data, too_low)


BOMBS = {
    "tuples in tuples": (b"\x80\x02)" + b"\x85" * 900_000 + b".", "nested more than 200"),
    "records in records": (
        pickled(b"N", *[b"q\0" + b"0" + name("a", "B") + b"h\0\x85R"] * 5000),
        "nested more than 200",
    ),
    "billion laughs": (
        pickled(tuple_of(text("ha"), b"q\0", *[tuple_of(*[b"h\0"] * 10) + b"q\0" for _ in range(9)])),
        "shared values multiply",
    ),
    "memo of many": (b"\x80\x02N" + b"\x94" * 600_000 + b".", "to remember"),
    "stack of many": (b"\x80\x02" + b"N" * 300_000 + b".", "on the stack"),
    "copies of a list": (
        pickled(b"](", b"N" * 100_000, b"eq\0", *[call("builtins", "set", b"h\0") + b"0"] * 100_000),
        "operations",
    ),
    "copies of a text": (
        pickled(
            text("a" * 4_000_000), b"q\0", text("latin1"), b"q\1", *[call("_codecs", "encode", b"h\0h\1") + b"0"] * 9000
        ),
        "operations",
    ),
}


@pytest.mark.parametrize(("bomb", "words"), BOMBS.values(), ids=BOMBS)
def test_bombs_end_early(tmp_path: Path, bomb: bytes, words: str) -> None:
    with pytest.raises(ForeignFileError, match=words):
        read(tmp_path, bomb)
