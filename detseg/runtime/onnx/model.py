"""An exported model in ONNX Runtime: the file is checked, then run as it says of itself."""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from detseg.arrays import FloatArray
from detseg.config import ConfigError
from detseg.runtime.foreign.options import ForeignOptions
from detseg.runtime.foreign.recognize import FLOATS, Graph, Value, recognize
from detseg.runtime.kinds import load_kind
from detseg.runtime.kinds.base import Kind, Metadata, Outputs
from detseg.runtime.onnx.file import KEY, OnnxFileError, parse_metadata, read_onnx_file
from detseg.runtime.onnx.forking import fork_guard, tell_of_forks
from detseg.runtime.onnx.limits import (
    MAX_SECONDS,
    SILENT,
    UNFOLDED,
    limit_memory,
    limited_time,
)
from detseg.runtime.onnx.openvino import OpenVinoSession
from detseg.runtime.onnx.prelu import with_convolutions_for_prelu
from detseg.runtime.onnx.providers import CPU, Provider, checked_providers, names_of, require_providers

_ARENA_IS_FULL = re.compile(r"Available memory of (\d+) is smaller than requested bytes of (\d+)")
_TOPOLOGY = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"


class OnnxModel:
    """The network of an ``.onnx`` file that ``detseg export`` wrote, or of another one that is recognized, see
    :mod:`detseg.runtime.foreign`; of such a file ``foreign`` says what the user knows, ``size`` the height and width of
    the input that it is tried with, and ``metadata`` what has been recognized already.

    ``num_threads``: how many cores a run uses, all physical ones of this process where it is None. ``providers``: where
    it runs, in the order of preference, by ONNX Runtime's names, with options; on the CPU where it is None.
    ``metadata`` is what the file says of itself. What a file can make of memory and time has limits, see
    :mod:`detseg.runtime.onnx.limits`. With a ``precision``, ``fp32`` or ``bf16``, OpenVINO runs it on the CPU, without
    limits; then ``metadata`` must be given for a file of others.

    A model may be used by several threads at once. In a forked child it runs on: where ONNX Runtime has threads of its
    own, which no child has, or was in the middle of a run, the file is read once more when the child first uses it. A
    GPU cannot be used there.

    Raises:
        OnnxFileError: the file is missing or damaged, was written by a later detseg or is not recognized, needs other
            files, or ONNX Runtime cannot run it.
        ValueError: the number of threads is below 1, or a provider is not there.
        ModuleNotFoundError: ONNX Runtime is not installed.
    """

    def __init__(
        self,
        path: Path | str,
        num_threads: int | None = None,
        providers: Sequence[Provider] | None = None,
        *,
        foreign: ForeignOptions | None = None,
        size: tuple[int, int] | None = None,
        metadata: Metadata | None = None,
        precision: str | None = None,
    ) -> None:
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {num_threads}")
        self.path = Path(path)
        content, properties = read_onnx_file(self.path)
        self.is_foreign = KEY not in properties
        if not self.is_foreign:
            _require_nothing_said(foreign, self.path)
            metadata = parse_metadata(properties, self.path)
        self.num_threads = num_threads or num_physical_cores()
        self.runs_on_cpu = names_of(providers or (CPU,)) == [CPU]
        self._providers = providers
        self._precision = precision
        self._digest = _digest(content)
        self._session = self._make_session(content)
        self._num_running = 0
        self._opening = threading.Lock()
        tell_of_forks(self)
        self.metadata: Metadata = metadata or self._recognized(properties, foreign or ForeignOptions(), size)
        self.kind: Kind = load_kind(self.metadata.kind)
        self.output_names = self.metadata.output_names
        self.input_name = self.metadata.input_name
        self.input_sides = self._checked_interface()

    @property
    def batch_size(self) -> int | None:
        """How many images the file takes at a time; None where any number will do."""
        return self.input_sides[0]

    @property
    def has_free_sides(self) -> bool:
        """Whether inputs may be of any size."""
        return all(side is None for side in self.input_sides[2:])

    def run(self, inputs: FloatArray) -> Outputs:
        """``inputs`` ``[B, channels, *spatial]`` float32, normalized, through the network: its outputs by name, for any
        B. Where the file has a fixed batch they go through in portions, the last filled up with zeros.

        Raises:
            ValueError: the inputs are not float32, or have a size that the file does not take.
            OnnxFileError: ONNX Runtime cannot run the network on them, or not within the limits; or this process was
                forked, and the file is not the one any more that was loaded.
            RuntimeError: this process was forked, and the model is on a GPU.
        """
        self._check_inputs(inputs)
        if self.batch_size is None or len(inputs) == self.batch_size:
            return self._run_at_once(inputs)
        portions = [
            self._run_at_once(_filled_up(inputs[start : start + self.batch_size], self.batch_size))
            for start in range(0, len(inputs), self.batch_size)
        ]
        return {
            name: np.concatenate([portion[name] for portion in portions])[: len(inputs)] for name in self.output_names
        }

    def with_threads(self, num_threads: int) -> OnnxModel:
        """The same network on ``num_threads`` cores.

        Raises:
            OnnxFileError: the file is not there any more, or another one.
        """
        known = self.metadata if self.is_foreign else None
        other = OnnxModel(self.path, num_threads, self._providers, metadata=known, precision=self._precision)
        self._require_same(other._digest)
        return other

    def after_fork(self) -> None:
        """In the child: leave a session that cannot be used there."""
        self._opening = threading.Lock()
        has_threads = self.num_threads > 1 or not self.runs_on_cpu or self._precision is not None
        if self._session is not None and (has_threads or self._num_running):
            _keep_for_ever(self._session)
            self._session = None
        self._num_running = 0

    def _make_session(self, content: bytes) -> Any:
        if self._precision is None:
            if self.runs_on_cpu and not self.is_foreign:
                content = with_convolutions_for_prelu(content)
            return _make_session(self.path, content, self.num_threads, self._providers)
        return OpenVinoSession(self.path, content, self.num_threads, self._precision)

    def _run_at_once(self, inputs: FloatArray) -> Outputs:
        onnxruntime = import_onnxruntime()
        with self._in_use() as session, limited_time(onnxruntime) as options:
            try:
                given = {self.input_name: np.ascontiguousarray(inputs, self._dtype)}
                found = session.run(self.output_names, given, options)
            except _session_errors() as error:
                reason = _reason(error)
                if options.terminate:
                    reason = f"stopped after {MAX_SECONDS:g} s, which is the limit for one batch"
                raise OnnxFileError(
                    f"{self.path}: ONNX Runtime {onnxruntime.__version__} failed on a batch of "
                    f"{'x'.join(map(str, inputs.shape))}: {reason}"
                ) from error
        outputs = zip(self.output_names, found, strict=True)
        return {name: one.astype(np.float32) if one.dtype == np.float16 else one for name, one in outputs}

    @contextmanager
    def _in_use(self) -> Iterator[Any]:
        """The session, counted as running, so that a fork meanwhile is noticed in the child."""
        with self._opening:
            if self._session is None:
                if not self.runs_on_cpu:
                    raise RuntimeError(
                        f"{self.path}: a model on a GPU cannot be used in a process that was forked after it was "
                        "loaded: load it after the fork, or start processes with the method spawn or forkserver"
                    )
                content, _ = read_onnx_file(self.path)
                self._require_same(_digest(content))
                self._session = self._make_session(content)
            session = self._session
        with fork_guard:
            self._num_running += 1
        try:
            yield session
        finally:
            with fork_guard:
                self._num_running -= 1

    def _require_same(self, digest: bytes) -> None:
        if digest != self._digest:
            raise OnnxFileError(f"{self.path}: is not the file any more that was loaded; load it again")

    def require_shape(self, shape: Sequence[int]) -> None:
        """Raise ValueError unless one input may have this ``shape``, ``(channels, *spatial)``."""
        sides = self.input_sides[1:]
        if len(sides) != len(shape) or any(side not in (None, got) for side, got in zip(sides, shape, strict=True)):
            wanted = "x".join("N" if side is None else str(side) for side in sides)
            raise ValueError(f"{self.path}: takes inputs of shape {wanted}, got {'x'.join(map(str, shape))}")

    def _check_inputs(self, inputs: FloatArray) -> None:
        if inputs.dtype != np.float32 or len(inputs) == 0:
            raise ValueError(f"{self.path}: inputs must be float32, at least one, got {len(inputs)} of {inputs.dtype}")
        self.require_shape(inputs.shape[1:])

    def _recognized(
        self, properties: Mapping[str, str], foreign: ForeignOptions, size: tuple[int, int] | None
    ) -> Metadata:
        """What a foreign file is."""
        inputs = [Value(one.name, one.type, one.shape) for one in self._session.get_inputs()]
        self.output_names = tuple(one.name for one in self._session.get_outputs())
        self.input_name = inputs[0].name if inputs else ""
        self.input_sides = tuple(_fixed(side) for side in inputs[0].shape) if inputs else ()
        self._dtype = FLOATS.get(inputs[0].type, np.float32) if inputs else np.float32
        try:
            return recognize(Graph(self.path, properties, inputs, self.run), foreign.with_file_beside(self.path), size)
        except (OnnxFileError, ConfigError):
            raise
        except ValueError as error:
            raise OnnxFileError(f"{self.path}: {error}") from error

    def _checked_interface(self) -> tuple[int | None, ...]:
        """The sides of the input, None where they are free; raises OnnxFileError where the graph is not as it says."""
        inputs = {value.name: value for value in self._session.get_inputs()}
        names = {value.name for value in self._session.get_outputs()}
        missing = [name for name in self.output_names if name not in names]
        if missing or list(inputs) != [self.input_name]:
            raise OnnxFileError(
                f"{self.path}: a {self.metadata.form} {self.metadata.task} model has the input {self.input_name} and "
                f"the outputs {', '.join(self.output_names)}; this file has {', '.join(inputs)} and "
                f"{', '.join(sorted(names))}; export the model again"
            )
        value = inputs[self.input_name]
        num_sides = len(self.metadata.sides[self.input_name])
        types = tuple(FLOATS) if self.is_foreign else ("tensor(float)",)
        if value.type not in types or len(value.shape) != num_sides:
            raise OnnxFileError(
                f"{self.path}: the input {self.input_name} must be float32 with {num_sides} dimensions, it is "
                f"{value.type} with {len(value.shape)}; export the model again"
            )
        self._dtype = FLOATS[value.type]
        return tuple(_fixed(side) for side in value.shape)


