from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from detseg.runtime.media.h264 import H264Video
from detseg.runtime.media.video_colors import BT709, ColorTags, read_colors, to_planes
from detseg.runtime.media.video_file import OpenCVVideo
from detseg.runtime.sources.video_reader import read_video

av = pytest.importorskip("av")
# From ITU-R BT.709, BT.601 and BT.2020: lightness and differences of pure green.
GREEN = {
    "709": (ColorTags(1, 1, 1), (173, 42, 26)),
    "601": (ColorTags(6, 6, 6), (145, 54, 34)),
    "601 of 625 lines": (ColorTags(5, 6, 5), (145, 54, 34)),
    "709 full": (ColorTags(1, 1, 1, is_full=True), (182, 30, 12)),
    "601 full": (ColorTags(6, 6, 6, is_full=True), (150, 44, 21)),
    "untagged": (ColorTags(), (145, 54, 34)),
    "2020": (ColorTags(9, 14, 9), (164, 47, 25)),
}


def write_green(path: Path, tags: ColorTags, values: tuple[int, ...], aspect: Fraction = Fraction(1)) -> Path:
    planes = np.concatenate([np.full(size, value, np.uint8) for size, value in zip((3072, 768, 768), values)])  # noqa: B905
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        coded = video.codec_context
        coded.color_primaries, coded.color_trc, coded.colorspace = tags.primaries, tags.transfer, tags.matrix
        coded.color_range, coded.sample_aspect_ratio = tags.color_range, aspect
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(planes.reshape(72, 64), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            frame.colorspace, frame.color_range = tags.matrix, tags.color_range
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def values_of(path: Path) -> list[int]:
    """What the video has at its first pixel, uninterpreted."""
    with av.open(str(path)) as container:
        return [bytes(plane)[0] for plane in next(container.decode(video=0)).planes]


@pytest.mark.parametrize("name", GREEN)
def test_a_copy_is_coded_as_its_source(tmp_path: Path, name: str) -> None:
    tags, values = GREEN[name]
    source = write_green(tmp_path / "in.mp4", tags, values, Fraction(16, 11))
    (frame, *_) = read_video(source)
    assert frame.stream is not None
    assert frame.stream.pixel_aspect == Fraction(16, 11)
    for video in (
        H264Video(tmp_path / "h264.mp4", 10, source, frame.stream.pixel_aspect),
        OpenCVVideo(tmp_path / "mpeg4.mp4", 10, frame.stream.pixel_aspect),
    ):
        with video:
            video.append(frame.pixels, frame.name, frame.time_s)
        (copy,) = read_video(video.path)
        # What is read from the copy is what was read from the source: green is green.
        np.testing.assert_allclose(copy.pixels[5, 5].astype(int), frame.pixels[5, 5], atol=4)
        assert copy.stream is not None
        assert copy.stream.pixel_aspect == Fraction(16, 11)
    if name != "2020":
        assert frame.pixels[5, 5].tolist() == pytest.approx([0, 255, 0], abs=3)
        assert read_colors(str(tmp_path / "h264.mp4")) == tags
        assert values_of(tmp_path / "h264.mp4") == pytest.approx(values, abs=2)
    else:
        # OpenCV reads wide gamuts as BT.709, so that is what the images are.
        assert read_colors(str(tmp_path / "h264.mp4")) == BT709
    assert read_colors(str(tmp_path / "mpeg4.mp4")) == ColorTags(matrix=6)


def test_videos_of_images_say_how_they_are_coded(tmp_path: Path) -> None:
    green = np.full((47, 63, 3), (0, 255, 0), np.uint8)
    with H264Video(tmp_path / "v.mp4", 10) as video:
        video.append(green, "a.png")
    assert read_colors(str(tmp_path / "v.mp4")) == BT709
    assert values_of(tmp_path / "v.mp4") == pytest.approx(GREEN["709"][1], abs=2)
    (frame,) = read_video(tmp_path / "v.mp4")
    assert frame.pixels.shape == (48, 64, 3)
    assert frame.pixels[-1, -1].tolist() == pytest.approx([0, 255, 0], abs=4)


def test_sound_leaves_the_tags_alone(tmp_path: Path) -> None:
    tags, values = GREEN["709"]
    silent = write_green(tmp_path / "silent.mp4", tags, values)
    with av.open(str(silent)) as silent_video, av.open(str(tmp_path / "in.mp4"), "w") as container:
        video = container.add_stream_from_template(silent_video.streams.video[0])
        sound = container.add_stream("aac", rate=16_000)
        sound.layout = "mono"
        for packet in silent_video.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                container.mux(packet)
        heard = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        heard.sample_rate, heard.pts, heard.time_base = 16_000, 0, Fraction(1, 16_000)
        container.mux(sound.encode(heard))
        container.mux(sound.encode(None))
    with H264Video(tmp_path / "out.mp4", 10, tmp_path / "in.mp4", Fraction(2)) as copy:
        for frame in read_video(tmp_path / "in.mp4"):
            copy.append(frame.pixels, frame.name, frame.time_s)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.audio
        assert container.streams.video[0].sample_aspect_ratio == 2
    assert read_colors(str(tmp_path / "out.mp4")) == tags


@pytest.mark.parametrize("tags", [tags for name, (tags, _) in GREEN.items() if name != "2020"])
def test_planes_are_what_a_decoder_takes_them_for(tags: ColorTags) -> None:
    colors = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = colors.repeat(8, axis=0).repeat(8, axis=1)
    frame = av.VideoFrame.from_ndarray(to_planes(image, tags), format="yuvj420p" if tags.is_full else "yuv420p")
    frame.colorspace, frame.color_range = tags.matrix if tags.matrix != 2 else 6, tags.color_range
    decoded = frame.to_ndarray(format="rgb24").astype(int)
    np.testing.assert_allclose(decoded[4::8, 4::8], colors, atol=4)
