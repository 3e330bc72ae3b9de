"""Networks for masks and volumes, exported whole; the networks are small, what is around them is real."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch

from detseg.exporters.export import export_model
from detseg.models.letnet import LETNetConfig
from detseg.models.vnet import VNetConfig
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.onnx.model import OnnxModel
from detseg.tasks.model_file import ModelFileConfig, save_model_file
from detseg.tasks.semantic import SemanticTaskConfig
from detseg.tasks.volume import VolumeTaskConfig


@pytest.fixture(scope="module")
def vnet_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = ModelFileConfig(
        VNetConfig(width=4, num_convolutions=(1, 1), kernel_size=3),
        VolumeTaskConfig(input=VolumeSpec((2.0, 2.0, 2.0)), patch=(16, 16, 16)),
        ("background", "bright", "dark"),
        (0, 1, 2),
    )
    model, _ = config.build()
    with torch.no_grad():
        for _ in range(10):
            model.train()(torch.randn(2, 1, 16, 16, 16))
    path = tmp_path_factory.mktemp("vnet") / "small.safetensors"
    save_model_file(path, model.state_dict(), config)
    return path


@pytest.mark.parametrize(("precision", "dynamic"), [("fp32", True), ("fp32", False), ("fp16", True)])
def test_a_network_for_volumes(vnet_path: Path, tmp_path: Path, precision: str, dynamic: bool) -> None:
    made = export_model(vnet_path, tmp_path / "vnet.onnx", precision=precision, dynamic=dynamic, verify="blobs")
    report = json.loads(made.report_path.read_text(encoding="utf-8"))
    assert all(dice > 0.99 for dice in report["differences"]["dice"].values())
    assert set(report["metrics"]) == {"torch", "onnx"}
    model = OnnxModel(made.path, num_threads=1)
    assert model.metadata.form == "logits"
    assert model.input_sides == ((None, 1, None, None, None) if dynamic else (1, 1, 16, 16, 16))
    kinds = {value.name: value.type.tensor_type.elem_type for value in onnx.load(made.path).graph.output}
    assert kinds == {"logits": onnx.TensorProto.FLOAT}


@pytest.mark.slow
def test_a_network_for_masks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ModelFileConfig(
        LETNetConfig(), SemanticTaskConfig(input=InputSpec(64, 96)), ("background", "one", "two", "three"), (0, 1, 2, 3)
    )
    model, _ = config.build()
    with torch.no_grad():
        for _ in range(5):
            model.train()(torch.randn(2, 3, 64, 96))
    save_model_file(tmp_path / "letnet.safetensors", model.state_dict(), config)
    made = export_model(tmp_path / "letnet.safetensors")
    assert made.path == tmp_path / "letnet.onnx"
    differences = made.parity.differences
    assert differences["equal_pixels"] > 0.999
    assert 0 < differences["largest_logit_difference"] < 1e-2
    assert OnnxModel(made.path, num_threads=1).input_sides == (None, 3, None, None)
