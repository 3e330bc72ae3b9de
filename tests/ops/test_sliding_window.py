from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from monai.inferers import sliding_window_inference
from torch import Tensor

from detseg.ops.inferers import sliding_window
from detseg.runtime.postprocess.inferers import window_starts

SPATIAL = [
    ((9, 14), (4, 6)),
    ((9, 5), (4, 6)),
    ((3, 5), (4, 8)),
    ((4, 6), (4, 6)),
    ((7, 9, 8), (4, 5, 3)),
    ((2, 9, 8), (5, 5, 3)),
]


@pytest.mark.parametrize(("spatial", "window"), SPATIAL)
@pytest.mark.parametrize("overlap", [0.0, 0.5])
@pytest.mark.parametrize("weighting", ["uniform", "gaussian"])
def test_a_prediction_that_changes_nothing_gives_the_images_back(spatial, window, overlap, weighting) -> None:
    images = torch.randint(-50, 50, (2, 3, *spatial)).float()
    result = sliding_window(lambda windows: windows, images, window, overlap, weighting=weighting)
    assert result.shape == images.shape
    torch.testing.assert_close(result, images, rtol=1e-5, atol=1e-5)
    if weighting == "uniform":
        assert torch.equal(result, images)


@pytest.mark.parametrize(("spatial", "window"), SPATIAL)
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.75])
@pytest.mark.parametrize("weighting", ["uniform", "gaussian"])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_every_position_is_the_weighted_mean_of_the_windows_over_it(
    spatial: tuple[int, ...], window: tuple[int, ...], overlap: float, weighting: str, batch_size: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 1, *spatial, generator=generator)
    # Both classes depend on the place in the window, so that a mistake there cannot cancel out.
    pattern = torch.randn(2, *window, generator=generator)
    sizes = []

    def predict(windows: Tensor) -> Tensor:
        sizes.append(len(windows))
        return windows * pattern + windows.flip(-1)

    result = sliding_window(predict, images, window, overlap, weighting=weighting, batch_size=batch_size)  # type: ignore[arg-type]
    expected = naive_average(images, pattern, window, overlap, weighting)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    num_windows = 2 * math.prod(len(window_starts(*axis, overlap)) for axis in zip(spatial, window, strict=True))
    assert sum(sizes) == num_windows
    assert set(sizes[:-1]) <= {batch_size}


