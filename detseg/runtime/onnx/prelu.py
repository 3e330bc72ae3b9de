"""PReLU as ONNX Runtime is fastest with it on CPUs: a file holds it as one node, as OpenVINO and GPUs take it.

``PRelu(x)`` with a slope ``a`` per channel is ``(1 - a) * Relu(x) + a * x``. Both factors are 1x1 depthwise
convolutions here: ONNX Runtime keeps these, unlike a PRelu, in the blocked layout of the convolutions around them, and
rearranging memory back and forth takes a quarter of LETNet's time.

The messages of the file are written anew without a package for them. Field numbers are those of ``onnx.proto``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from detseg.arrays import FloatArray
from detseg.runtime.onnx.file import WireField, wire_fields

_GRAPH = 7
_NODE, _INITIALIZER, _VALUE_INFO = 1, 5, 13
_INPUT, _OUTPUT, _NAME, _OPERATOR, _ATTRIBUTE = 1, 2, 3, 4, 5
_DIMS, _DATA_TYPE, _TENSOR_NAME, _RAW_DATA = 1, 2, 8, 9
_VALUE_NAME = 1
_FLOAT = 1
_INT, _INTS = 2, 7
_VARINT, _BYTES = 0, 2


def with_convolutions_for_prelu(content: bytes) -> bytes:
    """The ONNX file ``content``, which has been read as one of detseg's, with each PRelu of images ``[B, C, H, W]``
    whose slopes, one per channel, are constants as two convolutions, one Relu and one Add; else as it is."""
    parts = []
    for field in wire_fields(content, 0, len(content)):
        if field.number == _GRAPH and field.wire_type == _BYTES:
            parts.append(_message(_GRAPH, _rewritten(content, field.start, field.end)))
        else:
            parts.append(_verbatim(content, field))
    return b"".join(parts)


def _rewritten(content: bytes, start: int, end: int) -> bytes:
    fields = list(wire_fields(content, start, end))
    slopes = dict(_slopes(content, fields))
    types = {
        _text(content, field, _VALUE_NAME): content[field.start : field.end]
        for field in fields
        if field.number == _VALUE_INFO
    }
    parts = []
    for field in fields:
        node = _prelu(content, field)
        if node is None or node[1] not in slopes:
            parts.append(_verbatim(content, field))
        else:
            parts.append(_convolutions(node[0], node[2], slopes[node[1]], types))
    return b"".join(parts)


def _prelu(content: bytes, field: WireField) -> tuple[bytes, bytes, bytes] | None:
    """Input, slope and output of a node that is a PRelu."""
    if field.number != _NODE or _text(content, field, _OPERATOR) != b"PRelu":
        return None
    found = [(one.number, content[one.start : one.end]) for one in wire_fields(content, field.start, field.end)]
    inputs = [value for number, value in found if number == _INPUT]
    (output,) = (value for number, value in found if number == _OUTPUT)
    return inputs[0], inputs[1], output


def _slopes(content: bytes, fields: list[WireField]) -> Iterator[tuple[bytes, FloatArray]]:
    """The constants ``[C, 1, 1]`` or ``[1, C, 1, 1]`` of float32 by name."""
    for field in fields:
        if field.number != _INITIALIZER:
            continue
        inner = list(wire_fields(content, field.start, field.end))
        dims = [one.value for one in inner if one.number == _DIMS and one.wire_type == _VARINT]
        types = [one.value for one in inner if one.number == _DATA_TYPE]
        raw = [content[one.start : one.end] for one in inner if one.number == _RAW_DATA]
        is_by_channel = dims[-2:] == [1, 1] and (len(dims) == 3 or (len(dims) == 4 and dims[0] == 1))
        if is_by_channel and types == [_FLOAT] and raw:
            slopes: FloatArray = np.frombuffer(raw[0], "<f4").astype(np.float32)
            yield _text(content, field, _TENSOR_NAME), slopes


def _convolutions(given: bytes, output: bytes, slopes: FloatArray, types: dict[bytes, bytes]) -> bytes:
    """Fields of a graph: what gives ``output`` in place of a PRelu of ``given``."""
    positive, scaled, negative = (output + suffix for suffix in (b"/positive", b"/scaled", b"/negative"))
    weights = {b"/above": 1 - slopes, b"/below": slopes}
    parts = [_message(_INITIALIZER, _weight(output + name, value)) for name, value in weights.items()]
    parts += [
        _node(b"Relu", [given], positive),
        _node(b"Conv", [positive, output + b"/above"], scaled, len(slopes)),
        _node(b"Conv", [given, output + b"/below"], negative, len(slopes)),
        _node(b"Add", [scaled, negative], output),
    ]
    # Values whose sizes ONNX Runtime does not know make it search for their place among all others.
    if output in types:
        known = types[output]
        rest = b"".join(_verbatim(known, one) for one in wire_fields(known, 0, len(known)) if one.number != _VALUE_NAME)
        parts += [_message(_VALUE_INFO, _message(_VALUE_NAME, name) + rest) for name in (positive, scaled, negative)]
    return b"".join(parts)


def _node(operator: bytes, inputs: list[bytes], output: bytes, group: int | None = None) -> bytes:
    parts = [_message(_INPUT, name) for name in inputs]
    parts += [_message(_OUTPUT, output), _message(_NAME, output + b"/" + operator), _message(_OPERATOR, operator)]
    if group is not None:
        parts.append(_message(_ATTRIBUTE, _message(1, b"group") + _number(3, group) + _number(20, _INT)))
        sides = _number(8, 1) + _number(8, 1)
        parts.append(_message(_ATTRIBUTE, _message(1, b"kernel_shape") + sides + _number(20, _INTS)))
    return _message(_NODE, b"".join(parts))


def _weight(name: bytes, values: FloatArray) -> bytes:
    dims = b"".join(_number(_DIMS, side) for side in (len(values), 1, 1, 1))
    raw = values.astype("<f4").tobytes()
    return dims + _number(_DATA_TYPE, _FLOAT) + _message(_TENSOR_NAME, name) + _message(_RAW_DATA, raw)


def _text(content: bytes, message: WireField, number: int) -> bytes:
    """The last field of this number in ``message``, which counts; empty where there is none."""
    texts = [
        content[one.start : one.end] for one in wire_fields(content, message.start, message.end) if one.number == number
    ]
    return texts[-1] if texts else b""


def _verbatim(content: bytes, field: WireField) -> bytes:
    value = content[field.start : field.end]
    if field.wire_type == _BYTES:
        return _message(field.number, value)
    return _varint(field.number << 3 | field.wire_type) + (
        _varint(field.value) if field.wire_type == _VARINT else value
    )


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
