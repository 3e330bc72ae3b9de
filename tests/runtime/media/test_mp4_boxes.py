from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from detseg.arrays import ByteArray
from detseg.runtime.media.mp4_boxes import read_mirrored, write_tags
from detseg.runtime.media.video_colors import ColorTags
from detseg.runtime.sources.video_reader import read_video

ONE = 1 << 16
# What each matrix (right_x, right_y, down_x, down_y) makes of an image, by its definition: x' = right_x x + down_x y.
SHOWN = {
    "as stored": ((1, 0, 0, 1), lambda image: image),
    "turned by 90": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "turned by 180": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "turned by 270": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda image: image[::-1]),
    "mirrored, turned by 90": ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    "mirrored, turned by 270": ((0, -1, -1, 0), lambda image: np.rot90(image, 2).transpose(1, 0, 2)),
}


def corners() -> ByteArray:
    """Each quarter has a color of its own."""
    made = np.zeros((48, 80, 3), np.uint8)
    made[:24, :40], made[:24, 40:], made[24:, :40], made[24:, 40:] = (230, 20, 20), (20, 230, 20), (20, 20, 230), 230
    return made


def write_video(path: Path, matrix: tuple[int, ...], whole: tuple[int, ...] = (1, 0, 0, 1)) -> Path:
    """A video whose track, and as a ``whole``, is to be shown by these matrices."""
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (80, 48))
    for _ in range(2):
        video.write(np.ascontiguousarray(corners()[..., ::-1]))
    video.release()
    data = bytearray(path.read_bytes())
    for name, values, from_end in ((b"tkhd", matrix, 44), (b"mvhd", whole, 64)):
        start = data.index(name) - 4
        end = start + struct.unpack(">I", data[start : start + 4])[0]
        right_x, right_y, down_x, down_y = (ONE * value for value in values)
        fields = struct.pack(">9i", right_x, right_y, 0, down_x, down_y, 0, 0, 0, 1 << 30)
        data[end - from_end : end - from_end + 36] = fields
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize("name", SHOWN)
def test_images_are_read_as_they_are_shown(tmp_path: Path, name: str, suffix: str) -> None:
    matrix, expected = SHOWN[name]
    for frame in read_video(write_video(tmp_path / f"v.{suffix}", matrix)):
        wanted = expected(corners())
        assert frame.pixels.shape == wanted.shape
        assert np.abs(frame.pixels.astype(int) - wanted).mean() < 12
        assert frame.stream is not None
        assert (frame.stream.height, frame.stream.width) == wanted.shape[:2]


def test_a_video_that_is_mirrored_as_a_whole(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", SHOWN["turned by 90"][0], SHOWN["mirrored"][0])
    (frame, _) = read_video(path)
    # The turn first: the left quarters come to lie above, and change sides then.
    assert np.abs(frame.pixels.astype(int) - np.rot90(corners(), -1)[:, ::-1]).mean() < 12
    twice = write_video(tmp_path / "w.mp4", SHOWN["mirrored"][0], SHOWN["mirrored"][0])
    assert read_mirrored(twice) is None


@pytest.mark.parametrize("name", SHOWN)
def test_the_width_of_pixels_turns_with_the_image(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / "v.mp4", SHOWN[name][0])
    write_tags(path, ColorTags(matrix=6), Fraction(16, 11))
    (frame, _) = read_video(path)
    assert frame.stream is not None
    is_upright = frame.pixels.shape[1] > frame.pixels.shape[0]
    assert frame.stream.pixel_aspect == (Fraction(16, 11) if is_upright else Fraction(11, 16))


def test_tags_are_written_once(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", (1, 0, 0, 1))
    plain = path.stat().st_size
    write_tags(path, ColorTags(1, 1, 1), Fraction(2))
    once = path.read_bytes()
    write_tags(path, ColorTags(1, 1, 1), Fraction(2))
    # The second time the width of the track, which is what it is shown at, is that of the first time twice.
    assert len(path.read_bytes()) == len(once)
    assert once.count(b"colrnclx") == once.count(b"pasp") == 1
    assert plain < len(once) < plain + 60
    assert len(list(read_video(path))) == 2


@pytest.mark.parametrize(
    "content", [b"", b"RIFF    AVI ", b"\0\0\0\x08ftyp\0\0\0\x40moov", b"\0\0\0\x10moov" + b"x" * 8]
)
def test_what_holds_no_matrix_mirrors_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v.mp4").write_bytes(content)
    assert read_mirrored(tmp_path / "v.mp4") is None
    assert read_mirrored(tmp_path / "missing.mp4") is None


def test_only_files_with_a_table_of_contents_are_tagged(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"\0\0\0\x08ftyp")
    with pytest.raises(OSError, match="no table of contents"):
        write_tags(tmp_path / "v.mp4", ColorTags(), Fraction(1))
