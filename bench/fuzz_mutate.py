"""Damage to files, at random and by their structure: as a transfer, a careless program or an attacker does it."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

NUMBERS = (0, 1, 127, 128, 255, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
WORDS = (
    "0", "-1", "1e400", "-0.0", "9" * 400, "9" * 5000, "NaN", "Infinity", "null", "true", '""', "[]", "{}", "3.5",
    '"\\ud800"', '"\\u0000"', '"\\u001b[2J"', '"' + "x" * 300 + '"', '"../../../etc/passwd"', '"/dev/zero"', "[" * 2000,
    '"=1+1"', "1e-320", "0x" + "f" * 50, "2001-01-01", "~", "*a", "&a b", "!!binary x", "<<: {a: 1}", "- - - -", "? a",
    '{"name": "vnet"}', '"timm"', "'%s%n'", "4294967296", "1.5e9",
)  # fmt: skip


def damaged(data: bytes, chance: random.Random) -> bytes:
    """``data`` with one to four changes of bytes, anywhere, but more at the beginning, where headers are."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        reach = len(changed) if chance.random() < 0.5 else min(len(changed), 512)
        at = chance.randrange(reach + 1)
        length = chance.choice((1, 1, 2, 4, 8, chance.randrange(1, 200)))
        match chance.randrange(8):
            case 0:
                changed[at : at + 1] = bytes((chance.randrange(256),))
            case 1 if at < len(changed):
                changed[at] ^= 1 << chance.randrange(8)
            case 2:
                changed[at : at + length] = b""
            case 3:
                changed[at:at] = chance.randbytes(length)
            case 4:
                start = chance.randrange(len(changed) + 1)
                changed[at:at] = changed[start : start + length]
            case 5:
                size, order = chance.choice(("B", "H", "I", "Q")), chance.choice("<>")
                number = chance.choice(NUMBERS) & (2 ** (8 * struct.calcsize(size)) - 1)
                changed[at : at + struct.calcsize(size)] = struct.pack(order + size, number)
            case 6 if chance.random() < 0.3:
                del changed[at:]
            case _:
                changed[at : at + length] = bytes(length)
    return bytes(changed)


def reworded(data: bytes, chance: random.Random) -> bytes:
    """A text with one to three of its words, by spaces and punctuation, exchanged for others, or lines of it moved."""
    text = data.decode("utf-8", "surrogateescape")
    for _ in range(chance.randint(1, 3)):
        starts = [i for i in range(1, len(text)) if text[i - 1] in " :,[{\n" and text[i] not in " \n"]
        if not starts:
            break
        start = chance.choice(starts)
        end = next((i for i in range(start, len(text)) if text[i] in ",]}\n:"), len(text))
        match chance.randrange(6):
            case 0:
                text = text[:start] + text[end:]
            case 1:
                text = text[:start] + text[start:end] * chance.choice((2, 50)) + text[end:]
            case 2:
                lines = text.split("\n")
                chance.shuffle(lines)
                text = "\n".join(lines)
            case _:
                text = text[:start] + chance.choice(WORDS) + text[end:]
    return text.encode("utf-8", "surrogateescape")


def reworded_request(data: bytes, chance: random.Random) -> bytes:
    """An HTTP request with other words in its head, and in the heads of parts, or without some of its lines."""
    head, separator, body = data.partition(b"\r\n\r\n")
    if chance.random() < 0.5:
        lines = head.split(b"\r\n")
        number = chance.randrange(len(lines))
        words = [
            b"identity",
            b"multipart/form-data",
            b"application/json",
            b"\xff",
            b"-5",
            b"1e9",
            b"9" * 30,
            b"a" * 5000,
        ]
        match chance.randrange(3):
            case 0:
                del lines[number]
            case 1:
                lines[number] = lines[number].partition(b":")[0] + b": " + chance.choice(words)
            case _:
                lines.insert(number + 1, chance.choice(lines))
        return b"\r\n".join(lines) + separator + body
    first, middle, last = body.partition(b"\r\n\r\n")
    if middle:
        return head + separator + reworded(first, chance) + middle + last
    return head + separator + (reworded(body, chance) if body[:1] == b"{" else damaged(body, chance))


