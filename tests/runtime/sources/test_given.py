"""What users of other libraries hand over becomes the same image, or volume, that the file of it would be."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from PIL import Image

from detseg.runtime.media.images import ImageError, read_image, write_image
from detseg.runtime.sources.finding import Source
from detseg.runtime.sources.given import InputError, items_of
from detseg.runtime.volumes.volume_files import read_volume
from detseg.volumes import Volume

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
GRAY = RGB[:, :, 0]


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)


IMAGES: dict[str, tuple[Callable[[], Any], np.ndarray]] = {
    "rgb": (lambda: RGB, RGB),
    "gray": (lambda: GRAY, np.stack([GRAY] * 3, axis=2)),
    "one channel": (lambda: GRAY[:, :, None], np.stack([GRAY] * 3, axis=2)),
    "rgba": (lambda: np.dstack([RGB, GRAY]), RGB),
    "not contiguous": (lambda: np.repeat(RGB, 2, axis=1)[:, ::2], RGB),
    "tensor": (lambda: tensor(RGB), RGB),
    "tensor of floats": (lambda: tensor(RGB).float() / 255, RGB),
    "tensor in half precision": (lambda: (tensor(RGB).float() / 255).half(), RGB),
    "tensor that learns": (lambda: (tensor(RGB).float() / 255).requires_grad_(), RGB),
    "gray tensor": (lambda: torch.from_numpy(GRAY)[None], np.stack([GRAY] * 3, axis=2)),
    "PIL": (lambda: Image.fromarray(RGB), RGB),
    "gray PIL": (lambda: Image.fromarray(GRAY), np.stack([GRAY] * 3, axis=2)),
    "transparent PIL": (lambda: Image.fromarray(np.dstack([RGB, GRAY])), RGB),
    "bytes": (lambda: png(RGB), RGB),
    "bytearray": (lambda: bytearray(png(RGB)), RGB),
    "memory": (lambda: memoryview(png(RGB)), RGB),
    "open file": (lambda: io.BytesIO(png(RGB)), RGB),
}


@pytest.mark.parametrize("name", IMAGES)
def test_one_image(name: str) -> None:
    make, expected = IMAGES[name]
    (image,) = items_of(make())
    assert isinstance(image, np.ndarray)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (RGB[:, :, ::-1], RGB),
        (np.dstack([RGB[:, :, ::-1], GRAY]), RGB),
        (tensor(np.ascontiguousarray(RGB[:, :, ::-1])), RGB),
        (GRAY, np.stack([GRAY] * 3, axis=2)),
    ],
    ids=["array", "with alpha", "tensor", "gray"],
)
def test_the_order_of_opencv(given: Any, expected: np.ndarray) -> None:
    (image,) = items_of(given, channels="bgr")
    np.testing.assert_array_equal(image, expected)


def test_an_image_of_the_right_form_is_not_copied() -> None:
    (image,) = items_of(RGB)
    assert image is RGB


@pytest.mark.parametrize(
    "given",
    [np.stack([RGB, RGB[::-1]]), torch.stack([tensor(RGB), tensor(RGB[::-1].copy())])],
    ids=["array", "tensor"],
)
def test_many_at_once(given: Any) -> None:
    first, second = items_of(given)
    np.testing.assert_array_equal(first, RGB)
    np.testing.assert_array_equal(second, RGB[::-1])


def test_an_upright_image_of_a_turned_camera(tmp_path: Path) -> None:
    image = Image.fromarray(RGB)
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / "turned.png", exif=exif)
    (opened,) = items_of(Image.open(tmp_path / "turned.png"))
    np.testing.assert_array_equal(opened, read_image(tmp_path / "turned.png"))
    assert isinstance(opened, np.ndarray)
    assert opened.shape == (8, 6, 3)


def test_a_palette(tmp_path: Path) -> None:
    (image,) = items_of(Image.fromarray(RGB).quantize(4))
    np.testing.assert_array_equal(image, np.asarray(Image.fromarray(RGB).quantize(4).convert("RGB")))


def test_names_and_sources_are_left_to_be_found(tmp_path: Path) -> None:
    source = Source("image", "a.png", tmp_path / "a.png")
    assert list(items_of(["a.png", tmp_path, source])) == ["a.png", tmp_path, source]
    assert list(items_of("frames/*.png")) == ["frames/*.png"]


def test_lists_iterators_and_what_is_in_them(tmp_path: Path) -> None:
    taken = 0

    def endless() -> Iterator[Any]:
        nonlocal taken
        while True:
            taken += 1
            yield [RGB, png(RGB)]

    items = items_of(endless())
    for _ in range(4):
        np.testing.assert_array_equal(next(items), RGB)
    assert taken == 2
    assert len(list(items_of((Image.fromarray(RGB), tensor(RGB), "a.png")))) == 3


def test_an_open_file_says_its_name(tmp_path: Path) -> None:
    path = tmp_path / "no_image.png"
    path.write_bytes(b"nothing")
    with path.open("rb") as file, pytest.raises(ImageError, match=r"no_image\.png: not an image"):
        items_of(file)
    with (
        path.open() as text,
        pytest.raises(InputError, match=r"no_image\.png is opened as text; open it with mode 'rb'"),
    ):
        items_of(text)
    with pytest.raises(ImageError, match="the bytes: not an image"):
        items_of(b"nothing")


@pytest.mark.parametrize("given", [None, 3, 2.5, object(), {"image": RGB}], ids=lambda given: type(given).__name__)
def test_anything_else_is_one_error_with_the_list(given: Any) -> None:
    with pytest.raises(InputError, match=r"cannot predict on builtins\.\w+; it may be\n(.|\n)*a torch tensor"):
        items_of(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (RGB.astype(np.float32), r"must be uint8, got float32; convert it: \(image\)\.clip\(0, 255\)\.astype"),
        (RGB / 255, r"must be uint8, got float64; convert it: \(255 \* image\)\.clip"),
        (RGB.astype(np.int64), "must be uint8, got int64"),
        (RGB.transpose(2, 0, 1), r"got an array of 3x6x8; channels come last: image.transpose\(1, 2, 0\)"),
        (np.zeros((2, 3, 4, 5, 3), np.uint8), "got an array of 2x3x4x5x3"),
        (np.zeros(5, np.uint8), "got an array of 5"),
        (np.zeros((0, 4, 3), np.uint8), "got an array of 0x4x3"),
        (torch.from_numpy(RGB), r"got 6x8x3; channels come first in tensors: tensor.movedim\(-1, -3\)"),
        (tensor(RGB).float(), "must lie between 0 and 1, got 0 to 249"),
        (tensor(RGB).float() - 1, "normalized ones cannot be used"),
        (torch.full((3, 4, 4), torch.nan), "must lie between 0 and 1, got nan"),
        (tensor(RGB).long(), "must be uint8, got int64"),
        (Image.fromarray(RGB[:, :, 0].astype(np.int32)), "mode I has more than 8 bits"),
    ],
)
def test_images_that_are_none(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(items_of(given))


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="channels must be rgb or bgr, got 'gbr'"):
        items_of(RGB, channels="gbr")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="spacing is for volumes"):
        items_of(RGB, spacing=(1, 1, 1))


AFFINES = {
    "straight": np.diag([1.0, 2.0, 3.0, 1.0]),
    "moved and mirrored": np.array([[-1.0, 0, 0, 10], [0, -2.0, 0, 20], [0, 0, 3.0, -30], [0, 0, 0, 1]]),
    "turned": np.array([[0, 0, 1.5, 4], [1.0, 0, 0, -5], [0, 2.0, 0, 6], [0, 0, 0, 1]]),
}


@pytest.mark.parametrize("name", AFFINES)
def test_volumes_of_other_libraries_lie_where_their_files_do(name: str, tmp_path: Path) -> None:
    voxels = np.random.default_rng(1).normal(size=(5, 6, 7)).astype(np.float32)
    path = tmp_path / "scan.nii.gz"
    image = nibabel.Nifti1Image(voxels, AFFINES[name])
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    expected = read_volume(path)
    for given in (nibabel.load(path), SimpleITK.ReadImage(str(path)), expected):
        (volume,) = items_of(given, volumes=True)
        assert isinstance(volume, Volume)
        np.testing.assert_array_equal(volume.voxels, expected.voxels)
        np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-5)


@pytest.mark.parametrize("library", ["numpy", "nibabel", "nibabel 5-D", "SimpleITK"])
def test_volumes_of_several_channels(library: str) -> None:
    channels = np.random.default_rng(1).normal(size=(2, 5, 6, 7)).astype(np.float32)
    last, affine = np.moveaxis(channels, 0, -1), np.diag([1.0, 2.0, 3.0, 1.0])
    given: Any = channels
    if library.startswith("nibabel"):
        given = nibabel.Nifti1Image(last if library == "nibabel" else last[:, :, :, None], affine)
    elif library == "SimpleITK":
        given = SimpleITK.GetImageFromArray(np.ascontiguousarray(channels.T), isVector=True)
        given.SetSpacing((1, 2, 3))
        given.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    (volume,) = items_of(given, spacing=(1, 2, 3) if library == "numpy" else None, volumes=True)
    assert isinstance(volume, Volume)
    np.testing.assert_array_equal(volume.voxels, channels)
    np.testing.assert_allclose(volume.affine, affine)


def test_an_axis_of_one_channel_is_none() -> None:
    (volume,) = items_of(np.zeros((1, 3, 4, 5)), spacing=(1, 1, 1), volumes=True)
    assert isinstance(volume, Volume)
    assert volume.voxels.shape == (3, 4, 5)


def test_an_array_with_its_spacing() -> None:
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    (volume,) = items_of(voxels, spacing=(1, 2, 3.5), volumes=True)
    assert isinstance(volume, Volume)
    assert volume.spacing == (1.0, 2.0, 3.5)
    np.testing.assert_array_equal(volume.voxels, voxels)


@pytest.mark.parametrize(
    ("given", "spacing", "message"),
    [
        (np.zeros((3, 4, 5)), None, r"has no spacing, .* model.predict\(array, spacing=\(1.0, 1.0, 3.0\)\)"),
        (np.zeros((3, 4, 5)), (1, 0, 1), "spacing must be three positive numbers"),
        (np.zeros((3, 4, 5)), (1, 1), "spacing must be three positive numbers"),
        (np.zeros((2, 2, 3, 4, 5)), (1, 1, 1), r"of several channels \[C, X, Y, Z\], got an array of 2x2x3x4x5"),
        (np.zeros((4, 5)), (1, 1, 1), "got an array of 4x5"),
        (np.zeros((0, 3, 4, 5)), (1, 1, 1), "got an array of 0x3x4x5"),
        (np.full((3, 4, 5), np.nan), (1, 1, 1), "voxels that are NaN or infinite"),
        (np.zeros((3, 4, 5), "U1"), (1, 1, 1), "voxels must be numbers"),
        (nibabel.Nifti1Image(np.zeros((3, 4, 5, 2, 2)), np.eye(4)), None, r"a nibabel image of \(3, 4, 5, 2, 2\)"),
        (SimpleITK.Image(3, 4, SimpleITK.sitkFloat32), None, "a SimpleITK image of"),
    ],
)
def test_volumes_that_are_none(given: Any, spacing: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        items_of(given, spacing=spacing, volumes=True)


def test_what_is_written_is_what_was_given(tmp_path: Path) -> None:
    (image,) = items_of(Image.fromarray(RGB))
    assert isinstance(image, np.ndarray)
    write_image(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), RGB)
