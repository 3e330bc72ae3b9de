from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from detseg import __version__
from detseg.models.backbones.adapter import AdapterConfig
from detseg.models.backbones.csp_darknet import CSPDarknetConfig
from detseg.models.detector import DetectorConfig
from detseg.models.vnet import VNetConfig
from detseg.runtime.inputs.geometry import InputSpec
from detseg.structures import LetterboxTransform
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.model_file import (
    ModelFileConfig,
    default_device,
    load_model_file,
    match_classes,
    read_header,
    save_model_file,
)

CONFIG = ModelFileConfig(
    model=DetectorConfig(backbone=CSPDarknetConfig(width=0.125)),
    task=DetectionTaskConfig(input=InputSpec(64, 96, anchor="top_left", channel_order="bgr", mean=(1.0, 2.0, 3.0))),
    class_names=("circle", "Größe", "b c"),
    category_ids=(3, 17, 90),
)


def fresh_weights(config: ModelFileConfig = CONFIG, seed: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model, _ = config.build()
    # Statistics that differ from those of any new model.
    model.train()(torch.randn(2, 3, 64, 64))
    return model.state_dict()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model_file(path, fresh_weights(), CONFIG)
    return path


def header(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        content: dict[str, Any] = json.loads(file.metadata()["detseg"])
    return content


def rewrite(path: Path, **changes: Any) -> None:
    save_file(load_file(path), path, metadata={"detseg": json.dumps({**header(path), **changes})})


def test_the_file_alone_gives_the_same_model(saved: Path) -> None:
    original, task = CONFIG.build()
    original.load_state_dict(fresh_weights())
    package = load_model_file(saved)
    assert package.config == CONFIG
    assert not package.model.training
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    transforms = [LetterboxTransform.identity(64, 96)]
    with torch.no_grad():
        (expected,) = task.results(task.infer(original.eval(), task.normalize(images)), transforms)
        (found,) = package.task.results(package.task.infer(package.model, package.task.normalize(images)), transforms)
    assert len(expected) > 0
    for name in ("boxes_xyxy", "scores", "labels"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))
    assert package.task.class_names == CONFIG.class_names
    assert package.task.category_ids == CONFIG.category_ids


def test_the_header_says_what_the_file_is(saved: Path) -> None:
    content = header(saved)
    assert content["version"] == __version__
    assert content["class_names"] == ["circle", "Größe", "b c"]
    assert content["category_ids"] == [3, 17, 90]
    assert content["task"]["name"] == "detection"
    assert content["task"]["input"]["mean"] == [1.0, 2.0, 3.0]
    assert content["model"]["backbone"] == {**content["model"]["backbone"], "name": "csp_darknet", "width": 0.125}
    assert read_header(saved) == CONFIG


def test_weights_in_any_memory_layout_are_saved_as_they_are(tmp_path: Path) -> None:
    weights = {
        name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
        for name, value in fresh_weights().items()
    }
    save_model_file(tmp_path / "a.safetensors", weights, CONFIG)
    save_model_file(tmp_path / "b.safetensors", fresh_weights(), CONFIG)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_postprocessing_can_be_set_on_loading(saved: Path) -> None:
    package = load_model_file(saved, postprocess={"confidence": 0.25, "max_detections": 7})
    settings = package.task.config.postprocess
    assert (settings.confidence, settings.max_detections) == (0.25, 7)
    assert settings.iou == CONFIG.task.postprocess.iou
    assert load_model_file(saved).task.config.postprocess == CONFIG.task.postprocess
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1, got 2"):
        load_model_file(saved, postprocess={"confidence": 2})
    with pytest.raises(ValueError, match="the task detection has no setting window; its settings are confidence"):
        load_model_file(saved, postprocess={"iou": 0.5, "window": (64, 64)})


def test_settings_for_prediction_give_way_to_those_that_are_named(saved: Path) -> None:
    assert load_model_file(saved, for_prediction=True).task.config.postprocess.confidence == 0.25
    package = load_model_file(saved, postprocess={"confidence": 0.001, "iou": 0.5}, for_prediction=True)
    assert (package.task.config.postprocess.confidence, package.task.config.postprocess.iou) == (0.001, 0.5)


def test_the_input_size_can_be_set_on_loading(saved: Path) -> None:
    before, after = CONFIG.task.input, load_model_file(saved, size=(96, 160)).task.spec
    assert after == replace(before, height=96, width=160)
    with pytest.raises(ValueError, match="must be multiples of the model's largest stride, 32"):
        load_model_file(saved, size=(100, 160))


def test_a_model_that_began_with_pretrained_weights_needs_them_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    scratch = replace(CONFIG, model=DetectorConfig(backbone=AdapterConfig("mobilenet_v3_small")))
    began = replace(CONFIG, model=DetectorConfig(backbone=AdapterConfig("mobilenet_v3_small", pretrained=True)))
    with pytest.raises(ValueError, match="pretrained"):
        began.build()
    save_model_file(tmp_path / "model.safetensors", fresh_weights(scratch), began)
    package = load_model_file(tmp_path / "model.safetensors")
    assert package.config == scratch
    for name, value in fresh_weights(scratch).items():
        assert torch.equal(package.model.state_dict()[name], value), name


def test_files_that_are_no_models(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model file at .*missing\.safetensors"):
        load_model_file(tmp_path / "missing.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"foreign\.safetensors has no detseg header.*--weights"):
        load_model_file(foreign)
    with pytest.raises(ValueError, match=r"`detseg convert .*best\.pt -o best\.safetensors`"):
        load_model_file(tmp_path / "best.pt")
    for content in (b"", b"not a model", saved.read_bytes()[:-10]):
        broken = tmp_path / "broken.safetensors"
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.safetensors is no readable safetensors file"):
            load_model_file(broken)


def test_a_file_of_another_version_is_refused(saved: Path) -> None:
    rewrite(saved, format=2, version="9.1")
    with pytest.raises(ValueError, match=r"was written by detseg 9\.1, whose file format this version cannot read"):
        read_header(saved)


def test_a_header_with_unknown_keys_is_refused(saved: Path) -> None:
    rewrite(saved, colour="red")
    with pytest.raises(ValueError, match="colour"):
        read_header(saved)


def test_weights_that_are_not_those_of_the_header(saved: Path) -> None:
    rewrite(saved, class_names=["a", "b"], category_ids=[1, 2])
    # The last convolution of the classes at three levels: weight and bias.
    with pytest.raises(ValueError, match=r"header and weights disagree about 6 tensors: head\..*weight"):
        load_model_file(saved)
    weights = load_file(saved)
    first = min(weights)
    del weights[first]
    save_file({**weights, "extra": torch.zeros(1)}, saved, metadata={"detseg": json.dumps(header(saved))})
    rewrite(saved, class_names=list(CONFIG.class_names), category_ids=[1, 2, 3])
    with pytest.raises(ValueError, match=re.escape(f"disagree about 2 tensors: {first}, extra")):
        load_model_file(saved)


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from detseg.files import SaveError
from detseg.tasks.model_file import load_model_file, save_model_file
path = Path(sys.argv[1])
package = load_model_file(path)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    save_model_file(path, package.model.state_dict(), package.config)
except SaveError as error:
    print(error)
"""


def test_a_full_disk_keeps_the_model_before(saved: Path) -> None:
    before = saved.read_bytes()
    result = subprocess.run([sys.executable, "-c", FULL_DISK, str(saved)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"could not write {saved}: ")
    assert "the file that was there before is kept" in result.stdout
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize(
    ("model_names", "data_names", "expected"),
    [
        (["a", "b", "c"], ["a", "b", "c"], [0, 1, 2]),
        (["a", "b", "c"], ["c", "a", "b"], [2, 0, 1]),
        (["a", "b", "c"], ["b"], [1]),
        (["a"], [], []),
    ],
)
def test_classes_meet_by_name(model_names: list[str], data_names: list[str], expected: list[int]) -> None:
    assert match_classes(model_names, data_names) == expected


def test_unknown_classes_are_listed_with_both_sides() -> None:
    message = (
        "the model does not know 2 classes of the data set: Cat, bird; the model has: cat, dog; "
        "the data set has: dog, Cat, bird"
    )
    with pytest.raises(ValueError, match=message):
        match_classes(["cat", "dog"], ["dog", "Cat", "bird"])


def test_another_spelling_is_proposed_as_a_class_map() -> None:
    proposal = r'made one by `classes: \{"Cat": "cat", "hot-dog": "Hot Dog"\}` in the data YAML'
    with pytest.raises(ValueError, match=proposal):
        match_classes(["cat", "Hot Dog", "car", "Car"], ["Cat", "hot-dog", "bird", "CAR"])
    with pytest.raises(ValueError, match=r"the data set has: bird$"):
        match_classes(["cat"], ["bird"])


def test_devices() -> None:
    assert default_device("cpu") == torch.device("cpu")
    available = torch.cuda.is_available()
    assert default_device("auto").type == ("cuda" if available else "cpu")
    if not available:
        with pytest.raises(ValueError, match="device cuda:1 was asked for, but torch sees no CUDA device"):
            default_device("cuda:1")


def described(path: Path, text: str, tensors: dict[str, Tensor] | None = None) -> Path:
    """A file with ``text`` for its header, and hardly any weights."""
    save_file(tensors or {"a": torch.zeros(1)}, path, metadata={"detseg": text})
    return path


def changed(saved: Path, part: str, **settings: Any) -> str:
    """The header of ``saved`` with other ``settings`` of a ``part`` of its model."""
    content = header(saved)
    content["model"][part].update(settings)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x", "its detseg header is no JSON"),
        ("[" * 100_000, "its detseg header is no JSON"),
        ("{}", "has no format number"),
        ("null", "has no format number"),
        ("[]", "has no format number"),
        ('{"format": null}', "has no format number"),
        ('{"format": 1}', "missing key"),
        ('{"format": 7}', r"written by detseg \(unknown\)"),
        ('{"format": 1, "model": {}, "task": {}}', "name"),
        (
            '{"format": 1, "model": "vnet", "task": "detection", "class_names": ["a", "b"]}',
            "header and weights disagree",
        ),
    ],
)
def test_headers_of_others_are_one_error_with_the_path(tmp_path: Path, text: str, words: str) -> None:
    path = described(tmp_path / "odd.safetensors", text)
    with pytest.raises(ValueError, match=words) as caught:
        load_model_file(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("part", "settings", "words"),
    [
        ("backbone", {"width": 8.0}, "header and weights disagree"),
        ("backbone", {"width": 1e9}, "disagree|cannot be made"),
        ("backbone", {"depth": 1e6}, "many more weights than there are in the file"),
        ("neck", {"depth": 1e6}, "many more weights than there are in the file"),
        ("backbone", {"width": float("inf")}, "cannot be made"),
        ("head", {"reg_max": 10**12}, "disagree|cannot be made"),
    ],
)
def test_a_header_that_asks_for_a_huge_network_costs_nothing(
    saved: Path, part: str, settings: dict[str, Any], words: str
) -> None:
    path = described(saved.parent / "huge.safetensors", changed(saved, part, **settings))
    with pytest.raises(ValueError, match=words) as caught:
        load_model_file(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_model_of_another_task(saved: Path) -> None:
    content = header(saved) | {"model": {"name": "vnet"}}
    weights = VNetConfig().build(num_classes=3).state_dict()
    path = described(saved.parent / "other.safetensors", json.dumps(content), weights)
    with pytest.raises(
        ValueError, match=r"other\.safetensors: its header describes a model and a task that do not fit"
    ):
        load_model_file(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    weights = fresh_weights()
    weights[min(weights)][0] = value
    save_model_file(tmp_path / "model.safetensors", weights, CONFIG)
    with pytest.raises(ValueError, match=r"model\.safetensors: 1 of \d+ tensors hold NaN or infinity.*: \S+; go back"):
        load_model_file(tmp_path / "model.safetensors")


def test_weights_of_another_kind_of_number(saved: Path) -> None:
    weights = load_file(saved)
    first = min(name for name, one in weights.items() if one.is_floating_point())
    weights[first] = weights[first].to(torch.int64)
    described(saved, json.dumps(header(saved)), weights)
    with pytest.raises(ValueError, match=f"disagree about 1 tensors: {re.escape(first)}"):
        load_model_file(saved)


def test_reading_a_header_loads_no_compiler(saved: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from detseg.tasks.model_file import load_model_file
load_model_file(Path({str(saved)!r}))
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
