from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from detseg.models.backbones.csp_darknet import CSPDarknetConfig
from detseg.models.base import ModelConfig
from detseg.models.detector import DetectorConfig
from detseg.models.heads.yolox import YOLOXHeadConfig
from detseg.models.letnet import LETNetConfig
from detseg.models.load_weights import WeightsError
from detseg.models.vnet import VNetConfig
from detseg.runtime.inputs.geometry import InputSpec
from detseg.tasks.base import TaskConfig
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.model_file import ModelFileConfig, save_model_file
from detseg.tasks.semantic import SemanticTaskConfig
from detseg.tasks.start_weights import class_dimensions, load_start_weights
from detseg.tasks.volume import VolumeTaskConfig

SMALL = CSPDarknetConfig(depth=0.33, width=0.125)
BOXES = DetectionTaskConfig(input=InputSpec(64, 64))
MODELS: dict[str, tuple[ModelConfig, TaskConfig]] = {
    "dfl": (DetectorConfig(backbone=SMALL), BOXES),
    "yolox": (DetectorConfig(backbone=SMALL, head=YOLOXHeadConfig()), BOXES),
    "letnet": (LETNetConfig(), SemanticTaskConfig(input=InputSpec(64, 64))),
    "vnet": (VNetConfig(width=4, num_convolutions=(1, 1), kernel_size=3), VolumeTaskConfig()),
}
NAMES = ("bus", "car", "van")


def configure(model: str, names: tuple[str, ...]) -> ModelFileConfig:
    config, task = MODELS[model]
    return ModelFileConfig(config, task, names, tuple(range(1, len(names) + 1)))


def build(config: ModelFileConfig, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return config.model.build(num_classes=len(config.class_names))


def save(path: Path, model: str, names: tuple[str, ...]) -> dict[str, Tensor]:
    config = configure(model, names)
    weights = {name: torch.randn(value.shape) for name, value in build(config, 1).state_dict().items()}
    save_model_file(path, weights, config)
    return weights


def of_class(weights: dict[str, Tensor], name: str, dims: dict[str, int], position: int) -> Tensor:
    return weights[name].select(dims[name], position)


@pytest.mark.parametrize("model", MODELS)
def test_the_same_classes_in_another_order_meet_by_name(model: str, tmp_path: Path) -> None:
    given = save(tmp_path / "given.safetensors", model, NAMES)
    config = configure(model, ("van", "bus", "car"))
    network = build(config, 2)
    report = load_start_weights(network, config, tmp_path / "given.safetensors", partial=False)
    taken, dims = network.state_dict(), class_dimensions(config.model)
    assert dims
    assert report.missing == report.new == ()
    assert report.kept == ("van", "bus", "car")
    for name, value in given.items():
        if name in dims:
            expected = torch.stack([of_class(given, name, dims, row) for row in (2, 0, 1)], dims[name])
            assert torch.equal(taken[name], expected), name
        else:
            assert torch.equal(taken[name], value.to(taken[name].dtype)), name


@pytest.mark.parametrize("model", MODELS)
def test_other_classes_keep_what_they_share_and_begin_anew_with_the_rest(model: str, tmp_path: Path) -> None:
    given = save(tmp_path / "given.safetensors", model, NAMES)
    config = configure(model, ("tram", "van"))
    network = build(config, 2)
    fresh = {name: value.clone() for name, value in network.state_dict().items()}
    report = load_start_weights(network, config, tmp_path / "given.safetensors", partial=True)
    taken, dims = network.state_dict(), class_dimensions(config.model)
    assert (report.kept, report.new) == (("van",), ("tram",))
    assert report.missing == ()
    for name in dims:
        assert torch.equal(of_class(taken, name, dims, 0), of_class(fresh, name, dims, 0)), name
        assert torch.equal(of_class(taken, name, dims, 1), of_class(given, name, dims, 2)), name


def test_no_class_in_common_leaves_the_layers_of_classes_fresh(tmp_path: Path) -> None:
    save(tmp_path / "given.safetensors", "dfl", NAMES)
    config = configure("dfl", ("cell",))
    network = build(config, 2)
    report = load_start_weights(network, config, tmp_path / "given.safetensors", partial=True)
    assert set(report.missing) == set(class_dimensions(config.model))
    assert report.kept == ()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("bus", "car"), "is for the classes bus, car, van, the data set has bus, car; .* train.partial_weights=true"),
        (("bus", "car", "van", "tram"), "the data set has bus, car, van, tram"),
        (("bus", "car", "Van"), "the data set has bus, car, Van"),
    ],
)
def test_other_classes_are_refused_unless_asked_for(names: tuple[str, ...], message: str, tmp_path: Path) -> None:
    save(tmp_path / "given.safetensors", "dfl", NAMES)
    config = configure("dfl", names)
    network = build(config, 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_start_weights(network, config, tmp_path / "given.safetensors", partial=False)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_another_network_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "given.safetensors", "vnet", NAMES)
    config = configure("dfl", NAMES)
    with pytest.raises(WeightsError, match=r"does not fit the model: 0 of \d+ tensors fit; missing, or of another"):
        load_start_weights(build(config, 2), config, tmp_path / "given.safetensors", partial=True)
    wider = replace(config, model=DetectorConfig(backbone=CSPDarknetConfig(depth=0.33, width=0.25)))
    save(tmp_path / "narrow.safetensors", "dfl", NAMES)
    with pytest.raises(WeightsError, match="does not fit the model"):
        load_start_weights(build(wider, 2), wider, tmp_path / "narrow.safetensors", partial=False)


def test_a_width_that_follows_the_number_of_classes_is_no_class(tmp_path: Path) -> None:
    # The hidden width of the branches is the number of classes where that is between 64 and 100.
    eighty = tuple(f"class {number}" for number in range(80))
    save(tmp_path / "given.safetensors", "dfl", eighty)
    config = configure("dfl", eighty[::-1])
    network = build(config, 2)
    report = load_start_weights(network, config, tmp_path / "given.safetensors", partial=False)
    assert report.missing == ()
    assert set(class_dimensions(config.model).values()) == {0}
