from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.files import SaveError
from detseg.runtime.media.h264 import H264Video
from detseg.runtime.sources.video_reader import Section, read_video

av = pytest.importorskip("av")
RATE = 16_000


def write_video(path: Path, codec: str, seconds: int = 3, sound_until_s: float = 3) -> Path:
    """Ten images a second, and a tone of 500 Hz that becomes 1000 Hz after a second."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream(codec, rate=RATE)
        sound.layout = "mono"
        for number in range(10 * seconds):
            image = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 5 * number, np.uint8), format="rgb24")
            image.pts, image.time_base = number, Fraction(1, 10)
            container.mux(video.encode(image))
        container.mux(video.encode(None))
        times = np.arange(round(RATE * sound_until_s)) / RATE
        tone = np.sin(2 * np.pi * np.where(times < 1, 500, 1000) * times) * 20_000
        for start in range(0, len(tone), 1024):
            piece = tone[None, start : start + 1024].astype(np.int16)
            heard = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = RATE, start, Fraction(1, RATE)
            container.mux(sound.encode(heard))
        container.mux(sound.encode(None))
    return path


def read_sound(path: Path) -> tuple[str, np.ndarray[Any, Any]]:
    with av.open(str(path)) as container:
        sound = container.streams.audio[0]
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        pieces = [piece.to_ndarray()[0] for frame in container.decode(sound) for piece in resampler.resample(frame)]
        return sound.codec_context.name, np.concatenate(pieces).astype(np.float64)


def pitch(samples: np.ndarray[Any, Any]) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples))


def copy(source: Path, target: Path, section: Section) -> None:
    with H264Video(target, 10 / section.every, source) as video:
        for frame in read_video(source, section):
            video.append(frame.pixels, frame.name, frame.time_s)


@pytest.mark.parametrize(("codec", "suffix"), [("aac", ".mp4"), ("pcm_s16le", ".mkv")])
@pytest.mark.parametrize(
    ("section", "num_images", "duration_s", "pitches"),
    [
        (Section(), 30, 3.0, (500, 1000)),
        (Section(start_s=1.5, end_s=2.5), 10, 1.0, (1000, 1000)),
        (Section(every=3), 10, 3.0, (500, 1000)),
    ],
    ids=["whole", "part", "each third"],
)
def test_what_is_heard_belongs_to_what_is_seen(
    tmp_path: Path, codec: str, suffix: str, section: Section, num_images: int, duration_s: float,
    pitches: tuple[int, int],
) -> None:  # fmt: skip
    copy(write_video(tmp_path / f"in{suffix}", codec), tmp_path / "out.mp4", section)
    assert len(list(read_video(tmp_path / "out.mp4"))) == num_images
    name, samples = read_sound(tmp_path / "out.mp4")
    assert name == "aac"
    assert len(samples) / RATE == pytest.approx(duration_s, abs=0.3)
    begin, end = samples[2048 : RATE // 2], samples[-RATE // 2 : -2048]
    assert (pitch(begin), pitch(end)) == pytest.approx(pitches, abs=15)


def test_images_keep_their_times(tmp_path: Path) -> None:
    times_s = [2.0, 2.1, 2.5, 2.52, 4.0]
    with H264Video(tmp_path / "out.mp4", 10) as video:
        for number, time_s in enumerate(times_s):
            video.append(np.full((47, 63, 3), 50 * number, np.uint8), str(number), time_s)
    read = list(read_video(tmp_path / "out.mp4"))
    np.testing.assert_allclose([frame.time_s for frame in read], np.array(times_s) - 2.0, atol=2e-3)
    assert [round(float(frame.image.mean()) / 50) for frame in read] == list(range(5))
    assert {frame.pixels.shape for frame in read} == {(48, 64, 3)}


def test_nothing_is_left_of_what_fails(tmp_path: Path) -> None:
    def two_sizes() -> None:
        with H264Video(tmp_path / "out.mp4", 10) as video:
            video.append(np.zeros((48, 64, 3), np.uint8), "a.png")
            video.append(np.zeros((64, 48, 3), np.uint8), "b.png")

    with pytest.raises(ValueError, match=r"a\.png is 64x48, b\.png is 48x64"):
        two_sizes()
    with H264Video(tmp_path / "out.mp4", 10):
        pass
    with pytest.raises(ValueError, match="fps must be"):
        H264Video(tmp_path / "out.mp4", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((SaveError, OSError)), H264Video(tmp_path / "file" / "out.mp4", 10) as video:
        video.append(np.zeros((48, 64, 3), np.uint8), "a.png")
