"""The zip form of ``torch.save``: one folder with ``data.pkl``, the storages in ``data/``, and a few small records."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

from detseg.foreign.constructors import Constructors
from detseg.foreign.limits import Limits, RefusedError, brief
from detseg.foreign.pickle_machine import read_pickle
from detseg.foreign.tensors import BYTE_ORDERS, Tensors

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_CENTRAL_SIGNATURE = b"PK\x01\x02"
_ENCRYPTED, _SIZES_FOLLOW, _UTF8 = 0x1, 0x8, 0x800


def is_archive(data: bytes) -> bool:
    """Whether ``data`` begins as a zip file does."""
    return data.startswith(b"PK\x03\x04")


def read_archive(data: bytes, limits: Limits) -> object:
    """The content of a file in the zip form. Raises RefusedError: it is damaged or is no such file."""
    members = _read_members(data, limits)
    folders = {name.partition("/")[0] for name in members}
    folder = folders.pop() if len(folders) == 1 else ""
    if f"{folder}/data.pkl" not in members:
        raise RefusedError("a zip file, but not of torch.save: it has no data.pkl in its one folder")
    if f"{folder}/constants.pkl" in members:
        raise RefusedError("a TorchScript program; save the state_dict() of the module that it was made from")
    stored_order = members.get(f"{folder}/byteorder", memoryview(b"little"))
    byte_order = next((order for order in BYTE_ORDERS if stored_order == order.encode()), None)
    if byte_order is None:
        raise RefusedError(f"its byte order is {brief(bytes(stored_order[:20]))}, expected little or big")
    stored_pickle = members[f"{folder}/data.pkl"]
    if len(stored_pickle) > limits.max_pickle_bytes:
        raise RefusedError(f"its data.pkl has {len(stored_pickle):,} bytes, allowed are {limits.max_pickle_bytes:,}")

    def read_storage(key: str, num_elements: int, item_size: int) -> memoryview:
        num_bytes = num_elements * item_size
        member = members.get(f"{folder}/data/{key}")
        if member is None or num_bytes > len(member):
            there = "not there" if member is None else f"of {len(member):,}"
            raise RefusedError(f"a storage of {num_bytes:,} bytes is claimed, but data/{brief(key)} is {there}")
        return member

    pickle = bytes(stored_pickle)
    constructors = Constructors(Tensors(read_storage, byte_order, len(data), limits))
    content, end = read_pickle(pickle, constructors, limits)
    if end != len(pickle):
        raise RefusedError(f"its data.pkl goes on for {len(pickle) - end:,} bytes after its end")
    return content


def _read_members(data: bytes, limits: Limits) -> dict[str, memoryview]:
    """The bytes of each member by its name, as views of ``data``."""
    # Before anything is made of the list of members.
    if data.count(_CENTRAL_SIGNATURE) > limits.max_members:
        raise RefusedError(f"a zip file of more than {limits.max_members:,} members")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos, end_of_members = archive.infolist(), archive.start_dir
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        ValueError,
        OverflowError,
        struct.error,
        IndexError,
        OSError,
    ) as error:
        raise RefusedError(f"a damaged or truncated zip file: {error}") from error
    members: dict[str, memoryview] = {}
    view = memoryview(data)
    position = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        _check_name(info.orig_filename, members)
        if info.header_offset < position:
            raise RefusedError(f"the zip members overlap at {brief(info.orig_filename)}")
        start = _start_of_content(data, info)
        position = start + info.file_size
        if position > end_of_members:
            raise RefusedError(f"{brief(info.orig_filename)} reaches beyond the zip members")
        content = view[start:position]
        if zlib.crc32(content) != info.CRC:
            raise RefusedError(f"{brief(info.orig_filename)} is damaged: its CRC is not the one stored")
        members[info.orig_filename] = content
    return members


def _check_name(name: str, members: dict[str, memoryview]) -> None:
    parts = name.split("/")
    if len(parts) < 2 or not all(parts) or ".." in parts or "." in parts or any(char in name for char in "\\\0:"):
        raise RefusedError(f"a zip member by the name {brief(name)}; expected a file in a folder")
    if name in members:
        raise RefusedError(f"two zip members by the name {brief(name)}")


def _start_of_content(data: bytes, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin, once its two headers are known to say the same."""
    name = info.orig_filename
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise RefusedError(
            f"{brief(name)} is compressed, which torch.save never does; unpack the file and zip it with `zip -0`"
        )
    if info.header_offset + _LOCAL_HEADER.size > len(data):
        raise RefusedError(f"the header of {brief(name)} is cut off")
    signature, _, flags, method, _, _, crc, compressed, size, name_length, extra_length = _LOCAL_HEADER.unpack_from(
        data, info.header_offset
    )
    if (flags | info.flag_bits) & _ENCRYPTED:
        raise RefusedError(f"{brief(name)} is encrypted")
    name_start = info.header_offset + _LOCAL_HEADER.size
    stored_name = data[name_start : name_start + name_length]
    sizes_follow = bool(flags & _SIZES_FOLLOW) and crc == 0
    same = (crc, compressed, size) == (info.CRC, info.compress_size, info.file_size) or sizes_follow
    encoded = name.encode("utf-8" if info.flag_bits & _UTF8 else "cp437")
    if signature != b"PK\x03\x04" or method != info.compress_type or stored_name != encoded or not same:
        raise RefusedError(f"the two headers of {brief(name)} contradict each other")
    return int(name_start + name_length + extra_length)
