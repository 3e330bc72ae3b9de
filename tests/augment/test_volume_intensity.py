from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from detseg.augment.volume_intensity import RandomIntensity

CHANGES = ("noise", "blur", "brightness", "contrast", "low_resolution", "gamma", "gamma_inverted")
LIMITS: dict[str, Any] = {
    "noise_std": 0.1,
    "blur_sigma": (0.5, 1.0),
    "brightness_factors": (0.75, 1.25),
    "contrast_factors": (0.75, 1.25),
    "low_resolution_factors": (0.5, 1.0),
    "gamma_exponents": (0.7, 1.5),
}
SHAPE = (16, 18, 14)


def image_of(seed: int = 0) -> np.ndarray:
    """Noise with a skewed distribution, mean 1 and standard deviation 1."""
    return np.random.default_rng(seed).exponential(size=SHAPE).astype(np.float32)


def changed(name: str, seed: int = 0, image: np.ndarray | None = None, **settings: Any) -> np.ndarray:
    change = RandomIntensity(**{**LIMITS, name: 1.0, **settings})
    return change(image_of() if image is None else image, np.random.default_rng(seed))


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_has_an_effect_and_stays_finite(name: str) -> None:
    image = image_of()
    result = changed(name, image=image)
    assert result.shape == SHAPE
    assert result.dtype == np.float32
    assert np.isfinite(result).all()
    assert np.abs(result - image).max() > 0.01
    np.testing.assert_array_equal(image, image_of())
    assert (changed(name, seed=1) != result).any()


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("value", [0.0, -3.0])
def test_an_even_patch_stays_finite(name: str, value: float) -> None:
    assert np.isfinite(changed(name, image=np.full(SHAPE, value, np.float32))).all()


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_has_its_probability(name: str) -> None:
    change = RandomIntensity(**{**LIMITS, name: 0.3, "low_resolution_factors": (0.5, 0.5)})
    image = image_of()[:4, :4, :4]
    happened = [bool((change(image, np.random.default_rng(seed)) != image).any()) for seed in range(400)]
    assert np.mean(happened) == pytest.approx(0.3, abs=0.07)


def test_without_probabilities_the_image_stays() -> None:
    image = image_of()
    assert RandomIntensity(**LIMITS)(image, np.random.default_rng(0)) is image


def test_changes_draw_on_their_own() -> None:
    noisy, brighter = changed("noise"), changed("brightness")
    both = changed("noise", brightness=1.0)
    np.testing.assert_allclose(both, noisy * np.median(brighter / image_of()), rtol=1e-5)


def test_noise_has_at_most_the_given_spread() -> None:
    noise = [changed("noise", seed, noise_std=0.5) - image_of() for seed in range(60)]
    spreads = [one.std() for one in noise]
    assert 0.4 < max(spreads) < 0.52
    assert min(spreads) < 0.1
    assert np.abs(np.mean(noise, axis=(1, 2, 3))).max() < 0.05


def test_brightness_multiplies() -> None:
    factors = []
    for seed in range(60):
        ratio = changed("brightness", seed, brightness_factors=(0.5, 1.2)) / image_of()
        np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-5)
        factors.append(float(ratio[0, 0, 0]))
    assert 0.5 <= min(factors) < 0.55
    assert 1.15 < max(factors) <= 1.2


def test_contrast_spreads_about_the_mean_within_the_range() -> None:
    image = image_of()
    result = changed("contrast", contrast_factors=(1.5, 1.5))
    expected = np.clip((image - image.mean()) * 1.5 + image.mean(), image.min(), image.max())
    np.testing.assert_allclose(result, expected, atol=1e-5)
    spreads = [changed("contrast", seed).std() for seed in range(60)]
    assert 0.75 <= min(spreads) / image.std() < 0.8
    assert max(spreads) / image.std() > 1.1


def test_blur_is_gaussian() -> None:
    # MONAI integrates the Gaussian over voxels, which are 1 wide and so have a variance of 1 / 12.
    expected = gaussian_filter(image_of(), (0.8**2 + 1 / 12) ** 0.5, mode="nearest")
    np.testing.assert_allclose(changed("blur", blur_sigma=(0.8, 0.8)), expected, atol=0.02)
    even = np.full(SHAPE, 3, np.float32)
    np.testing.assert_allclose(changed("blur", image=even), even, rtol=1e-5)
    point = np.zeros(SHAPE, np.float32)
    point[8, 9, 7] = 1
    spread = changed("blur", image=point, blur_sigma=(0.3, 2.0))
    along = [spread[7, 9, 7] / spread[8, 9, 7], spread[8, 8, 7] / spread[8, 9, 7], spread[8, 9, 6] / spread[8, 9, 7]]
    assert len({round(float(share), 3) for share in along}) == 3, "each axis has its own"


def test_low_resolution_loses_detail() -> None:
    image = image_of()
    np.testing.assert_allclose(changed("low_resolution", low_resolution_factors=(1.0, 1.0)), image, atol=1e-6)
    halved = changed("low_resolution", low_resolution_factors=(0.5, 0.5))
    small = torch.nn.functional.interpolate(torch.from_numpy(image)[None, None], size=(8, 9, 7), mode="area")
    expected = torch.nn.functional.interpolate(small, size=SHAPE, mode="trilinear")[0, 0].numpy()
    np.testing.assert_allclose(halved, expected, atol=1e-5)


@pytest.mark.parametrize(("name", "sign"), [("gamma", 1), ("gamma_inverted", -1)])
def test_gamma_raises_to_a_power_and_keeps_mean_and_spread(name: str, sign: int) -> None:
    image = image_of()
    result = changed(name, gamma_exponents=(2.0, 2.0))
    unit = sign * image - (sign * image).min()
    power = sign * (unit / unit.max()) ** 2
    expected = (power - power.mean()) / power.std() * image.std() + image.mean()
    np.testing.assert_allclose(result, expected, atol=1e-3)
    np.testing.assert_allclose(changed(name, gamma_exponents=(1.0, 1.0)), image, atol=1e-5)
    spread = [float(changed(name, seed).max()) for seed in range(30)]
    assert np.std(spread) > 0.1


@pytest.mark.parametrize("name", ["blur", "low_resolution"])
@pytest.mark.parametrize("factor", [0.5, 0.63, 0.8])
def test_nothing_moves_against_the_labels(name: str, factor: float) -> None:
    axes = np.meshgrid(*(np.arange(side) for side in (24, 20, 16)), indexing="ij")
    middle = np.array([11.0, 9.5, 7.25])
    distance = sum((axis - place) ** 2 for axis, place in zip(axes, middle, strict=True))
    image = np.exp(-distance / 8).astype(np.float32)
    change = RandomIntensity(**{**LIMITS, name: 1.0, "low_resolution_factors": (factor, factor)})
    seen = change(image, np.random.default_rng(0))
    assert np.abs(seen - image).max() > 0.02
    centers = np.array([(seen * axis).sum() for axis in axes]) / seen.sum()
    np.testing.assert_allclose(centers, middle, atol=0.06)
