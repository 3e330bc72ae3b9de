"""What there is twice, for arrays in the runtime and for tensors in ``ops``, gives the same.

Decoding is written out for both. Sliding windows and averages over views exist once and differ by what their libraries
make of a few operations. What the tasks make of outputs is compared in ``tests/runtime/postprocess/test_results.py``;
NMS on the CPU is one code for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from detseg.ops import inferers as tensor_views
from detseg.ops.decode import anchor_points as tensor_anchor_points
from detseg.ops.decode import decode, level_sizes
from detseg.runtime.inputs.volume_geometry import resample
from detseg.runtime.postprocess import inferers as array_views
from detseg.runtime.postprocess.config import HeadMetadata
from detseg.runtime.postprocess.decode import anchor_points, decode_above, sigmoid

NUM_CLASSES = 5
STRIDES = (8, 16, 32)
KERNELS = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(5)) * 0.3
VIEWS = (array_views.ArrayInferer(), tensor_views.TensorInferer())


class Pair(NamedTuple):
    """Both functions take each of ``cases``, whose arrays the second one gets as tensors, and give a result or several.

    These differ by at most ``atol + rtol * |value|``: by no bit where both are 0.
    """

    for_arrays: Callable[..., Any]
    for_tensors: Callable[..., Any]
    cases: list[tuple[Any, ...]]
    rtol: float = 0.0
    atol: float = 0.0


def normal(*shape: int, spread: float = 1.0) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(0, spread, shape).astype(np.float32)


def network(images: Any) -> Any:
    """Depends on the place within a window, as real networks do at their borders, and on left and right."""
    tensor = torch.as_tensor(np.ascontiguousarray(images))
    kernels = KERNELS if tensor.ndim == 4 else KERNELS[:, :, None].expand(-1, -1, 3, -1, -1)
    found = (F.conv2d if tensor.ndim == 4 else F.conv3d)(tensor, kernels, padding=1)
    return found if isinstance(images, Tensor) else found.numpy()


def coarse(images: Any) -> Any:
    return network(images)[:, :, ::4, ::4]


def confident(images: Any) -> Any:
    """Logits whose exponentials overflow."""
    return network(images) * 1000


def levels_of(height: int, width: int) -> list[tuple[int, int]]:
    return [(math.ceil(height / stride), math.ceil(width / stride)) for stride in STRIDES]


def raw_maps(head: HeadMetadata, height: int, width: int, spread: float = 3.0) -> np.ndarray:
    num_places = sum(rows * columns for rows, columns in levels_of(height, width))
    return normal(head.num_box_channels + NUM_CLASSES, num_places, spread=spread) - 1


def decode_flat(raw: Tensor, head: HeadMetadata, height: int, width: int) -> tuple[Tensor, ...]:
    sizes = levels_of(height, width)
    flat = raw.split([rows * columns for rows, columns in sizes], dim=1)
    maps = [level.unflatten(1, size)[None] for level, size in zip(flat, sizes, strict=True)]
    return tuple(one[0] for one in decode(head.kind, maps, head.strides, head.reg_max))


def slide(views: Any, predict: Any, images: Any, window: tuple[int, ...], weighting: str, batch_size: int) -> Any:
    return views.sliding_window(predict, images, window, 0.4, weighting=weighting, batch_size=batch_size)


DFL, DIRECT = HeadMetadata("dfl", STRIDES), HeadMetadata("yolox", STRIDES)
SIZES = [(64, 96), (33, 70), (32, 32), (1, 1), (1, 500)]
SPECIAL = np.array([[0, -0.0, 200, -200, 88, -88, np.inf, -np.inf, 1e-30]], np.float32)
MAPS = [normal(2, 5, 48, 70), normal(1, 3, 7, 9), normal(1, 1, 1, 1), normal(1, 2, 1, 40)]
VOLUMES = [normal(5, 6, 7), normal(1, 1, 1), normal(12, 3, 20)]
SHAPES = [(5, 6, 7), (10, 3, 7), (2, 13, 20), (1, 1, 1), (9, 6, 3), (5, 1, 40)]
WINDOWS = [
    ((9, 14), (4, 6)),
    ((3, 5), (4, 8)),
    ((4, 6), (4, 6)),
    ((7, 9, 8), (4, 5, 3)),
    ((2, 9, 8), (5, 5, 3)),
    ((40, 7, 7), (16, 8, 8)),
]

PAIRS = {
    "anchor points": Pair(
        lambda *size: anchor_points(*size, STRIDES),
        lambda *size: tensor_anchor_points(levels_of(*size), STRIDES),
        SIZES,
    ),
    # exp differs by a bit or two from library to library, and sums by their order.
    "sigmoid": Pair(sigmoid, torch.sigmoid, [(SPECIAL,), (normal(1000, spread=20),)], rtol=1e-6, atol=1e-37),
    "softmax": Pair(
        VIEWS[0].softmax,
        VIEWS[1].softmax,
        [(normal(2, 5, 8, spread=30),), (normal(3, 1),), (np.array([[1e3, 999, -1e3, -np.inf]], np.float32),)],
        rtol=1e-5,
        atol=1e-37,
    ),
    "decoding, dfl": Pair(
        partial(decode_above, confidence=0.0),
        decode_flat,
        [(raw_maps(DFL, *size), DFL, *size) for size in SIZES] + [(raw_maps(DFL, 64, 64, 50), DFL, 64, 64)],
        rtol=2e-6,
        atol=1e-4,
    ),
    "decoding, direct": Pair(
        partial(decode_above, confidence=0.0),
        decode_flat,
        [(raw_maps(DIRECT, *size), DIRECT, *size) for size in SIZES] + [(raw_maps(DIRECT, 64, 64, 20), DIRECT, 64, 64)],
        rtol=2e-6,
        atol=1e-4,
    ),
    "uniform weights": Pair(
        lambda window: VIEWS[0].window_weights(window, "uniform", "cpu"),
        lambda window: VIEWS[1].window_weights(window, "uniform", "cpu"),
        [((4, 6),), ((1, 5, 8),)],
    ),
    "gaussian weights": Pair(
        lambda window: VIEWS[0].window_weights(window, "gaussian", "cpu"),
        lambda window: VIEWS[1].window_weights(window, "gaussian", "cpu"),
        [((4, 6),), ((1, 5, 8),), ((96, 96, 96),)],
        rtol=1e-6,
    ),
    # Torch computes weights in float32, the farther from the border the less exactly; numpy rounds them once.
    "resampling, smooth": Pair(
        resample,
        lambda image, shape: F.interpolate(image[None], size=shape[1:], mode="bilinear", antialias=True)[0],
        [(values, (len(values), *shape[1:])) for values in VOLUMES for shape in SHAPES],
        atol=2e-6,
    ),
    "resampling, the nearest two": Pair(
        partial(resample, smooth=False),
        lambda volume, shape: F.interpolate(volume[None, None], size=shape, mode="trilinear")[0, 0],
        [(values, shape) for values in VOLUMES for shape in SHAPES],
        rtol=1e-5,
        atol=1e-6,
    ),
    "enlarging volumes, smooth": Pair(
        resample,
        lambda volume, shape: F.interpolate(volume[None, None], size=shape, mode="trilinear")[0, 0],
        [(normal(7, 5, 6), shape) for shape in [(7, 5, 6), (14, 6, 9), (8, 10, 12), (7, 5, 30)]],
        atol=2e-6,
    ),
    "resizing": Pair(
        VIEWS[0].resize,
        VIEWS[1].resize,
        [(maps, *size) for maps in MAPS for size in [(48, 70), (24, 35), (96, 32), (1, 1), (7, 141)]],
        atol=1e-5,
    ),
    "sliding window": Pair(
        partial(slide, VIEWS[0]),
        partial(slide, VIEWS[1]),
        [
            (network, normal(2, 2, *spatial), window, weighting, batch_size)
            for spatial, window in WINDOWS
            for weighting in ("uniform", "gaussian")
            for batch_size in (1, 3)
        ],
        rtol=1e-5,
        atol=2e-6,
    ),
    "average over views": Pair(
        array_views.average_over_tta,
        tensor_views.average_over_tta,
        [
            (predict, normal(2, 2, *size), scales, flip)
            for predict in (network, coarse)
            for size in [(48, 70), (40, 20), (8, 12)]
            for scales, flip in [((1.0,), True), ((0.5, 1.0, 1.3), False), ((0.75, 1.5), True)]
        ],
        rtol=1e-4,
        atol=1e-5,
    ),
    "average over flips": Pair(
        array_views.average_over_flips,
        tensor_views.average_over_flips,
        [
            (predict, normal(1, 2, *spatial), axes)
            for predict in (network, confident)
            for spatial, axes in [((6, 9), (0, 1)), ((5, 6, 7), (0, 1, 2)), ((5, 6, 7), (1,)), ((6, 9), ())]
        ],
        rtol=1e-5,
        atol=1e-6,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_arrays_and_tensors_give_the_same(name: str) -> None:
    pair = PAIRS[name]
    for case in pair.cases:
        with np.errstate(over="ignore"):
            found = pair.for_arrays(*case)
        expected = pair.for_tensors(*(torch.from_numpy(one) if isinstance(one, np.ndarray) else one for one in case))
        if isinstance(found, np.ndarray):
            found, expected = (found,), (expected,)
        for one, other in zip(found, expected, strict=True):
            assert (one.dtype, one.shape) == (np.float32, tuple(other.shape))
            np.testing.assert_allclose(one, other.numpy(), pair.rtol, pair.atol, err_msg=name)


def test_sizes_of_levels() -> None:
    """The runtime rounds the sides of an input up to cells; tensors know the sizes of their maps."""
    for size in SIZES:
        maps = [torch.zeros(1, 1, rows, columns) for rows, columns in levels_of(*size)]
        assert level_sizes(maps) == levels_of(*size)
        assert len(anchor_points(*size, STRIDES)[0]) == sum(rows * columns for rows, columns in levels_of(*size))
