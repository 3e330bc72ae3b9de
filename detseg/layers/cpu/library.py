"""The C++ in the folder ``native`` as a shared library: compiled when it is first needed, kept in the user's cache.

Its sources use nothing of PyTorch's, so that a compiler has done after seconds. One library serves all processes on
machines with the same processor, compiler and version of detseg's sources.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

from detseg.files import atomic_path, cache_folder

SOURCES = Path(__file__).parent / "native"
FLAGS = (
    "-std=c++17", "-O2", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC",
    "-Wno-psabi",
)  # fmt: skip
MAX_SECONDS = 600

SIGNATURES = {
    "norm_act_forward": "iipllpppdpppppdi",
    "norm_act_backward": "iippllpppppppppi",
    "taps_conv": "iplllllppi",
    "taps_conv_gradient": "ipplllllpi",
}
"""The arguments of the library's functions: ``p`` pointer, ``l`` int64, ``i`` int, ``d`` double."""

_C_TYPES: dict[str, Any] = {"p": ctypes.c_void_p, "l": ctypes.c_int64, "i": ctypes.c_int, "d": ctypes.c_double}


class NativeLibraryError(RuntimeError):
    """There is no compiler, or it cannot make the library."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The library, compiled now if no earlier process did; None, with a warning, where that is impossible."""
    try:
        kernels = ctypes.CDLL(str(compiled()))
    except (NativeLibraryError, OSError) as error:
        warnings.warn(
            f"training on this CPU takes PyTorch's own layers, which are slower: {error}; a C++ compiler with OpenMP "
            "(g++, or what CXX names) makes it faster, DETSEG_CPU_LAYERS=0 ends this notice",
            stacklevel=2,
        )
        return None
    for name, arguments in SIGNATURES.items():
        function = getattr(kernels, name)
        function.restype, function.argtypes = None, [_C_TYPES[letter] for letter in arguments]
    return kernels


def compiled() -> Path:
    """The file of the library, made now if it is not there.

    Raises:
        NativeLibraryError: it cannot be made.
        OSError: it cannot be kept.
    """
    compiler = os.environ.get("CXX") or "g++"
    if sys.platform != "linux":
        raise NativeLibraryError(f"the faster ones are for Linux, this is {sys.platform}")
    found = shutil.which(compiler)
    if found is None:
        raise NativeLibraryError(f"there is no compiler {compiler}")
    sources = sorted(SOURCES.glob("*.[ch]pp"))
    digest = hashlib.sha256()
    for part in (*FLAGS, _run([found, "--version"]), _processor(), *(source.read_text("utf-8") for source in sources)):
        digest.update(part.encode() + b"\0")
    path = cache_folder() / "native" / f"layers-{digest.hexdigest()[:20]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        units = [str(source) for source in sources if source.suffix == ".cpp"]
        with atomic_path(path) as partial:
            _run([found, *FLAGS, *units, "-o", str(partial)])
    return path


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(
            command, check=True, capture_output=True, encoding="utf-8", errors="replace", timeout=MAX_SECONDS
        ).stdout
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "error" in line] or error.stderr.splitlines() or ["?"]
        raise NativeLibraryError(f"{command[0]} failed: {lines[0]}") from error
    except subprocess.TimeoutExpired as error:
        raise NativeLibraryError(f"{command[0]} took more than {MAX_SECONDS} s") from error


def _processor() -> str:
    """What ``-march=native`` goes by."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "model name", "Features", "CPU"))}))
