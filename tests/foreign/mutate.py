"""Reads mutations of a valid file and reports, as JSON, what came of them; run in a process of its own.

Usage: python mutate.py FILE NUMBER SEED
"""

from __future__ import annotations

import io
import json
import random
import resource
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

from detseg.foreign.limits import ForeignFileError
from detseg.foreign.records import Record, module_tensors
from detseg.foreign.torch_file import read_torch_file

MEMORY = 2 * 2**30
SECONDS = 540
OPCODES = (
    b"(.012JKMNQRTUXabc}ehj]qrstu)G\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95"
)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """``data`` after one to three changes, each of another kind and at another place."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(changed) + 1)
        length = chance.choice((1, 1, 2, 4, 8, chance.randrange(1, 200)))
        match chance.randrange(7):
            case 0:
                changed[at : at + 1] = bytes((chance.randrange(256),))
            case 1:
                changed[at : at + 1] = bytes((chance.choice(OPCODES),))
            case 2:
                changed[at : at + length] = b""
            case 3:
                changed[at:at] = chance.randbytes(length)
            case 4:
                changed[at:at] = changed[(start := chance.randrange(len(changed) + 1)) : start + length]
            case 5:
                changed[at : at + 4] = chance.choice(
                    (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\0\0\0\x80")
                )
            case 6:
                del changed[chance.randrange(len(changed) + 1) :]
        if not changed:
            break
    return bytes(changed)


def with_mutated_pickle(data: bytes, chance: random.Random) -> bytes:
    """A whole zip file, its checksums right, around a mutated pickle: what mutations of the bytes seldom get at."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            changed = mutated(content, chance) if name.endswith("/data.pkl") else content
            new.writestr(zipfile.ZipInfo(name), changed)
    return stream.getvalue()


def walk(value: object) -> None:
    """Use what was read, as a converter would: recursively, each array to its last element."""
    match value:
        case np.ndarray():
            value.copy()
        case dict():
            for part in value.values():
                walk(part)
        case list() | tuple() | set():
            for part in value:
                walk(part)
        case Record():
            module_tensors(value)


def outcome(path: Path) -> str:
    try:
        walk(read_torch_file(path).content)
    except ForeignFileError:
        return "refused"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is to be reported
        return f"{type(error).__name__}: {error}"
    return "read"


def main() -> None:
    original, number, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    data, chance = original.read_bytes(), random.Random(seed)
    path = Path(f"{original}.mutated")
    path.write_bytes(data)
    assert outcome(path) == "read"  # which also loads all that reading needs
    "".encode("cp437")  # the codec of zip members' names, loaded when it is first used
    events: set[str] = set()

    def note(event: str, arguments: tuple[object, ...]) -> None:
        # A number is a file that is open already.
        is_own = event == "open" and (isinstance(arguments[0], int) or str(arguments[0]) == str(path))
        if event != "builtins.id" and not is_own:
            events.add(f"{event}{arguments}"[:200])

    sys.addaudithook(note)
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for index in range(number):
        in_pickle = data.startswith(b"PK") and index % 2
        path.write_bytes(with_mutated_pickle(data, chance) if in_pickle else mutated(data, chance))
        start = time.perf_counter()
        outcomes[outcome(path)] += 1
        slowest = max(slowest, time.perf_counter() - start)
    print(json.dumps({"outcomes": outcomes, "slowest": slowest, "events": sorted(events)}))


if __name__ == "__main__":
    main()
