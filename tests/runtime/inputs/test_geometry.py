from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detseg.runtime.inputs.geometry import FittedInputSpec, InputSpec, fitted, letterbox, transform_of
from detseg.runtime.media.images import read_image


def gray(height: int, width: int, value: int = 200) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


# image size, spec, size of the resized image, its top left corner; all as (y, x)
PLACES: list[tuple[tuple[int, int], InputSpec, tuple[int, int], tuple[int, int]]] = [
    ((480, 640), InputSpec(640, 640), (480, 640), (80, 0)),
    ((640, 480), InputSpec(640, 640), (640, 480), (0, 80)),
    ((375, 500), InputSpec(640, 640), (480, 640), (80, 0)),
    # ratio 0.65: 427 rows become 277.55, which YOLOv8 rounds up and YOLOX cuts off
    ((427, 640), InputSpec(416, 416), (278, 416), (69, 0)),
    ((427, 640), InputSpec(416, 416, anchor="top_left"), (277, 416), (0, 0)),
    # 5 rows of padding: 2 above, 3 below
    ((411, 416), InputSpec(416, 416), (411, 416), (2, 0)),
    ((100, 50), InputSpec(640, 640), (640, 320), (0, 160)),
    ((100, 50), InputSpec(640, 640, upscale=False), (100, 50), (270, 295)),
    ((100, 1600), InputSpec(640, 640, upscale=False), (40, 640), (300, 0)),
    ((1, 5000), InputSpec(320, 320), (1, 320), (159, 0)),
    ((300, 300), InputSpec(320, 640), (320, 320), (0, 160)),
]


@pytest.mark.parametrize(("size", "spec", "resized", "corner"), PLACES)
def test_letterbox_places_the_image(
    size: tuple[int, int], spec: InputSpec, resized: tuple[int, int], corner: tuple[int, int]
) -> None:
    placed, transform = letterbox(gray(*size), spec)
    assert placed.shape == (spec.height, spec.width, 3)
    expected = np.full((spec.height, spec.width, 3), 114, np.uint8)
    expected[corner[0] : corner[0] + resized[0], corner[1] : corner[1] + resized[1]] = 200
    assert np.array_equal(placed, expected)
    assert (transform.offset_y, transform.offset_x) == corner
    assert (transform.original_height, transform.original_width) == size
    assert transform.scale_y == resized[0] / size[0]
    assert transform.scale_x == resized[1] / size[1]
    assert transform_of(*size, spec) == transform


# image size, full input, input that fits at stride 32, size of the resized image, its top left corner
FITTED_PLACES: list[tuple[tuple[int, int], InputSpec, tuple[int, int], tuple[int, int], tuple[int, int]]] = [
    ((720, 1280), InputSpec(640, 640), (384, 640), (360, 640), (12, 0)),
    ((1280, 720), InputSpec(640, 640), (640, 384), (640, 360), (0, 12)),
    ((480, 640), InputSpec(640, 640), (480, 640), (480, 640), (0, 0)),
    # 427 rows become 277.55: 278 or 277, and 288 is the next multiple of 32
    ((427, 640), InputSpec(416, 416), (288, 416), (278, 416), (5, 0)),
    ((427, 640), InputSpec(416, 416, anchor="top_left"), (288, 416), (277, 416), (0, 0)),
    ((100, 50), InputSpec(640, 640, upscale=False), (128, 64), (100, 50), (14, 7)),
    ((1, 5000), InputSpec(320, 320), (32, 320), (1, 320), (15, 0)),
    ((500, 500), InputSpec(320, 640), (320, 320), (320, 320), (0, 0)),
]


@pytest.mark.parametrize(("size", "full", "input_size", "resized", "corner"), FITTED_PLACES)
def test_an_input_that_fits_the_image(
    size: tuple[int, int],
    full: InputSpec,
    input_size: tuple[int, int],
    resized: tuple[int, int],
    corner: tuple[int, int],
) -> None:
    spec = fitted(full, 32)
    placed, transform = letterbox(gray(*size), spec)
    expected = np.full((*input_size, 3), 114, np.uint8)
    expected[corner[0] : corner[0] + resized[0], corner[1] : corner[1] + resized[1]] = 200
    assert np.array_equal(placed, expected)
    assert (transform.offset_y, transform.offset_x) == corner
    assert transform_of(*size, spec) == transform
    assert spec.input_size(*size) == input_size
    in_full = transform_of(*size, full)
    assert (transform.scale_y, transform.scale_x) == (in_full.scale_y, in_full.scale_x)