def with_damaged_png_chunk(data: bytes, chance: random.Random) -> bytes:
    """A PNG with a damaged chunk and the right checksum over it."""
    if not data.startswith(b"\x89PNG"):
        return damaged(data, chance)
    chunks, position = [], 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        chunks.append((kind, data[position + 8 : position + 8 + length]))
        position += 12 + length
    number = chance.randrange(len(chunks))
    kind, content = chunks[number]
    chunks[number] = kind, damaged(content, chance)
    if chance.random() < 0.3:
        chunks.insert(chance.randrange(len(chunks)), chance.choice(chunks))
    parts = [
        struct.pack(">I", len(one)) + name + one + struct.pack(">I", zlib.crc32(name + one)) for name, one in chunks
    ]
    return data[:8] + b"".join(parts)


def with_damaged_content(data: bytes, chance: random.Random) -> bytes:
    """A gzip stream, whole, around damaged content."""
    return (
        gzip.compress(damaged(gzip.decompress(data), chance), 1) if data[:2] == b"\x1f\x8b" else damaged(data, chance)
    )


def with_damaged_member(data: bytes, chance: random.Random) -> bytes:
    """A zip file, its checksums right, around a damaged pickle."""
    if not data.startswith(b"PK"):
        return damaged(data, chance)
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(zipfile.ZipInfo(name), damaged(content, chance) if name.endswith(".pkl") else content)
    return stream.getvalue()


def with_other_header(data: bytes, chance: random.Random) -> bytes:
    """A safetensors file whose header, with what detseg says in it, has other words in places."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    own = header["__metadata__"]["detseg"]
    if chance.random() < 0.7:
        changed = reworded(own.encode(), chance).decode("utf-8", "replace")
        header["__metadata__"]["detseg"] = changed
        text = json.dumps(header).encode()
    else:
        text = reworded(data[8 : 8 + length], chance)
    text = text.ljust((len(text) + 7) // 8 * 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def with_other_metadata(data: bytes, chance: random.Random) -> bytes:
    """An ONNX file whose metadata of detseg has other words in places."""
    import onnx

    model = onnx.load_model_from_string(data)
    for entry in model.metadata_props:
        if entry.key == "detseg":
            entry.value = reworded(entry.value.encode(), chance).decode("utf-8", "replace")
    content: bytes = model.SerializeToString()
    return content


def with_other_graph(data: bytes, chance: random.Random) -> bytes:
    """An ONNX file, whole, with nodes of its graph exchanged, left out, or with other types, inputs and numbers."""
    import onnx

    model = onnx.load_model_from_string(data)
    nodes = model.graph.node
    for _ in range(chance.randint(1, 3)):
        node: Any = chance.choice(nodes)
        match chance.randrange(5):
            case 0 if node.input:
                names = [name for other in nodes for name in (*other.input, *other.output)]
                node.input[chance.randrange(len(node.input))] = chance.choice(names)
            case 1:
                node.op_type = chance.choice([other.op_type for other in nodes] + ["Range", "Tile", "Pad", "NonZero"])
            case 2 if node.attribute:
                attribute = chance.choice(node.attribute)
                if attribute.ints:
                    attribute.ints[chance.randrange(len(attribute.ints))] = chance.choice(NUMBERS)
                elif attribute.HasField("i"):
                    attribute.i = chance.choice((-1, *NUMBERS))
            case 3 if model.graph.initializer:
                tensor = chance.choice(model.graph.initializer)
                tensor.raw_data = damaged(tensor.raw_data, chance)[: len(tensor.raw_data)].ljust(len(tensor.raw_data))
            case _:
                nodes.remove(node)
    content: bytes = model.SerializeToString()
    return content
