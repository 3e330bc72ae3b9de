from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from detseg.foreign.limits import ForeignFileError, Limits
from detseg.foreign.torch_file import read_torch_file
from tests.foreign.files import archive, pickled, storage

PICKLE = pickled(storage())
VALID = archive(PICKLE)


def read(tmp_path: Path, data: bytes, limits: Limits | None = None) -> object:
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    return read_torch_file(path, limits or Limits()).content


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, content in members:
            file.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


def patched(data: bytes, position: int, new: bytes) -> bytes:
    return data[:position] + new + data[position + len(new) :]


def central(data: bytes, name: bytes) -> int:
    """Where the entry of ``name`` in the list of members begins: its name stands 46 bytes behind that, twice in all."""
    return data.rindex(name) - 46


def overlapping() -> bytes:
    """data/0 in the list points at the header of data/1, which holds the same: one set of bytes, listed twice."""
    members = [("a/data.pkl", PICKLE), ("a/data/0", bytes(16)), ("a/data/1", bytes(16))]
    data = zipped(*members)
    return patched(data, central(data, b"a/data/1") + 42, struct.pack("<I", data.index(b"a/data/0") - 30))


def quoted() -> bytes:
    """A member whose content is a whole other member with its header, which the list names as well."""
    inner = zipped(("a/data/0", bytes(16)))
    header_and_content = inner[: inner.index(b"PK\x01\x02")]
    data = zipped(("a/data.pkl", PICKLE), ("a/data/1", header_and_content), ("a/data/0", bytes(16)))
    return patched(data, central(data, b"a/data/0") + 42, struct.pack("<I", data.index(header_and_content)))


def sizes(number: int) -> bytes:
    """Both headers claim so many bytes for the storage."""
    claim = struct.pack("<II", number, number)
    in_header = patched(VALID, VALID.index(b"archive/data/0") - 30 + 18, claim)
    return patched(in_header, central(VALID, b"archive/data/0") + 20, claim)


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "compressed": (lambda: zipped(("a/data.pkl", PICKLE), method=zipfile.ZIP_DEFLATED), "compressed"),
    "compressed bomb": (
        lambda: zipped(("a/data.pkl", PICKLE), ("a/data/0", bytes(10_000_000)), method=zipfile.ZIP_DEFLATED),
        "compressed",
    ),
    "LZMA": (lambda: zipped(("a/data.pkl", PICKLE), method=zipfile.ZIP_LZMA), "compressed"),
    "compressed in its own header alone": (
        lambda: patched(VALID, VALID.index(b"archive/data.pkl") - 30 + 8, b"\x08\0"),
        "contradict",
    ),
    "overlapping": (overlapping, "overlap|contradict"),
    "a member within a member": (quoted, "overlap"),
    "CRC": (lambda: VALID.replace(struct.pack("<4f", 0, 1, 2, 3), struct.pack("<4f", 0, 1, 2, 4)), "CRC"),
    "CRC of the pickle": (lambda: VALID.replace(PICKLE, PICKLE.replace(b"cpu", b"gpu")), "CRC"),
    "name with ..": (lambda: zipped(("a/data.pkl", PICKLE), ("a/../data/0", bytes(16))), "by the name"),
    "absolute name": (lambda: zipped(("/a/data.pkl", PICKLE)), "by the name"),
    "name with a backslash": (lambda: zipped(("a/data.pkl", PICKLE), ("a\\b/0", b"")), "by the name"),
    "name with a drive": (lambda: zipped(("C:/data.pkl", PICKLE)), "by the name"),
    "name with a zero byte": (
        lambda: zipped(("a/data.pkl", PICKLE), ("a/dataX0", b"")).replace(b"a/dataX0", b"a/data\x000"),
        "by the name",
    ),
    "no folder": (lambda: zipped(("data.pkl", PICKLE)), "by the name"),
    "two folders": (lambda: zipped(("a/data.pkl", PICKLE), ("b/data/0", bytes(16))), "one folder"),
    "no pickle": (lambda: zipped(("a/data/0", bytes(16))), "no data.pkl"),
    "two pickles": (
        lambda: zipped(("a/data.pkl", PICKLE), ("a/data.pkX", pickled(b"N"))).replace(b"pkX", b"pkl"),
        "two zip members",
    ),
    "another name in the header": (lambda: VALID.replace(b"archive/data/0", b"archive/data/1", 1), "contradict"),
    "another size in the header": (
        lambda: patched(VALID, VALID.index(b"archive/data/0") - 30 + 22, struct.pack("<I", 8)),
        "contradict",
    ),
    "encrypted": (lambda: patched(VALID, VALID.index(b"archive/data/0") - 30 + 6, b"\x01\0"), "encrypted"),
    "encrypted in the list": (lambda: patched(VALID, central(VALID, b"archive/data/0") + 8, b"\x01\0"), "encrypted"),
    "member larger than the file": (lambda: sizes(2**31), "reaches beyond"),
    "member over the list of members": (lambda: sizes(17), "reaches beyond"),
    "truncated": (lambda: VALID[:-10], "truncated"),
    "half": (lambda: VALID[: len(VALID) // 2], "truncated"),
    "four bytes": (lambda: VALID[:4], "truncated"),
    # The difference to where the list is would be bytes before the archive.
    "list of members said to be later": (lambda: patched(VALID, len(VALID) - 6, struct.pack("<I", 2**31)), "overlap"),
    "list of members said to be earlier": (lambda: patched(VALID, len(VALID) - 6, bytes(4)), "contradict"),
}


@pytest.mark.parametrize(("make", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_archives_are_refused(tmp_path: Path, make: Callable[[], bytes], words: str) -> None:
    data = make()
    assert data != VALID
    with pytest.raises(ForeignFileError, match=words):
        read(tmp_path, data)


def test_the_unchanged_archive_is_read(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(tmp_path, VALID), np.float32([0, 1, 2, 3]))
    np.testing.assert_array_equal(read(tmp_path, archive(PICKLE, folder="größe")), np.float32([0, 1, 2, 3]))


def test_sizes_behind_the_content_are_allowed(tmp_path: Path) -> None:
    """As torch writes members: bit 3 of the flags, and zeros for the CRC and the sizes in the header."""
    at = VALID.index(b"archive/data/0") - 30
    data = patched(VALID, at + 6, struct.pack("<H", 8))
    data = patched(data, at + 14, bytes(12))
    assert zlib.crc32(struct.pack("<4f", 0, 1, 2, 3)) != 0
    np.testing.assert_array_equal(read(tmp_path, data), np.float32([0, 1, 2, 3]))
    with pytest.raises(ForeignFileError, match="contradict"):
        read(tmp_path, patched(data, at + 6, struct.pack("<H", 0)))
    with pytest.raises(ForeignFileError, match="contradict"):
        read(tmp_path, patched(data, at + 14, b"\1"))


def test_members_are_counted_first(tmp_path: Path) -> None:
    data = zipped(("a/data.pkl", pickled(b"N")), *((f"a/data/{i}", b"") for i in range(4)))
    assert read(tmp_path, data, Limits(max_members=5)) is None
    with pytest.raises(ForeignFileError, match="more than 4 members"):
        read(tmp_path, data, Limits(max_members=4))
