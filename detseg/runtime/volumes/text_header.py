"""The text at the beginning of MetaImage and NRRD files: where the voxels are, and whether they are all there.

ITK reads some damaged files without an error, with zeros for what is missing, so that this is looked at before.
MetaImage: https://itk.org/Wiki/ITK/MetaIO/Documentation; NRRD: https://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

from detseg.files import open_regular
from detseg.runtime.volumes.nifti_header import LARGEST_DEFLATE_RATIO, VolumeError

META_IMAGE_SUFFIXES = (".mha", ".mhd")
NRRD_SUFFIXES = (".nrrd", ".nhdr")

_MOST_HEADER_BYTES = 2**20
_CHUNK_BYTES = 2**22
_QUOTED = re.compile(r'"([^"]*)"')
_EITHER_HEADER = zlib.MAX_WBITS | 32
"""What tells zlib to take its own format and that of gzip; the sum at the end is compared in both."""


@dataclass(frozen=True, slots=True)
class TextHeader:
    """Where voxels are: in the file ``data`` from byte ``offset`` on, as they are or compressed. ``has_orientation``,
    ``has_spacing``: whether the header says how they lie in the patient, and how far apart. ``units``: those of
    lengths, where it names others than millimeters."""

    data: Path
    offset: int
    packing: Literal["raw", "deflate"]
    has_orientation: bool
    has_spacing: bool
    units: tuple[str, ...] = ()


def read_text_header(path: Path) -> TextHeader:
    """The header of the MetaImage or NRRD file ``path``.

    Raises:
        VolumeError: it cannot be read, is no such header, or the voxels are kept in a way that is not read.
    """
    try:
        with open_regular(path) as file:
            if path.name.lower().endswith(META_IMAGE_SUFFIXES):
                return _read_meta_image(path, file)
            return _read_nrrd(path, file)
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read: {error.strerror}") from error


def require_room(header: TextHeader, path: Path, num_bytes: int) -> None:
    """Refuse a claim of ``num_bytes`` of voxels that the file is too short to fulfil.

    Raises:
        VolumeError: it is.
    """
    there = _size_of(header.data, path) - header.offset
    ratio = {"raw": 1, "deflate": LARGEST_DEFLATE_RATIO}[header.packing]
    if num_bytes > there * ratio:
        raise VolumeError(
            f"{path}: truncated, or its header lies: its voxels take {num_bytes} bytes, the {there} that are there can "
            f"hold {there * ratio}"
        )


def require_intact(header: TextHeader, path: Path, num_bytes: int) -> None:
    """Read compressed voxels to their end, where their sum is compared.

    Raises:
        VolumeError: they are damaged, or do not make ``num_bytes``.
    """
    if header.packing == "raw":
        return
    unpacker: Any = zlib.decompressobj(_EITHER_HEADER)
    found = 0
    try:
        with open_regular(header.data) as file:
            file.seek(header.offset)
            while not unpacker.eof and (chunk := file.read(_CHUNK_BYTES)):
                for part in _unpacked(unpacker, chunk):
                    found += len(part)
                    if found > num_bytes:
                        raise VolumeError(f"{path}: its voxels take {num_bytes} bytes, but more are there")
    except (zlib.error, EOFError, OSError) as error:
        raise VolumeError(f"{path}: damaged or truncated after {found} bytes of voxels: {error}") from error
    if not unpacker.eof or found < num_bytes:
        raise VolumeError(f"{path}: damaged or truncated: its voxels take {num_bytes} bytes, there are {found}")


def _unpacked(unpacker: Any, chunk: bytes) -> Any:
    """What ``chunk`` becomes, in parts, so that memory does not grow with what a stream claims."""
    while chunk and not unpacker.eof:
        yield unpacker.decompress(chunk, _CHUNK_BYTES)
        chunk = unpacker.unconsumed_tail


def _read_meta_image(path: Path, file: BinaryIO) -> TextHeader:
    fields: dict[str, str] = {}
    # The field that says where the voxels are is the last one.
    while "elementdatafile" not in fields:
        name, separator, value = _line(path, file, "MetaImage").partition("=")
        if not separator:
            raise VolumeError(f"{path}: no MetaImage: its header has the line {name!r:.60}, expected NAME = VALUE")
        fields[name.strip().lower()] = value.strip()
    _refuse(path, fields, {"binarydata": ("true",), "headersize": ("0",)})
    packing: Literal["raw", "deflate"] = "deflate" if fields.get("compresseddata", "").lower() == "true" else "raw"
    said = {"transformmatrix", "orientation", "rotation", "direction"} & fields.keys()
    named = fields["elementdatafile"]
    inline = named.upper() == "LOCAL"
    data = path if inline else _beside(path, named)
    # Of ElementSize, how large voxels are, ITK makes the spacing where there is no other.
    has_spacing = bool({"elementspacing", "elementsize"} & fields.keys())
    return TextHeader(data, file.tell() if inline else 0, packing, bool(said), has_spacing)


def _read_nrrd(path: Path, file: BinaryIO) -> TextHeader:
    first = _line(path, file, "NRRD")
    if not first.startswith("NRRD000"):
        raise VolumeError(f"{path}: no NRRD file: it begins with {first!r:.60}")
    fields: dict[str, str] = {}
    detached = False
    while line := _line(path, file, "NRRD", may_end=True):
        if line.startswith("#"):
            continue
        name, separator, value = line.partition(":")
        if not separator:
            raise VolumeError(f"{path}: no NRRD file: its header has the line {line!r:.60}, expected NAME: VALUE")
        fields[name.strip().lower().replace(" ", "")] = value.lstrip("=").strip()
        detached = "datafile" in fields
    _refuse(path, fields, {"lineskip": ("0",), "byteskip": ("0",)})
    encoding = fields.get("encoding", "").lower()
    packings: dict[str, Literal["raw", "deflate"]] = {
        **dict.fromkeys(("raw",), "raw"),
        **dict.fromkeys(("gz", "gzip"), "deflate"),
    }
    if encoding not in packings:
        raise VolumeError(f"{path}: its voxels have the encoding {encoding!r:.40}; save them as raw or gzip")
    said = {"space", "spacedimension"} & fields.keys() and "spacedirections" in fields
    data = _beside(path, fields["datafile"]) if detached else path
    has_spacing = bool({"spacings", "spacedirections"} & fields.keys())
    units = {unit.lower() for key in ("spaceunits", "units") for unit in _QUOTED.findall(fields.get(key, ""))}
    others = tuple(sorted(units - {"mm", "millimeter", "millimeters", ""}))
    return TextHeader(data, 0 if detached else file.tell(), packings[encoding], bool(said), has_spacing, others)


def _line(path: Path, file: BinaryIO, format_name: str, *, may_end: bool = False) -> str:
    """The next line of the header, without its end; "" also where the file ends and ``may_end``."""
    line = file.readline(_MOST_HEADER_BYTES)
    if file.tell() > _MOST_HEADER_BYTES:
        raise VolumeError(f"{path}: no {format_name} file: its header does not end")
    if not line.endswith(b"\n") and not (may_end and not line):
        raise VolumeError(f"{path}: no {format_name} file: it ends within its header, or has none")
    return line.decode("latin-1").rstrip("\r\n")


def _refuse(path: Path, fields: Mapping[str, str], allowed: Mapping[str, tuple[str, ...]]) -> None:
    for name, values in allowed.items():
        if name in fields and fields[name].lower() not in values:
            raise VolumeError(
                f"{path}: its header says {name} {fields[name]!r:.40}, which is not read; save it with voxels as they "
                "are in memory, directly behind the header"
            )


def _beside(path: Path, name: str) -> Path:
    """The file that the header of ``path`` names, which must lie in the same folder: a header of a stranger must not
    lead elsewhere."""
    # Names are bytes; the header was read so that each byte is a character.
    decoded = os.fsdecode(name.encode("latin-1"))
    # Not numbered files either, nor those that are listed in the header.
    is_name = PurePosixPath(decoded).name == decoded and not set("\\%\0") & set(decoded)
    if not is_name or decoded.upper().startswith("LIST"):
        raise VolumeError(
            f"{path}: its voxels are in {name!r:.80}, which is not one file in the same folder; save it as one file"
        )
    data = path.with_name(decoded)
    _size_of(data, path)
    return data


def _size_of(data: Path, path: Path) -> int:
    try:
        with open_regular(data) as file:
            return os.fstat(file.fileno()).st_size
    except OSError as error:
        raise VolumeError(f"{path}: its voxels are in {data.name}, which cannot be read: {error.strerror}") from error
