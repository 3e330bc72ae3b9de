"""An exported model in ONNX Runtime: the file is checked, then run as it says of itself."""

from __future__ import annotations

import ctypes
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
from detseg.runtime.onnx.cores import num_physical_cores, require_threads
from detseg.runtime.onnx.file import KEY, OnnxFileError, parse_metadata
from detseg.runtime.onnx.forking import fork_guard, tell_of_forks
from detseg.runtime.onnx.form import Session
from detseg.runtime.onnx.forms import read_form
from detseg.runtime.onnx.providers import CPU, Provider, names_of


class OnnxModel:
    """The network of an ``.onnx`` file that ``detseg export`` wrote, or of another one that is recognized, see
    :mod:`detseg.runtime.foreign`; of such a file ``foreign`` says what the user knows, ``size`` the height and width of
    the input that it is tried with, and ``metadata`` what has been recognized already.

    ``num_threads``: how many cores a run uses, all physical ones of this process where it is None; ``num_streams``: how
    many runs of different threads there may be at a time without one waiting for another. ``providers``: where
    it runs, in the order of preference, by ONNX Runtime's names, with options; on the CPU where it is None.
    ``metadata`` is what the file says of itself. What a file can make of memory and time has limits, see
    :mod:`detseg.runtime.onnx.limits`. With a ``precision``, ``fp32`` or ``bf16``, OpenVINO runs it on the CPU, without
    limits; then ``metadata`` must be given for a file of others. Files of other forms, see
    :mod:`detseg.runtime.onnx.forms`, run in what they are made for.

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
        num_streams: int = 1,
    ) -> None:
        if num_threads is not None:
            require_threads(num_threads)
        self.path = Path(path)
        form = read_form(self.path)
        properties = form.properties
        self.is_foreign = KEY not in properties
        if not self.is_foreign:
            _require_nothing_said(foreign, self.path)
            metadata = parse_metadata(properties, self.path)
        self.num_threads = num_threads or num_physical_cores()
        self.runs_on_cpu = names_of(providers or (CPU,)) == [CPU]
        self.runs_several = form.runs_several
        self._providers = providers
        self._num_streams = num_streams
        self._precision = precision
        self.digest = form.digest
        self.runtime = form.runtime if precision is None else "openvino"
        self.precision = precision or "fp32"
        self._session: Session | None = form.open(self.num_threads, providers, precision, num_streams)
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

    def with_threads(self, num_threads: int, num_streams: int = 1) -> OnnxModel:
        """The same network on ``num_threads`` cores for each of ``num_streams`` runs at a time.

        Raises:
            OnnxFileError: the file is not there any more, or another one.
        """
        known = self.metadata if self.is_foreign else None
        other = OnnxModel(
            self.path,
            num_threads,
            self._providers,
            metadata=known,
            precision=self._precision,
            num_streams=num_streams,
        )
        self._require_same(other.digest)
        return other

    def in_openvino(self, precision: str) -> OnnxModel:
        """The same network in OpenVINO, in this ``precision``.

        Raises:
            OnnxFileError: the file is not there any more, or OpenVINO cannot run it.
            ValueError: there is no such precision.
            ModuleNotFoundError: OpenVINO is not installed.
        """
        return OnnxModel(self.path, self.num_threads, metadata=self.metadata, precision=precision)

    def require_form_for(self, runtime: str) -> None:
        """Raise ValueError unless ``runtime`` can run files of this form."""
        if runtime != self.runtime and self.path.suffix.lower() != ".onnx":
            raise ValueError(f"{self.path}: is run by {self.runtime} alone; --runtime {runtime} is for .onnx files")

    def after_fork(self) -> None:
        """In the child: leave a session that cannot be used there."""
        self._opening = threading.Lock()
        has_threads = self.num_threads > 1 or not self.runs_on_cpu or self.runtime != "onnxruntime"
        if self._session is not None and (has_threads or self._num_running):
            _keep_for_ever(self._session)
            self._session = None
        self._num_running = 0

    def _run_at_once(self, inputs: FloatArray) -> Outputs:
        with self._in_use() as session:
            found = session.run(self.output_names, {self.input_name: np.ascontiguousarray(inputs, self._dtype)})
        outputs = zip(self.output_names, found, strict=True)
        return {name: one.astype(np.float32) if one.dtype == np.float16 else one for name, one in outputs}

    @contextmanager
    def _in_use(self) -> Iterator[Session]:
        """The session, counted as running, so that a fork meanwhile is noticed in the child."""
        with self._opening:
            if self._session is None:
                if not self.runs_on_cpu:
                    raise RuntimeError(
                        f"{self.path}: a model on a GPU cannot be used in a process that was forked after it was "
                        "loaded: load it after the fork, or start processes with the method spawn or forkserver"
                    )
                form = read_form(self.path)
                self._require_same(form.digest)
                self._session = form.open(self.num_threads, self._providers, self._precision, self._num_streams)
            session = self._session
        with fork_guard:
            self._num_running += 1
        try:
            yield session
        finally:
            with fork_guard:
                self._num_running -= 1

    def _require_same(self, digest: bytes) -> None:
        if digest != self.digest:
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
        assert self._session is not None
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
        assert self._session is not None
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
