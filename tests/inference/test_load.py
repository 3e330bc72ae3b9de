from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import detseg
from detseg.inference import load as load_module
from detseg.inference.load import EagerRunner, make_runner
from detseg.models.detector import DetectorConfig
from detseg.models.letnet import LETNetConfig
from detseg.ops import triton_probe
from detseg.ops.triton_probe import warn_without_triton
from detseg.runtime.commands.predict import predict_command
from detseg.runtime.inputs.geometry import FittedInputSpec, InputSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.media.images import write_image
from detseg.runtime.model import Model
from detseg.runtime.postprocess.config import PostprocessConfig
from detseg.runtime.tracking.tracker import TrackerConfig
from detseg.runtime.volumes.nifti import write_volume
from detseg.structures import Detections
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.model_file import ModelFileConfig, load_model_file, save_model_file
from detseg.tasks.semantic import SemanticTaskConfig
from detseg.tasks.volume import VolumeTaskConfig
from detseg.volumes import LabelVolume, Volume


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_the_model_is_converted_and_gets_what_it_takes(
    spot_model: Any, spot_task: Any, precision: str, dtype: torch.dtype
) -> None:
    spot_model.scale = torch.nn.Parameter(torch.ones(1))
    seen: list[tuple[torch.dtype, bool, bool]] = []
    spot_model.register_forward_pre_hook(
        lambda model, inputs: seen.append((inputs[0].dtype, model.training, torch.is_grad_enabled()))
    )
    runner = make_runner(spot_model.train(), spot_task, "cpu", precision)
    assert isinstance(runner, EagerRunner)
    image = np.zeros((64, 64, 3), np.uint8)
    image[8:16, 8:16] = 255
    (found,) = runner.submit([image]).results()
    assert spot_model.scale.dtype == dtype
    assert seen == [(dtype, False, False)]
    assert isinstance(found, Detections)
    assert found.boxes_xyxy.tolist() == [[8, 8, 16, 16]]


def test_an_unknown_precision_is_refused(spot_model: Any, spot_task: Any) -> None:
    with pytest.raises(ValueError, match="precision must be one of fp32, fp16, bf16, got 'int8'"):
        make_runner(spot_model, spot_task, precision="int8")


def test_a_volume_that_would_become_too_large_is_reported_with_its_path(tmp_path: Path) -> None:
    """One of 2 m wide voxels among those of 1 mm that the model was made for."""
    config = VolumeTaskConfig(input=VolumeSpec(spacing=(1.0, 1.0, 1.0)), patch=(8, 8, 8))
    network = torch.nn.Conv3d(1, 2, 1)
    task = config.build(network, ("background", "bright"))
    model = Model(make_runner(network, task), "volume", task.class_names, task.category_ids)
    voxels = np.zeros((4, 5, 6), np.float32)
    for name, spacing in (("a", 1.0), ("b", 2000.0), ("c", 1.0)):
        write_volume(tmp_path / f"{name}.nii", Volume(voxels, np.diag([spacing, spacing, spacing, 1.0])))
    paths = [tmp_path / f"{name}.nii" for name in "abc"]
    failed: list[str] = []
    predictions = list(model.predict(paths, batch_size=2, on_error=lambda _, error: failed.append(str(error))))
    assert [prediction.path for prediction in predictions] == [paths[0], paths[2]]
    for prediction in predictions:
        assert isinstance(prediction.result, LabelVolume)
        assert prediction.result.labels.shape == (4, 5, 6)
        assert prediction.plot().ndim == 3
    (message,) = failed
    assert message.startswith(f"{paths[1]}: 4x5x6 voxels of 2000x2000x2000 mm would become")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    config = ModelFileConfig(DetectorConfig(), DetectionTaskConfig(), ("cat", "dog"), (4, 9))
    network, _ = config.build()
    save_model_file(path, network.state_dict(), config)
    return path


def test_a_model_file_knows_its_task_and_classes(package: Path) -> None:
    before = torch.get_num_threads()
    try:
        model = detseg.load(str(package), device="cpu", size=(64, 96), num_threads=1, confidence=0.5)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert (model.task_name, model.class_names, model.category_ids) == ("detection", ("cat", "dog"), (4, 9))
    assert (model.runner.spec.height, model.runner.spec.width) == (64, 96)  # type: ignore[union-attr]
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.runner._model.modules())  # type: ignore[attr-defined]
    (prediction,) = model.predict(np.zeros((40, 60, 3), np.uint8))
    assert isinstance(prediction.result, Detections)
    assert len(prediction.result) == 0


def test_boxes_on_the_cpu_take_inputs_that_fit_unless_told_otherwise(package: Path) -> None:
    small = (64, 96)
    assert detseg.load(package, device="cpu", size=small).runner.spec == FittedInputSpec(*small, stride=32)
    assert detseg.load(package, device="cpu", size=small, full_input=False).runner.spec == FittedInputSpec(*small)
    assert detseg.load(package, device="cpu", size=small, full_input=True).runner.spec == InputSpec(*small)


