from __future__ import annotations

from typing import Any

import pytest

from detseg.augment.config import AugmentConfig
from detseg.augment.pipeline import TrainPipeline


def test_defaults_and_limits_are_accepted() -> None:
    AugmentConfig()
    AugmentConfig(mosaic=0, mixup=1, close_last_epochs=0, degrees=180, scale=(1.0, 1.0), multi_scale=(0.5, 1.5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mosaic": 1.5}, "mosaic must be a probability from 0 to 1, got 1.5"),
        ({"flip_vertical": -0.1}, "flip_vertical must be a probability"),
        ({"rotate_90": float("nan")}, "rotate_90 must be a probability"),
        ({"close_last_epochs": -1}, "close_last_epochs must be 0 or more epochs, got -1"),
        ({"degrees": 200}, "degrees must be from 0 to 180, got 200"),
        ({"perspective": 0.2}, "perspective must be from 0 to 0.1"),
        ({"scale": (1.5, 0.5)}, "scale must be two factors, 0 < smallest <= largest"),
        ({"scale": (0.0, 1.0)}, "scale must be two factors"),
        ({"multi_scale": (0.5,)}, "multi_scale must be two factors"),
        ({"hsv_hue": 0.6}, "hsv_hue must be from 0 to 0.5"),
        ({"pad_value": 256}, "pad_value must be from 0 to 255, got 256"),
        ({"max_box_aspect": 0.5}, "max_box_aspect must be 1 or more"),
        ({"albumentations": ["Blur"]}, r"albumentations\[0\] must be a mapping such as .*got 'Blur'"),
        ({"albumentations": [{"name": "Blur", "p": 1}]}, r"albumentations\[0\]: unknown key p"),
        ({"albumentations": [{"params": {}}]}, r"albumentations\[0\] needs exactly one name"),
        ({"albumentations": [{"name": "A", "transform": "B"}]}, "needs exactly one name"),
        ({"albumentations": [{"name": "Blur", "params": [1]}]}, "params must be a mapping"),
        (
            {"albumentations": [{"name": "OneOf", "transforms": [{"name": "Blur"}, 3]}]},
            r"albumentations\[0\]\.transforms\[1\] must be a mapping",
        ),
    ],
)
def test_impossible_settings_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**settings)


def test_the_settings_build_their_pipeline() -> None:
    config = AugmentConfig(mosaic=0.5)
    assert config.name == "image"
    pipeline = config.build()
    assert isinstance(pipeline, TrainPipeline)
    assert pipeline.config is config
