"""The forms of exported files, by their suffix: how each is read, and what runs it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from numpy.typing import NDArray

from detseg.config import load_entry
from detseg.files import read_bytes, read_text
from detseg.runtime.onnx.file import KEY, OnnxFileError, read_onnx_file
from detseg.runtime.onnx.openvino import OpenVinoSession
from detseg.runtime.onnx.prelu import with_convolutions_for_prelu
from detseg.runtime.onnx.providers import CPU, Provider, names_of
from detseg.runtime.onnx.session import OnnxSession

FORMS: dict[str, str] = {
    ".onnx": "detseg.runtime.onnx.forms:OnnxForm",
    ".xml": "detseg.runtime.onnx.forms:OpenVinoForm",
    ".param": "detseg.runtime.onnx.ncnn:NcnnForm",
}
"""Each suffix with the class that reads such files."""


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
    properties: Mapping[str, str]
    """What its writer says of it."""
    digest: bytes

    def __init__(self, path: Path) -> None:
        """Read it. Raises OnnxFileError: it is missing, damaged or refused."""

    def open(self, num_threads: int, providers: Sequence[Provider] | None, precision: str | None) -> Session:
        """The network, ready; ``precision``: None for what is usual for such files.

        Raises:
            OnnxFileError: it cannot be run.
            ValueError: there is no such precision.
        """


def is_exported_name(path: Path) -> bool:
    """Whether the suffix of ``path`` is that of an exported file."""
    return path.suffix.lower() in FORMS


def read_form(path: Path) -> Form:
    """The file ``path`` in the form that its suffix says; one of another suffix is read as an ONNX file."""
    form: type[Form] = load_entry(FORMS, path.suffix.lower() if is_exported_name(path) else ".onnx")
    return form(path)


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


class OnnxForm:
    """An ``.onnx`` file."""

    runtime: ClassVar[str] = "onnxruntime"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content, self.properties = read_onnx_file(path)
        self.digest = digest_of(self._content)

    def open(self, num_threads: int, providers: Sequence[Provider] | None, precision: str | None) -> Session:
        """In ONNX Runtime, or with a ``precision`` in OpenVINO."""
        if precision is not None:
            return OpenVinoSession(self._path, self._content, num_threads, precision)
        content = self._content
        if KEY in self.properties and names_of(providers or (CPU,)) == [CPU]:
            content = with_convolutions_for_prelu(content)
        return OnnxSession(self._path, content, num_threads, providers)


class OpenVinoForm:
    """An ``.xml`` file of OpenVINO, with its weights in a ``.bin`` file beside it."""

    runtime: ClassVar[str] = "openvino"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts = read_parts(path, path.with_suffix(".bin"))
        self.properties: Mapping[str, str] = read_properties(path)
        self.digest = digest_of(*self._parts)

    def open(self, num_threads: int, providers: Sequence[Provider] | None, precision: str | None) -> Session:
        """In OpenVINO, in fp32 unless another ``precision`` is asked for."""
        return OpenVinoSession(self._path, self._parts, num_threads, precision or "fp32")
