from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from detseg.augment.color import HsvJitter
from detseg.augment.compose import Fill
from detseg.augment.config import AugmentConfig
from detseg.augment.geometry import BoxFilter, RandomView
from detseg.augment.pipeline import TrainPipeline
from detseg.config import from_dict


def test_defaults_and_limits_are_accepted() -> None:
    AugmentConfig()
    AugmentConfig(mosaic=0, mixup=1, close_mosaic_epochs=0, degrees=180, scale=(1.0, 1.0), multi_scale=(0.5, 1.5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mosaic": 1.5}, "mosaic must be a probability from 0 to 1, got 1.5"),
        ({"flip_vertical": -0.1}, "flip_vertical must be a probability"),
        ({"rotate_90": float("nan")}, "rotate_90 must be a probability"),
        ({"close_mosaic_epochs": -1}, "close_mosaic_epochs must be 0 or more epochs, got -1"),
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


def test_the_old_name_of_the_last_epochs_is_still_read() -> None:
    with pytest.warns(FutureWarning, match="close_last_epochs is now called close_mosaic_epochs"):
        assert from_dict(AugmentConfig, {"close_last_epochs": 3}, "run.yaml").close_mosaic_epochs == 3


def test_the_settings_build_their_pipeline() -> None:
    config = AugmentConfig(
        mosaic=0.0,
        mixup=0.01,
        copy_paste=0.11,
        degrees=2,
        translate=0.0,
        scale=(0.3, 0.4),
        shear=5,
        perspective=0.06,
        flip_horizontal=0.07,
        flip_vertical=0.08,
        rotate_90=0.09,
        fit=(10, 11),
        crop=True,
        balance_classes=0.12,
        hsv_hue=0.13,
        hsv_saturation=0.14,
        hsv_value=0.15,
        min_area_ratio=0.16,
        min_box_side=17,
        max_box_aspect=18,
        pad_value=19,
        mask_fill=20,
    )
    assert config.name == "image"
    pipeline = config.build()
    assert pipeline == TrainPipeline(
        mosaic=0.0,
        mixup=0.01,
        copy_paste=0.11,
        rotate_90=0.09,
        balance_classes=0.12,
        fit=(10, 11),
        view=RandomView(
            degrees=2,
            translate=0.0,
            scale=(0.3, 0.4),
            shear=5,
            perspective=0.06,
            flip_horizontal=0.07,
            flip_vertical=0.08,
            crop=True,
        ),
        box_filter=BoxFilter(min_area_ratio=0.16, min_box_side=17, max_box_aspect=18),
        fill=Fill(pad_value=19, mask_fill=20),
        transform=None,
        color=HsvJitter(hue=0.13, saturation=0.14, value=0.15),
    )
    mosaic = replace(config, crop=False, balance_classes=0.0, mosaic=0.1, translate=0.2).build()
    assert (mosaic.mosaic, mosaic.view.translate) == (0.1, 0.2)
