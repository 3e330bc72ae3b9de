"""Images decoded in strips: the same pixels as those decoded as a whole, in memory that does not grow with them."""

from __future__ import annotations

import importlib.util
import re
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from detseg.runtime.media import large_images
from detseg.runtime.media.images import ImageError, image_size, read_image, write_image
from detseg.runtime.media.large_images import let_go, read_large
from detseg.runtime.postprocess.config import PostprocessConfig
from detseg.runtime.views import TiledRunner
from detseg.structures import Detections
from tests.runtime.media.test_images import jpeg, noise, png
from tests.runtime.test_views import ColorRunner, scene

needs_pyvips = pytest.mark.skipif(
    importlib.util.find_spec("pyvips") is None, reason="needs the package pyvips, the extra large"
)


@pytest.fixture
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_images, "MIN_STORED_PIXELS", 1)


def smooth(height: int, width: int) -> np.ndarray:
    rows, columns = np.indices((height, width))
    return np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256 // 2], axis=2).astype(
        np.uint8
    )


def is_mapped(image: np.ndarray) -> bool:
    return not image.flags.owndata and not image.flags.writeable


@needs_pyvips
@pytest.mark.usefixtures("all_are_large")
@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_a_png_in_any_orientation(tmp_path: Path, orientation: int | None) -> None:
    (tmp_path / "a.png").write_bytes(png(noise(40, 70), orientation))
    stored = read_large(tmp_path / "a.png")
    assert is_mapped(stored)
    assert (stored == read_image(tmp_path / "a.png")).all()


@needs_pyvips
@pytest.mark.usefixtures("all_are_large")
@pytest.mark.parametrize("orientation", [None, 6])
def test_a_jpeg_to_a_level_or_two(tmp_path: Path, orientation: int | None) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(smooth(90, 130), orientation))
    stored = read_large(tmp_path / "a.jpg")
    assert is_mapped(stored)
    assert np.abs(stored.astype(int) - read_image(tmp_path / "a.jpg")).max() <= 2


@needs_pyvips
@pytest.mark.usefixtures("all_are_large")
@pytest.mark.parametrize("options", [[], [cv2.IMWRITE_TIFF_COMPRESSION, 1], [cv2.IMWRITE_TIFF_COMPRESSION, 8]])
def test_a_tiff(tmp_path: Path, options: list[int]) -> None:
    cv2.imwrite(str(tmp_path / "a.tif"), noise(60, 50), options)
    stored = read_large(tmp_path / "a.tif")
    assert is_mapped(stored)
    assert (stored == read_image(tmp_path / "a.tif")).all()


@needs_pyvips
@pytest.mark.usefixtures("all_are_large")
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_gray_and_alpha(tmp_path: Path, channels: int, suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, channels), np.uint8)
    if channels == 4:
        pixels[..., 3] = 255 * (pixels[..., 3] > 100)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), pixels)
    assert (read_large(tmp_path / f"a{suffix}") == read_image(tmp_path / f"a{suffix}")).all()


def big_tiff(pixels: np.ndarray) -> bytes:
    """A BigTIFF, little-endian, of one strip without compression (the directory is made by hand)."""
    height, width, _ = pixels.shape
    data = pixels.tobytes()
    place = 16 + len(data)
    entries = [
        (256, 4, 1, struct.pack("<I4x", width)),
        (257, 4, 1, struct.pack("<I4x", height)),
        (258, 3, 3, struct.pack("<3H2x", 8, 8, 8)),
        (259, 3, 1, struct.pack("<H6x", 1)),
        (262, 3, 1, struct.pack("<H6x", 2)),
        (273, 16, 1, struct.pack("<Q", 16)),
        (277, 3, 1, struct.pack("<H6x", 3)),
        (278, 4, 1, struct.pack("<I4x", height)),
        (279, 16, 1, struct.pack("<Q", len(data))),
    ]
    directory = struct.pack("<Q", len(entries))
    directory += b"".join(struct.pack("<HHQ", *entry[:3]) + entry[3] for entry in entries) + struct.pack("<Q", 0)
    return b"II" + struct.pack("<HHHQ", 43, 8, 0, place) + data + directory


