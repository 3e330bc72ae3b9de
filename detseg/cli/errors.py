"""What the command line says in one line: mistakes of the user, and what the machine does not have or cannot do."""

from __future__ import annotations

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

EXTRAS: dict[str, tuple[str, ...]] = {
    "train": (
        "albumentations",
        "matplotlib",
        "msgspec",
        "PIL",
        "pycocotools",
        "safetensors",
        "tensorboard",
        "torch",
        "torchvision",
    ),
    "timm": ("timm",),
    "fast-eval": ("hotcoco",),
    "medical": ("monai", "nibabel", "scipy"),
    "medical-io": ("SimpleITK", "highdicom"),
    "export": ("onnx", "onnxscript"),
    "video": ("av",),
    "openvino": ("openvino",),
    "parquet": ("pyarrow",),
    "ray": ("ray", "pyarrow"),
    "serve": ("fastapi", "python_multipart", "uvicorn"),
}
"""By extra of detseg, as ``pip`` takes it, what it brings, as Python imports it."""
OPTIONS = {
    "allow_url": "--allow-url",
    "batch_size": "--batch-size",
    "full_input": "--full-input",
    "line_width": "--line-width",
    "max_bytes": "--max-bytes",
    "max_detections": "--max-det",
    "max_pixels": "--max-pixels",
    "nms_backend": "--nms-backend",
    "num_threads": "--threads",
    "num_workers": "--workers",
}
"""What names of arguments in Python are called on the command line, where that is something else."""
# Not in keys of configurations, such as train.batch_size, nor in names of files.
_ARGUMENT = re.compile(rf"(?<![\w./=-])({'|'.join(OPTIONS)})(?![\w./=-])")
_CONFIDENCE = re.compile(r"(?<= )confidence(?=,| must lie| cannot be changed)|(?<=no setting )confidence\b")
_WITH_TORCH = ("timm", "export")
_OF_MEMORY = re.compile(r"DefaultCPUAllocator|[Cc]annot allocate memory")
_OF_A_LINK = "Symlink loop from "
"""What Python up to 3.12 says where a path is resolved."""
_OF_NO_HOME = "Could not determine home directory"
_OF_A_DEVICE = re.compile(
    r"\b(CUDA|cuda|NVIDIA|cuDNN|CUDNN|cuBLAS|CUBLAS|Triton|MPS)\b|[Dd]evice string|not linked with"
)


def explain(error: Exception) -> str | None:
    """The line for ``error``; None where it is a fault of this program, for which its traceback is of use."""
    match error:
        case ImportError():
            return _explain_import(error)
        case BrokenPipeError():
            return "what it wrote to was closed before all was written"
        case OSError() if error.strerror and error.filename is not None:
            return f"{_path(error.filename)}: {error.strerror}"
        case FileNotFoundError() if error.filename is None and not _has_folder():
            return "the current folder is gone: change to one that is there"
        case UnicodeEncodeError() if error.encoding == sys.getfilesystemencoding() != "utf-8":
            lacking = error.object[error.start : error.end]
            return f"names of files are {error.encoding} here, which lacks {lacking!r}: set PYTHONUTF8=1"
        case ValueError() | OSError():
            return str(error)
        case MemoryError():
            return f"there is not enough memory: {str(error) or 'no more is given'}"
        case RuntimeError() | AssertionError():
            return _explain_machine(error)
    # ONNX Runtime's errors have no class of their own in common.
    return _first_line(error) if type(error).__module__.startswith("onnxruntime") else None


def in_options(line: str) -> str:
    """``line`` with the options of the command line in place of the arguments in Python that it names."""
    return _CONFIDENCE.sub("--conf", _ARGUMENT.sub(lambda match: OPTIONS[match[1]], line))


def leave_broken_output() -> None:
    """Give up on what standard output does not take, such as a pipe that nobody reads or a full disk: the interpreter
    tries once more when it ends, and would complain."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _has_folder() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def _path(name: str | bytes | int) -> str:
    return os.fsdecode(name) if isinstance(name, bytes) else str(name)


def _explain_import(error: ImportError) -> str | None:
    package = (error.name or "").partition(".")[0]
    if package == "detseg":
        return None
    extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
    if extra is None or not str(error).startswith("No module named"):
        return str(error)
    if extra in _WITH_TORCH and find_spec("torch") is None:
        extra = f"train,{extra}"
    return f"this needs {package}, which is not installed: pip install 'detseg[{extra}]'"


def _explain_machine(error: Exception) -> str | None:
    if _OF_MEMORY.search(_first_line(error)):
        return f"there is not enough memory: {_first_line(error)}"
    if str(error).startswith(_OF_A_LINK):
        return f"{str(error).removeprefix(_OF_A_LINK).strip()}: is a link that leads to itself"
    if str(error).startswith(_OF_NO_HOME):
        return "there is no home folder, which ~ stands for: set HOME"
    name, module = type(error).__name__, type(error).__module__
    if name == "OutOfMemoryError":
        return f"{_first_line(error)} Take fewer or smaller images at a time (--batch-size, --size; train.batch_size)"
    if module.startswith("detseg") or name == "AcceleratorError" or _OF_A_DEVICE.search(_first_line(error)):
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
