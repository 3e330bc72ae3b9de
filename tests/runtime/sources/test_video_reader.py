from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from detseg.runtime.media.images import ImageError
from detseg.runtime.media.video_container import read_container
from detseg.runtime.sources.frames import StreamInfo
from detseg.runtime.sources.video_reader import Section, TruncatedVideoError, read_stream, read_video

CODECS = {"avi": "MJPG", "mp4": "mp4v", "mkv": "mp4v", "mov": "mp4v"}


def write_video(path: Path, num_frames: int, fps: float = 10, size: tuple[int, int] = (64, 48)) -> Path:
    """Frames of growing gray: number 7 has the level 70, number 26 the level 10."""
    codec = cv2.VideoWriter.fourcc(*CODECS[path.suffix[1:]])
    video = cv2.VideoWriter(str(path), codec, fps, size)
    assert video.isOpened()
    for number in range(num_frames):
        video.write(np.full((size[1], size[0], 3), 10 * number % 250, np.uint8))
    video.release()
    return path


@pytest.mark.parametrize("suffix", CODECS)
def test_every_frame_comes_with_its_number_time_and_rate(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"v.{suffix}", 20)
    frames = list(read_video(path))
    assert [frame.index for frame in frames] == list(range(20))
    assert [round(float(frame.image.mean()) / 10) for frame in frames] == list(range(20))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(20) / 10, atol=2e-3)
    assert {frame.stream for frame in frames} == {frames[0].stream}
    assert frames[0].stream is not None
    assert (frames[0].stream.fps, frames[0].stream.width, frames[0].stream.height) == (10.0, 64, 48)
    assert frames[3].path == path
    assert frames[3].name == "v_000003"


def test_colors_are_rgb(tmp_path: Path) -> None:
    video = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (32, 32))
    video.write(np.full((32, 32, 3), (0, 0, 255), np.uint8))  # red, in OpenCV's order
    video.release()
    (frame,) = read_video(tmp_path / "v.avi")
    assert frame.image[16, 16, 0] > 240
    assert frame.image[16, 16, 2] < 20


