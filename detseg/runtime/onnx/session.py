"""ONNX Runtime: how it is imported, told its limits, and what it raises."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from detseg.runtime.onnx.file import OnnxFileError
from detseg.runtime.onnx.limits import MAX_SECONDS, SILENT, UNFOLDED, limit_memory, limited_time
from detseg.runtime.onnx.providers import Provider, checked_providers, require_providers

_ARENA_IS_FULL = re.compile(r"Available memory of (\d+) is smaller than requested bytes of (\d+)")
_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"


class OnnxSession:
    """The network in ``content``, the file ``path``, on ``num_threads`` cores, or where the ``providers`` say, in
    silence and within the limits of :mod:`detseg.runtime.onnx.limits`. Threads may share it.

    Raises:
        OnnxFileError: ONNX Runtime cannot run it.
        ProviderError: it cannot run where it is asked to.
    """

    def __init__(self, path: Path, content: bytes, num_threads: int, providers: Sequence[Provider] | None) -> None:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = SILENT
        # A file can be one of its other format, too, which nobody has looked into.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        limit_memory(onnxruntime, options)
        # Which values may share memory is known once their sizes are, and the arena sees to it; looking for that among
        # values of free sizes finds next to nothing, and takes three quarters of the time of loading a deep network.
        options.enable_mem_reuse = False
        # Threads that wait for the next run of the network would take the cores from those that read and write.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        chosen = checked_providers(onnxruntime, providers)
        self._path = path
        self._onnxruntime = onnxruntime
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=chosen, disabled_optimizers=list(UNFOLDED)
            )
        except session_errors() as error:
            raise OnnxFileError(
                f"{path}: ONNX Runtime {onnxruntime.__version__} cannot run it: {reason_of(error)}"
            ) from error
        require_providers(self._session, chosen)

    def get_inputs(self) -> Sequence[Any]:
        """The inputs, each with its name, its type, and its sides where these are fixed."""
        found: Sequence[Any] = self._session.get_inputs()
        return found

    def get_outputs(self) -> Sequence[Any]:
        """The outputs."""
        found: Sequence[Any] = self._session.get_outputs()
        return found

    def run(self, names: Sequence[str], given: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs of these ``names``.

        Raises:
            OnnxFileError: ONNX Runtime fails, or takes too long.
        """
        with limited_time(self._onnxruntime) as options:
            try:
                found: list[NDArray[Any]] = self._session.run(list(names), dict(given), options)
            except session_errors() as error:
                reason = reason_of(error)
                if options.terminate:
                    reason = f"stopped after {MAX_SECONDS:g} s, which is the limit for one batch"
                shapes = ", ".join("x".join(map(str, one.shape)) for one in given.values())
                raise OnnxFileError(
                    f"{self._path}: ONNX Runtime {self._onnxruntime.__version__} failed on a batch of {shapes}: "
                    f"{reason}"
                ) from error
        return found


def import_onnxruntime() -> Any:
    """ONNX Runtime, imported when it is first used, without its telemetry unless the environment says otherwise.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    # It must be said before the import. The thread that reports to its makers also keeps forked children from ending.
    os.environ.setdefault(_NO_TELEMETRY, "1")
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "running .onnx files needs ONNX Runtime, which is not installed: pip install onnxruntime"
        ) from error
    return onnxruntime


def session_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for a model that it cannot load or run; its errors have no common class of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        MemoryError,
        state.EPFail,
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NotImplemented,
        state.RuntimeException,
    )


def reason_of(error: Exception) -> str:
    """What ONNX Runtime says in the first line, without places in its own source."""
    lines = str(error).splitlines() or [type(error).__name__]
    needed = _ARENA_IS_FULL.search(str(error))
    if needed is None:
        return lines[0]
    return (
        f"it asks for {int(needed[2]) / 1e9:.3g} GB in one piece where {int(needed[1]) / 1e9:.3g} GB are left of what "
        "networks may take; use a smaller batch or input, if the file is not to blame"
    )
