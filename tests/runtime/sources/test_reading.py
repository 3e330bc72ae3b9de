from __future__ import annotations

import struct
import threading
import time
import zlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detseg.runtime.media.images import ImageError, read_image, write_image
from detseg.runtime.sources.finding import Source, SourceError, find_sources
from detseg.runtime.sources.reading import read_frames
from detseg.runtime.sources.video_reader import Section
from detseg.runtime.volumes.volume_files import VOLUME_SUFFIXES


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images 1, 2 and 10, whose gray is their number, and two videos of three and two frames; also the current
    folder."""
    for number in (1, 2, 10):
        write_image(tmp_path / f"p{number}.png", np.full((8, 8, 3), number, np.uint8))
    for name, count in (("footage.avi", 3), ("more.mp4", 2)):
        codec = cv2.VideoWriter.fourcc(*("MJPG" if name.endswith("avi") else "mp4v"))
        video = cv2.VideoWriter(str(tmp_path / name), codec, 10, (32, 32))
        for number in range(count):
            video.write(np.full((32, 32, 3), 100 + 20 * number, np.uint8))
        video.release()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(sources: list[Source]) -> list[tuple[str, str]]:
    return [(source.kind, source.name) for source in sources]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["p1*", "."], [
            ("image", "p1.png"), ("image", "p10.png"),
            ("video", "footage.avi"), ("video", "more.mp4"), ("image", "p2.png"),
        ]),
        (["p%d.png"], [("image", "p1.png"), ("image", "p2.png"), ("image", "p10.png")]),
        (["p%02d.png"], [("image", "p10.png")]),
        (["0", "footage.avi"], [("camera", "0"), ("video", "footage.avi")]),
        (["*.mp4", "more.mp4"], [("video", "more.mp4")]),
    ],
)  # fmt: skip
def test_what_names_name(folder: Path, given: list[str], expected: list[tuple[str, str]]) -> None:
    assert names(find_sources(given)) == expected


def test_a_file_with_a_number_for_a_name_is_a_file(folder: Path) -> None:
    (folder / "p1.png").rename("7")
    assert names(find_sources(["7"])) == [("image", "7")]


def test_standard_input_is_a_list_of_sources(folder: Path) -> None:
    assert names(find_sources(["p2.png", "-"], listing=["p1.png\n", "\n", "*.avi\n"])) == [
        ("image", "p2.png"), ("image", "p1.png"), ("video", "footage.avi"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "suffixes", "allow_url", "message"),
    [
        (["rtsp://host/1"], (".png",), False, "only with --allow-url"),
        (["ftp://host/a.mp4"], (".png",), True, "cannot open ftp://; allowed are http, https"),
        (["file:///etc/passwd"], (".png",), True, "cannot open file://"),
        (["0"], VOLUME_SUFFIXES, False, "volumes are read from files only"),
        (["footage.avi"], VOLUME_SUFFIXES, False, "not a volume"),
        (["q%d.png"], (".png",), False, "image sequence q%d.png: no file"),
        (["-"], (".png",), False, "no source was given"),
        (["nothing.mp4"], (".png",), False, "does not exist"),
    ],
)
def test_what_is_no_source(
    folder: Path, given: list[str], suffixes: tuple[str, ...], allow_url: bool, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        find_sources(given, suffixes, allow_url=allow_url)


def grays(frames: Iterator[Any]) -> list[tuple[str, int]]:
    return [(frame.name, int(frame.image.mean())) for frame in frames]


def test_frames_of_files_and_videos_come_in_order(folder: Path) -> None:
    found = grays(read_frames(find_sources(["p10.png", "footage.avi", "p1.png", "p2.png"]), read_image))
    assert [name for name, _ in found] == ["p10", "footage_000000", "footage_000001", "footage_000002", "p1", "p2"]
    np.testing.assert_allclose([gray for _, gray in found], [10, 100, 120, 140, 1, 2], atol=2)


def test_a_section_is_for_videos(folder: Path) -> None:
    found = grays(read_frames(find_sources(["p1.png", "footage.avi"]), read_image, Section(every=2)))
    assert [name for name, _ in found] == ["p1", "footage_000000", "footage_000002"]


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(folder: Path) -> None:
    (folder / "p2.png").write_bytes(b"\x89PNG broken")
    data = (folder / "footage.avi").read_bytes()
    (folder / "footage.avi").write_bytes(data[:-100])
    (folder / "more.mp4").write_bytes(b"#EXTM3U")
    failures: list[tuple[str, str]] = []
    frames = read_frames(
        find_sources(["."]), read_image, on_error=lambda source, error: failures.append((source.name, str(error)))
    )
    assert [frame.name for frame in frames if frame.index is None] == ["p1", "p10"]
    assert [name for name, _ in failures] == ["footage.avi", "more.mp4", "p2.png"]
    assert "footage.avi: truncated, 100 bytes" in failures[0][1]
    with pytest.raises(ImageError, match=r"p2\.png"):
        list(read_frames(find_sources(["p1.png", "p2.png"]), read_image))


def test_few_files_are_read_ahead(folder: Path) -> None:
    read: list[Path] = []
    sources = [Source("image", f"{number}", Path(f"{number}")) for number in range(1000)]

    def take(path: Path) -> np.ndarray:
        read.append(path)
        return np.zeros((1, 1, 3), np.uint8)

    frames = read_frames(sources, take)
    assert next(frames).name == "0"
    frames.close()  # type: ignore[attr-defined]
    assert len(read) < 20


def test_a_stream_from_the_network(folder: Path) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/footage.avi"
        frames = list(read_frames(find_sources([address], allow_url=True), read_image))
        server.shutdown()
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert frames[0].source == address
    assert frames[0].path is None


@pytest.mark.parametrize(("side", "fewest", "most"), [(100, 3, 10), (6_500, 1, 2), (13_000, 1, 2)])
def test_of_large_images_few_are_decoded_ahead(tmp_path: Path, side: int, fewest: int, most: int) -> None:
    """What waits is counted by the pixels that headers claim; 6,500 x 6,500 are 42 of 44.5 million that may wait."""
    png = struct.pack(">8s I4s2I5B", b"\x89PNG\r\n\x1a\n", 13, b"IHDR", side, side, 8, 2, 0, 0, 0)
    for number in range(20):
        (tmp_path / f"{number:02}.png").write_bytes(png + struct.pack(">I", zlib.crc32(png[12:])))
    lock, ahead, seen = threading.Lock(), [0], [0]

    def read(path: Path) -> np.ndarray:
        with lock:
            ahead[0] += 1
            seen[0] = max(seen[0], ahead[0])
        return np.full((2, 2, 3), int(path.stem), np.uint8)

    given = []
    for frame in read_frames(find_sources([str(tmp_path)]), read):
        time.sleep(0.005)
        given.append(int(frame.pixels[0, 0, 0]))
        with lock:
            ahead[0] -= 1
    assert given == list(range(20))
    assert fewest <= seen[0] <= most