def naive_average(images: Tensor, pattern: Tensor, window: tuple[int, ...], overlap: float, weighting: str) -> Tensor:
    """Position by position in Python floats: the formula of the docstring, and zeros around what is too small."""
    spatial = images.shape[2:]
    before = [max(0, side - length) // 2 for length, side in zip(spatial, window, strict=True)]
    starts = [window_starts(*axis, overlap) for axis in zip(spatial, window, strict=True)]

    def pixel(image: int, position: list[int]) -> float:
        inside = all(0 <= p < length for p, length in zip(position, spatial, strict=True))
        return images[(image, 0, *position)].item() if inside else 0.0

    def weight(place: list[int]) -> float:
        if weighting == "uniform":
            return 1.0
        exponent = sum(((p - (s - 1) / 2) / (s / 8)) ** 2 for p, s in zip(place, window, strict=True))
        return max(1e-3, math.exp(-exponent / 2))

    result = torch.zeros(len(images), len(pattern), *spatial)
    for position in itertools.product(*map(range, spatial)):
        places = [
            [p + b - s for p, b, s in zip(position, before, corner, strict=True)]
            for corner in itertools.product(*starts)
            if all(0 <= p + b - s < w for p, b, s, w in zip(position, before, corner, window, strict=True))
        ]
        total = sum(map(weight, places))
        for image, label in itertools.product(range(len(images)), range(len(pattern))):
            value = 0.0
            for place in places:
                mirrored = [*position[:-1], position[-1] + window[-1] - 1 - 2 * place[-1]]
                one = pattern[(label, *place)].item() * pixel(image, list(position)) + pixel(image, mirrored)
                value += weight(place) * one
            result[(image, label, *position)] = value / total
    return result


def test_a_gaussian_window_trusts_its_middle() -> None:
    """Two windows of 8 over 12 positions; position 5 is 1.5 from the middle of the first, 2.5 from the second's."""
    first, second = math.exp(-0.5 * 1.5**2), math.exp(-0.5 * 2.5**2)
    calls = iter([torch.zeros(1, 1, 8), torch.ones(1, 1, 8)])
    result = sliding_window(lambda _: next(calls), torch.zeros(1, 1, 12), (8,), 0.5, weighting="gaussian", batch_size=1)
    assert result[0, 0, 5].item() == pytest.approx(second / (first + second), rel=1e-5)


def test_half_precision_is_summed_in_float32() -> None:
    images = torch.full((1, 1, 64), 1000.5, dtype=torch.float16)
    result = sliding_window(lambda windows: windows, images, (32,), 0.9)
    assert result.dtype == torch.float32
    assert (result == images.float()).all()


def test_predict_sees_zeros_on_both_sides_of_a_small_image() -> None:
    seen = []

    def predict(windows: Tensor) -> Tensor:
        seen.append(windows)
        return windows

    sliding_window(predict, torch.ones(1, 1, 2, 4), (5, 4), 0.0)
    assert seen[0][0, 0, :, 0].tolist() == [0, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": (0, 4)}, "window must be at least 1"),
        ({"window": (-2, 4)}, "window must be at least 1"),
        ({"overlap": 1.0}, "overlap must be a share of the window from 0 to below 1, got 1.0"),
        ({"overlap": -0.1}, "overlap must be"),
        ({"overlap": math.nan}, "overlap must be"),
        ({"window": (4,)}, r"one size per spatial axis: got \(4,\) for images of shape \(1, 1, 8, 8\)"),
        ({"window": (4, 4, 4)}, "one size per spatial axis"),
        ({"weighting": "middle"}, "weighting must be one of uniform, gaussian, got 'middle'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"images": torch.zeros(0, 1, 8, 8)}, "at least one image"),
        ({"images": torch.zeros(1, 1, 0, 8)}, "length must be at least 1"),
        ({"predict": lambda windows: windows[..., ::2]}, r"\[4, K, 4, 4\]; it gave \[4, 1, 4, 2\]"),
        ({"predict": lambda windows: windows[:1]}, r"it gave \[1, 1, 4, 4\]"),
        ({"predict": lambda windows: windows[:, 0]}, r"it gave \[4, 4, 4\]"),
    ],
)
def test_impossible_requests_are_refused(settings: dict[str, object], message: str) -> None:
    request = {"predict": lambda windows: windows, "images": torch.zeros(1, 1, 8, 8), "window": (4, 4), "overlap": 0.0}
    with pytest.raises(ValueError, match=message):
        sliding_window(**{**request, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("weighting", ["uniform", "gaussian"])
@pytest.mark.parametrize(
    ("shape", "window", "overlap"),
    [((20, 23, 17), (8, 8, 8), 0.5), ((9, 30, 12), (12, 16, 8), 0.25), ((30, 41), (16, 12), 0.6)],
)
def test_it_is_the_inferer_of_monai(
    shape: tuple[int, ...], window: tuple[int, ...], overlap: float, weighting: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 1, *shape, generator=generator)
    kernel = torch.randn(3, 1, *[3] * len(shape), generator=generator)
    convolve = F.conv3d if len(shape) == 3 else F.conv2d

    def network(windows: Tensor) -> Tensor:
        return convolve(windows, kernel, padding=1)  # sees the border of each window, so that windows differ

    mode = {"uniform": "constant", "gaussian": "gaussian"}[weighting]
    expected = sliding_window_inference(images, window, 3, network, overlap=overlap, mode=mode)
    found = sliding_window(network, images, window, overlap, weighting=weighting, batch_size=3)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
