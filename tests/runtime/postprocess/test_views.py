"""The same as with tensors: ``detseg.ops.sliding_window`` and ``detseg.ops.test_time`` are the references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from detseg.ops import sliding_window as tensors
from detseg.ops.test_time import average_over_flips as flips_of_tensors
from detseg.ops.test_time import average_over_views as views_of_tensors
from detseg.runtime.postprocess.views import average_over_flips, average_over_views, sliding_window, softmax

KERNELS = np.random.default_rng(5).normal(0, 0.3, (4, 2, 3, 3)).astype(np.float32)


def network(images: torch.Tensor) -> torch.Tensor:
    """Depends on the place within a window, as real networks do at their borders, and on left and right."""
    if images.ndim == 4:
        return F.conv2d(images, torch.from_numpy(KERNELS), padding=1)
    kernels = torch.from_numpy(KERNELS)[:, :, None]
    return F.conv3d(images, kernels.expand(-1, -1, 3, -1, -1), padding=1)


def in_numpy(images: np.ndarray) -> np.ndarray:
    return network(torch.from_numpy(np.ascontiguousarray(images))).numpy()


def images_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("spatial", "window"),
    [
        ((9, 14), (4, 6)),
        ((3, 5), (4, 8)),
        ((4, 6), (4, 6)),
        ((7, 9, 8), (4, 5, 3)),
        ((2, 9, 8), (5, 5, 3)),
        ((40, 7, 7), (16, 8, 8)),
    ],
)
@pytest.mark.parametrize("weighting", ["uniform", "gaussian"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_sliding_window(spatial, window, weighting, batch_size) -> None:
    images = images_of(2, 2, *spatial)
    settings = {"window": window, "overlap": 0.4, "weighting": weighting, "batch_size": batch_size}
    expected = tensors.sliding_window(network, torch.from_numpy(images), **settings)
    found = sliding_window(in_numpy, images, **settings)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_windows_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="maps of the size of its windows, 4x4, for each of 1; it gave 1x2x2x2"):
        sliding_window(lambda windows: windows[..., ::2, ::2], images_of(1, 2, 4, 4), (4, 4), 0.5)


@pytest.mark.parametrize(("scales", "flip"), [((1.0,), True), ((0.5, 1.0, 1.3), False), ((0.75, 1.5), True)])
def test_views(scales: tuple[float, ...], flip: bool) -> None:
    images = images_of(2, 2, 48, 70)
    expected = views_of_tensors(network, torch.from_numpy(images), scales, flip).numpy()
    found = average_over_views(in_numpy, images, scales, flip)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_no_view_is_shrunk_to_nothing() -> None:
    seen = []

    def record(images: np.ndarray) -> np.ndarray:
        seen.append(images.shape[2:])
        return in_numpy(images)

    average_over_views(record, images_of(1, 2, 40, 20), (0.5,))
    assert seen == [(32, 20)]


def test_logits_of_any_size_are_resized() -> None:
    images = images_of(1, 2, 8, 12)
    expected = views_of_tensors(lambda view: view[..., ::2, ::2], torch.from_numpy(images), flip=True).numpy()
    found = average_over_views(lambda view: np.ascontiguousarray(view[..., ::2, ::2]), images, flip=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("spatial", "axes"), [((6, 9), (0, 1)), ((5, 6, 7), (0, 1, 2)), ((5, 6, 7), (1,))])
def test_flips(spatial: tuple[int, ...], axes: tuple[int, ...]) -> None:
    images = images_of(1, 2, *spatial)
    expected = flips_of_tensors(network, torch.from_numpy(images), axes).numpy()
    np.testing.assert_allclose(average_over_flips(in_numpy, images, axes), expected, rtol=1e-5, atol=1e-6)


def test_softmax_of_large_logits() -> None:
    logits = np.array([[1000.0, 999.0, -1000.0]], np.float32)
    np.testing.assert_allclose(softmax(logits), [[0.731059, 0.268941, 0]], rtol=1e-5)
