"""No element of a DICOM file may claim more than is there: GDCM takes memory by what is claimed."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from detseg.runtime.volumes.dicom_elements import require_lengths
from detseg.runtime.volumes.nifti_header import VolumeError

EXPLICIT, IMPLICIT, BIG, DEFLATED = (f"1.2.840.10008.1.2{end}" for end in (".1", "", ".2", ".1.99"))
UNDEFINED = 0xFFFFFFFF


def element(tag: int, kind: str, value: bytes, length: int | None = None, order: str = "<") -> bytes:
    """By DICOM PS3.5, 7.1.2; without a kind as in 7.1.3, and as items are."""
    size = len(value) if length is None else length
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if not kind:
        return head + struct.pack(f"{order}I", size) + value
    if kind in ("OB", "OW", "SQ", "UN", "UT"):
        return head + kind.encode() + b"\0\0" + struct.pack(f"{order}I", size) + value
    return head + kind.encode() + struct.pack(f"{order}H", size) + value


def item(content: bytes, length: int | None = None) -> bytes:
    return element(0xFFFEE000, "", content, length)


ITEM_END, SEQUENCE_END = element(0xFFFEE00D, "", b""), element(0xFFFEE0DD, "", b"")
NAME, PIXELS = element(0x00100010, "PN", b"A^B "), element(0x7FE00010, "OW", b"\1\2\3\4")
PLAIN_NAME = element(0x00100010, "", b"A^B ")
IN_SEQUENCE = item(NAME)
ENCAPSULATED = element(0x7FE00010, "OB", item(b"") + item(b"\xff\xd8jpeg") + SEQUENCE_END, UNDEFINED)


def file(dataset: bytes, syntax: str = EXPLICIT) -> bytes:
    return bytes(128) + b"DICM" + element(0x00020010, "UI", syntax.encode() + b"\0" * (len(syntax) % 2)) + dataset


def deflated(dataset: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(dataset) + packer.flush()


@pytest.mark.parametrize(
    ("dataset", "syntax"),
    [
        (b"", EXPLICIT),
        (NAME + PIXELS, EXPLICIT),
        (PLAIN_NAME + element(0x7FE00010, "", b"\1\2\3\4"), IMPLICIT),
        (element(0x00100010, "PN", b"A^B ", order=">"), BIG),
        (deflated(NAME + PIXELS), DEFLATED),
        (element(0x00081140, "SQ", IN_SEQUENCE + IN_SEQUENCE) + PIXELS, EXPLICIT),
        (element(0x00081140, "SQ", item(NAME + ITEM_END, UNDEFINED) + SEQUENCE_END, UNDEFINED) + PIXELS, EXPLICIT),
        (element(0x00081140, "SQ", b""), EXPLICIT),
        (element(0x00081140, "UN", item(PLAIN_NAME) + SEQUENCE_END, UNDEFINED) + NAME, EXPLICIT),
        (element(0x00081140, "", item(PLAIN_NAME)), IMPLICIT),
        (NAME + ENCAPSULATED, EXPLICIT),
        (NAME + PLAIN_NAME + PIXELS, EXPLICIT),
        (NAME + PIXELS + bytes(500), EXPLICIT),
    ],
)
def test_what_is_whole(tmp_path: Path, dataset: bytes, syntax: str) -> None:
    (tmp_path / "a.dcm").write_bytes(file(dataset, syntax))
    require_lengths(tmp_path / "a.dcm")


@pytest.mark.parametrize(
    ("dataset", "syntax", "message"),
    [
        (element(0x00020001, "OB", b"\0\1", 0x302E3130) + NAME, EXPLICIT, "claims 808,333,616 bytes, and"),
        (NAME + element(0x7FE00010, "OW", b"\1\2", 3), EXPLICIT, "claims 3 bytes, and 2 are there"),
        (element(0x00100010, "", b"A^B ", 2**31), IMPLICIT, "claims 2,147,483,648 bytes"),
        (element(0x00100010, "PN", b"A^", 4, order=">"), BIG, "claims 4 bytes, and 2 are there"),
        (deflated(element(0x7FE00010, "OW", b"", 9)), DEFLATED, "claims 9 bytes, and 0 are there"),
        (deflated(NAME)[:-3], DEFLATED, "what is deflated does not end"),
        (deflated(bytes(2**28 + 1)), DEFLATED, "inflates to more than"),
        (b"\7\1\2", DEFLATED, "what is deflated is damaged"),
        (element(0x00081140, "SQ", item(NAME, 10**9) + b""), EXPLICIT, "claims 1,000,000,000 bytes"),
        (element(0x00081140, "SQ", item(element(0x00100010, "UT", b"", 7))) + NAME, EXPLICIT, "claims 7 bytes, and 0"),
        (element(0x00081140, "", item(element(0x00100010, "", b"", 8))), IMPLICIT, "claims 8 bytes, and 0 are there"),
        (element(0x00081140, "SQ", IN_SEQUENCE, UNDEFINED), EXPLICIT, "a sequence does not end"),
        (element(0x00081140, "SQ", item(NAME, UNDEFINED), UNDEFINED), EXPLICIT, "an item does not end"),
        (element(0x00081140, "SQ", NAME, UNDEFINED), EXPLICIT, "no item of a sequence"),
        (element(0x7FE00010, "OB", item(b"x", 10**9), UNDEFINED), EXPLICIT, "claims 1,000,000,000 bytes, and 1 are"),
        (b"".join([element(0x00081140, "SQ", b"", UNDEFINED) + item(b"", UNDEFINED)] * 100), EXPLICIT, "too deep"),
        (NAME + b"\1\0\1", EXPLICIT, "it ends within an element"),
    ],
)
def test_what_claims_more_than_is_there(tmp_path: Path, dataset: bytes, syntax: str, message: str) -> None:
    content = file(dataset, syntax)
    if "1,000" not in message and dataset.startswith(b"\2\0"):
        content = bytes(128) + b"DICM" + dataset
    (tmp_path / "a.dcm").write_bytes(content)
    with pytest.raises(VolumeError, match=message):
        require_lengths(tmp_path / "a.dcm")


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "short.dcm").write_bytes(b"DICM")
    require_lengths(tmp_path / "short.dcm")  # GDCM finds nothing in it
    for name in ("empty.dcm", "nowhere.dcm"):
        with pytest.raises(VolumeError, match=f": {name} is damaged, or no DICOM file"):
            require_lengths(tmp_path / name)
