from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.augment.albumentations_adapter import AlbumentationsAdapter
from detseg.augment.config import AugmentConfig
from detseg.augment.geometry import BoxFilter
from detseg.structures import Sample

MakeSample = Callable[..., Sample]


def adapter(*transforms: dict[str, Any], **rules: float) -> AlbumentationsAdapter:
    box_filter = BoxFilter(**{"min_area_ratio": 0.1, "min_box_side": 2, "max_box_aspect": 100, **rules})
    return AlbumentationsAdapter(transforms, box_filter, mask_fill=255)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_flip_moves_image_mask_boxes_labels_and_crowd(make_sample: MakeSample) -> None:
    sample = make_sample(height=96, width=128, boxes=((8, 10, 50, 40), (70, 50, 120, 90)))
    flipped = adapter({"name": "HorizontalFlip", "params": {"p": 1.0}})(sample, rng())
    np.testing.assert_array_equal(flipped.image, sample.image[:, ::-1])
    np.testing.assert_array_equal(flipped.mask, sample.mask[:, ::-1])
    np.testing.assert_allclose(flipped.boxes_xyxy, [[78, 10, 120, 40], [8, 50, 58, 90]], atol=1e-4)
    assert flipped.labels.tolist() == sample.labels.tolist()
    assert flipped.crowd.tolist() == [False, True]
    assert flipped.path == sample.path


def test_a_crop_drops_boxes_with_their_labels(make_sample: MakeSample) -> None:
    sample = make_sample(height=96, width=128, boxes=((8, 10, 50, 40), (70, 50, 120, 90)))
    crop = {"transform": "Crop", "params": {"x_min": 60, "y_min": 0, "x_max": 124, "y_max": 64, "p": 1.0}}
    cropped = adapter(crop)(sample, rng())
    assert cropped.image.shape == (64, 64, 3)
    np.testing.assert_allclose(cropped.boxes_xyxy, [[10, 50, 60, 64]], atol=1e-4)
    assert cropped.labels.tolist() == [sample.labels[1]]
    assert cropped.crowd.tolist() == [True]


def test_without_boxes_and_mask(make_sample: MakeSample) -> None:
    sample = make_sample(boxes=(), with_mask=False)
    flipped = adapter({"name": "VerticalFlip", "params": {"p": 1.0}})(sample, rng())
    assert flipped.boxes_xyxy.shape == (0, 4)
    assert flipped.boxes_xyxy.dtype == np.float32
    assert flipped.mask is None


@pytest.mark.parametrize("seed", range(5))
def test_rotation_keeps_everything_aligned_and_fills_the_mask(
    make_sample: MakeSample, assert_aligned: Callable[..., None], seed: int
) -> None:
    rotate = {"name": "Rotate", "params": {"limit": [20, 40], "p": 1.0, "fill": 114}}
    rotated = adapter(rotate, min_area_ratio=0, min_box_side=0, max_box_aspect=1e9)(make_sample(), rng(seed))
    assert rotated.mask is not None
    assert rotated.mask[0, 0] == 255
    assert_aligned(rotated)


def test_an_explicit_mask_fill_wins(make_sample: MakeSample) -> None:
    rotate = {"name": "Rotate", "params": {"limit": [20, 40], "p": 1.0, "fill_mask": 7}}
    assert adapter(rotate)(make_sample(), rng()).mask[0, 0] == 7


def test_the_result_depends_on_the_generator_alone(make_sample: MakeSample) -> None:
    transforms = (
        {"name": "RandomBrightnessContrast", "params": {"p": 0.9}},
        {"name": "OneOf", "params": {"p": 1.0}, "transforms": [{"name": "Blur"}, {"name": "GaussNoise"}]},
    )
    first, second, sample = adapter(*transforms), adapter(*transforms), make_sample()
    expected = [first(sample, rng(seed)).image for seed in range(4)]
    again = [second(sample, rng(seed)).image for seed in (3, 2, 1, 0)][::-1]
    copied = pickle.loads(pickle.dumps(second))
    for seed in range(4):
        np.testing.assert_array_equal(again[seed], expected[seed])
        np.testing.assert_array_equal(copied(sample, rng(seed)).image, expected[seed])
    assert any((expected[0] != other).any() for other in expected[1:])


