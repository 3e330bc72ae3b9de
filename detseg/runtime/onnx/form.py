"""What a form of exported files is, and how files that lie beside each other are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from numpy.typing import NDArray

from detseg.files import read_bytes, read_text
from detseg.runtime.onnx.file import KEY, OnnxFileError
from detseg.runtime.onnx.providers import Provider


class Session(Protocol):
    """A network that is ready; threads may share it."""

    def get_inputs(self) -> Sequence[Any]:
        """The inputs: ``name``, ``type`` by ONNX Runtime's name, and ``shape``, in which fixed sides are numbers."""

    def get_outputs(self) -> Sequence[Any]:
        """The outputs."""

    def run(self, names: Sequence[str], given: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs of these ``names``.

        Raises:
            OnnxFileError: the network cannot be run on what is ``given``.
        """


class Form(Protocol):
    """A file, or several that belong together, as they were when they were read."""

    runtime: ClassVar[str]
    """What runs it where the user says nothing."""
    runs_several: ClassVar[bool]
    """Whether batches of several threads run at the same time; otherwise they take turns."""
    properties: Mapping[str, str]
    """What its writer says of it."""
    digest: bytes

    def __init__(self, path: Path) -> None:
        """Read it. Raises OnnxFileError: it is missing, damaged or refused."""

    def open(
        self, num_threads: int, providers: Sequence[Provider] | None, precision: str | None, num_streams: int = 1
    ) -> Session:
        """The network, ready for ``num_streams`` batches at the same time, each on ``num_threads`` cores;
        ``precision``: None for what is usual for such files.

        Raises:
            OnnxFileError: it cannot be run.
            ValueError: there is no such precision.
        """


def properties_path(path: Path) -> Path:
    """Where the properties of the exported file ``path`` stand, whose form has no room for them."""
    return path.with_name(f"{path.name}.json")


def read_properties(path: Path) -> dict[str, str]:
    """The properties of ``path``, from the file beside it.

    Raises:
        OnnxFileError: there is none, or it is damaged.
    """
    beside = properties_path(path)
    try:
        found = json.loads(read_text(beside))
    except OSError as error:
        raise OnnxFileError(
            f"{path}: needs {beside.name} beside it, which says what it is and cannot be read: {error.strerror}; "
            "`detseg export` writes both"
        ) from error
    except (ValueError, RecursionError) as error:
        raise OnnxFileError(f"{beside}: is no JSON: {error}; export the model again") from error
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()) or KEY not in found:
        raise OnnxFileError(f"{beside}: was not written by `detseg export`")
    return found


def read_parts(*paths: Path) -> list[bytes]:
    """The contents of ``paths``. Raises OnnxFileError: one of them cannot be read."""
    found = []
    for path in paths:
        try:
            found.append(read_bytes(path))
        except OSError as error:
            raise OnnxFileError(f"{path}: cannot be read: {error.strerror}") from error
    return found


def digest_of(*parts: bytes) -> bytes:
    """What tells contents apart."""
    found = hashlib.blake2b()
    for part in parts:
        found.update(hashlib.blake2b(part).digest())
    return found.digest()
