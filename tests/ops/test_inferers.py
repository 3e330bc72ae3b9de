from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detseg.ops.inferers import average_over_flips, average_over_tta, sliding_window

IMAGES = torch.randn(2, 3, 48, 40, generator=torch.Generator().manual_seed(0))
KERNEL = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(1))


def network(images: Tensor) -> Tensor:
    return F.conv2d(images, KERNEL, padding=1)


def coarse(images: Tensor) -> Tensor:
    return F.avg_pool2d(network(images), 8, ceil_mode=True)


def test_a_single_view_decides_as_the_plain_logits_do() -> None:
    probabilities = average_over_tta(network, IMAGES)
    assert probabilities.dtype == torch.float32
    assert torch.equal(probabilities.argmax(1), network(IMAGES).argmax(1))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 48, 40))


def test_logits_of_another_size_are_resized_before_the_softmax() -> None:
    logits = F.interpolate(coarse(IMAGES), size=(48, 40), mode="bilinear", align_corners=False)
    torch.testing.assert_close(average_over_tta(coarse, IMAGES), logits.softmax(1))


@pytest.mark.parametrize("model", [network, coarse])
def test_mirroring_averages_with_the_result_of_the_mirror_image(model) -> None:
    straight = average_over_tta(model, IMAGES)
    mirrored = average_over_tta(model, IMAGES.flip(-1)).flip(-1)
    assert (straight - mirrored).abs().max() > 0.1
    torch.testing.assert_close(average_over_tta(model, IMAGES, flip=True), (straight + mirrored) / 2)


def test_views_are_averaged_as_probabilities_with_equal_weight() -> None:
    """A model that knows the size it is shown: two classes, the first with 0.9, 0.5 and 0.2 at the three sizes."""
    share = {(32, 32): 0.9, (48, 40): 0.5, (72, 60): 0.2}
    seen = []

    def model(images: Tensor) -> Tensor:
        size = tuple(images.shape[2:])
        seen.append(size)
        logits = torch.tensor([share[size], 1 - share[size]]).log()  # type: ignore[index]
        return logits.view(1, 2, 1, 1).expand(len(images), 2, *size)

    result = average_over_tta(model, IMAGES, scales=(0.5, 1.0, 1.5), flip=True)
    assert result.shape == (2, 2, 48, 40)
    torch.testing.assert_close(result[:, 0], torch.full((2, 48, 40), (0.9 + 0.5 + 0.2) / 3))
    # 48 x 40 halved would be 24 x 20; no side goes under 32.
    assert seen == [(32, 32), (32, 32), (48, 40), (48, 40), (72, 60), (72, 60)]


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((48, 40), 1.0, (48, 40)),
        ((48, 41), 1.25, (60, 51)),
        ((360, 480), 0.75, (270, 360)),
        ((100, 40), 0.1, (32, 32)),
        ((20, 64), 0.5, (20, 32)),
        ((20, 64), 1.0, (20, 64)),
        ((20, 64), 2.0, (40, 128)),
    ],
)
def test_sizes_of_the_views(size: tuple[int, int], scale: float, expected: tuple[int, int]) -> None:
    seen = []

    def model(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape[2:]))
        return images

    assert average_over_tta(model, torch.zeros(1, 3, *size), scales=(scale,)).shape == (1, 3, *size)
    assert seen == [expected]


@pytest.mark.parametrize("scale", [0.75, 1.5])
def test_a_scaled_view_stays_in_place(scale: float) -> None:
    """A linear ramp scaled there and back is the same ramp, half a pixel of shift would show, away from the border."""
    ramp = torch.arange(64.0).expand(1, 3, 64, 64).clone()
    ramp[:, 1:] = 30.0
    probabilities = average_over_tta(lambda images: images / 8, ramp, scales=(scale,))
    expected = (ramp / 8).softmax(1)
    assert (probabilities - expected)[..., 4:-4].abs().max() < 2e-3


def test_shrinking_does_not_alias() -> None:
    """Stripes of one pixel, halved, are gray; picking every other pixel would give black or white."""
    stripes = torch.zeros(1, 3, 128, 128)
    stripes[..., ::2] = 1.0
    seen = []

    def model(images: Tensor) -> Tensor:
        seen.append(images)
        return images

    average_over_tta(model, stripes, scales=(1 / 3,))
    assert (seen[0][..., 2:-2] - 0.5).abs().max() < 0.2


def test_half_precision_goes_to_the_model_and_float32_comes_back() -> None:
    seen = []

    def model(images: Tensor) -> Tensor:
        seen.append(images.dtype)
        return images

    result = average_over_tta(model, IMAGES.bfloat16(), scales=(1.0, 1.5), flip=True)
    assert set(seen) == {torch.bfloat16}
    assert result.dtype == torch.float32


def test_a_view_may_be_predicted_window_by_window() -> None:
    def windows(images: Tensor) -> Tensor:
        return sliding_window(lambda part: part[:, :2] * 3, images, (32, 32), 0.5, weighting="gaussian")

    torch.testing.assert_close(average_over_tta(windows, IMAGES), (IMAGES[:, :2] * 3).softmax(1))


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -0.5), (math.nan,), (math.inf,)])
def test_impossible_scales_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="scales must be one or more positive factors"):
        average_over_tta(network, IMAGES, scales=scales)


@pytest.mark.parametrize("part", [(slice(0, 1),), (slice(None), 0)])
def test_what_is_no_map_of_logits_is_refused(part: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=r"predict must give logits \[2, K, h, w\], it gave"):
        average_over_tta(lambda images: images[part], IMAGES)  # type: ignore[index]


@pytest.mark.parametrize(
    ("spatial", "axes"), [((3, 4), (0, 1)), ((2, 3, 4), (0, 1, 2)), ((2, 3, 4), (0,)), ((2, 3, 4), (2, 1))]
)
def test_average_over_flips_takes_every_combination_of_axes(spatial: tuple[int, ...], axes: tuple[int, ...]) -> None:
    images = torch.randn(2, 3, *spatial, generator=torch.Generator().manual_seed(0))
    position = torch.arange(math.prod(spatial)).view(spatial).float()
    seen: list[Tensor] = []

    def predict(view: Tensor) -> Tensor:
        seen.append(view)
        return view * (1 + position)  # depends on the place, so that a flip that is not undone shows

    found = average_over_flips(predict, images, axes)
    subsets = [[axis + 2 for bit, axis in enumerate(axes) if number >> bit & 1] for number in range(2 ** len(axes))]
    assert len(seen) == len(subsets)
    for axes_flipped in subsets:
        assert any(torch.equal(view, images.flip(axes_flipped)) for view in seen)
    views = [(images.flip(chosen) * (1 + position)).softmax(1).flip(chosen) for chosen in subsets]
    torch.testing.assert_close(found, torch.stack(views).mean(0))
