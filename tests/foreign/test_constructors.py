from __future__ import annotations

import collections
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.foreign.limits import ForeignFileError
from detseg.foreign.records import GlobalName
from detseg.foreign.torch_file import read_torch_file
from tests.foreign.files import archive, call, name, number, pickled, storage, tensor, text, tuple_of


def read(tmp_path: Path, pickle: bytes) -> Any:
    path = tmp_path / "a.pt"
    path.write_bytes(archive(pickle))
    return read_torch_file(path).content


KNOWN = [
    # name, arguments, value
    (("collections", "OrderedDict"), (), {}),
    # Python 2 wrote the pairs as arguments.
    (("collections", "OrderedDict"), (b"](](" + text("a") + number(1) + b"ee",), {"a": 1}),
    (("collections", "defaultdict"), (name("__builtin__", "list"),), {}),
    (("collections", "defaultdict"), (name("__builtin__", "list"), b"}" + text("a") + b"Ns"), {"a": None}),
    (("__builtin__", "set"), (b"](" + number(1) + number(1) + b"e",), {1}),
    (("builtins", "frozenset"), (b"](" + number(2) + b"e",), {2}),
    (("builtins", "set"), (), set()),
    (("__builtin__", "bytes"), (), b""),
    (("torch", "Size"), (number(2) + b"\x85",), (2,)),
    (("torch", "device"), (text("cpu"),), "cpu"),
    (("torch", "device"), (text("cuda"), number(3)), "cuda:3"),
    (("_codecs", "encode"), (text("\xff\0"), text("latin1")), b"\xff\0"),
]


@pytest.mark.parametrize(("function", "arguments", "value"), KNOWN)
def test_known_functions_give_plain_values(
    tmp_path: Path, function: tuple[str, str], arguments: tuple[bytes, ...], value: object
) -> None:
    found = read(tmp_path, pickled(call(*function, *arguments)))
    assert type(found) is type(value)
    assert found == value


UNUSABLE = [
    call("collections", "OrderedDict", number(1)),
    call("collections", "OrderedDict", b"](" + number(1) + b"e"),
    call("collections", "OrderedDict", b"](](" + text("a") + b"ee"),
    call("builtins", "set", number(1)),
    call("builtins", "bytes", number(2**62)),
    call("torch", "Size", b"]"),
    call("torch", "Size"),
    call("torch", "device", number(0)),
    call("_codecs", "encode", text("a"), text("rot13")),
    call("_codecs", "encode", text("a"), tensor(storage(), 0, (4,), (1,))),
    call("torch._utils", "_rebuild_parameter", b"]", b"\x89", b"}"),
    call("torch._tensor", "_rebuild_from_type_v2", name("os", "system"), name("a", "B"), b")", b"}"),
    call(
        "torch._tensor", "_rebuild_from_type_v2", name("torch._tensor", "_rebuild_from_type_v2"), name("a", "B"), b")",
        b"}",
    ),
]  # fmt: skip


@pytest.mark.parametrize("attack", UNUSABLE)
def test_known_functions_with_other_arguments_are_refused(tmp_path: Path, attack: bytes) -> None:
    with pytest.raises(ForeignFileError, match="cannot be called with"):
        read(tmp_path, pickled(attack))


def test_text_beyond_latin_1_is_no_bytes(tmp_path: Path) -> None:
    with pytest.raises(ForeignFileError, match="not Latin-1"):
        read(tmp_path, pickled(call("_codecs", "encode", text("✓"), text("latin1"))))


ONE_TO_TWO = tensor(storage(), 1, (2,), (1,))
IN_OTHERS = {
    "parameter": call("torch._utils", "_rebuild_parameter", ONE_TO_TWO, b"\x88", b"}"),
    "with attributes": call("torch._utils", "_rebuild_parameter_with_state", ONE_TO_TWO, b"\x88", b"}", b"}"),
    "of a subclass": call(
        "torch._tensor", "_rebuild_from_type_v2",
        name("torch._utils", "_rebuild_tensor"),
        name("torch.nn.parameter", "Buffer"),
        tuple_of(storage(), number(1), number(2) + b"\x85", number(1) + b"\x85"),
        b"}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("rebuilt", IN_OTHERS.values(), ids=IN_OTHERS)
def test_parameters_and_subclasses_are_arrays(tmp_path: Path, rebuilt: bytes) -> None:
    np.testing.assert_array_equal(read(tmp_path, pickled(rebuilt)), np.float32([1, 2]))


def scalar(code: str, order: str, data: bytes) -> bytes:
    """As numpy pickles a scalar: its type, whose state says the byte order, and its bytes."""
    state = tuple_of(number(3), text(order), b"N", b"N", b"N", number(-1), number(-1), number(0))
    dtype = call("numpy", "dtype", text(code), b"\x89", b"\x88") + state + b"b"
    content = call("_codecs", "encode", text(data.decode("latin-1")), text("latin1"))
    return call("numpy.core.multiarray", "scalar", dtype, content)


SCALARS = [
    (scalar("f4", "<", b"\0\0\x80\x3f"), 1.0),
    (scalar("f4", ">", b"\x3f\x80\0\0"), 1.0),
    (scalar("i2", "<", b"\xfe\xff"), -2),
    (scalar("u1", "|", b"\xfe"), 254),
    (scalar("b1", "|", b"\x01"), True),
]


@pytest.mark.parametrize(("scalar_pickle", "value"), SCALARS)
def test_numpy_scalars(tmp_path: Path, scalar_pickle: bytes, value: object) -> None:
    found = read(tmp_path, pickled(scalar_pickle))
    assert type(found) is type(value)
    assert found == value


ODD_SCALARS = [
    scalar("f4", "<", b"\0\0\x80"),
    scalar("O8", "|", b"\0" * 8),
    scalar("M8", "<", b"\0" * 8),
    scalar("f4", "<>", b"\0" * 4),
    scalar("f4,f4", "<", b"\0" * 8),
]


@pytest.mark.parametrize("scalar_pickle", ODD_SCALARS)
def test_other_scalars_stay_records(tmp_path: Path, scalar_pickle: bytes) -> None:
    assert read(tmp_path, pickled(scalar_pickle)).name == "numpy.core.multiarray.scalar"


class Listed(list[int]):
    pass


class Mapped(dict[str, int]):
    pass


class Keyed(collections.UserString):
    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, str]]:
        return ("a",), {"b": "c"}


def test_items_state_and_keywords_of_records(tmp_path: Path) -> None:
    listed, mapped = Listed([1, 2]), Mapped(a=1)
    mapped.extra = True  # type: ignore[attr-defined]
    found = read(tmp_path, pickle.dumps([listed, mapped, Keyed("x")], 4))
    assert [record.name.rpartition(".")[2] for record in found] == ["Listed", "Mapped", "Keyed"]
    assert found[0].items == [1, 2]
    assert (found[1].items, found[1].state) == ([("a", 1)], {"extra": True})
    assert found[2].arguments == ("a", {"b": "c"})
    assert found[2].state == {"data": "x"}


def test_names_alone_are_values(tmp_path: Path) -> None:
    assert read(tmp_path, pickled(name("__builtin__", "print"))) == GlobalName("builtins.print")
