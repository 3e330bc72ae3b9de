"""The verb ``bench``: how fast a model is on this machine in each runtime and precision, and how good."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from detseg.arrays import ByteArray
from detseg.config import load_entry
from detseg.files import printable
from detseg.runtime.exported import load_onnx
from detseg.runtime.media.images import read_image
from detseg.runtime.model import Model
from detseg.runtime.onnx.choice import RUNTIMES, Way, ways
from detseg.runtime.onnx.form import Form
from detseg.runtime.onnx.forms import FORMS, is_exported_name
from detseg.runtime.onnx.openvino import precisions_here
from detseg.runtime.sources.finding import expand_sources

Quality = Callable[[str, str], tuple[str, float]]
"""The name of the main metric and its value, of a runtime and a precision."""

_MAX_IMAGES = 32
_WARM = 3
_ROUNDS = 5


def bench_command(
    path: Path,
    *,
    samples: Sequence[str] = (),
    num_threads: int | None = None,
    size: tuple[int, int] | None = None,
    seconds: float = 2.0,
    quality: Quality | None = None,
) -> int:
    """``detseg bench``: a table with a row for each runtime and precision in which this machine runs the exported file
    ``path``; ``fp32`` of a file in half precision or int8 is the precision of what surrounds that.

    ``load s``: from the file to the first result. ``ms``: median from an image in memory to its result, one at a
    time; ``images/s``: images that come in a row; both measured for ``seconds`` in turns, so that what else the
    machine does falls on all rows alike. ``MB``: what the process takes more after loading. ``samples`` are files or
    folders, of which up to 32 are used; without them a gray one of the input's size is. ``quality`` measures the last
    column.

    Returns 0.

    Raises:
        ValueError: the file is no exported file that can be run, or not for images.
    """
    if not is_exported_name(path):
        raise ValueError(
            f"{printable(path)}: only {', '.join(FORMS)} files are measured; make one with `detseg export`"
        )
    rows: list[_Row] = []
    images: list[ByteArray] = []
    for runtime, precision in _ways(path):
        before, begin = _memory_mb(), time.perf_counter()
        named = runtime if runtime in RUNTIMES else None
        model = load_onnx(path, "cpu", precision, num_threads, size, None, {}, runtime=named)
        if not model.runner.spec.one_size:
            raise ValueError(f"only models of images are measured, this one is for {model.task_name}")
        images = images or _images(samples, model)
        model(images[0])
        load_s = time.perf_counter() - begin
        rows.append(_Row(runtime, precision, model, load_s, _memory_mb() - before))
    for row in rows:
        for image in islice(cycle(images), _WARM):
            row.model(image)
        # The first images in a row open the network once more, for those that share the cores.
        for _ in row.model.predict(islice(cycle(images), 4 * _WARM)):
            pass
    for _ in range(_ROUNDS):
        for row in rows:
            row.measure(images, seconds / _ROUNDS)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{printable(path.name)}, {path.stat().st_size / 1e6:.1f} MB; {platform.machine()}, {cores} cores\n")
    names = ["runtime", "precision", "load s", "ms", "images/s", "MB"]
    cells = [row.cells() for row in rows]
    if quality is not None:
        found = [quality(row.runtime, row.precision) for row in rows]
        names.append(found[0][0])
        cells = [[*one, f"{value:.4f}"] for one, (_, value) in zip(cells, found, strict=True)]
    for line in (names, ["---"] * len(names), *cells):
        print(f"| {' | '.join(line)} |")
    return 0


class _Row:
    """One way to run the model, and what was measured of it."""

    def __init__(self, runtime: str, precision: str, model: Model, load_s: float, memory_mb: float) -> None:
        self.runtime, self.precision, self.model = runtime, precision, model
        self._load_s, self._memory_mb = load_s, memory_mb
        self._single_s: list[float] = []
        self._num_images = 0
        self._stream_s = 0.0

    def measure(self, images: Sequence[ByteArray], seconds: float) -> None:
        """One image after the other, then a row of them, half of the ``seconds`` each."""
        end = time.perf_counter() + seconds / 2
        for image in cycle(images):
            begin = time.perf_counter()
            self.model(image)
            self._single_s.append(time.perf_counter() - begin)
            if time.perf_counter() > end:
                break
        begin = time.perf_counter()
        for _ in self.model.predict(_until(begin + seconds / 2, images)):
            self._num_images += 1
        self._stream_s += time.perf_counter() - begin

    def cells(self) -> list[str]:
        """As text."""
        rate = self._num_images / self._stream_s
        figures = f"{self._load_s:.2f}", f"{1000 * statistics.median(self._single_s):.1f}", f"{rate:.1f}"
        return [self.runtime, self.precision, *figures, f"{self._memory_mb:.0f}"]


def _ways(path: Path) -> list[Way]:
    """The runtimes for ``path`` that are installed, each with the precisions of this processor."""
    if path.suffix.lower() == ".onnx":
        return ways()
    form: type[Form] = load_entry(FORMS, path.suffix.lower())
    precisions = precisions_here() if form.runtime == "openvino" else ["fp32"]
    return [(form.runtime, precision) for precision in precisions]


def _images(names: Sequence[str], model: Model) -> list[ByteArray]:
    if names:
        return [read_image(path) for path in expand_sources(names)[:_MAX_IMAGES]]
    spec: Any = model.runner.spec
    return [np.full((*spec.input_shape(np.zeros((480, 640, 3), np.uint8)), 3), 114, np.uint8)]


def _until(end: float, images: Sequence[ByteArray]) -> Iterator[ByteArray]:
    """``images`` again and again, until ``end``."""
    for image in cycle(images):
        yield image
        if time.perf_counter() > end:
            return


def _memory_mb() -> float:
    """What this process takes now; 0 where the system does not tell."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6 if path.exists() else 0.0