def _fixed(side: Any) -> int | None:
    """The length of a ``side`` as ONNX Runtime tells it, None where it is free; some files say so by -1."""
    return side if isinstance(side, int) and side > 0 else None


def _require_nothing_said(foreign: ForeignOptions | None, path: Path) -> None:
    if foreign is not None and foreign.given:
        raise ValueError(
            f"{path}: was written by `detseg export` and says itself what it takes and gives: leave "
            f"{', '.join(foreign.given)} out"
        )


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content).digest()


def _keep_for_ever(session: Any) -> None:
    """Never destroy ``session``, not even when the interpreter ends: in a forked child that waits for threads which are
    not there, or crashes."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


def _filled_up(inputs: FloatArray, batch_size: int) -> FloatArray:
    if len(inputs) == batch_size:
        return inputs
    filled = np.zeros((batch_size, *inputs.shape[1:]), np.float32)
    filled[: len(inputs)] = inputs
    return filled


def _make_session(path: Path, content: bytes, num_threads: int, providers: Sequence[Provider] | None) -> Any:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = SILENT
    # A file can be one of its other format, too, which nobody has looked into.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    limit_memory(onnxruntime, options)
    # Threads that wait for the next run of the network would take the cores from those that read and write.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    chosen = checked_providers(onnxruntime, providers)
    try:
        made = onnxruntime.InferenceSession(content, options, providers=chosen, disabled_optimizers=list(UNFOLDED))
    except _session_errors() as error:
        raise OnnxFileError(
            f"{path}: ONNX Runtime {onnxruntime.__version__} cannot run it: {_reason(error)}"
        ) from error
    require_providers(made, chosen)
    return made


def _reason(error: Exception) -> str:
    """What ONNX Runtime says in the first line, without places in its own source."""
    lines = str(error).splitlines() or [type(error).__name__]
    needed = _ARENA_IS_FULL.search(str(error))
    if needed is None:
        return lines[0]
    return (
        f"it asks for {int(needed[2]) / 1e9:.3g} GB in one piece where {int(needed[1]) / 1e9:.3g} GB are left of what "
        "networks may take; use a smaller batch or input, if the file is not to blame"
    )


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


def _session_errors() -> tuple[type[Exception], ...]:
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


def num_physical_cores(topology: Path = _TOPOLOGY, quota: Path = _QUOTA) -> int:
    """The physical cores that this process may use: those of its affinity, and no more than a container is granted.

    Two hardware threads of a core share its arithmetic units, so that a second one adds nothing to dense work. Where
    the system does not tell, every processor counts as a core.
    """
    processors = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_read(topology / f"cpu{number}/topology/thread_siblings_list") or str(number) for number in processors}
    return max(1, min(len(cores), _granted(quota)))


def _granted(quota: Path) -> int:
    """The processors that the control group grants, rounded up; as many as there are where it sets no limit."""
    limit, _, period = _read(quota).partition(" ")
    if not (limit.isdigit() and period.isdigit() and int(period) > 0):
        return os.cpu_count() or 1
    return math.ceil(int(limit) / int(period))


def _read(path: Path) -> str:
    """The line in ``path``, "" where there is none: outside Linux, and in some containers."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
