"""What has come of the sources of a run, in words and as an exit code."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detseg.files import printable, storable, write_text
from detseg.runtime.kinds.base import Kind
from detseg.runtime.network_faults import NetworkError
from detseg.runtime.sources.finding import Source
from detseg.runtime.sources.frames import Frame
from detseg.runtime.stop import StopSignals

EXIT_SOME_FAILED = 1
ERRORS = "errors.jsonl"
_NUM_SHOWN = 20
"""Classes that are named; a video of a street has most of those of COCO."""


class Summary:
    """Counts what is found, and notes what fails."""

    def __init__(self, class_names: Sequence[str], kind: Kind) -> None:
        self.num_sources = self.num_before = 0
        """All of them, and those that an earlier part of the run has done without a fault."""
        self.failures: list[tuple[str, str, str]] = []
        """Whether it was "read", "predicted" or "written", the source, and what was wrong."""
        self.write_s = self.network_s = 0.0
        self._class_names = class_names
        self._kind = kind
        self._counts = np.zeros(len(class_names), np.int64)
        self._num_frames = 0
        self._num_left_out = self._num_limited = self._num_full = 0
        """Objects that a limit left out, in how many images; and images that hold as many as it allows."""
        self._num_of_video: Counter[str] = Counter()
        self._num_overtaken: Counter[str] = Counter()
        self._reached: set[str] = set()
        self._read_s = 0.0
        self._begin = time.perf_counter()
        self._last: Frame | None = None

    def add(self, frame: Frame, result: Any) -> int:
        """Count ``frame`` and what was found in it; returns how many frames are to be expected that were not known of
        before."""
        self._last = frame
        self._num_frames += 1
        self._read_s += frame.read_s
        self._counts += self._kind.count(result, len(self._counts))
        self._reached.add(frame.source)
        left_out = self._kind.left_out(result)
        self._num_full += left_out is None
        self._num_limited += bool(left_out)
        self._num_left_out += left_out or 0
        if frame.stream is None:
            return 0
        self._num_of_video[frame.source] += 1
        self._num_overtaken[frame.source] += frame.num_overtaken
        return (frame.stream.num_expected or 0) if self._num_of_video[frame.source] == 1 else 0

    def fail(self, source: Source | str, error: Exception) -> None:
        """Note that ``source`` was not read, or not to its end, or that the network failed on it."""
        verb = "predicted" if isinstance(error, NetworkError) else "read"
        self.failures.append((verb, source if isinstance(source, str) else source.title, str(error)))

    def fail_to_write(self, frame: Frame, error: Exception) -> None:
        """Note that something of the source of ``frame`` was not written."""
        self.failures.append(("written", frame.source, str(error) or type(error).__name__))

    def sort(self, titles: Sequence[str]) -> None:
        """Bring the failures into the order of the sources ``titles``, however they came; those of what is none of them
        come first."""
        positions = {title: position for position, title in enumerate(titles)}
        self.failures.sort(key=lambda failure: positions.get(failure[1], -1))

    def report(self, folder: Path, stop: StopSignals, sources: Sequence[Source]) -> int:
        """Say what has been done and what has not, also in ``folder/errors.jsonl``; returns the exit code."""
        was_stopped = stop.number is not None  # a signal that comes later ends nothing any more
        failed = {source for _, source, _ in self.failures}
        broken_off = set()
        if was_stopped and self._last is not None and self._last.stream is not None:
            broken_off.add(self._last.source)
        titles = {source.title for source in sources}
        begun = self._reached if was_stopped else titles
        whole = begun - failed - broken_off
        if was_stopped:
            num_left = len(titles - self._reached - failed)
            print(f"stopped by {stop.name} {self._place()}; {num_left} sources were not begun")
        before = f" ({self.num_before} before, {len(whole)} now)" if self.num_before else ""
        images = f"{self._num_frames} images{' now' if before else ''}"
        done = f"{self.num_before + len(whole)} of {self.num_sources} sources{before}"
        print(f"{done}, {images}; results are in {printable(folder)}")
        for name, count in self._num_of_video.items():
            state = "stopped" if name in broken_off else "complete" if name in whole else "not complete"
            overtaken = self._num_overtaken[name]
            more = (
                f" (live: {overtaken} more came while the model was at work, and were overtaken)" if overtaken else ""
            )
            print(f"{printable(name)}: {count} frames{more}, {state}")
        self._report_counts_and_times()
        for verb, source, error in self.failures:
            # Errors of reading and of the network begin with the source, those of writing with the file, or either.
            place = f"{printable(source)}: " if verb == "written" and not error.startswith(f"{source}: ") else ""
            print(f"not {verb}: {place}{printable(error)}", file=sys.stderr)
        if self.failures:
            lines = [json.dumps({"source": source, "error": storable(error)}) for _, source, error in self.failures]
            write_text(folder / ERRORS, "".join(f"{line}\n" for line in lines))
        if was_stopped:
            return stop.exit_code
        return EXIT_SOME_FAILED if self.failures else 0

    def _place(self) -> str:
        if self._last is None:
            return "before the first result"
        name = printable(self._last.source)
        if self._last.index is None:
            return f"after {name}"
        return f"in {name}, after frame {self._last.index} at {self._last.time_s or 0.0:.2f} s"

    def _report_counts_and_times(self) -> None:
        if not self._num_frames:
            return
        order = [label for label in np.argsort(-self._counts, kind="stable").tolist() if self._counts[label]]
        shown = [f"{printable(self._class_names[label])} {self._counts[label]}" for label in order[:_NUM_SHOWN]]
        if len(order) > _NUM_SHOWN:
            shown.append(f"and of {len(order) - _NUM_SHOWN} more classes")
        now = " now" if self.num_before else ""
        print(f"{self._kind.counted}{now}: {', '.join(shown) or 'none'}")
        if self._num_left_out:
            print(
                f"left out, as images may hold no more objects (--max-det): {self._num_left_out} objects in "
                f"{self._num_limited} images"
            )
        if self._num_full:
            print(
                f"as many objects as an image may hold (--max-det): in {self._num_full} images, where there may be more"
            )
        stages = {"read": self._read_s, "network": self.network_s, "write": self.write_s}
        told = ", ".join(f"{name} {1000 * seconds / self._num_frames:.1f}" for name, seconds in stages.items())
        total_s = time.perf_counter() - self._begin
        print(f"ms per image: {told}; all together, for they overlap, {1000 * total_s / self._num_frames:.1f}")
