from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detseg.data.datasets.mask_file import mask_size, read_color_mask, read_index_mask, read_instance_mask
from detseg.data.source import DatasetError
from detseg.runtime.media.images import ImageError

VALUES = np.array([[0, 1, 2, 3], [4, 5, 200, 255]], np.uint8)


def _png(bits: int, color_type: int, rows: bytes, width: int, height: int) -> bytes:
    """A PNG written by hand, for depths that Pillow does not write; every row begins with its filter, 0."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def _save(path: Path, mode: str, size: tuple[int, int] = (4, 2), **options: Any) -> Path:
    Image.new(mode, size).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
def test_gray_values_come_as_they_are(tmp_path: Path, name: str) -> None:
    Image.fromarray(VALUES).save(tmp_path / name)
    read = read_index_mask(tmp_path / name, "a.jpg")
    assert read.dtype == np.uint8
    assert read.tolist() == VALUES.tolist()
    assert mask_size(tmp_path / name) == (2, 4)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_a_palette_gives_indices_or_colors(tmp_path: Path, name: str) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode="P")
    image.putpalette([9, 8, 7, 100, 0, 0, 0, 0, 250])
    image.save(tmp_path / name)
    assert read_index_mask(tmp_path / name, "a.jpg").tolist() == [[0, 1], [2, 1]]
    assert read_color_mask(tmp_path / name, "a.jpg")[:, 0].tolist() == [[9, 8, 7], [0, 0, 250]]


@pytest.mark.parametrize(
    ("bits", "row", "expected"),
    [(1, b"\0\xa0", [1, 0, 1, 0]), (2, b"\0\x1b", [0, 1, 2, 3]), (4, b"\0\x12\x3f", [1, 2, 3, 15])],
)
def test_fewer_than_8_bits_are_not_spread(tmp_path: Path, bits: int, row: bytes, expected: list[int]) -> None:
    (tmp_path / "a.png").write_bytes(_png(bits, 0, row, 4, 1))
    assert read_index_mask(tmp_path / "a.png", "a.jpg").tolist() == [expected]


def test_the_orientation_of_a_mask_is_not_applied(tmp_path: Path) -> None:
    image = Image.fromarray(VALUES)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    assert read_index_mask(tmp_path / "a.png", "a.jpg").tolist() == VALUES.tolist()
    assert mask_size(tmp_path / "a.png") == (2, 4)


def test_colors(tmp_path: Path) -> None:
    colors = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    Image.fromarray(colors).save(tmp_path / "a.png")
    assert np.array_equal(read_color_mask(tmp_path / "a.png", "a.jpg"), colors)


@pytest.mark.parametrize(("dtype", "name"), [(np.uint8, "a.png"), (np.uint16, "a.png"), (np.int32, "a.tif")])
def test_numbers_of_instances(tmp_path: Path, dtype: Any, name: str) -> None:
    values = np.array([[0, 26], [200, 255 if dtype == np.uint8 else 26001]], dtype)
    Image.fromarray(values).save(tmp_path / name)
    read = read_instance_mask(tmp_path / name, "a.jpg")
    assert read.dtype == np.int32
    assert read.tolist() == values.tolist()


@pytest.mark.parametrize(
    ("mode", "name", "message"),
    [
        ("RGB", "a.png", r"3 channels \(RGB\).*if it is a color map, list the colors under `colors:`"),
        ("RGBA", "a.png", "RGBA, with transparency; an index mask has one channel"),
        ("LA", "a.png", "LA, with transparency"),
        ("I;16", "a.png", "one channel of 16 bits; .* up to 8 bits; convert it without scaling"),
        ("I", "a.tif", "one channel of 32 bits"),
        ("F", "a.tif", "one channel of floating point numbers"),
    ],
)
def test_what_is_no_index_mask(tmp_path: Path, mode: str, name: str, message: str) -> None:
    path = tmp_path / name
    color = {"RGB": (0, 0, 1), "I;16": 256, "I": -1}.get(mode, 0)
    Image.new(mode, (3, 2), color).save(path)
    with pytest.raises(DatasetError, match=message) as caught:
        read_index_mask(path, "a.jpg")
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(("mode", "message"), [("L", "one channel of 8 bits.*without `colors:`"), ("RGBA", "RGBA")])
def test_what_is_no_color_map(tmp_path: Path, mode: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_color_mask(_save(tmp_path / "a.png", mode), "a.jpg")


def test_colors_of_16_bits_would_lose_half(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png(16, 2, b"\0" + bytes(6), 1, 1))
    with pytest.raises(DatasetError, match="RGB of 16 bits; a color map has 3 channels of 8 bits"):
        read_color_mask(tmp_path / "a.png", "a.jpg")


@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_what_is_no_mask_of_instances(tmp_path: Path, mode: str) -> None:
    with pytest.raises(DatasetError, match="a mask of instances has one channel of integers"):
        read_instance_mask(_save(tmp_path / "a.png", mode), "a.jpg")


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_formats_that_change_values_are_refused(tmp_path: Path, name: str) -> None:
    path = _save(tmp_path / name, "L")
    with pytest.raises(DatasetError, match=r"which may change values; a mask is PNG, BMP, TIFF"):
        read_index_mask(path, "a.jpg")


def test_a_missing_mask_names_its_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"a\.png: there is no such file; the mask of images/a\.jpg was expected"):
        read_index_mask(tmp_path / "a.png", "images/a.jpg")


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
@pytest.mark.parametrize("kept", [0, 20, 0.5, -20])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_cut_off_file(tmp_path: Path, name: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * kept) if kept == 0.5 else int(kept)])
    with pytest.raises(ImageError, match=f"{name}: "):
        read_index_mask(tmp_path / name, "a.jpg")


def test_damage_in_the_middle(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[300] ^= 255
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.png: damaged or truncated"):
        read_index_mask(tmp_path / "a.png", "a.jpg")


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png(1, 0, b"", 60_000, 60_000))
    with pytest.raises(ImageError, match="3,600,000,000 pixels, allowed are 178,000,000"):
        read_index_mask(tmp_path / "a.png", "a.jpg")
