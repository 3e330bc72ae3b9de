"""Reading what an ONNX file says of itself, before anything runs it, and refusing what detseg's own files never hold.

ONNX Runtime would follow references to other files, hostile nesting makes it crash, and graphs inside nodes are how a
network comes to loop. The file format is that of protobuf messages: a field is a key (its number and wire type, as a
varint), then a varint, 4 or 8 bytes, or a length and as many bytes; the latter may be a message again. Keys and lengths
that readers take for different numbers are refused. Field numbers are those of ``onnx.proto`` (ONNX 1.0 to 1.23).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from detseg.config import ConfigError, from_dict
from detseg.files import read_bytes
from detseg.runtime.kinds import KINDS, load_kind
from detseg.runtime.kinds.base import Metadata

KEY = "detseg"
"""The name of the property with the metadata."""
FORMAT = 1
KINDS_OF_TASKS = {"detection": "boxes", "instance": "instances", "semantic": "masks", "volume": "volumes"}
"""The kind of results of files that name none, by their task."""

MAX_FIELDS = 5_000_000
"""A file of more fields is refused: those of detseg have thousands, and each takes a microsecond."""

_METADATA_PROPS = 14
_FUNCTIONS = 25
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14

_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", _METADATA_PROPS: "property", 20: "training", _FUNCTIONS: "function"},
    "property": {},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "inner graph", 10: "tensor", 11: "inner graph", 22: "sparse", 23: "sparse"},
    "tensor": {_EXTERNAL_DATA: "external"},
}
"""Of each message the fields that are looked into, or are a reason to refuse the file, and what they hold."""

_REFUSED = {
    "external": (
        "it keeps weights in other files (external data), which detseg does not open; save the model as one file"
    ),
    "function": "it has functions of its own, which detseg's files have not; export the model again",
    "inner graph": (
        "it has graphs inside nodes (loops or branches), which detseg's files have not and which may run without end; "
        "export the model again"
    ),
    "sparse": (
        "it has sparse tensors, which detseg's files have not and which may unpack to any size; export the model again"
    ),
}

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_LARGEST_KEY, _LARGEST_LENGTH = 2**32 - 1, 2**31 - 1


class OnnxFileError(ValueError):
    """A file that cannot be run as a detseg model; the message begins with its path."""


class OnnxFile(NamedTuple):
    """``content`` of a file, checked to be a single one, and the ``properties`` that its writer gave it."""

    content: bytes
    properties: dict[str, str]


class WireField(NamedTuple):
    """A field of a message: its number and wire type, and what it holds."""

    number: int
    wire_type: int
    value: int
    """Of a varint."""
    start: int
    end: int
    """Where the bytes are."""


def read_onnx_file(path: Path) -> OnnxFile:
    """Read the ONNX file ``path`` and its properties.

    Raises:
        OnnxFileError: the file is missing or damaged, or no ONNX file; it keeps tensors in other files; it has
            functions of its own, graphs inside nodes or sparse tensors; it has too many fields.
    """
    try:
        content = read_bytes(path)
    except OSError as error:
        raise OnnxFileError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return OnnxFile(content, _properties(content))
    except _DamageError as error:
        raise OnnxFileError(f"{path}: no ONNX file, or damaged: {error}") from error
    except _RefusalError as error:
        raise OnnxFileError(f"{path}: {error}") from error


def parse_metadata(properties: Mapping[str, str], path: Path) -> Metadata:
    """The metadata among the ``properties`` of the file ``path``.

    Raises:
        OnnxFileError: there is none, it is of a later format, or something in it is missing or not allowed.
    """
    if KEY not in properties:
        raise OnnxFileError(
            f"{path}: has no detseg metadata, so classes, input and outputs are unknown; only files written by "
            "`detseg export` can be run; of others, a YOLOX becomes a model file by `detseg convert`"
        )
    try:
        data = json.loads(properties[KEY])
    except (ValueError, RecursionError) as error:
        raise OnnxFileError(f"{path}: its detseg metadata is no JSON: {error}; export the model again") from error
    if not isinstance(data, dict):
        raise OnnxFileError(f"{path}: its detseg metadata is no mapping; export the model again")
    _require_known_format(data, path)
    given = {name: value for name, value in data.items() if name not in ("format", "kind")}
    try:
        schema = load_kind(_kind_of(data, path)).metadata
        found: Metadata = from_dict(schema, given, f"{path}: detseg metadata", is_ours=True)
    except ConfigError as error:
        raise OnnxFileError(f"{error}; export the model again") from error
    return found


def _kind_of(data: dict[str, Any], path: Path) -> str:
    """The kind of results, as the file names it, else by its task."""
    kind, task = data.get("kind"), data.get("task")
    if kind is None:
        kind = KINDS_OF_TASKS.get(task) if isinstance(task, str) else None
        if kind is None:
            raise OnnxFileError(f"{path}: task {task!r} is unknown; known are {', '.join(KINDS_OF_TASKS)}")
    if not isinstance(kind, str) or kind not in KINDS:
        raise OnnxFileError(f"{path}: the kind of results {kind!r} is unknown; known are {', '.join(KINDS)}")
    return kind


def _require_known_format(data: dict[str, Any], path: Path) -> None:
    version = data.get("format")
    if type(version) is not int or version < 1:
        raise OnnxFileError(f"{path}: its detseg metadata has no format number; export the model again")
    if version > FORMAT:
        raise OnnxFileError(
            f"{path}: was written by detseg {data.get('version', '(unknown)')} in format {version}, this version reads "
            f"up to {FORMAT}; upgrade detseg, or export the model again with this version"
        )


def with_property(content: bytes, key: str, value: str) -> bytes:
    """``content`` of an ONNX file with ``value`` for the property ``key``, in place of what it has; all other bytes as
    they are."""
    kept, end = [], 0
    for field in wire_fields(content, 0, len(content)):
        is_old = field.number == _METADATA_PROPS and _entry(content, field)[0] == key
        kept += [] if is_old else [content[end : field.end]]
        end = field.end
    parts = (b"\x0a", key.encode()), (b"\x12", value.encode())
    entry = b"".join(tag + _as_varint(len(text)) + text for tag, text in parts)
    return b"".join(kept) + _as_varint(_METADATA_PROPS << 3 | _BYTES) + _as_varint(len(entry)) + entry


def _as_varint(number: int) -> bytes:
    """``number`` in as many bytes of seven bits as it takes, low ones first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