def test_transforms_draw_independently(make_sample: MakeSample) -> None:
    sample = make_sample(boxes=((8, 10, 50, 40),))
    both = adapter({"name": "HorizontalFlip", "params": {"p": 0.5}}, {"name": "VerticalFlip", "params": {"p": 0.5}})
    boxes = [tuple(both(sample, rng(seed)).boxes_xyxy[0].round().astype(int)) for seed in range(40)]
    assert len(set(boxes)) == 4


def test_the_pipeline_restores_the_requested_size(make_sample: MakeSample) -> None:
    crop = {"name": "RandomCrop", "params": {"height": 20, "width": 40, "p": 1.0}}
    pipeline = AugmentConfig(mosaic=0, albumentations=[crop]).build()
    sample = pipeline(lambda index: make_sample(), 1, 0, 0, 0, (64, 64))
    assert sample.image.shape == (64, 64, 3)
    assert (sample.mask[:16] == 255).all()


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({"name": "HorizontalFlop"}, r"albumentations\[0\]: .*no transform 'HorizontalFlop'.*'HorizontalFlip'"),
        ({"name": "Compose"}, "no transform 'Compose'"),
        ({"name": "np"}, "no transform 'np'"),
        ({"name": "BasicTransform"}, "no transform 'BasicTransform'"),
        ({"name": "Blur", "params": {"blur": 3}}, r"Blur has no parameter blur; it has blur_limit"),
        ({"name": "Blur", "params": {"blur_limit": "wide"}}, r"albumentations\[0\]: Blur refuses its parameters"),
        ({"name": "OneOf"}, "OneOf needs a list of transforms"),
        ({"name": "Blur", "transforms": [{"name": "Blur"}]}, "Blur takes no list"),
        ({"name": "OneOf", "transforms": [{"name": "BlurX"}]}, r"albumentations\[0\]\.transforms\[0\]: .*'Blur'"),
    ],
)
def test_what_albumentations_does_not_have_is_refused(transform: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapter(transform)


def test_normalization_is_refused(make_sample: MakeSample) -> None:
    with pytest.raises(ValueError, match=r"must give uint8 images with 3 channels, it gave float32"):
        adapter({"name": "Normalize"})(make_sample(), rng())


def test_the_rules_for_small_boxes_apply_afterwards(make_sample: MakeSample) -> None:
    sample = make_sample(height=96, width=128, boxes=((8, 10, 50, 40), (70, 50, 73, 90)))
    half = {"name": "Resize", "params": {"height": 48, "width": 64}}
    assert len(adapter(half)(sample, rng()).labels) == 1
    assert len(adapter(half, min_box_side=1)(sample, rng()).labels) == 2


@pytest.mark.parametrize("seed", [0, 1])
def test_probabilities_are_kept(make_sample: MakeSample, seed: int) -> None:
    never = adapter({"name": "HorizontalFlip", "params": {"p": 0.0}})
    sample = replace(make_sample(), mask=None)
    np.testing.assert_array_equal(never(sample, rng(seed)).image, sample.image)


def run_with_distribution(folder: Path, name: str, version: str, code: str) -> subprocess.CompletedProcess[str]:
    information = folder / f"{name}-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    script = f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)


IMPORT = """
from detseg.augment.albumentations_adapter import import_albumentations
try:
    import_albumentations()
except ValueError as error:
    print(error)
print("imported" if "albumentations" in sys.modules else "untouched")
"""


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("albumentationsx", "2.0.13", "albumentationsx 2.0.13 is installed; it is licensed under the AGPL"),
        ("AlbumentationsX", "2.1.0", "pip uninstall albumentationsx"),
        ("albumentations", "1.4.24", "needs albumentations 2.0.8, found 1.4.24"),
    ],
)
def test_another_distribution_is_refused_before_it_is_imported(
    tmp_path: Path, name: str, version: str, message: str
) -> None:
    result = run_with_distribution(tmp_path, name, version, IMPORT)
    assert message in result.stdout, result.stderr
    assert result.stdout.endswith("untouched\n")


def test_without_a_pipeline_albumentations_is_not_imported(tmp_path: Path) -> None:
    code = """
from detseg.augment.config import AugmentConfig
AugmentConfig().build()
print("imported" if {"albumentations", "torch"} & set(sys.modules) else "untouched")
"""
    result = run_with_distribution(tmp_path, "albumentationsx", "2.0.13", code)
    assert result.stdout == "untouched\n", result.stderr
