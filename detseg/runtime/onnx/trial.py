"""Files of other programs are loaded and run in a process of their own first: some graphs end the process that ONNX
Runtime loads them in, without an error that anybody could catch."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from detseg.runtime.foreign.recognize import FLOATS
from detseg.runtime.onnx.file import OnnxFileError
from detseg.runtime.onnx.session import OnnxSession, import_onnxruntime

_PROGRAM = "import sys; sys.path[:] = {path!r}; from detseg.runtime.onnx.trial import run; run()"
_FREE_SIDE = 64
_survived: set[bytes] = set()


def require_survivor(path: Path, content: bytes, digest: bytes) -> None:
    """Load ``content``, the file ``path``, in another process, and run it there on zeros. What has survived that once,
    told by its ``digest``, is not tried again. Errors do not count: they come again where they can be told.

    Raises:
        OnnxFileError: that process ended.
    """
    # A frozen program would run itself.
    if digest in _survived or not sys.executable or getattr(sys, "frozen", False):
        return
    command = [sys.executable, "-c", _PROGRAM.format(path=sys.path)]
    ended = subprocess.run(
        command, input=content, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    ).returncode
    if ended:
        how = signal.Signals(-ended).name if ended < 0 else f"with the code {ended}"
        raise OnnxFileError(
            f"{path}: ONNX Runtime {import_onnxruntime().__version__} does not survive it: the process that tried it "
            f"ended {how if ended > 0 else f'by {how}'}; the graph is damaged, or asks for more memory than there is"
        )
    _survived.add(digest)


def run() -> None:
    """The other process: the network on standard input, once on zeros."""
    try:
        session = OnnxSession(Path("-"), sys.stdin.buffer.read(), 1, None)
        names = [one.name for one in session.get_outputs()]
        session.run(names, {one.name: _zeros(one) for one in session.get_inputs()})
    except (OnnxFileError, ValueError, KeyError):
        pass  # told by who loads it next


def _zeros(value: Any) -> Any:
    first, *others = value.shape
    sides = [1 if not isinstance(first, int) or first < 1 else first]
    sides += [side if isinstance(side, int) and side > 0 else _FREE_SIDE for side in others]
    return np.zeros(sides, FLOATS[value.type])
