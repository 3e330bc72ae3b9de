"""What the command line says in one line: mistakes of the user, and what the machine does not have or cannot do."""

from __future__ import annotations

import os
import re
import sys
from importlib.util import find_spec

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
    "medical-io": ("SimpleITK",),
    "export": ("onnx", "onnxscript"),
    "video": ("av",),
    "openvino": ("openvino",),
    "serve": ("fastapi", "python_multipart", "uvicorn"),
}
"""By extra of detseg, as ``pip`` takes it, what it brings, as Python imports it."""
_WITH_TORCH = ("timm", "export")
_OF_MEMORY = re.compile(r"DefaultCPUAllocator|[Cc]annot allocate memory")
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
        case ValueError() | OSError():
            return str(error)
        case MemoryError():
            return f"there is not enough memory: {str(error) or 'no more is given'}"
        case RuntimeError() | AssertionError():
            return _explain_device(error)
    # ONNX Runtime's errors have no class of their own in common.
    return _first_line(error) if type(error).__module__.startswith("onnxruntime") else None


def leave_standard_output() -> None:
    """Give up on what could not be written: the interpreter tries once more when it ends, and would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


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


def _explain_device(error: Exception) -> str | None:
    if _OF_MEMORY.search(_first_line(error)):
        return f"there is not enough memory: {_first_line(error)}"
    name, module = type(error).__name__, type(error).__module__
    if name == "OutOfMemoryError":
        return f"{_first_line(error)} Take fewer or smaller images at a time (--batch-size, --size; train.batch_size)"
    if module.startswith("detseg") or name == "AcceleratorError" or _OF_A_DEVICE.search(_first_line(error)):
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
