from __future__ import annotations

import resource
from pathlib import Path

import cv2
import numpy as np
import pytest

from detseg.arrays import ByteArray
from detseg.files import SaveError
from detseg.runtime.media.video_file import OpenCVVideo


def some_image(number: int, height: int = 48, width: int = 64) -> ByteArray:
    """Its upper half has the gray level 30 x number."""
    made = np.full((height, width, 3), (200, 60, 30), np.uint8)
    made[: height // 2] = 30 * number
    return made


def read_video(path: Path) -> tuple[float, list[np.ndarray]]:
    video = cv2.VideoCapture(str(path))
    frames = []
    while True:
        there, image = video.read()
        if not there:
            return video.get(cv2.CAP_PROP_FPS), frames
        frames.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (47, 63)])
def test_frames_come_back_in_order_with_their_rate(tmp_path: Path, suffix: str, height: int, width: int) -> None:
    path = tmp_path / "new" / f"v{suffix}"
    images = [some_image(number, height, width) for number in range(7)]
    with OpenCVVideo(path, fps=12.5) as video:
        for number, image in enumerate(images):
            video.append(image, f"{number}.png")
        assert not path.exists()
    fps, read = read_video(path)
    assert fps == 12.5
    assert len(read) == 7
    for image, found in zip(images, read, strict=True):
        assert found.shape == (48, 64, 3)
        assert np.abs(found[:height, :width] - image.astype(int)).mean() < 8
    assert [path.name for path in path.parent.iterdir()] == [f"v{suffix}"]


def test_one_size_per_video_and_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"of an earlier run")

    def write_two_sizes() -> None:
        with OpenCVVideo(path, 25) as video:
            video.append(some_image(0), "a.png")
            video.append(some_image(0, 64, 48), "b.png")

    with pytest.raises(ValueError, match=r"a\.png is 64x48, b\.png is 48x64; leave out `video`, or resize"):
        write_two_sizes()
    assert path.read_bytes() == b"of an earlier run"
    assert list(tmp_path.iterdir()) == [path]


def test_no_images_no_video(tmp_path: Path) -> None:
    with OpenCVVideo(tmp_path / "v.mp4", 25):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_cannot_be_encoded_is_an_error(tmp_path: Path) -> None:
    wide = np.zeros((2, 20_000, 3), np.uint8)
    with pytest.raises(SaveError, match="OpenCV cannot write mp4v video of 20000x2"):  # noqa: SIM117
        with OpenCVVideo(tmp_path / "v.mp4", 25) as video:
            video.append(wide, "a.png")
    assert list(tmp_path.iterdir()) == []


def test_impossible_requests(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a video ends in \.mp4 or \.avi, got \.mov"):
        OpenCVVideo(tmp_path / "v.mov", 25)
    for fps in (0, -1, 0.001, 1001, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=rf"fps must be from 0\.01 to 1000, got {fps}"):
            OpenCVVideo(tmp_path / "v.mp4", fps=fps)


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
@pytest.mark.parametrize("fps", [0.01, 29.97, 1000])
def test_allowed_rates_can_be_encoded(tmp_path: Path, suffix: str, fps: float) -> None:
    path = tmp_path / f"v{suffix}"
    with OpenCVVideo(path, fps) as video:
        for number in range(3):
            video.append(some_image(number), "a.png")
    read_fps, frames = read_video(path)
    assert read_fps == pytest.approx(fps)
    assert len(frames) == 3


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    """Stands for a full disk: no file of this process may grow beyond 100 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0).integers(0, 256, (40, 120, 160, 3), dtype=np.uint8)

    def write_noise() -> None:
        with OpenCVVideo(tmp_path / f"v{suffix}", 25) as video:
            for image in noise:
                video.append(image, "a.png")

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(SaveError, match=r"the video holds \d+ of 40 images"):
            write_noise()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("times_s", "shown", "num_left_out"),
    [
        ([0.0, 0.1, 0.2], [0, 1, 2], 0),
        ([5.0, 5.3, 5.4], [0, 0, 0, 1, 2], 0),  # from the first one on
        ([0.0, 0.101, 0.199, 0.302], [0, 1, 2, 3], 0),  # rounded time stamps
        ([0.0, 0.02, 0.04, 0.5], [2, 2, 2, 2, 2, 3], 2),
        ([0.0, 0.2, 0.1, 0.3], [0, 0, 2, 3], 1),  # times that go back
    ],
)
@pytest.mark.filterwarnings("default")
def test_images_are_seen_at_their_times(
    tmp_path: Path, times_s: list[float], shown: list[int], num_left_out: int, recwarn: pytest.WarningsRecorder
) -> None:
    with OpenCVVideo(tmp_path / "v.mp4", fps=10) as video:
        for number, time_s in enumerate(times_s):
            video.append(some_image(2 * number), "footage", time_s)
    _, frames = read_video(tmp_path / "v.mp4")
    assert [round(float(frame[:24].mean()) / 60) for frame in frames] == shown
    told = [str(one.message) for one in recwarn]
    assert len(told) == (num_left_out > 0)
    assert not told or f"{num_left_out} images came faster than 10 a second" in told[0]


def test_a_jump_in_time_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detseg.runtime.media.video_file._MAX_REPEATS", 50)
    with OpenCVVideo(tmp_path / "v.mp4", fps=10) as video:
        for time_s in (0.0, 1e9):
            video.append(some_image(1), "footage", time_s)
    assert len(read_video(tmp_path / "v.mp4")[1]) == 51
