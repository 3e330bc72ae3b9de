from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from detseg.runtime.commands.summary import Summary
from detseg.runtime.kinds import load_kind
from detseg.runtime.sources.finding import Source
from detseg.runtime.sources.frames import Frame, StreamInfo
from detseg.runtime.stop import StopSignals
from detseg.structures import Detections, LabelMap

IMAGE = np.zeros((4, 4, 3), np.uint8)
STREAM = StreamInfo(10.0, 4, 4, 3)
SOURCES = [
    Source("image", "a.png", Path("a.png")), Source("video", "f.mp4", Path("f.mp4")), Source("camera", "0"),
    Source("image", "z\x1b[31m\udce4.png", Path("z.png")),
]  # fmt: skip
STILL = Frame(IMAGE, "a.png", Path("a.png"), read_s=0.004)
FILM = [Frame(IMAGE, "f.mp4", Path("f.mp4"), index, index / 10, STREAM, 0.001) for index in range(3)]
CAMERA = [Frame(IMAGE, "camera0", None, index, index / 10, STREAM, 0.001) for index in range(2)]


def found(*labels: int) -> Detections:
    return Detections(np.zeros((len(labels), 4), np.float32), np.ones(len(labels), np.float32), np.array(labels, int))


def summary_of(*frames: Frame) -> Summary:
    summary = Summary(("cat", "dog"), load_kind("boxes"))
    summary.num_sources = len(SOURCES)
    for frame in frames:
        summary.add(frame, found(1, 1, 0))
    return summary


def test_all_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = summary_of(STILL, *FILM, *CAMERA)
    summary.network_s, summary.write_s = 0.06, 0.012
    summary.fail(SOURCES[3], ValueError(f"{SOURCES[3].name}: damaged"))
    summary.fail(SOURCES[2], ValueError("camera0: cannot be opened"))
    summary.fail_to_write(STILL, OSError("no room"))
    assert summary.report(tmp_path, StopSignals(), SOURCES) == 1
    said = capsys.readouterr()
    assert said.out.startswith(f"1 of 4 sources, 6 images; results are in {tmp_path}\n")
    assert "f.mp4: 3 frames, complete\ncamera0: 2 frames, not complete\n" in said.out
    assert "objects found: dog 12, cat 6\n" in said.out
    assert "ms per image: read 1.5, network 10.0, write 2.0; " in said.out
    assert said.err.splitlines() == [
        "not read: z\\x1b[31m\\xe4.png: damaged", "not read: camera0: cannot be opened", "not written: a.png: no room"
    ]  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    assert [line["source"] for line in lines] == [SOURCES[3].name, "camera0", "a.png"]


@pytest.mark.parametrize(
    ("frames", "place"),
    [
        ([], "before the first result; 4 sources were not begun\n0 of 4 sources"),
        ([STILL], "after a.png; 3 sources were not begun\n1 of 4 sources"),
        ([STILL, *FILM[:2]], "in f.mp4, after frame 1 at 0.10 s; 2 sources were not begun\n1 of 4 sources"),
        ([STILL, *FILM, CAMERA[0]], "in camera0, after frame 0 at 0.00 s; 1 sources were not begun\n2 of 4 sources"),
    ],
)
def test_where_it_was_stopped(
    tmp_path: Path, frames: list[Frame], place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = StopSignals()
    stop.number = signal.SIGTERM
    assert summary_of(*frames).report(tmp_path, stop, SOURCES) == 143
    said = capsys.readouterr().out
    assert said.startswith(f"stopped by SIGTERM {place}")
    assert ("f.mp4: 2 frames, stopped" in said) == (frames[-1:] == FILM[1:2])
    assert not list(tmp_path.iterdir())


def test_a_run_that_went_on_tells_what_came_before_and_what_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = summary_of(STILL)
    summary.num_sources, summary.num_before = 9, 5
    summary.fail(SOURCES[1], ValueError("f.mp4: damaged"))
    assert summary.report(tmp_path, StopSignals(), SOURCES[:2]) == 1
    said = capsys.readouterr().out
    assert said.startswith(f"6 of 9 sources (5 before, 1 now), 1 images now; results are in {tmp_path}\n")
    assert "objects found now: dog 2, cat 1\n" in said


def test_failures_are_told_in_the_order_of_the_sources(tmp_path: Path) -> None:
    summary = summary_of(STILL)
    for name, words in (("f.mp4", "late"), ("nowhere", "none"), ("a.png", "first"), ("f.mp4", "later"), ("x", "no")):
        summary.fail(name, ValueError(words))
    summary.sort([source.title for source in SOURCES])
    assert [text for _, _, text in summary.failures] == ["none", "no", "first", "late", "later"]


def test_masks_are_counted_by_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = tuple(f"class {number}" for number in range(30))
    summary = Summary(names, load_kind("masks"))
    summary.add(STILL, LabelMap(np.array([[0, 0], [3, 255]], np.uint8)))
    summary.add(STILL, LabelMap(np.arange(30, dtype=np.uint8)[None]))
    summary.report(tmp_path, StopSignals(), SOURCES)
    said = capsys.readouterr().out
    assert "images in which a class was found: class 0 2, class 3 2, class 1 1, " in said
    assert "class 19 1, and of 10 more classes\n" in said
