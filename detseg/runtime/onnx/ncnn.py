"""Networks in ncnn, which phones and small boards run: ``.param`` files with their weights in ``.bin`` beside them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from detseg.runtime.foreign.recognize import Value
from detseg.runtime.onnx.file import OnnxFileError
from detseg.runtime.onnx.form import Session, digest_of, read_parts, read_properties
from detseg.runtime.onnx.providers import CPU, Provider, names_of

INPUT = "ncnn"
"""The property that names the input, its sides and the outputs."""


class NcnnForm:
    """See :class:`detseg.runtime.onnx.form.Form`."""

    runtime: ClassVar[str] = "ncnn"
    runs_several: ClassVar[bool] = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self.properties: Mapping[str, str] = read_properties(path)
        self.digest = digest_of(*read_parts(path, path.with_suffix(".bin")))

    def open(
        self, num_threads: int, providers: Sequence[Provider] | None, precision: str | None, num_streams: int = 1
    ) -> Session:
        """On the CPU, in fp32."""
        if precision not in (None, "fp32") or names_of(providers or (CPU,)) != [CPU]:
            raise ValueError(f"{self._path}: ncnn runs on the CPU in fp32 here; leave device and precision out")
        return NcnnSession(self._path, self.properties.get(INPUT, ""), num_threads)


class NcnnSession:
    """The network in ``path``; ``interface``: its input, with sides, and outputs, as the exporter noted them. Threads
    take turns.

    Raises:
        OnnxFileError: ncnn cannot read it.
        ModuleNotFoundError: ncnn is not installed.
    """

    def __init__(self, path: Path, interface: str, num_threads: int) -> None:
        ncnn = import_ncnn()
        words = interface.split(",")
        if len(words) < 6 or not all(word.isdigit() for word in words[1:5]):
            raise OnnxFileError(f"{path}: the file beside it does not say what it takes and gives; export it again")
        self._path, self._ncnn = path, ncnn
        self._lock = threading.Lock()
        self._input, self._sides, self._outputs = words[0], [int(word) for word in words[1:5]], words[5:]
        self._network = ncnn.Net()
        self._network.opt.num_threads = num_threads
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(self._network.opt, name, False)  # never less exact than asked for
        if self._network.load_param(str(path)) or self._network.load_model(str(path.with_suffix(".bin"))):
            raise OnnxFileError(f"{path}: ncnn {ncnn.__version__} cannot read it; export it again")
        if len(self._network.output_names()) != len(self._outputs):
            raise OnnxFileError(f"{path}: has {len(self._network.output_names())} outputs, not {len(self._outputs)}")

    def get_inputs(self) -> list[Value]:
        """The input, of fixed sides."""
        return [Value(self._input, "tensor(float)", self._sides)]

    def get_outputs(self) -> list[Value]:
        """The outputs, by the names that they had before ncnn numbered them."""
        return [Value(name, "tensor(float)", ()) for name in self._outputs]

    def run(self, names: Sequence[str], given: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs of these ``names``.

        Raises:
            OnnxFileError: ncnn fails.
        """
        (inputs,) = given.values()
        with self._lock:
            found = [self._run_one(one) for one in inputs]
        return [np.stack([one[self._outputs.index(name)] for one in found]) for name in names]

    def _run_one(self, image: NDArray[Any]) -> list[NDArray[Any]]:
        with self._network.create_extractor() as extractor:
            (name,) = self._network.input_names()
            extractor.input(name, self._ncnn.Mat(np.ascontiguousarray(image, np.float32)).clone())
            found = []
            for output in self._network.output_names():
                failed, mat = extractor.extract(output)
                if failed:
                    raise OnnxFileError(f"{self._path}: ncnn {self._ncnn.__version__} failed on {image.shape}")
                found.append(np.array(mat))
            return found


def import_ncnn() -> Any:
    """ncnn, imported when it is first used.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import ncnn
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            ".param files need ncnn, which is not installed: pip install 'detseg[ncnn]'"
        ) from error
    return ncnn
