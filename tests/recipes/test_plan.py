"""What a run is asked for in a few words, and what of it wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from detseg.config import ConfigError
from detseg.models.backbones.csp_darknet import CSPDarknetConfig
from detseg.models.base import ModelConfig
from detseg.models.detector import DetectorConfig
from detseg.models.letnet import LETNetConfig
from detseg.models.vnet import VNetConfig
from detseg.recipes.plan import Options, Plan, plan_run
from detseg.recipes.start import find_start
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.postprocess.config import WindowsConfig
from detseg.shipped import find_config
from detseg.tasks.base import TaskConfig
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.model_file import ModelFileConfig, save_model_file
from detseg.tasks.semantic import SemanticTaskConfig
from detseg.tasks.volume import VolumeTaskConfig

WEIGHTS: dict[str, tuple[ModelConfig, TaskConfig]] = {
    "boxes": (
        DetectorConfig(backbone=CSPDarknetConfig(depth=0.33, width=0.125)),
        DetectionTaskConfig(input=InputSpec(96, 64)),
    ),
    "masks": (LETNetConfig(), SemanticTaskConfig(input=InputSpec(64, 96))),
    "volumes": (
        VNetConfig(width=4, num_convolutions=(1, 1), kernel_size=3),
        VolumeTaskConfig(
            input=VolumeSpec((1.0, 1.0, 1.0)), patch=(16, 16, 16), postprocess=WindowsConfig(flip_axes=(1,))
        ),
    ),
}
NAMES = ("background", "bus", "car")


def save(folder: Path, kind: str) -> Path:
    model, task = WEIGHTS[kind]
    config = ModelFileConfig(model, task, NAMES, (1, 2, 3))
    torch.manual_seed(0)
    path = folder / f"{kind}.safetensors"
    save_model_file(path, model.build(num_classes=3).state_dict(), config)
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETSEG_DATA", raising=False)
    return tmp_path


def plan(model: str | Path, *overrides: str, data: str | None = "shapes", **options: Any) -> Plan:
    return plan_run(model, Options(data=data, **options), overrides)


@pytest.mark.parametrize("name", ["c2f_n", "detection/c2f_n", "c2f_n.yaml", "configs/detection/c2f_n.yaml"])
def test_a_shipped_configuration_by_name_from_any_folder(name: str) -> None:
    made = plan(name)
    assert made.name == "c2f_n"
    assert made.config.task.input == InputSpec(640, 640)
    assert made.config.train.weights is None
    assert made.adapted_to(1000, ("cat",)) == (made.config, ())


def test_options_and_keys_win_over_the_recipe() -> None:
    options = {"epochs": 7, "size": (96, 64), "batch_size": 3, "device": "cpu", "seed": 5, "num_workers": 0}
    config = plan("bccd", "train.optimizer.learning_rate=0.5", **options).config
    assert (config.train.epochs, config.train.batch_size, config.train.seed) == (7, 3, 5)
    assert (config.task.input.height, config.task.input.width) == (96, 64)
    assert (config.train.device, config.data.num_workers) == ("cpu", 0)
    assert config.train.optimizer.learning_rate == 0.5
    assert config.augment.rotate_90 == 0.5, "the rest is the recipe's"


def test_data_brings_what_a_recipe_says_of_its_own_data_only() -> None:
    config = plan("vnet_hippocampus.yaml", data="blobs").config
    assert str(config.data.path) == "blobs"
    assert config.data.description is None
    assert config.data.cache == "ram", "how it is read stays"
    folds = plan("release/vnet_hippocampus", data="blobs").config
    assert (folds.data.train_split, folds.data.val_split) == ("train", "val")


def test_shipped_recipes_name_no_format() -> None:
    for name in ("bccd", "bccd_finetune", "coco", "overfit", "letnet_cityscapes.yaml"):
        assert plan(name, "train.weights=null").config.data.format is None, name


def test_size_moves_the_fit_of_crops_too() -> None:
    config = plan("letnet_camvid.yaml", size=(128, 160)).config
    assert config.augment.fit == (128, 160)
    assert (config.task.input.height, config.task.input.width) == (128, 160)
    assert plan("c2f_n", size=(64, 64)).config.augment.fit is None


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_bring_their_own_model_and_task(kind: str, elsewhere: Path) -> None:
    path = save(elsewhere, kind)
    made = plan(path, data="blobs" if kind == "volumes" else "shapes")
    model, task = WEIGHTS[kind]
    assert (made.config.model, made.config.task) == (model, task)
    assert made.config.train.weights == path
    assert made.config.train.partial_weights
    assert made.name == kind


def test_what_is_mirrored_and_fitted_follows_from_the_weights(elsewhere: Path) -> None:
    assert plan(save(elsewhere, "volumes"), data="blobs").config.augment.flip == (0.0, 0.5, 0.0)
    assert plan(save(elsewhere, "masks")).config.augment.fit == (64, 96)


@pytest.mark.parametrize(
    ("num_samples", "names", "expected"),
    [
        (400, NAMES, {"rate": 1e-4, "batch": 16, "freeze": (), "decay": 0.98}),
        (400, NAMES[::-1], {"rate": 1e-4, "batch": 16, "freeze": (), "decay": 0.98}),
        (400, ("cell",), {"rate": 5e-4, "batch": 16, "freeze": ("backbone",), "decay": 0.98}),
        (400, (*NAMES, "cell"), {"rate": 5e-4, "batch": 16, "freeze": ("backbone",), "decay": 0.98}),
        (30, NAMES, {"rate": 1e-4, "batch": 7, "freeze": (), "decay": 0.95}),
        (3, NAMES, {"rate": 1e-4, "batch": 2, "freeze": (), "decay": 0.95}),
        (100_000, NAMES, {"rate": 1e-4, "batch": 16, "freeze": (), "decay": 0.9999}),
    ],
)
def test_fine_tuning_follows_the_data(
    num_samples: int, names: tuple[str, ...], expected: dict[str, Any], elsewhere: Path
) -> None:
    config, reasons = plan(save(elsewhere, "boxes")).adapted_to(num_samples, names)
    train = config.train
    assert train.ema is not None
    assert {
        "rate": train.optimizer.learning_rate,
        "batch": train.batch_size,
        "freeze": train.freeze,
        "decay": train.ema.decay,
    } == expected
    assert train.freeze_norms
    assert len(reasons) == 2
    new = len(set(names) - set(NAMES))
    assert reasons[0].startswith(f"{new} of {len(names)} classes are new" if new else "all classes are known")


def test_what_the_user_says_of_fine_tuning_wins(elsewhere: Path) -> None:
    said = ["train.optimizer.learning_rate=0.01", "train.freeze_norms=false", "train.ema.decay=0.5"]
    config, reasons = plan(save(elsewhere, "boxes"), *said, batch_size=16).adapted_to(30, NAMES)
    assert config.train.optimizer.learning_rate == 0.01
    assert not config.train.freeze_norms
    assert config.train.ema is not None
    assert config.train.ema.decay == 0.5
    assert config.train.batch_size == 16
    assert "learning rate 0.01" in reasons[0]
    assert "norms" not in reasons[0]


def test_a_run_folder_stands_for_its_best_model(elsewhere: Path) -> None:
    run = elsewhere / "runs" / "mine"
    run.mkdir(parents=True)
    save(run, "boxes").rename(run / "best.safetensors")
    start = find_start(run)
    assert (start.name, start.weights) == ("mine", run / "best.safetensors")


def test_released_weights_come_before_a_configuration_of_the_same_name() -> None:
    start = find_start("letnet_camvid")
    assert start.weights is not None
    assert start.class_names is not None
    assert len(start.class_names) == 11
    assert find_start("semantic/letnet_camvid").config is not None


@pytest.mark.parametrize("name", ["letnet_camvid", "runs/mine"])
def test_weights_by_name_for_a_configuration(name: str, elsewhere: Path) -> None:
    run = elsewhere / "runs" / "mine"
    run.mkdir(parents=True)
    save(run, "masks").rename(run / "best.safetensors")
    weights = plan("letnet", f"train.weights={name}").config.train.weights
    assert weights == (run / "best.safetensors" if name.startswith("runs") else find_start(name).weights)
    (elsewhere / "own.yaml").write_text(f"base: {find_config('letnet')}\ntrain: {{weights: {name}}}\n")
    assert plan("own.yaml").config.train.weights == weights


def test_weights_that_are_not_there() -> None:
    with pytest.raises(ConfigError, match=r"train.weights: 'letnet_kamvid' not found"):
        plan("letnet", "train.weights=letnet_kamvid")


@pytest.mark.parametrize("name", ["yolov8n_bccd.pt", "yolox_nano_coco.pth", "yolox_nano_coco.onnx"])
def test_files_of_other_programs_are_converted_once(
    name: str, detseg_data: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(elsewhere / "cache"))
    path = detseg_data / "weights" / name
    start = find_start(path)
    assert start.weights is not None
    assert start.weights.is_relative_to(elsewhere / "cache")
    assert start.converted_from == path
    written = start.weights.stat().st_mtime_ns
    again = find_start(path)
    assert again.weights == start.weights
    assert again.weights is not None
    assert again.weights.stat().st_mtime_ns == written
    assert plan(path).config.train.weights == start.weights


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("c2f_m_", "nothing to train is called c2f_m_; did you mean c2f_"),
        ("nowhere.yaml", "no configuration at nowhere.yaml"),
        (
            "shapes",
            "several configurations are called shapes; say which: detection/shapes, instance/shapes, semantic/shapes",
        ),
    ],
)
def test_names_of_nothing(model: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(model)


def test_files_of_no_known_kind(elsewhere: Path) -> None:
    (elsewhere / "weights.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"weights.bin is neither a configuration \(.yaml, .yml\) nor weights"):
        plan("weights.bin")
    with pytest.raises(FileNotFoundError, match=r"no file at missing.pt"):
        plan("missing.pt")


def test_data_must_be_named() -> None:
    with pytest.raises(ConfigError, match="no data is named; give a folder or a YAML with --data"):
        plan("c2f_n", data=None)
    assert str(plan("c2f_n", "data.path=shapes", data=None).config.data.path) == "shapes"


def test_volumes_have_no_input_size() -> None:
    with pytest.raises(ConfigError, match=r"--size: the task volume has no input size.*task.patch=\[64,64,64\]"):
        plan("vnet_s", data="blobs", size=(64, 64))
