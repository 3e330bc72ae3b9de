"""Pickles opcode by opcode, and the zip files around them."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping

PROTOCOL_2 = b"\x80\x02"
STOP = b"."


def pickled(*parts: bytes) -> bytes:
    """A pickle of protocol 2 with these opcodes."""
    return PROTOCOL_2 + b"".join(parts) + STOP


def text(value: str) -> bytes:
    """BINUNICODE."""
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    """LONG1, for numbers of up to 64 bits."""
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def name(module: str, attribute: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{attribute}\n".encode()


def tuple_of(*parts: bytes) -> bytes:
    """MARK, the parts, TUPLE."""
    return b"(" + b"".join(parts) + b"t"


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    """GLOBAL, the arguments, REDUCE."""
    return name(module, attribute) + tuple_of(*arguments) + b"R"


def storage(key: str = "0", num_elements: int = 4, kind: str = "FloatStorage") -> bytes:
    """A persistent id of a storage, as torch writes it."""
    return tuple_of(text("storage"), name("torch", kind), text(key), text("cpu"), number(num_elements)) + b"Q"


def tensor(of: bytes, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A call of ``torch._utils._rebuild_tensor_v2``."""
    sizes, strides = tuple_of(*map(number, size)), tuple_of(*map(number, stride))
    hooks = call("collections", "OrderedDict")
    return call("torch._utils", "_rebuild_tensor_v2", of, number(offset), sizes, strides, b"\x89", hooks)


def archive(pickle: bytes, members: Mapping[str, bytes] | None = None, folder: str = "archive") -> bytes:
    """A zip file as ``torch.save`` writes it; ``members`` are in the folder, by default a storage of 0, 1, 2, 3."""
    if members is None:
        members = {"data/0": struct.pack("<4f", 0, 1, 2, 3)}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as file:
        for member, content in {"data.pkl": pickle, "byteorder": b"little", **members}.items():
            file.writestr(zipfile.ZipInfo(f"{folder}/{member}"), content)
    return stream.getvalue()