def test_only_boxes_can_have_inputs_that_fit() -> None:
    with torch.device("meta"):
        network = LETNetConfig().build(2)
    task = SemanticTaskConfig().build(network, ("road", "sky"))
    with pytest.raises(ValueError, match="full_input can be False for boxes on the CPU only, this is semantic on cpu"):
        make_runner(network, task, full_input=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "precision must be one of"),
        ({"num_threads": 0}, "num_threads must be at least 1, got 0"),
        ({"num_threads": 99_999_999}, "num_threads must be at most 1024, got 99999999"),
        ({"size": (50, 64)}, "multiples of the model's largest stride"),
    ],
)
def test_impossible_settings(package: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detseg.load(package, device="cpu", **options)


def test_what_shall_be_followed_is_asked_for(package: Path, tmp_path: Path) -> None:
    track = TrackerConfig(high_score=0.5, low_score=0.05, new_score=0.5)
    runner: Any = detseg.load(package, device="cpu", size=(64, 96), track=track, confidence=0.5).runner
    assert runner._task.config.postprocess.confidence == 0.05
    config = ModelFileConfig(LETNetConfig(), SemanticTaskConfig(), ("road", "sky"), (0, 1))
    save_model_file(tmp_path / "masks.safetensors", config.build()[0].state_dict(), config)
    with pytest.raises(ValueError, match="only boxes can be tracked, this model is for semantic; leave tracking out"):
        detseg.load(tmp_path / "masks.safetensors", track=track)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model file at"):
        detseg.load(tmp_path / "none.safetensors")


class _Anywhere(torch.nn.Identity):
    """A network that can be told to be on a GPU where there is none."""

    def to(self, *args: Any, **options: Any) -> Any:
        return self


@pytest.mark.parametrize(("reason", "kind"), [(None, "CudaRunner"), ("RuntimeError: no C compiler", "EagerRunner")])
def test_masks_have_a_way_without_triton(reason: str | None, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their letterbox is a kernel of the CUDA graph; without it the CPU places the images."""
    monkeypatch.setattr(load_module, "why_no_triton", lambda device: reason)
    task = SemanticTaskConfig(input=InputSpec(32, 32)).build(torch.nn.Identity(), ("a", "b", "c"))
    stand_in = type("CudaRunner", (), {"__init__": lambda self, *given, **options: None, "kind": task.kind})
    monkeypatch.setattr(load_module, "CudaRunner", stand_in)
    warn_without_triton.cache_clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        runner = make_runner(_Anywhere(), task, "cuda")
    assert type(runner).__name__ == kind
    assert [str(one.message).startswith("without Triton's kernels on cuda (RuntimeError") for one in said] == (
        [True] if reason else []
    )


def test_boxes_without_triton_run_without_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_probe, "why_no_triton", lambda device: "no C compiler")
    model = DetectorConfig().build(num_classes=2)
    config = DetectionTaskConfig(input=InputSpec(64, 64))
    warn_without_triton.cache_clear()
    with pytest.warns(UserWarning, match="suppressed by torchvision"):
        runner = make_runner(_Anywhere(), config.build(model, ("a", "b")), "cuda")
    assert isinstance(runner, EagerRunner)
    asked = replace(config, postprocess=PostprocessConfig(nms_backend="detseg"))
    with pytest.raises(ValueError, match="take nms_backend auto or torchvision"):
        make_runner(_Anywhere(), asked.build(model, ("a", "b")), "cuda")


def test_what_a_file_was_made_with_is_no_demand(tmp_path: Path) -> None:
    config = DetectionTaskConfig(input=InputSpec(64, 64), postprocess=PostprocessConfig(nms_backend="detseg"))
    header = ModelFileConfig(DetectorConfig(), config, ("a", "b"), (1, 2))
    path = tmp_path / "model.safetensors"
    save_model_file(path, header.build()[0].state_dict(), header)
    assert load_model_file(path).config.task.postprocess.nms_backend == "auto"
    asked = load_model_file(path, postprocess={"nms_backend": "detseg"})
    assert asked.config.task.postprocess.nms_backend == "detseg"


@pytest.mark.parametrize(
    ("arithmetic", "line"), [("float32, convolutions in TF32", "on cpu, float32, convolutions in TF32\n"), ("", "")]
)
def test_predict_says_in_what_a_gpu_computes(
    arithmetic: str, line: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The CPU in place of a GPU."""
    monkeypatch.setattr(load_module, "describe_arithmetic", lambda device, dtype: arithmetic)
    write_image(tmp_path / "a.png", np.zeros((32, 32, 3), np.uint8))
    model = detseg.load(package, device="cpu")
    assert predict_command(model, [str(tmp_path / "a.png")], output=tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert said.startswith(line)
    assert line or "on cpu" not in said