@pytest.mark.parametrize(
    ("section", "expected", "fps"),
    [
        (Section(), list(range(20)), 10),
        (Section(every=3), [0, 3, 6, 9, 12, 15, 18], 10 / 3),
        (Section(start_s=0.45), list(range(5, 20)), 10),
        (Section(end_s=0.35), [0, 1, 2, 3], 10),
        (Section(every=4, start_s=0.45, end_s=1.55), [5, 9, 13], 2.5),
    ],
)
def test_sections(tmp_path: Path, section: Section, expected: list[int], fps: float) -> None:
    frames = list(read_video(write_video(tmp_path / "v.mp4", 20), section))
    assert [frame.index for frame in frames] == expected
    assert {frame.stream and frame.stream.fps for frame in frames} == {round(fps, 3)}
    for frame in frames:
        assert frame.stream is not None
        assert frame.stream.num_expected is not None
        assert abs(frame.stream.num_expected - len(frames)) <= 1


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (Section(start_s=60), r"v\.mp4: has no frame from 60 s on: the last one is at 1\.900 s"),
        (Section(start_s=2, end_s=3), r"has no frame from 2 s to 3 s: the last one is at 1\.900 s"),
        (Section(start_s=0.41, end_s=0.49), r"has no frame from 0\.41 s to 0\.49 s: the next one is at 0\.500 s"),
        (Section(every=50, start_s=1.95), r"has no frame from 1\.95 s on: the last one is at 1\.900 s"),
    ],
)
def test_an_empty_section_is_named(tmp_path: Path, section: Section, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        list(read_video(write_video(tmp_path / "v.mp4", 20), section))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "at least 1, got 0"),
        ({"start_s": -1.0}, "got -1.0"),
        ({"start_s": 3.0, "end_s": 3.0}, "3.0 to 3.0"),
    ],
)
def test_impossible_sections(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Section(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", CODECS)
def test_a_video_without_its_end_is_read_as_far_as_it_goes(tmp_path: Path, suffix: str) -> None:
    whole = write_video(tmp_path / f"whole.{suffix}", 60, size=(160, 120))
    assert read_container(whole) is not None
    assert read_container(whole).num_missing == 0  # type: ignore[union-attr]
    data = whole.read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(data[: len(data) * 2 // 3])
    container = read_container(cut)
    assert container is not None
    missing = len(data) - len(data) * 2 // 3
    # The index of an MP4, which would follow, is nowhere announced.
    assert 0 < container.num_missing <= missing if suffix in ("mp4", "mov") else container.num_missing == missing
    frames = []
    # Without its index, which stands at the end, nothing of an MP4 can be decoded.
    expected = ImageError if suffix in ("mp4", "mov") else TruncatedVideoError
    with pytest.raises(expected, match=r"cut\." + suffix):
        frames.extend(read_video(cut))
    assert suffix in ("mp4", "mov") or 0 < len(frames) < 60


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no video by its content"),
        (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n", "no video by its content"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "no video by its content"),
        (b"RIFF\x04\x00\x00\x00AVI ", "cannot be opened|no image"),
        (struct.pack(">I4s", 24, b"ftyp") + b"isom" + bytes(12), "cannot be opened|no image"),
        (b"\x1a\x45\xdf\xa3" + bytes(600), "cannot be opened|no image"),
    ],
)
def test_what_is_no_video(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "footage.mp4"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message):
        list(read_video(path))


def test_missing_files_and_cameras(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        list(read_video(tmp_path / "none.mp4"))
    with pytest.raises(ImageError, match="camera97: cannot be opened"):
        list(read_stream(97))


def test_images_that_are_too_large_are_refused_before_decoding(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="64x48 pixels, allowed are 3000"):
        list(read_video(write_video(tmp_path / "v.avi", 2), max_pixels=3000))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # The size of the second RIFF list counts; behind the lists anything may follow.
        (b"RIFF" + struct.pack("<I", 4) + b"AVI " + b"RIFF" + struct.pack("<I", 104) + b"AVIX", ("AVI", 100)),
        (b"RIFF" + struct.pack("<I", 4) + b"AVI " + b"junk" * 9, ("AVI", 0)),
        (b"RIFF" + struct.pack("<I", 0) + b"AVI " + b"LIST", ("AVI", 0)),
        (struct.pack(">I4sQ", 1, b"mdat", 1000) + bytes(84), ("MP4", 900)),
        (struct.pack(">I4s", 8, b"ftyp") + struct.pack(">I4s", 0, b"mdat"), ("MP4", 0)),
        (struct.pack(">I4s", 8, b"ftyp") + struct.pack(">I4s", 1, b"mdat") + b"\0\0", ("MP4", 6)),
        # EBML header of 2 bytes, then a segment of 5 bytes of which 3 are there, then one of unknown length
        (b"\x1a\x45\xdf\xa3\x82ab\x18\x53\x80\x67\x85xyz", ("Matroska", 2)),
        (b"\x1a\x45\xdf\xa3\x82ab\x18\x53\x80\x67\xffxyz", ("Matroska", 0)),
        (b"\x1a\x45\xdf\xa3\x40\x02ab\x18\x53\x80\x67\x40\x05xyz", ("Matroska", 2)),
        (b"\x00\x00\x01\xba" + bytes(20), ("MPEG-PS", 0)),
        ((b"G" + bytes(187)) * 3, ("MPEG-TS", 0)),
        ((b"G" + bytes(187)) * 2, None),
        (b"GIF89a" + bytes(600), None),
        # Still images in the container of videos
        (struct.pack(">I4s", 24, b"ftyp") + b"heic" + bytes(600), None),
        (struct.pack(">I4s", 24, b"ftyp") + b"avif" + bytes(600), None),
    ],
)
def test_containers(tmp_path: Path, content: bytes, expected: tuple[str, int] | None) -> None:
    path = tmp_path / "v"
    path.write_bytes(content)
    container = read_container(path)
    assert (container and (container.format, container.num_missing)) == expected


def test_a_header_that_claims_twice_the_frames(detseg_data: Path) -> None:
    """vtest.avi claims 682 frames at 50 per second and holds 341, 40 ms apart."""
    seen = [(frame.time_s, frame.stream) for frame in read_video(detseg_data / "video" / "vtest.avi")]
    np.testing.assert_allclose([time_s for time_s, _ in seen], np.arange(341) * 0.04)
    assert {stream for _, stream in seen} == {StreamInfo(25.0, 1280, 720, num_expected=341)}


@pytest.mark.parametrize(("claimed", "every", "expected"), [(24000 / 1001, 1, 23.976), (30000 / 1001, 3, 9.99)])
def test_rates_are_not_those_of_rounded_time_stamps(
    tmp_path: Path, claimed: float, every: int, expected: float
) -> None:
    """Matroska has time stamps in whole milliseconds: 41 or 42 between images at 23.976 per second."""
    frames = list(read_video(write_video(tmp_path / "v.mkv", 40, claimed), Section(every=every)))
    assert frames[0].stream is not None
    assert frames[0].stream.fps == expected


def test_a_single_image_lasts_as_long_as_its_video(tmp_path: Path) -> None:
    (frame,) = read_video(write_video(tmp_path / "v.mp4", 20), Section(every=1000))
    assert frame.stream is not None
    assert frame.stream.fps == pytest.approx(0.5)


def test_reading_takes_time(tmp_path: Path) -> None:
    frames = list(read_video(write_video(tmp_path / "v.mp4", 20)))
    assert all(0 < frame.read_s < 60 for frame in frames)
