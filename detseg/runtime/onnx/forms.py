"""The forms of exported files, by their suffix: how each is read, and what runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from detseg.config import load_entry
from detseg.runtime.onnx.file import KEY, OnnxFileError, read_onnx_file
from detseg.runtime.onnx.form import Form, Session, digest_of, read_parts, read_properties
from detseg.runtime.onnx.openvino import OpenVinoSession
from detseg.runtime.onnx.prelu import with_convolutions_for_prelu
from detseg.runtime.onnx.providers import CPU, Provider, names_of
from detseg.runtime.onnx.session import OnnxSession
from detseg.runtime.onnx.trial import require_survivor

FORMS: dict[str, str] = {
    ".onnx": "detseg.runtime.onnx.forms:OnnxForm",
    ".xml": "detseg.runtime.onnx.forms:OpenVinoForm",
    ".param": "detseg.runtime.onnx.ncnn:NcnnForm",
    ".engine": "detseg.runtime.onnx.tensorrt:TensorRtForm",
}
"""Each suffix with the class that reads such files."""


def is_exported_name(path: Path) -> bool:
    """Whether the suffix of ``path`` is that of an exported file."""
    return path.suffix.lower() in FORMS


def read_form(path: Path) -> Form:
    """The file ``path`` in the form that its suffix says; one of another suffix is read as an ONNX file."""
    form: type[Form] = load_entry(FORMS, path.suffix.lower() if is_exported_name(path) else ".onnx")
    return form(path)


def is_exported_file(path: Path) -> bool:
    """Whether the file ``path`` is one that ``detseg export`` wrote."""
    try:
        return is_exported_name(path) and KEY in read_form(path).properties
    except OnnxFileError:
        return False


class OnnxForm:
    """An ``.onnx`` file."""

    runtime: ClassVar[str] = "onnxruntime"
    runs_several: ClassVar[bool] = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content, self.properties = read_onnx_file(path)
        self.digest = digest_of(self._content)

    def open(
        self, num_threads: int, providers: Sequence[Provider] | None, precision: str | None, num_streams: int = 1
    ) -> Session:
        """In ONNX Runtime, where each thread that comes is a stream, or with a ``precision`` in OpenVINO."""
        if precision is not None:
            return OpenVinoSession(self._path, self._content, num_threads, precision, num_streams)
        content = self._content
        if KEY not in self.properties:
            require_survivor(self._path, content, self.digest)
        elif names_of(providers or (CPU,)) == [CPU]:
            content = with_convolutions_for_prelu(content)
        return OnnxSession(self._path, content, num_threads, providers)


class OpenVinoForm:
    """An ``.xml`` file of OpenVINO, with its weights in a ``.bin`` file beside it."""

    runtime: ClassVar[str] = "openvino"
    runs_several: ClassVar[bool] = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts = read_parts(path, path.with_suffix(".bin"))
        self.properties: Mapping[str, str] = read_properties(path)
        self.digest = digest_of(*self._parts)

    def open(
        self, num_threads: int, providers: Sequence[Provider] | None, precision: str | None, num_streams: int = 1
    ) -> Session:
        """In OpenVINO, in fp32 unless another ``precision`` is asked for."""
        return OpenVinoSession(self._path, self._parts, num_threads, precision or "fp32", num_streams)