class _DamageError(ValueError):
    """The bytes are no ONNX file; the message names no path."""


class _RefusalError(ValueError):
    """They are one that detseg does not run; the message names no path."""


def _properties(content: bytes) -> dict[str, str]:
    """The properties of the model, once all of its messages have been looked at."""
    properties: dict[str, str] = {}
    num_fields = num_graphs = 0
    waiting = [("model", 0, len(content))]
    while waiting:
        message, start, end = waiting.pop()
        for field in wire_fields(content, start, end):
            num_fields += 1
            if num_fields > MAX_FIELDS:
                raise _RefusalError(f"it has more than {MAX_FIELDS:,} fields; detseg does not run such files")
            inner = _MESSAGES[message].get(field.number)
            if message == "tensor" and field.number == _DATA_LOCATION and field.value != 0:
                inner = "external"
            if inner in _REFUSED:
                raise _RefusalError(_REFUSED[inner])
            if inner is None:
                continue
            if field.wire_type != _BYTES:
                raise _DamageError(f"wire type {field.wire_type} where a message belongs, before byte {field.end}")
            if inner == "property":
                key, value = _entry(content, field)
                properties[key] = value
            num_graphs += inner == "graph"
            waiting.append((inner, field.start, field.end))
    if num_graphs == 0:
        raise _DamageError("there is no graph in it")
    return properties


def _entry(content: bytes, field: WireField) -> tuple[str, str]:
    """Key and value of a property."""
    texts = {1: "", 2: ""}
    for part in wire_fields(content, field.start, field.end):
        if part.number in texts:
            if part.wire_type != _BYTES:
                raise _DamageError("a property is not text")
            try:
                texts[part.number] = content[part.start : part.end].decode()
            except UnicodeDecodeError as error:
                raise _DamageError("a property is not text") from error
    return texts[1], texts[2]


def wire_fields(content: bytes, start: int, end: int) -> Iterator[WireField]:
    """The fields of the message in ``content[start:end]``; raises what :func:`read_onnx_file` tells as damage."""
    position = start
    while position < end:
        key, position = _varint(content, position, end, _LARGEST_KEY)
        number, wire_type = key >> 3, key & 7
        value, after = 0, position
        if wire_type == _VARINT:
            value, after = _varint(content, position, end)
        elif wire_type == _BYTES:
            length, position = _varint(content, position, end, _LARGEST_LENGTH)
            after = position + length
        elif wire_type == _EIGHT_BYTES:
            after = position + 8
        elif wire_type == _FOUR_BYTES:
            after = position + 4
        else:
            raise _DamageError(f"wire type {wire_type} at byte {position}")
        if number == 0 or after > end:
            raise _DamageError(f"a field does not fit at byte {position}")
        yield WireField(number, wire_type, value, position, after)
        position = after


def _varint(content: bytes, position: int, end: int, largest: int = 2**64 - 1) -> tuple[int, int]:
    """The number that begins at ``position``, seven bits per byte, low ones first, and where it ends.

    A number above ``largest``, or with more bytes than that takes, is damage: readers drop its high bits, or do not.
    """
    value = 0
    for shift in range(0, largest.bit_length(), 7):
        if position >= end:
            raise _DamageError(f"it ends within a number, at byte {position}")
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > largest:
                break
            return value, position
    raise _DamageError(f"a number of more than {largest.bit_length()} bits before byte {position}")