def test_the_header_of_a_bigtiff(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(big_tiff(noise(40, 30)))
    assert image_size(tmp_path / "a.tif") == (40, 30)


@pytest.mark.parametrize("offset", [2**64 - 1, 2**63, 10**6])
def test_a_bigtiff_whose_directory_lies_nowhere(tmp_path: Path, offset: int) -> None:
    content = bytearray(big_tiff(noise(4, 3)))
    content[8:16] = struct.pack("<Q", offset)
    (tmp_path / "a.tif").write_bytes(bytes(content))
    with pytest.raises(ImageError, match="the header is cut off"):
        image_size(tmp_path / "a.tif")


@needs_pyvips
@pytest.mark.usefixtures("all_are_large")
def test_a_bigtiff(tmp_path: Path) -> None:
    pixels = noise(40, 30)
    (tmp_path / "a.tif").write_bytes(big_tiff(pixels))
    stored = read_large(tmp_path / "a.tif")
    assert is_mapped(stored)
    assert (stored == pixels).all()


@needs_pyvips
@pytest.mark.usefixtures("all_are_large")
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_a_file_that_is_cut_off(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), noise(300, 300), [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=re.escape(str(path))):
        read_large(path)


@pytest.mark.usefixtures("all_are_large")
def test_what_has_no_strips_is_decoded_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), noise(30, 40), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    write_image(tmp_path / "a.webp", noise(30, 40))
    for name in ("a.jpg", "a.webp"):
        assert (read_large(tmp_path / name) == read_image(tmp_path / name)).all()
    monkeypatch.setattr(large_images, "MAX_PIXELS", 1000)
    with pytest.raises(ImageError, match=r"a\.jpg: 40x30 = 1,200 pixels, as a whole at most 1,000 .* no baseline JPEG"):
        read_large(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match=r"in strips it cannot be: WebP is none of JPEG, PNG and TIFF; convert it"):
        read_large(tmp_path / "a.webp")


def test_without_pyvips_larger_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.png", noise(30, 40))
    monkeypatch.setattr(large_images, "MIN_STORED_PIXELS", 1)
    monkeypatch.setitem(sys.modules, "pyvips", None)
    assert (read_large(tmp_path / "a.png") == read_image(tmp_path / "a.png")).all()
    monkeypatch.setattr(large_images, "MAX_PIXELS", 1000)
    with pytest.raises(ImageError, match=r"pip install 'detseg\[large\]'"):
        read_large(tmp_path / "a.png")


@needs_pyvips
@pytest.mark.usefixtures("all_are_large")
def test_no_room_and_no_file_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.png", noise(30, 40))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    stored = read_large(tmp_path / "a.png")
    assert list((tmp_path / "temporary").iterdir()) == []
    before = stored.copy()
    let_go(stored[::-1])
    assert (stored == before).all()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 3599})())
    with pytest.raises(ImageError, match=r"its pixels take 3,600 bytes in .*, where 3,599 are free; set TMPDIR"):
        read_large(tmp_path / "a.png")


@needs_pyvips
@pytest.mark.usefixtures("all_are_large")
def test_tiles_of_a_stored_image_are_those_of_the_image(tmp_path: Path) -> None:
    image = scene(200, 260, 12, seed=0)
    write_image(tmp_path / "a.png", image)
    runner = TiledRunner(ColorRunner(), (96, 96), PostprocessConfig(tiles=(96, 96), overlap=0.5))
    stored = runner.spec.read(tmp_path / "a.png")
    assert isinstance(stored, np.ndarray)
    assert is_mapped(stored)
    (found,), (expected,) = (runner.submit([one]).results() for one in (stored, image))
    assert isinstance(found, Detections)
    assert isinstance(expected, Detections)
    assert found.boxes_xyxy.tolist() == expected.boxes_xyxy.tolist()
    assert len(found) == 12


def test_arrays_in_memory_are_not_let_go() -> None:
    image = noise(4, 4)
    before = image.copy()
    let_go(image[::2])
    assert (image == before).all()


_GROWTH = """
import resource, sys
import numpy as np
from detseg.runtime.media.large_images import let_go, read_large
import pyvips
pyvips.Image.new_from_array([[1, 2], [3, 4]])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
image = read_large(sys.argv[1])
total = 0
for top in range(0, image.shape[0], 500):
    total += int(image[top : top + 500].sum(dtype=np.int64))
    let_go(image)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, total, image.shape)
"""


@needs_pyvips
@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_memory_does_not_grow_with_the_image(tmp_path: Path, suffix: str) -> None:
    """150 MB of pixels, in a process whose memory grows by less than half of that."""
    path = tmp_path / f"a{suffix}"
    write_image(path, np.full((7000, 7000, 3), 200, np.uint8))
    process = subprocess.run([sys.executable, "-c", _GROWTH, str(path)], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    growth, total, shape = process.stdout.split(maxsplit=2)
    assert shape.strip() == "(7000, 7000, 3)"
    assert int(total) == 200 * 3 * 7000 * 7000
    assert int(growth) < 70_000
