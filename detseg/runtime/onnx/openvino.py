"""OpenVINO in the place of ONNX Runtime: the same files, faster on some processors, and bfloat16 where they have it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.runtime.foreign.recognize import Value
from detseg.runtime.onnx.file import OnnxFileError

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
"""Of the arithmetic, and what OpenVINO calls them."""
_TYPES = {"f32": "tensor(float)", "f16": "tensor(float16)"}


class OpenVinoSession:
    """The network in ``content``, an ONNX file or the two parts of OpenVINO's own, from ``path``, for ``num_streams``
    batches at the same time, each on ``num_threads`` cores of the CPU; threads may share it, and more of them than
    there are streams wait. See :class:`detseg.runtime.onnx.form.Session`.

    Unlike in ONNX Runtime, memory and time have no limit.

    Raises:
        OnnxFileError: OpenVINO cannot run it.
        ValueError: there is no such ``precision``, or the processor does not have it.
        ModuleNotFoundError: OpenVINO is not installed.
    """

    def __init__(
        self, path: Path, content: bytes | Sequence[bytes], num_threads: int, precision: str, num_streams: int = 1
    ) -> None:
        openvino = import_openvino()
        core = openvino.Core()
        require_precision(core, precision)
        settings = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": num_threads * num_streams,
            "PERFORMANCE_HINT": "LATENCY" if num_streams == 1 else "THROUGHPUT",
            "NUM_STREAMS": num_streams,
            # Every network, also of other processes, would be bound to the same first cores, however busy they are.
            "ENABLE_CPU_PINNING": False,
        }
        self._path = path
        self._version = openvino.__version__
        try:
            read = core.read_model(content) if isinstance(content, bytes) else core.read_model(*content)
            # As in the file: a node that does nothing, such as a Pad by 0, leaves its name to the input when it goes.
            self._inputs = [value for one in read.inputs for value in _values(one)]
            self._network = core.compile_model(read, "CPU", settings)
        except RuntimeError as error:
            raise OnnxFileError(f"{path}: OpenVINO {self._version} cannot run it: {_reason(error)}") from error
        self._of_thread = threading.local()

    @property
    def num_streams(self) -> int:
        """How many batches OpenVINO runs at the same time."""
        return int(self._network.get_property("NUM_STREAMS"))

    def get_inputs(self) -> list[Value]:
        """The inputs, as ONNX Runtime tells them."""
        return self._inputs

    def get_outputs(self) -> list[Value]:
        """The outputs, each by all of its names."""
        return [value for one in self._network.outputs for value in _values(one)]

    def run(self, names: Sequence[str], given: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs of these ``names``.

        Raises:
            OnnxFileError: OpenVINO fails.
        """
        request = getattr(self._of_thread, "request", None)
        if request is None:
            request = self._of_thread.request = self._network.create_infer_request()
        try:
            request.infer(dict(given), share_inputs=True)
            return [np.array(request.get_tensor(name).data) for name in names]
        except RuntimeError as error:
            shapes = ", ".join("x".join(map(str, one.shape)) for one in given.values())
            raise OnnxFileError(
                f"{self._path}: OpenVINO {self._version} failed on a batch of {shapes}: {_reason(error)}"
            ) from error


def import_openvino() -> Any:
    """OpenVINO, imported when it is first used.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--runtime openvino needs OpenVINO, which is not installed: pip install 'detseg[openvino]'"
        ) from error
    return openvino


def precisions_here(core: Any = None) -> list[str]:
    """Those that this processor computes in."""
    has = (core or import_openvino().Core()).get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [one for one in PRECISIONS if one.upper() in has]


def require_precision(core: Any, precision: str) -> None:
    """Raise ValueError unless the processor computes in ``precision``."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be {' or '.join(PRECISIONS)} for .onnx files in OpenVINO, got {precision}")
    if precision not in precisions_here(core):
        raise ValueError(f"this processor does not compute in {precision}; leave it out, for fp32")


def _values(port: Any) -> list[Value]:
    shape = [side.get_length() if side.is_static else None for side in port.get_partial_shape()]
    kind = port.get_element_type().get_type_name()
    return [Value(name, _TYPES.get(kind, f"tensor({kind})"), shape) for name in sorted(port.get_names())]


def _reason(error: Exception) -> str:
    """The last line, which says what is wrong; those before are places in OpenVINO's source."""
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1]
