"""The fastest runtime for a file on this machine, by a short measurement."""

from __future__ import annotations

import json
import platform
import statistics
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from detseg.files import read_text, write_text
from detseg.runtime.onnx.model import OnnxModel
from detseg.runtime.onnx.openvino import PRECISIONS, precisions_here

RUNTIMES = ("auto", "onnxruntime", "openvino")
"""What may run an ``.onnx`` file; ``auto``: the fastest of the others."""
_EXACTNESS = ("fp32", "bf16")
"""The most exact first."""
_WARM = 2
_ROUNDS = 9
_SECONDS = 2.0
"""After so many no further round begins."""
_KEY = "fastest_runtimes"

Way = tuple[str, str]
"""A runtime and a precision."""


def ways(precision: str = "bf16") -> list[Way]:
    """The runtimes that are installed, each with the precisions of this processor that are as exact as ``precision``.

    Raises:
        ValueError: there is no such precision.
    """
    if precision not in _EXACTNESS:
        raise ValueError(f"precision must be {' or '.join(_EXACTNESS)} where a runtime is chosen, got {precision}")
    found = [("onnxruntime", "fp32")]
    if find_spec("openvino") is not None:
        allowed = _EXACTNESS[: _EXACTNESS.index(precision) + 1]
        found += [("openvino", one) for one in PRECISIONS if one in allowed and one in precisions_here()]
    return found


def in_other_ways(model: OnnxModel) -> list[OnnxModel]:
    """``model``, on the CPU, in all other runtimes and precisions that this machine has for it."""
    if model.path.suffix.lower() == ".onnx":
        return [model.in_openvino(precision) for runtime, precision in ways() if runtime == "openvino"]
    if model.runtime == "openvino":
        return [model.in_openvino(precision) for precision in precisions_here() if precision != model.precision]
    return []


def fastest(model: OnnxModel, precision: str, size: tuple[int, int] | None, cache: Path | None = None) -> OnnxModel:
    """``model``, an ``.onnx`` file in ONNX Runtime, or the same in OpenVINO, whichever is faster with noise of the
    size of the input. Nothing is less exact than ``precision``; on a GPU nothing is tried.

    ``cache``: a JSON file in which the choice is looked up, and noted, by the file, the input, the number of threads,
    the processor and the versions of the runtimes.

    Raises:
        ValueError: there is no such precision, or ``cache`` is another kind of file.
    """
    possible = ways(precision)
    if not model.runs_on_cpu or model.runtime != "onnxruntime" or model.path.suffix.lower() != ".onnx":
        return model
    shape = _shape(model, size)
    known = {} if cache is None else _read(cache)
    key = _key(model, shape, precision)
    noted = known.get(key)
    if isinstance(noted, dict) and (noted.get("runtime"), noted.get("precision")) in possible:
        runtime, chosen = str(noted["runtime"]), str(noted["precision"])
        return model if runtime == "onnxruntime" else model.in_openvino(chosen)
    models = [model if runtime == "onnxruntime" else model.in_openvino(one) for runtime, one in possible]
    seconds = _measure(models, shape)
    best = models[int(np.argmin(seconds))]
    if cache is not None:
        known[key] = {
            "runtime": best.runtime,
            "precision": best.precision,
            "ms": {f"{one.runtime} {one.precision}": 1000 * taken for one, taken in zip(models, seconds, strict=True)},
        }
        write_text(cache, json.dumps({_KEY: known}, indent=2) + "\n")
    return best


def _measure(models: list[OnnxModel], shape: tuple[int, ...]) -> list[float]:
    """The median seconds of each for one input; they take turns, so that what else the machine does hits all alike."""
    if len(models) == 1:
        return [0.0]
    inputs = np.random.default_rng(0).random(shape, np.float32)
    for _ in range(_WARM):
        for model in models:
            model.run(inputs)
    taken: list[list[float]] = [[] for _ in models]
    begin = time.perf_counter()
    for _ in range(_ROUNDS):
        for model, own in zip(models, taken, strict=True):
            start = time.perf_counter()
            model.run(inputs)
            own.append(time.perf_counter() - start)
        if time.perf_counter() - begin > _SECONDS:
            break
    return [statistics.median(own) for own in taken]


def _shape(model: OnnxModel, size: tuple[int, int] | None) -> tuple[int, ...]:
    """Of one input ``[1, C, *spatial]``."""
    metadata: Any = model.metadata
    spec = metadata.input
    if spec.one_size:
        usual = (3, *(size or (spec.height, spec.width)))
    else:
        usual = (spec.num_channels, *(metadata.postprocess.window or metadata.patch))
    fixed = model.input_sides[1:]
    return (1, *(own if side is None else side for side, own in zip(fixed, usual, strict=True)))


def _key(model: OnnxModel, shape: tuple[int, ...], precision: str) -> str:
    versions = "-".join(_version(name) for name in ("onnxruntime", "openvino"))
    sides = "x".join(map(str, shape))
    return f"{model.digest.hex()[:32]} {sides} {precision} {model.num_threads} threads {_processor()} {versions}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _processor() -> str:
    """Its name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = json.loads(read_text(path))[_KEY]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: is no file that --runtime-cache wrote; name another one") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: is no file that --runtime-cache wrote; name another one")
    return found
