from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detseg.files import SaveError
from detseg.runtime.sources.frames import Frame, StreamInfo
from detseg.runtime.writers.several import SeveralWriters

IMAGE = np.zeros((4, 4, 3), np.uint8)


class Notes:
    """Writes down what it is told; ``faults`` are what it raises, by what it would write down."""

    def __init__(self, **faults: Exception) -> None:
        self.notes: list[str] = []
        self._faults = dict(faults)

    def write(self, frame: Frame, result: object) -> None:
        self._note(frame.name)

    def end_source(self) -> None:
        self._note("end")

    def __enter__(self) -> Notes:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._note("closed" if kind is None else "dropped")

    def _note(self, text: str) -> None:
        if fault := self._faults.pop(text, None):
            raise fault
        self.notes.append(text)


def still(name: str) -> Frame:
    return Frame(IMAGE, f"{name}.png", Path(f"{name}.png"))


def video(name: str, count: int) -> list[Frame]:
    stream = StreamInfo(10.0, 4, 4)
    return [Frame(IMAGE, f"{name}.mp4", None, index, index / 10, stream) for index in range(count)]


def write(writers: list[Any], frames: list[Frame]) -> list[tuple[str, str]]:
    faults: list[tuple[str, str]] = []
    with SeveralWriters(writers, lambda frame, error: faults.append((frame.source, str(error)))) as several:
        for frame in frames:
            several.write(frame, None)
    return faults


FRAMES = [still("a"), *video("f", 3), still("b"), *video("g", 2)]
ALL = ["a", "end", "f_000000", "f_000001", "f_000002", "end", "b", "end", "g_000000", "g_000001", "end", "closed"]


@pytest.mark.parametrize(
    "fault",
    [ValueError("x"), OSError("x"), MemoryError("x"), cv2.error("x"), SaveError("x")],
    ids=lambda one: repr(one),
)
def test_a_fault_costs_one_writer_the_rest_of_one_source(fault: Exception) -> None:
    bad, good = Notes(f_000001=fault), Notes()
    ((source, told),) = write([bad, good], FRAMES)
    assert (source, "x" in told) == ("f.mp4", True)
    assert good.notes == ALL
    assert bad.notes == [one for one in ALL if one not in ("f_000001", "f_000002")]


def test_what_fails_at_the_end_of_a_source_is_told_of_it() -> None:
    writer = Notes(end=OSError("late"))
    assert write([writer], [*video("f", 2), still("b")]) == [("f.mp4", "late")]
    assert writer.notes == ["f_000000", "f_000001", "b", "end", "closed"]
    writer = Notes(end=OSError("late"))
    assert write([writer], video("f", 2)) == [("f.mp4", "late")]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_nobodys_fault(code: int) -> None:
    full = SaveError("full")
    full.__cause__ = OSError(code, "full")
    bad, good = Notes(f_000001=full), Notes()
    with pytest.raises(SaveError, match="full"):
        write([bad, good], FRAMES)
    assert good.notes == ["a", "end", "f_000000", "dropped"]


def test_faults_of_ours_are_not_hidden() -> None:
    with pytest.raises(AttributeError):
        write([Notes(a=AttributeError("ours"))], FRAMES)
