from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from detseg.runtime.kinds import load_kind
from detseg.runtime.kinds.saving import Drawing
from detseg.runtime.sources.frames import Frame, StreamInfo
from detseg.runtime.sources.video_reader import read_video
from detseg.runtime.writers.base import VideoWriter
from detseg.structures import Detections

DRAW = Drawing(load_kind("boxes"), ("cat",))
NOTHING = Detections.empty()


@pytest.fixture(params=["mpeg4", "h264"])
def codec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As on a machine without the package av, and with it."""
    if request.param == "mpeg4":
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "av" else find(name))
    else:
        pytest.importorskip("av")
    return str(request.param)


def frames(source: str, count: int, fps: float = 10.0, gray: int = 0) -> list[Frame]:
    stream = StreamInfo(fps, 64, 48)
    return [
        Frame(np.full((48, 64, 3), gray + 20 * index, np.uint8), source, None, index, index / fps, stream)
        for index in range(count)
    ]


@pytest.mark.usefixtures("codec")
def test_each_video_becomes_one_with_its_rate_and_duration(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with VideoWriter(out, DRAW) as writer:
        for frame in frames("in/a.avi", 7, fps=12.5):
            writer.write(frame, NOTHING)
        assert not (out / "a.mp4").exists()
        for frame in frames("in/b.avi", 4, gray=100):
            writer.write(frame, NOTHING)
        assert (out / "a.mp4").exists()
    for name, count, fps, gray in (("a.mp4", 7, 12.5, 0), ("b.mp4", 4, 10.0, 100)):
        read = list(read_video(out / name))
        assert [round((frame.pixels.mean() - gray) / 20) for frame in read] == list(range(count))
        np.testing.assert_allclose([frame.time_s for frame in read], np.arange(count) / fps, atol=2e-3)
        assert read[0].stream is not None
        assert read[0].stream.fps == pytest.approx(fps, abs=0.01)
    assert sorted(path.name for path in out.iterdir()) == ["a.mp4", "b.mp4"]


@pytest.mark.usefixtures("codec")
def test_videos_of_one_name_and_one_that_is_given_twice(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out", DRAW) as writer:
        for source in ("in/a.avi", "in/a.avi", "other/a.mkv"):
            for frame in frames(source, 3):
                writer.write(frame, NOTHING)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mp4", "a_2.mp4", "a_3.mp4"]
    assert len(list(read_video(tmp_path / "out" / "a.mp4"))) == 3


@pytest.mark.usefixtures("codec")
def test_still_images_make_one_video_whatever_lies_between(tmp_path: Path) -> None:
    still = Frame(np.full((48, 64, 3), 90, np.uint8), "p.png")
    with VideoWriter(tmp_path, DRAW, fps=5) as writer:
        for frame in (still, *frames("in/a.avi", 2), still, still):
            writer.write(frame, NOTHING)
    read = list(read_video(tmp_path / "video.mp4"))
    np.testing.assert_allclose([frame.time_s for frame in read], [0, 0.2, 0.4], atol=2e-3)
    assert len(list(read_video(tmp_path / "a.mp4"))) == 2


@pytest.mark.usefixtures("codec")
def test_an_interrupted_run_leaves_the_videos_before(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"of an earlier run")

    def interrupted() -> None:
        with VideoWriter(tmp_path, DRAW) as writer:
            for frame in frames("in/a.avi", 3):
                writer.write(frame, NOTHING)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "a.mp4").read_bytes() == b"of an earlier run"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.usefixtures("codec")
def test_an_image_of_another_size_costs_the_video_of_its_source_alone(tmp_path: Path) -> None:
    bad = frames("in/bad.avi", 4)
    bad[2] = Frame(np.zeros((32, 32, 3), np.uint8), "in/bad.avi", None, 2, 0.2, bad[0].stream)
    with VideoWriter(tmp_path, DRAW) as writer:
        for frame in (*frames("in/a.avi", 3), *bad[:2]):
            writer.write(frame, NOTHING)
        with pytest.raises(ValueError, match="the images of a video have one size"):
            writer.write(bad[2], NOTHING)
        writer.end_source()
        for frame in frames("in/b.avi", 3):
            writer.write(frame, NOTHING)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


@pytest.mark.usefixtures("codec")
@pytest.mark.parametrize("fps", [0.0001, 0.007, 5000.0])
def test_rates_that_no_codec_keeps_are_clamped(tmp_path: Path, fps: float) -> None:
    with VideoWriter(tmp_path, DRAW) as writer:
        for frame in frames("in/a.avi", 3, fps=fps):
            writer.write(frame, NOTHING)
    read = list(read_video(tmp_path / "a.mp4"))
    # Both ends are kept to the length of one image at the least or highest rate.
    assert read[-1].time_s == pytest.approx(2 / fps, abs=100.0 if fps < 1 else 0.001)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_videos_lack_without_av_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, recwarn: pytest.WarningsRecorder
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "av" else find(name))
    with VideoWriter(tmp_path, DRAW) as writer:
        writer.write(Frame(np.full((48, 64, 3), 90, np.uint8), "p.png"), NOTHING)
        for number in range(count):
            for frame in frames(f"in/{number}.avi", 2):
                writer.write(frame, NOTHING)
    told = [str(one.message) for one in recwarn]
    assert len(told) == min(count, 1)
    assert not told or "without sound; H.264 with the times and the sound of the original: pip install" in told[0]


def test_impossible_requests(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"fps must be from 0\.01 to 1000, got 0"):
        VideoWriter(tmp_path, DRAW, fps=0)
    with pytest.raises(ValueError, match="name another output folder"):
        VideoWriter(tmp_path, DRAW, [tmp_path / "a.avi"])