def test_a_fitted_input_keeps_all_other_settings() -> None:
    full = InputSpec(64, 96, "top_left", 3, False, "bgr", (1.5, 2.5, 3.5), (2.0, 3.0, 7.0))
    spec = fitted(full, 16)
    assert {name: getattr(spec, name) for name in InputSpec.__slots__} == {
        name: getattr(full, name) for name in InputSpec.__slots__
    }
    assert spec.stride == 16


@pytest.mark.parametrize(("height", "width", "stride"), [(63, 64, 32), (64, 63, 32), (64, 64, 0)])
def test_a_fitted_input_needs_a_size_that_the_stride_divides(height: int, width: int, stride: int) -> None:
    with pytest.raises(ValueError, match=f"must be multiples of the stride, got {height}x{width} and {stride}"):
        FittedInputSpec(height, width, stride=stride)


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    placed, transform = letterbox(image, InputSpec(64, 96))
    assert np.array_equal(placed, image)
    assert placed is not image
    assert (transform.scale_x, transform.scale_y, transform.offset_x, transform.offset_y) == (1, 1, 0, 0)


@pytest.mark.parametrize("anchor", ["center", "top_left"])
def test_boxes_follow_the_pixels_and_come_back(anchor: Any) -> None:
    image = gray(60, 100, 0)
    image[20:40, 10:70] = 255
    placed, transform = letterbox(image, InputSpec(320, 320, anchor=anchor, pad_value=0))
    boxes_xyxy = np.array([[10, 20, 70, 40]], np.float32)
    rows, columns = np.nonzero(placed[..., 0] > 127)
    drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    # scaled by 3.2, an edge between two pixels is found to half a pixel
    np.testing.assert_allclose(transform.to_input(boxes_xyxy)[0], drawn, atol=0.51)
    np.testing.assert_allclose(transform.to_original(transform.to_input(boxes_xyxy)), boxes_xyxy, atol=1e-4)


def test_the_whole_image_comes_back_without_drift() -> None:
    """The ratio before rounding, 0.65, would put the bottom edge at 277.55 instead of 278."""
    transform = letterbox(gray(427, 640), InputSpec(416, 416))[1]
    whole = transform.to_input(np.array([[0.0, 0, 640, 427]]))
    np.testing.assert_allclose(whole, [[0, 69, 416, 69 + 278]], atol=1e-9)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"height": 0, "width": 32}, "0x32"),
        ({"height": 32, "width": 32, "anchor": "middle"}, "center, top_left.*'middle'"),
        ({"height": 32, "width": 32, "channel_order": "gbr"}, "rgb, bgr.*'gbr'"),
        ({"height": 32, "width": 32, "pad_value": 256}, "256"),
        ({"height": 32, "width": 32, "std": [1, 0, 1]}, "std"),
        ({"height": 32, "width": 32, "mean": [1, 2]}, "three"),
    ],
)
def test_a_spec_that_is_not_allowed_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InputSpec(**values)


@pytest.mark.parametrize(
    "image", [gray(4, 4).astype(np.float32), gray(4, 4)[..., 0], gray(4, 4)[..., :2], gray(0, 4)], ids=str
)
def test_letterbox_refuses_what_is_no_image(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="HxWx3 uint8"):
        letterbox(image, InputSpec(32, 32))


def test_real_images_fill_the_input(detseg_data: Any) -> None:
    for path in sorted((detseg_data / "coco-mini" / "val2017").glob("*.jpg"))[:10]:
        image = read_image(path)
        placed, transform = letterbox(image, InputSpec(416, 416))
        whole = transform.to_input(np.array([[0.0, 0, image.shape[1], image.shape[0]]]))[0].round().astype(int)
        left, top, right, bottom = whole.tolist()
        assert 416 in (right - left, bottom - top)
        inside = placed[top:bottom, left:right]
        assert abs(float(inside.mean()) - float(image.mean())) < 2
        assert int((placed != 114).any(axis=2).sum()) <= inside.shape[0] * inside.shape[1]


def test_the_pixels_of_an_input_have_a_limit() -> None:
    assert InputSpec(8192, 8192).height == 8192
    for sides in ((8192, 8193), (100_000, 100_000), (2**62, 2**62)):
        with pytest.raises(ValueError, match="the input size must be at most 67,108,864 pixels, got"):
            InputSpec(*sides)
