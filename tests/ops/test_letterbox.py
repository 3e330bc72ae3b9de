"""The kernel runs in Triton's interpreter here, or on a GPU with TRITON_INTERPRET=0; see also ``kernels``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detseg.ops.kernels import letterbox as kernel_module
from detseg.ops.kernels.letterbox import launch_letterbox
from detseg.ops.letterbox import TABLE_COLUMNS, bytes_needed, letterbox_into, pack_images
from detseg.runtime.inputs.geometry import InputSpec, letterbox
from detseg.runtime.media.images import read_image
from detseg.tasks.base import normalize_images

DEVICE = "cpu" if os.environ["TRITON_INTERPRET"] == "1" else "cuda"
FLOAT_TYPES = [torch.float32, torch.float16, torch.bfloat16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
GRAY_LEVELS = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
"""The network input is the gray level itself: exact in every type."""


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng((height, width)).integers(0, 256, (height, width, 3), dtype=np.uint8)


def packed(images: Sequence[np.ndarray], spec: InputSpec, num_slots: int | None = None) -> tuple[Tensor, Tensor]:
    """Poisoned memory with ``images`` in it."""
    pixels = torch.full((bytes_needed(images),), 77, dtype=torch.uint8)
    table = torch.full((num_slots or len(images), TABLE_COLUMNS), -99)
    pack_images(images, spec, pixels, table)
    return pixels.to(DEVICE), table.to(DEVICE)


def poisoned(num_images: int, spec: InputSpec, dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    out = torch.full((num_images, 3, spec.height, spec.width), float("nan"), dtype=dtype, device=DEVICE)
    return out.contiguous(memory_format=layout)


def by_kernel(
    images: Sequence[np.ndarray],
    spec: InputSpec,
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.channels_last,
    num_slots: int | None = None,
) -> Tensor:
    pixels, table = packed(images, spec, num_slots)
    out = poisoned(len(table), spec, dtype, layout)
    letterbox_into(pixels, table, spec, out)
    return out.cpu()


def by_cpu(images: Sequence[np.ndarray], spec: InputSpec) -> Tensor:
    placed = np.stack([letterbox(image, spec)[0] for image in images])
    return normalize_images(torch.from_numpy(placed.transpose(0, 3, 1, 2).copy()), spec)


def assert_same_gray_levels(found: Tensor, wanted: Tensor, spec: InputSpec) -> None:
    """Equal to the last bit on the builds of OpenCV that were tried; others may round differently by one level."""
    std = torch.tensor(spec.std).view(1, 3, 1, 1)
    levels = ((found - wanted) * std).abs()
    assert levels.max() < 1.01
    assert (levels > 0.01).float().mean() < 0.01
    # where the gray level is the same, normalization leaves no doubt
    assert torch.equal(found[levels < 0.01], wanted[levels < 0.01])


def axis_of(new_size: int, size: int, reset_outside: bool) -> list[tuple[int, int, int, int]]:
    """Both pixels and their weights in 1/2048 for each place along an axis, one after the other."""
    found = []
    for position in range(new_size):
        place = np.float32((position + 0.5) * (size / new_size) - 0.5)
        first = int(np.floor(place))
        part = np.float32(place - np.float32(first))
        if reset_outside and (first < 0 or first >= size - 1):
            part = np.float32(0)
        weights = [int(np.rint(weight * np.float32(2048))) for weight in (np.float32(1) - part, part)]
        found.append((min(max(first, 0), size - 1), min(max(first + 1, 0), size - 1), *weights))
    return found


def resized_by_loops(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """OpenCV's bilinear arithmetic on bytes, as the kernel's documentation tells it."""
    result = np.empty((height, width, 3), np.uint8)
    rows, columns = axis_of(height, len(image), False), axis_of(width, image.shape[1], True)
    for y, (above, below, weight_above, weight_below) in enumerate(rows):
        for x, (before, behind, weight_before, weight_behind) in enumerate(columns):
            for channel in range(3):
                total = 0
                for row, weight in ((above, weight_above), (below, weight_below)):
                    sum_x = int(image[row, before, channel]) * weight_before
                    sum_x += int(image[row, behind, channel]) * weight_behind
                    total += (sum_x // 16) * weight // 65536
                result[y, x, channel] = (total + 2) // 4
    return result


HAND_MADE: list[tuple[list[list[int]], tuple[int, int], list[list[int]]]] = [
    # places -0.25, 0.25, 0.75, 1.25: outside, a quarter, three quarters, outside
    ([[0, 200], [0, 200]], (4, 4), [[0, 50, 150, 200]] * 4),
    ([[0, 0], [200, 200]], (4, 4), [[0] * 4, [50] * 4, [150] * 4, [200] * 4]),
    # the mean of four; a half goes up, a quarter down, three quarters up
    ([[0, 1, 0, 0], [1, 0, 0, 1]], (1, 2), [[1, 0]]),
    ([[255, 255, 1, 1], [255, 254, 0, 1]], (1, 2), [[255, 1]]),
    # places 0.25 and 1.75 of three: (3 * 40 + 80) / 4 = 50 and (80 + 3 * 120) / 4 = 110
    ([[40, 80, 120]] * 3, (2, 2), [[50, 110]] * 2),
    ([[7]], (3, 3), [[7] * 3] * 3),
    ([[1, 2], [3, 4]], (2, 2), [[1, 2], [3, 4]]),
]


@pytest.mark.parametrize(("pixels", "size", "expected"), HAND_MADE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_worked_out_by_hand(
    pixels: list[list[int]], size: tuple[int, int], expected: list[list[int]], layout: torch.memory_format
) -> None:
    image = np.array(pixels, np.uint8)[..., None].repeat(3, axis=2)
    found = by_kernel([image], InputSpec(*size, **GRAY_LEVELS), layout=layout)
    assert found.tolist() == [[expected] * 3]


@pytest.mark.parametrize(
    ("size", "new_size"),
    [
        ((9, 13), (18, 26)),
        ((20, 31), (13, 20)),
        ((5, 7), (32, 45)),
        ((33, 17), (31, 16)),
        ((2, 90), (1, 41)),
        ((2, 5000), (1, 1999)),
    ],
)
def test_the_arithmetic_is_exactly_what_is_documented(size: tuple[int, int], new_size: tuple[int, int]) -> None:
    spec = InputSpec(*new_size, **GRAY_LEVELS)
    assert spec.resized(*size) == new_size
    image = noise(*size)
    found = by_kernel([image], spec)[0].permute(1, 2, 0)
    assert np.array_equal(found.numpy(), resized_by_loops(image, *new_size))


SIZES = [(100, 150), (17, 25), (64, 96), (32, 48), (1, 1), (1, 7), (5, 1), (3, 500), (400, 3), (31, 47), (91, 62)]
"""Down, up, exactly twice, exactly the same, single pixels, very wide, very tall, odd."""

SPECS = [
    InputSpec(32, 48),
    InputSpec(45, 31, anchor="top_left", **GRAY_LEVELS),
    InputSpec(24, 40, upscale=False, pad_value=7),
    InputSpec(20, 20, channel_order="bgr", pad_value=0, mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395)),
]


@pytest.mark.parametrize(("spec", "layout"), list(zip(SPECS, LAYOUTS * 2, strict=True)))
def test_a_batch_of_many_sizes_is_what_the_cpu_makes(spec: InputSpec, layout: torch.memory_format) -> None:
    images = [noise(*size) for size in SIZES]
    assert_same_gray_levels(by_kernel(images, spec, layout=layout), by_cpu(images, spec), spec)


sizes = st.integers(1, 150)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    size=st.tuples(sizes, sizes),
    spec=st.builds(InputSpec, st.integers(1, 40), st.integers(1, 40), anchor=st.sampled_from(["center", "top_left"])),
    layout=st.sampled_from(LAYOUTS),
)
def test_any_size_into_any_size(size: tuple[int, int], spec: InputSpec, layout: torch.memory_format) -> None:
    assert_same_gray_levels(by_kernel([noise(*size)], spec, layout=layout), by_cpu([noise(*size)], spec), spec)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_gray_levels_are_exact_in_every_type(dtype: torch.dtype, layout: torch.memory_format) -> None:
    image = np.arange(12 * 22 * 3).astype(np.uint8).reshape(12, 22, 3)
    found = by_kernel([image], InputSpec(12, 22, **GRAY_LEVELS), dtype, layout)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=layout)
    assert np.array_equal(found[0].permute(1, 2, 0).float().numpy(), image)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision_is_rounded_once_from_float32(layout: torch.memory_format) -> None:
    spec = InputSpec(24, 40, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    images = [noise(64, 48), noise(30, 90)]
    exact = by_kernel(images, spec, layout=layout)
    assert torch.equal(by_kernel(images, spec, torch.float16, layout), exact.half())
    # Triton's interpreter cuts bfloat16 off where a GPU rounds, see test_letterbox_compile
    cut = (exact.contiguous().view(torch.int32) & ~0xFFFF).view(torch.float32)
    found = by_kernel(images, spec, torch.bfloat16, layout).float()
    rounded = exact.bfloat16().float()
    assert ((found == cut) | (found == rounded)).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_slots_without_an_image_are_padding(layout: torch.memory_format) -> None:
    spec = InputSpec(24, 40, pad_value=50, mean=(10.0, 20.0, 30.0), std=(2.0, 5.0, 10.0))
    found = by_kernel([noise(30, 20)], spec, layout=layout, num_slots=3)
    assert_same_gray_levels(found[:1], by_cpu([noise(30, 20)], spec), spec)
    assert torch.equal(found[1:], torch.tensor([20.0, 6.0, 2.0]).view(1, 3, 1, 1).expand(2, 3, 24, 40))
    assert torch.equal(by_kernel([], spec, layout=layout, num_slots=1)[0], found[1])


def test_no_slots_at_all_is_no_work() -> None:
    assert by_kernel([], InputSpec(8, 8)).shape == (0, 3, 8, 8)


def test_a_smaller_batch_in_the_same_memory_leaves_nothing_of_the_last_one() -> None:
    spec = InputSpec(32, 32)
    first, second = [noise(20, 30), noise(40, 40)], [noise(33, 20)]
    pixels, table = (tensor.cpu() for tensor in packed(first, spec))
    pack_images(second, spec, pixels, table)
    out = poisoned(2, spec, torch.float32, torch.channels_last)
    letterbox_into(pixels.to(DEVICE), table.to(DEVICE), spec, out)
    assert_same_gray_levels(out[:1].cpu(), by_cpu(second, spec), spec)
    assert (out[1] == 114 / 255).all()


def test_a_tile_may_have_any_size() -> None:
    spec = InputSpec(17, 30)
    images = [noise(30, 32), noise(10, 31)]
    pixels, table = packed(images, spec)
    for layout in LAYOUTS:
        outputs = []
        for tile in ((4, 16), (32, 32), (8, 256)):
            out = poisoned(2, spec, torch.float32, layout)
            launch_letterbox(pixels, table, out, spec.pad_value, spec.mean, spec.std, False, tile)
            outputs.append(out.cpu())
        assert_same_gray_levels(outputs[0], by_cpu(images, spec), spec)
        assert all(torch.equal(outputs[0], out) for out in outputs)


def test_real_images(detseg_data: Path) -> None:
    paths = sorted((detseg_data / "coco-mini").rglob("*.jpg"))[:4]
    assert len(paths) == 4
    images = [read_image(path) for path in paths]
    spec = InputSpec(640, 640)
    pixels, table = packed(images, spec)
    out = poisoned(4, spec, torch.float32, torch.channels_last)
    # the interpreter takes its time for every tile, however large
    launch_letterbox(pixels, table, out, spec.pad_value, spec.mean, spec.std, False, tile=(64, 2048))
    assert_same_gray_levels(out.cpu(), by_cpu(images, spec), spec)


def test_images_are_packed_at_multiples_of_16_with_the_way_back() -> None:
    spec = InputSpec(64, 96)
    images = [noise(5, 7), noise(4, 4), noise(100, 150), noise(1, 1)]
    assert bytes_needed(images) == 112 + 48 + 45008 + 16  # 105, 48, 45000 and 3 bytes
    pixels, table = torch.zeros(50_000, dtype=torch.uint8), torch.full((5, 7), -1)
    transforms = pack_images(images, spec, pixels, table)
    assert transforms == [letterbox(image, spec)[1] for image in images]
    assert table.tolist() == [
        [0, 5, 7, 64, 90, 0, 3],
        [112, 4, 4, 64, 64, 0, 16],
        [160, 100, 150, 64, 96, 0, 0],
        [45168, 1, 1, 64, 64, 0, 16],
        [0] * 7,
    ]
    for image, start in zip(images, table[:, 0].tolist(), strict=False):
        assert np.array_equal(pixels[start : start + image.size].numpy(), image.ravel())


@pytest.mark.parametrize("view", [np.s_[::-1], np.s_[:, ::2], np.s_[3:9, 2:11], np.s_[..., ::-1]])
def test_views_are_packed_like_copies(view: Any) -> None:
    image = noise(20, 30)[view]
    spec = InputSpec(16, 16)
    assert torch.equal(by_kernel([image], spec), by_kernel([image.copy()], spec))


BYTES = torch.zeros(4096, dtype=torch.uint8)
TABLE = torch.zeros((1, 7), dtype=torch.int64)


@pytest.mark.parametrize(
    ("images", "pixels", "table", "message"),
    [
        ([noise(8, 8)[..., 0]], BYTES, TABLE, r"HxWx3 uint8 and not empty, got \(8, 8\)"),
        ([noise(8, 8).astype(np.float32)], BYTES, TABLE, "float32"),
        ([noise(0, 8)], BYTES, TABLE, r"\(0, 8, 3\)"),
        ([noise(8, 8)] * 2, BYTES, TABLE, "1 rows, too few for 2 images"),
        ([noise(40, 40)], BYTES, TABLE, "take 4800 bytes, there is room for 4096"),
        ([], BYTES.view(64, 64), TABLE, r"one contiguous row of uint8, got \(64, 64\)"),
        ([], BYTES.float(), TABLE, "float32"),
        ([], BYTES[::2], TABLE, "contiguous"),
        ([], BYTES, TABLE[0], r"Bx7 contiguous int64, got \(7,\)"),
        ([], BYTES, TABLE[:, :6], r"\(1, 6\)"),
        ([], BYTES, TABLE.int(), "int32"),
        ([], BYTES, torch.zeros((7, 2), dtype=torch.int64).T, "contiguous"),
    ],
)
def test_what_cannot_be_packed_is_refused(
    images: list[np.ndarray], pixels: Tensor, table: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pack_images(images, InputSpec(32, 32), pixels, table)


@pytest.mark.parametrize(
    ("pixels", "table", "out", "message"),
    [
        (BYTES.int(), TABLE, torch.zeros(1, 3, 32, 48), "uint8"),
        (BYTES, TABLE.float(), torch.zeros(1, 3, 32, 48), "int64"),
        (BYTES, TABLE, torch.zeros(2, 3, 32, 48), r"must be 1x3x32x48 .* got \(2, 3, 32, 48\)"),
        (BYTES, TABLE, torch.zeros(1, 3, 48, 32), r"\(1, 3, 48, 32\)"),
        (BYTES, TABLE, torch.zeros(1, 3, 32, 48).double(), "float32 or float16 or bfloat16, got .* torch.float64"),
        (BYTES, TABLE, torch.zeros(1, 3, 48, 32).transpose(2, 3), "contiguous or channels last, got strides"),
        (BYTES, TABLE, torch.zeros(1, 3, 32, 48, device="meta"), "one device, got .*meta"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(pixels: Tensor, table: Tensor, out: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        letterbox_into(pixels, table, InputSpec(32, 48), out)


def test_without_triton_an_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detseg.ops.kernels.letterbox", None)
    with pytest.raises(RuntimeError, match="pip install triton"):
        letterbox_into(BYTES, TABLE, InputSpec(32, 48), torch.zeros(1, 3, 32, 48))


def test_more_images_than_a_grid_has_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's grids end at 65,535 on their last axes; a batch beyond goes through in several launches."""
    spec = InputSpec(12, 16)
    images = [noise(5 + side, 9) for side in range(5)]
    expected = {layout: by_kernel(images, spec, layout=layout) for layout in LAYOUTS}
    assert 3 * kernel_module.MAX_IMAGES <= 65_535
    monkeypatch.setattr(kernel_module, "MAX_IMAGES", 2)
    for layout in LAYOUTS:
        assert torch.equal(by_kernel(images, spec, layout=layout), expected[layout])
