"""Engines of TensorRT: ``.engine`` files for the NVIDIA GPU of the machine that built them."""

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
from detseg.runtime.onnx.providers import Provider

_TYPES = {"float32": "tensor(float)", "float16": "tensor(float16)"}


class TensorRtForm:
    """See :class:`detseg.runtime.onnx.form.Form`."""

    runtime: ClassVar[str] = "tensorrt"
    runs_several: ClassVar[bool] = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self.properties: Mapping[str, str] = read_properties(path)
        (self._content,) = read_parts(path)
        self.digest = digest_of(self._content)

    def open(
        self, num_threads: int, providers: Sequence[Provider] | None, precision: str | None, num_streams: int = 1
    ) -> Session:
        """On the first GPU, in the precision that it was built for."""
        if precision not in (None, "fp32"):
            raise ValueError(f"{self._path}: an engine has its own precision; leave {precision} out")
        return TensorRtSession(self._path, self._content)


class TensorRtSession:
    """The engine ``content`` of ``path``; threads take turns.

    Raises:
        OnnxFileError: it was built for another GPU, driver or version.
        ModuleNotFoundError: TensorRT is not installed.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        try:
            import tensorrt
            from cuda.bindings import runtime as cuda
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                ".engine files need TensorRT and NVIDIA's bindings of CUDA, which are not installed: pip install "
                "tensorrt cuda-bindings"
            ) from error
        self._path, self._cuda = path, cuda
        self._lock = threading.Lock()
        self._engine = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR)).deserialize_cuda_engine(content)
        if self._engine is None:
            raise OnnxFileError(f"{path}: TensorRT {tensorrt.__version__} cannot use it here; build it on this machine")
        self._context = self._engine.create_execution_context()
        self._values: dict[str, tuple[bool, tuple[int, ...], Any]] = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            is_input = self._engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT
            kind = np.dtype(tensorrt.nptype(self._engine.get_tensor_dtype(name)))
            self._values[name] = is_input, tuple(self._engine.get_tensor_shape(name)), kind
        self._memory = {
            name: self._checked(cuda.cudaMalloc(int(np.prod(shape)) * kind.itemsize))
            for name, (_, shape, kind) in self._values.items()
        }
        for name, address in self._memory.items():
            self._context.set_tensor_address(name, int(address))

    def get_inputs(self) -> list[Value]:
        """The inputs, of fixed sides."""
        return self._described(of_inputs=True)

    def get_outputs(self) -> list[Value]:
        """The outputs."""
        return self._described(of_inputs=False)

    def run(self, names: Sequence[str], given: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs of these ``names``.

        Raises:
            OnnxFileError: TensorRT or the GPU fails.
        """
        cuda, kinds = self._cuda, self._cuda.cudaMemcpyKind
        with self._lock:
            for name, value in given.items():
                to_device = kinds.cudaMemcpyHostToDevice
                self._checked(cuda.cudaMemcpy(self._memory[name], value.ctypes.data, value.nbytes, to_device))
            if not self._context.execute_async_v3(0):
                raise OnnxFileError(f"{self._path}: TensorRT failed on a batch")
            self._checked(cuda.cudaStreamSynchronize(0))
            found = []
            for name in names:
                _, shape, kind = self._values[name]
                array = np.empty(shape, kind)
                to_host = kinds.cudaMemcpyDeviceToHost
                self._checked(cuda.cudaMemcpy(array.ctypes.data, self._memory[name], array.nbytes, to_host))
                found.append(array)
            return found

    def _described(self, *, of_inputs: bool) -> list[Value]:
        return [
            Value(name, _TYPES.get(kind.name, f"tensor({kind.name})"), shape)
            for name, (is_input, shape, kind) in self._values.items()
            if is_input == of_inputs
        ]

    def _checked(self, answer: Any) -> Any:
        """What a function of CUDA gave beside its error code."""
        code, *rest = answer
        if int(code):
            raise OnnxFileError(f"{self._path}: the GPU failed: {code}")
        return rest[0] if rest else None
