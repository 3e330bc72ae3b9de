from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from detseg.augment import AUGMENTS
from detseg.augment.config import AugmentConfig
from detseg.augment.volume_config import VolumeAugmentConfig
from detseg.config import from_dict, to_dict

CHANGES_BY_MONAI = (
    "rotation", "scaling", "elastic", "noise", "blur", "brightness", "contrast", "low_resolution", "gamma",
    "gamma_inverted",
)  # fmt: skip


def test_defaults_and_limits_are_accepted() -> None:
    VolumeAugmentConfig()
    VolumeAugmentConfig(
        foreground=1, elastic_shift=(0.4, 0.4), rotation_degrees=(0, 0, 180), flip=(0, 1, 1), blur_sigma=(0, 0)
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"foreground": 1.5}, "foreground must be a probability from 0 to 1, got 1.5"),
        ({"gamma_inverted": -0.1}, "gamma_inverted must be a probability from 0 to 1, got -0.1"),
        ({"elastic": float("nan")}, "elastic must be a probability from 0 to 1, got nan"),
        (
            {"flip": (0.5, 0.5)},
            r"flip must be three probabilities from 0 to 1, such as \[0.5, 0.5, 0.5\], got \(0.5, 0",
        ),
        ({"flip": (0.5, 0.5, 2.0)}, "flip must be three probabilities"),
        ({"rotation_degrees": (30, 30, 181)}, "rotation_degrees must be three angles from 0 to 180"),
        ({"rotation_degrees": (-30, 30, 30)}, "rotation_degrees must be three angles"),
        ({"scaling_factors": (1.4, 0.7)}, "scaling_factors must be two factors, 0 < smallest <= largest"),
        ({"brightness_factors": (0.0, 1.0)}, "brightness_factors must be two factors"),
        ({"contrast_factors": (1.0,)}, "contrast_factors must be two factors"),
        ({"gamma_exponents": (0.7, float("inf"))}, "gamma_exponents must be two factors"),
        ({"low_resolution_factors": (0.5, 1.5)}, r"low_resolution_factors must be two factors of at most 1, got"),
        ({"noise_std": -0.1}, "noise_std must be 0 or more, got -0.1"),
        ({"blur_sigma": (1.0, 0.5)}, "blur_sigma must be two numbers of voxels, 0 <= smallest <= largest"),
        ({"blur_sigma": (-1.0, 0.5)}, "blur_sigma must be two numbers of voxels"),
        ({"elastic_shift": (0.0, 0.5)}, r"elastic_shift must be two shares of a cell, .* <= 0.4 \(beyond which the"),
        ({"elastic_cells": 0}, "elastic_cells must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VolumeAugmentConfig(**settings)


def test_settings_go_through_yaml_data_and_back() -> None:
    config = VolumeAugmentConfig(rotation=0.5, flip=(0.0, 0.5, 0.5))
    assert from_dict(VolumeAugmentConfig, to_dict(config), "test") == config
    with pytest.raises(ValueError, match="multi_scale"):
        from_dict(VolumeAugmentConfig, {"multi_scale": [0.5, 1.5]}, "test")


def test_the_table_names_both_kinds_with_what_they_keep_in_step() -> None:
    kinds = {name: path.rpartition(":")[2] for name, path in AUGMENTS.items()}
    assert kinds == {"image": AugmentConfig.__name__, "volume": VolumeAugmentConfig.__name__}
    assert AugmentConfig().name == "image"
    assert AugmentConfig.targets == ("boxes", "instances", "masks")
    assert VolumeAugmentConfig().name == "volume"
    assert VolumeAugmentConfig.targets == ("volumes",)
    assert VolumeAugmentConfig.multi_scale is None
    assert VolumeAugmentConfig.close_mosaic_epochs == 0


def test_the_settings_build_their_pipeline() -> None:
    config = VolumeAugmentConfig(
        foreground=0.01,
        rotation=0.02,
        rotation_degrees=(3, 4, 5),
        scaling=0.06,
        scaling_factors=(0.7, 0.8),
        elastic=0.09,
        elastic_cells=10,
        elastic_shift=(0.11, 0.12),
        flip=(0.13, 0.14, 0.15),
        noise=0.16,
        noise_std=0.17,
        blur=0.18,
        blur_sigma=(0.19, 0.2),
        brightness=0.21,
        brightness_factors=(0.22, 0.23),
        contrast=0.24,
        contrast_factors=(0.25, 0.26),
        low_resolution=0.27,
        low_resolution_factors=(0.28, 0.29),
        gamma=0.3,
        gamma_inverted=0.31,
        gamma_exponents=(0.32, 0.33),
    )
    pipeline = config.build()
    assert (pipeline.foreground, pipeline.flip) == (config.foreground, config.flip)
    passed = to_dict(pipeline.warp) | to_dict(pipeline.intensity)
    wanted = to_dict(config)
    assert passed == {name: wanted[name] for name in wanted if name not in ("name", "foreground", "flip")}


def test_settings_are_read_without_torch_and_monai() -> None:
    code = """
import sys
import detseg.augment, detseg.augment.config, detseg.augment.volume_config, detseg.augment.patches
detseg.augment.volume_config.VolumeAugmentConfig()
assert not {"torch", "monai", "albumentations"} & set(sys.modules), sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_missing_monai_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("detseg.augment.volume_warp", "detseg.augment.volume_intensity"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "monai"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "monai", None)
    still = dict.fromkeys(CHANGES_BY_MONAI, 0.0)
    VolumeAugmentConfig(**still).build()
    for change in CHANGES_BY_MONAI:
        config = VolumeAugmentConfig(**{**still, change: 0.1})
        with pytest.raises(ValueError, match=r"volumes need the extra `medical`: pip install 'detseg\[medical\]'"):
            config.build()
