"""Every configuration that the project ships loads, builds and is what its name says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detseg.config import from_dict, load_config, to_dict
from detseg.engine.settings import RunConfig
from detseg.tasks.model_file import ModelFileConfig

CONFIGS = Path(__file__).parent.parent / "configs"
NUM_CLASSES = {
    "letnet_camvid": 11,
    "letnet_cityscapes": 19,
    "shapes": 4,
    "vnet": 3,
    "vnet_s": 3,
    "vnet_res_s": 3,
    "vnet_hippocampus": 3,
    "blobs": 3,
}
"""Of the data set that a configuration is for; all others are built with COCO's 80."""
NUM_PARAMETERS = {
    "c2f_n": 3_157_200,
    "c2f_s": 11_166_560,
    "c2f_m": 25_902_640,
    "c2f_l": 43_691_520,
    "c2f_x": 68_229_648,
    "c2f_n_seg": 3_409_968,
    "c2f_s_seg": 11_821_056,
    "c2f_m_seg": 27_285_968,
    "c2f_l_seg": 45_997_728,
    "c2f_x_seg": 71_827_888,
    "e2e_n": 2_293_096,
    "e2e_s": 8_908_184,
    "e2e_m": 20_684_904,
    "e2e_l": 34_777_400,
    "e2e_x": 54_269_704,
    "yolox_nano": 912_159,
    "yolox_tiny": 5_055_855,
    "yolox_s": 8_968_255,
    "yolox_m": 25_326_495,
    "yolox_l": 54_208_895,
    "yolox_x": 99_071_455,
    "letnet_camvid": 951_088,
    "letnet_cityscapes": 951_216,
    "vnet": 65_179_043,
    "vnet_s": 2_491_587,
    "vnet_res_s": 2_492_163,
    "vnet_hippocampus": 2_491_587,
}


def load(name: str, tmp_path: Path) -> RunConfig:
    # Neither the data nor the weights to start from need be there to look at the rest.
    overrides = ["train.weights=null"]
    if Path(name).stem not in ("shapes", "blobs"):
        overrides.append(f"data.path={tmp_path}")
    return load_config(RunConfig, CONFIGS / name, overrides)


@pytest.mark.parametrize(
    "name",
    sorted(
        str(path.relative_to(CONFIGS))
        for path in CONFIGS.rglob("*.yaml")
        if path.parent.name not in ("data", "finetune")
    ),
)
def test_every_configuration_builds_and_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    config = load(name, tmp_path)
    assert from_dict(RunConfig, to_dict(config), "round trip") == config
    stem = Path(name).stem
    class_names = tuple(f"class {number}" for number in range(NUM_CLASSES.get(stem, 80)))
    with torch.device("meta"):
        model, task = ModelFileConfig(config.model, config.task, class_names).build()
        config.task.build_criterion(model, task)
    assert all(side % task.stride == 0 for side in config.task.train_size)
    if stem in NUM_PARAMETERS:
        assert sum(parameter.numel() for parameter in model.parameters()) == NUM_PARAMETERS[stem]


def test_the_table_of_sizes_is_complete() -> None:
    shipped = {path.stem for path in CONFIGS.rglob("*.yaml")}
    families = ("c2f_", "e2e_", "yolox_", "letnet_", "vnet")
    assert {stem for stem in shipped if stem.startswith(families)} == set(NUM_PARAMETERS)
