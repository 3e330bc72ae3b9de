"""Reading and writing of images, on files made by hand, byte by byte where an encoder would not make them."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detseg.runtime.media.images import (
    ImageError,
    decode_image,
    image_size,
    read_image,
    read_reduced,
    write_image,
    write_mask,
)


def encode(suffix: str, rgb: np.ndarray, *options: int) -> bytes:
    return bytes(cv2.imencode(suffix, rgb[..., ::-1], list(options))[1])


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def exif(orientation: int, order: str = "<") -> bytes:
    """An Exif block of one entry, without the ``Exif\\0\\0`` that JPEG puts before it."""
    start = {"<": b"II", ">": b"MM"}[order]
    entry = struct.pack(order + "HHIHH", 274, 3, 1, orientation, 0)
    return start + struct.pack(order + "HI", 42, 8) + struct.pack(order + "H", 1) + entry + bytes(4)


def jpeg(rgb: np.ndarray, orientation: int | None = None, order: str = "<") -> bytes:
    data = encode(".jpg", rgb, cv2.IMWRITE_JPEG_QUALITY, 100)
    if orientation is None:
        return data
    block = b"Exif\0\0" + exif(orientation, order)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]


def png(rgb: np.ndarray, orientation: int | None = None) -> bytes:
    data = encode(".png", rgb)
    if orientation is None:
        return data
    return data[:33] + png_chunk(b"eXIf", exif(orientation)) + data[33:]


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def webp(rgb: np.ndarray, orientation: int | None = None) -> bytes:
    data = encode(".webp", rgb, cv2.IMWRITE_WEBP_QUALITY, 101)
    if orientation is None:
        return data
    height, width = rgb.shape[:2]
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    block = exif(orientation)
    start = data.index(b"VP8L")
    frame = data[start : start + 8 + int.from_bytes(data[start + 4 : start + 8], "little")]
    frame += b"\0" * (len(frame) % 2)
    chunks = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x08\0\0\0" + size + frame
    chunks += b"EXIF" + struct.pack("<I", len(block)) + block
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def tiff(rgb: np.ndarray, orientation: int | None = None) -> bytes:
    """Uncompressed, one strip, big-endian."""
    height, width = rgb.shape[:2]
    entries = [
        (256, 4, 1, struct.pack(">I", width)),
        (257, 4, 1, struct.pack(">I", height)),
        (258, 3, 3, struct.pack(">I", 8)),
        (259, 3, 1, struct.pack(">HH", 1, 0)),
        (262, 3, 1, struct.pack(">HH", 2, 0)),
        (273, 4, 1, struct.pack(">I", 14)),
        (274, 3, 1, struct.pack(">HH", orientation or 1, 0)),
        (277, 3, 1, struct.pack(">HH", 3, 0)),
        (278, 4, 1, struct.pack(">I", height)),
        (279, 4, 1, struct.pack(">I", rgb.size)),
    ]
    directory = struct.pack(">H", len(entries)) + b"".join(struct.pack(">HHI", *e[:3]) + e[3] for e in entries)
    return (
        b"MM\0*"
        + struct.pack(">I", 14 + rgb.size)
        + struct.pack(">HHH", 8, 8, 8)
        + rgb.tobytes()
        + directory
        + bytes(4)
    )


def png_of_size(height: int, width: int, bits: int = 8) -> bytes:
    """A PNG whose header promises a size and whose body is almost empty."""
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    body = png_chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + body + png_chunk(b"IEND", b"")


GIF = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\x04\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"
ZIP = b"PK\x05\x06" + bytes(18)

MAKERS = {"jpeg": jpeg, "png": png, "webp": webp, "tiff": tiff}
COLORS = {
    "A": (255, 0, 0),
    "B": (0, 255, 0),
    "C": (0, 0, 255),
    "D": (255, 255, 0),
    "E": (0, 255, 255),
    "F": (255, 0, 255),
}
# How each orientation stores the upright image AB / CD / EF, from the definition of the tag: which visual side the
# first stored row and the first stored column are.
STORED = {
    1: ("AB", "CD", "EF"),
    2: ("BA", "DC", "FE"),
    3: ("FE", "DC", "BA"),
    4: ("EF", "CD", "AB"),
    5: ("ACE", "BDF"),
    6: ("BDF", "ACE"),
    7: ("FDB", "ECA"),
    8: ("ECA", "FDB"),
}


def blocks(rows: tuple[str, ...], size: int = 16) -> np.ndarray:
    image = np.array([[COLORS[letter] for letter in row] for row in rows], np.uint8)
    return image.repeat(size, axis=0).repeat(size, axis=1)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("maker", MAKERS)
def test_every_orientation_is_applied_in_every_format(tmp_path: Path, maker: str, orientation: int) -> None:
    path = tmp_path / "image.bin"
    path.write_bytes(MAKERS[maker](blocks(STORED[orientation]), orientation))
    upright = read_image(path)
    assert upright.shape == (48, 32, 3)
    assert upright.flags.c_contiguous
    assert image_size(path) == (48, 32)
    np.testing.assert_allclose(upright[8::16, 8::16], blocks(("AB", "CD", "EF"), 1), atol=6)


@pytest.mark.parametrize(
    ("orientation", "order", "shape"), [(6, ">", (48, 32)), (6, "<", (48, 32)), (0, "<", (32, 48)), (9, "<", (32, 48))]
)
def test_exif_of_either_byte_order_and_of_no_meaning(orientation: int, order: str, shape: tuple[int, int]) -> None:
    assert decode_image(jpeg(blocks(STORED[6]), orientation, order), "x").shape[:2] == shape


def test_a_damaged_exif_block_means_upright() -> None:
    data = jpeg(blocks(STORED[6]), 6).replace(b"II*\0\x08", b"II*\0\xff")
    assert decode_image(data, "x").shape[:2] == (32, 48)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".tif", ".PNG"])
def test_lossless_formats_give_back_every_pixel(tmp_path: Path, suffix: str) -> None:
    image, path = noise(37, 53), tmp_path / f"a{suffix}"
    write_image(path, image)
    assert np.array_equal(read_image(path), image)
    assert image_size(path) == (37, 53)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_keep_colors_in_their_order(tmp_path: Path, suffix: str) -> None:
    image, path = blocks(("AB", "CD", "EF")), tmp_path / f"a{suffix}"
    write_image(path, image)
    np.testing.assert_allclose(read_image(path)[8::16, 8::16], image[8::16, 8::16], atol=12)
    assert image_size(path) == (48, 32)


GRAY = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (bytes(cv2.imencode(".png", GRAY)[1]), GRAY[..., None].repeat(3, 2)),
        (bytes(cv2.imencode(".tiff", GRAY)[1]), GRAY[..., None].repeat(3, 2)),
        (bytes(cv2.imencode(".bmp", GRAY)[1]), GRAY[..., None].repeat(3, 2)),
        # transparent, but the color under it counts
        (
            bytes(cv2.imencode(".png", np.full((4, 4, 4), (10, 20, 30, 0), np.uint8))[1]),
            np.full((4, 4, 3), (30, 20, 10)),
        ),
    ],
    ids=["gray png", "gray tiff", "gray bmp", "alpha png"],
)
def test_gray_and_alpha_become_rgb(data: bytes, expected: np.ndarray) -> None:
    assert np.array_equal(decode_image(data, "x"), expected)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_are_refused_with_a_way_out(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"deep{suffix}"
    path.write_bytes(bytes(cv2.imencode(suffix, np.full((8, 8), 1000, np.uint16))[1]))
    assert image_size(path) == (8, 8)
    with pytest.raises(ImageError, match="16 bits per channel, allowed are 8; convert"):
        read_image(path)


@pytest.mark.parametrize(
    "maker", [jpeg, png, webp, tiff, lambda rgb: encode(".bmp", rgb)], ids=["jpeg", "png", "webp", "tiff", "bmp"]
)
def test_no_prefix_of_a_file_passes_for_the_whole(maker: Callable[[np.ndarray], bytes]) -> None:
    data = maker(noise(40, 40))
    decode_image(data, "whole")
    for length in [0, 1, 2, 3, 8, 11, 12, 20, 30, *range(40, len(data) - 8, 97), len(data) // 2]:
        with pytest.raises(ImageError, match=r"^cut\.jpg: "):
            decode_image(data[:length], "cut.jpg")


@pytest.mark.parametrize("length", [1, 2])
def test_a_jpeg_without_its_end_marker_is_truncated(length: int) -> None:
    with pytest.raises(ImageError, match="truncated, the JPEG does not reach its end"):
        decode_image(jpeg(noise(64, 64))[:-length], "x")


def test_a_thumbnail_does_not_pass_for_the_end() -> None:
    thumbnail, data = jpeg(noise(8, 8)), jpeg(noise(64, 64))
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    with pytest.raises(ImageError, match="does not reach its end"):
        decode_image((data[:2] + segment + data[2:])[:-200], "x")


@pytest.mark.parametrize("maker", MAKERS)
def test_bytes_after_the_end_are_allowed(maker: str) -> None:
    data = MAKERS[maker](noise(40, 40))
    assert np.array_equal(decode_image(data + b"\0camera notes\xff\xd8", "x"), decode_image(data, "x"))


@pytest.mark.parametrize(
    "options", [(cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)], ids=["progressive", "restarts"]
)
def test_other_kinds_of_jpeg_are_complete(options: tuple[int, int]) -> None:
    assert decode_image(encode(".jpg", noise(64, 64), *options), "x").shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GIF, "not an image of a supported format"),
        (ZIP, "not an image of a supported format"),
        (b"", "not an image of a supported format"),
        (b"\xff", "not an image of a supported format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image of a supported format"),
        (png_of_size(50_000, 50_000), "50000x50000 = 2,500,000,000 pixels, allowed are 178,000,000"),
        (png_of_size(0, 10), "impossible size, 0x10"),
        (png_of_size(40, 40), "damaged or truncated"),
        (b"\xff\xd8\xff\xd9", "damaged or truncated"),
        (b"\xff\xd8\xff\xe0\0\0" + bytes(50), "damaged or truncated"),
        (b"RIFF\x20\0\0\0WEBPABCD" + bytes(20), "damaged or truncated"),
        (b"II*\0\xff\xff\xff\x7f", "damaged or truncated"),
        (b"BM" + bytes(60), "impossible size"),
    ],
    ids=[
        "gif",
        "zip",
        "empty",
        "one byte",
        "svg",
        "huge png",
        "flat png",
        "png without rows",
        "jpeg of markers",
        "jpeg without lengths",
        "webp of no kind",
        "tiff pointing outside",
        "bmp of zeros",
    ],
)
def test_hostile_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "hostile.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_the_cap_on_pixels_holds_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write_image(path, noise(30, 40))
    assert read_image(path, max_pixels=1200).shape == (30, 40, 3)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match="40x30 = 1,200 pixels, allowed are 1,199"):
            read(path, max_pixels=1199)


@pytest.mark.parametrize("read", [read_image, image_size])
def test_missing_files_and_folders(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(ImageError, match="nothing\\.jpg: cannot be read: No such file"):
        read(tmp_path / "nothing.jpg")
    with pytest.raises(ImageError, match="cannot be read: Is a directory"):
        read(tmp_path)


def test_the_content_counts_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(png(noise(5, 6)))
    assert np.array_equal(read_image(path), noise(5, 6))


def test_random_damage_gives_an_image_or_an_image_error() -> None:
    random = np.random.default_rng(1)
    for maker in MAKERS.values():
        data = maker(noise(16, 16), 6)
        for _ in range(150):
            damaged = bytearray(data)
            for position in random.integers(0, min(len(data), 120), 3):
                damaged[position] = random.integers(256)
            try:
                image = decode_image(bytes(damaged), "x", max_pixels=1_000_000)
            except ImageError:
                continue
            assert image.dtype == np.uint8
            assert image.shape[2] == 3


def test_writing_makes_the_folder_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.png"
    write_image(path, noise(4, 4))
    write_image(path, noise(5, 5))
    assert read_image(path).shape == (5, 5, 3)
    assert [entry.name for entry in path.parent.iterdir()] == ["a.png"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write_image(path, noise(4, 4))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_image(path, noise(5, 5))
    assert read_image(path).shape == (4, 4, 3)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def test_writing_refuses_other_formats_and_other_arrays(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot write \.gif; use one of \.bmp"):
        write_image(tmp_path / "a.gif", noise(4, 4))
    with pytest.raises(ValueError, match="HxWx3 uint8"):
        write_image(tmp_path / "a.png", noise(4, 4).astype(np.float32))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["bccd/JPEGImages", "coco-mini/val2017", "camvid/val/images", "camvid/val/masks"])
def test_real_images(detseg_data: Path, folder: str) -> None:
    paths = sorted((detseg_data / folder).iterdir())[:25]
    assert len(paths) == 25
    for path in paths:
        image = read_image(path)
        assert image_size(path) == image.shape[:2]
        assert np.array_equal(image, cv2.imread(str(path))[..., ::-1])


def test_masks_are_written_without_loss(tmp_path: Path) -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(8, 32)
    write_mask(tmp_path / "new" / "mask.PNG", mask)
    stored = (tmp_path / "new" / "mask.PNG").read_bytes()
    assert stored[24:26] == b"\x08\x00", "8 bits, gray"
    assert np.array_equal(cv2.imread(str(tmp_path / "new" / "mask.PNG"), cv2.IMREAD_UNCHANGED), mask)


@pytest.mark.parametrize(
    ("name", "mask", "message"),
    [
        ("mask.jpg", np.zeros((2, 2), np.uint8), r"a mask is written as \.png, which changes no value; got \.jpg"),
        ("mask.png", np.zeros((2, 2, 3), np.uint8), r"HxW uint8 and not empty, got \(2, 2, 3\) uint8"),
        ("mask.png", np.zeros((2, 2), np.int64), r"got \(2, 2\) int64"),
        ("mask.png", np.zeros((0, 2), np.uint8), r"got \(0, 2\) uint8"),
    ],
)
def test_what_is_no_mask_is_not_written(tmp_path: Path, name: str, mask: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_mask(tmp_path / name, mask)
    assert list(tmp_path.iterdir()) == []


def with_tags(data: bytes, *tags: tuple[int, int, int, int]) -> bytes:
    """A TIFF of :func:`tiff` whose directory has further ``tags`` (number, type, count, value) before its own."""
    start = int.from_bytes(data[4:8], "big")
    count = int.from_bytes(data[start : start + 2], "big")
    entries = [struct.pack(">HHII", *tag) for tag in tags]
    return data[:start] + struct.pack(">H", count + len(entries)) + b"".join(entries) + data[start + 2 :]


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ([(256, 4, 1, 30_000)], "tag 256 twice"),
        ([(257, 4, 1, 30_000)], "tag 257 twice"),
        ([(256, 16, 1, 30_000)], "tag 256 twice"),  # LONG8, which is read by some
        ([(256, 11, 1, 0x47000000)], "tag 256 twice"),  # a real number
        ([(322, 4, 1, 16), (322, 4, 1, 1 << 20)], "tag 322 twice"),
        ([(322, 4, 1, 1 << 20), (323, 4, 1, 1 << 14)], "tiles of 17,179,869,184 pixels"),
    ],
)
def test_tiff_files_that_readers_take_for_another_size(tmp_path: Path, tags: list[Any], words: str) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(with_tags(tiff(noise(4, 6)), *tags))
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match=words):
            read(path)


def test_tiff_with_many_values_per_pixel(tmp_path: Path) -> None:
    data = tiff(noise(4, 6)).replace(struct.pack(">HHIHH", 277, 3, 1, 3, 0), struct.pack(">HHIHH", 277, 3, 1, 60000, 0))
    with pytest.raises(ImageError, match="60000 values per pixel, allowed are 8"):
        decode_image(data, "a.tif")


def jpeg_frame(height: int, width: int) -> bytes:
    return b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + b"\1\x22\0\2\x11\1\3\x11\1"


@pytest.mark.parametrize("filler", [b"\xff\0", b"\xff\xff\0", b"\xff\0\0\x50", b"\0"])
def test_jpeg_bytes_that_decoders_pass_over_hide_no_size(filler: bytes) -> None:
    data = jpeg(noise(8, 8))
    hidden = data[:2] + filler + jpeg_frame(30_000, 30_000) + bytes(70_000) + data[2:]
    with pytest.raises(ImageError, match=r"a marker was expected|not an image of a supported"):
        decode_image(hidden, "a.jpg")


def test_jpeg_with_very_many_scans() -> None:
    data = encode(".jpg", noise(16, 16), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert decode_image(data, "a.jpg").shape == (16, 16, 3)
    start = data.rindex(b"\xff\xda")
    last_scan = data[start : data.rindex(b"\xff\xd9")]
    assert decode_image(data[:start] + 50 * last_scan + b"\xff\xd9", "a.jpg").shape == (16, 16, 3)
    with pytest.raises(ImageError, match=r"a\.jpg: JPEG with more than 100 scans; save it again with fewer"):
        decode_image(data[:start] + 101 * last_scan + b"\xff\xd9", "a.jpg")


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match=r"a\.png: cannot be read: not a regular file"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("size", "enough", "factor"),
    [
        ((64, 96), (8, 12), 8),
        ((64, 96), (9, 12), 8),
        ((64, 96), (9, 13), 4),
        ((64, 96), (32, 48), 2),
        ((64, 96), (33, 49), 1),
        ((64, 96), (200, 300), 1),
        # Only where every pixel is a whole block.
        ((60, 100), (4, 4), 4),
        ((62, 100), (4, 4), 2),
        ((63, 100), (4, 4), 1),
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_is_decoded_no_larger_than_needed(
    tmp_path: Path, size: tuple[int, int], enough: tuple[int, int], factor: int, orientation: int
) -> None:
    smooth = cv2.GaussianBlur(noise(*size), (0, 0), 12)
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(smooth, orientation))
    if orientation == 6:
        enough = enough[::-1]
    reduced, found = read_reduced(path, enough)
    assert found == factor
    whole = read_image(path)
    assert reduced.shape == (whole.shape[0] // factor, whole.shape[1] // factor, 3)
    blocks = whole.reshape(reduced.shape[0], factor, reduced.shape[1], factor, 3).mean(axis=(1, 3))
    assert np.abs(blocks - reduced).max() < 6
    assert np.abs(blocks - reduced).mean() < 1


def test_other_formats_are_decoded_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_image(path, noise(64, 64))
    image, factor = read_reduced(path, (8, 8))
    assert factor == 1
    assert (image == noise(64, 64)).all()
    with pytest.raises(ImageError, match=r"none\.jpg: cannot be read"):
        read_reduced(tmp_path / "none.jpg", (8, 8))
