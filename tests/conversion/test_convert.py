from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from monai.networks.nets import VNet as MonaiVNet
from torch import Tensor

import detseg
from detseg.config import load_config
from detseg.conversion.coco_names import COCO_CATEGORIES, COCO_NAMES
from detseg.conversion.convert import convert
from detseg.conversion.report import ConversionError
from detseg.engine.command import eval_command
from detseg.engine.settings import RunConfig
from detseg.exporters.export import export_model
from detseg.files import SaveError
from detseg.foreign.limits import ForeignFileError
from detseg.runtime.onnx.file import OnnxFileError
from detseg.tasks.model_file import load_model_file
from tests.conversion.checkpoints import CONFIGS, build, save, yolov8_weights, yolox_weights

Weights = dict[str, Tensor]
CELLS = ("RBC", "WBC", "Platelets")
VOLUME_CONFIG = """
model: vnet
task: {name: volume, patch: [32, 32, 32], input: {spacing: [1.0, 1.0, 2.0], intensity: window, window: [-160, 240]}}
augment: {name: volume}
train: {epochs: 3}
"""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_equal_weights(path: Path, expected: Weights) -> None:
    weights = load_model_file(path).model.state_dict()
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        assert weights[name].dtype == value.dtype
        assert torch.equal(weights[name], value), name


# Synthetic checkpoints of every size.

QUICK = [("c2f", "n"), ("c2f", "s"), ("yolox", "nano"), ("yolox", "tiny"), ("yolox", "s")]
LARGE = [("c2f", "m"), ("c2f", "l"), ("c2f", "x"), ("yolox", "m"), ("yolox", "l"), ("yolox", "x")]


@pytest.mark.parametrize(("form", "size"), [*QUICK, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in LARGE)])
def test_every_size(form: str, size: str, tmp_path: Path) -> None:
    model = build(f"detection/{form}_{size}", 2)
    foreign = (yolov8_weights if form == "c2f" else yolox_weights)(model)
    source = save({"start_epoch": 300, "model": foreign}, tmp_path / "checkpoint.pth")
    report = convert(source, tmp_path / "out.safetensors", names=["cat", "dog"])
    assert (report.family, report.size) == ("YOLOv8" if form == "c2f" else "YOLOX", size)
    assert report.sha256 == sha256(source)
    assert report.strides == (8, 16, 32)
    assert report.input_size == ((416, 416) if size in ("nano", "tiny") else (640, 640))
    assert [name for name, _ in report.mapped] == list(foreign)
    assert report.unused == report.missing == ()
    assert_equal_weights(tmp_path / "out.safetensors", model.state_dict())


@pytest.mark.parametrize("size", ["n", *(pytest.param(size, marks=pytest.mark.slow) for size in "smlx")])
def test_every_size_with_masks(size: str, tmp_path: Path) -> None:
    model = build(f"instance/c2f_{size}_seg", 2)
    foreign = yolov8_weights(model)
    source = save({"model": foreign}, tmp_path / "checkpoint.pt")
    report = convert(source, tmp_path / "out.safetensors", names=["cat", "dog"])
    assert (report.family, report.size, report.strides) == ("YOLOv8-seg", size, (8, 16, 32))
    assert [name for name, _ in report.mapped] == list(foreign)
    assert report.unused == report.missing == ()
    package = load_model_file(tmp_path / "out.safetensors")
    assert (package.task.name, package.task.class_names) == ("instance", ("cat", "dog"))
    assert_equal_weights(tmp_path / "out.safetensors", model.state_dict())


def test_other_prototypes_than_usual(tmp_path: Path) -> None:
    config = load_config(
        RunConfig,
        CONFIGS / "instance" / "c2f_n_seg.yaml",
        ["model.head.prototypes=16", "model.head.prototype_channels=24", "data.path=shapes"],
    )
    torch.manual_seed(0)
    model = config.model.build(3)
    source = save(yolov8_weights(model), tmp_path / "checkpoint.pt")
    convert(source, tmp_path / "out.safetensors", names=["a", "b", "c"])
    package = load_model_file(tmp_path / "out.safetensors")
    assert package.config.model == config.model
    assert_equal_weights(tmp_path / "out.safetensors", model.state_dict())


@pytest.mark.parametrize("prefix", ["model.", "model.model."])
def test_half_precision_and_state_dicts_of_their_own(prefix: str, tmp_path: Path) -> None:
    model = build("detection/c2f_n", 2).half()
    foreign = {prefix + name.removeprefix("model."): value for name, value in yolov8_weights(model).items()}
    report = convert(save(foreign, tmp_path / "w.pt"), tmp_path / "out.safetensors", names=["cat", "dog"])
    assert report.notes == ("the file does not tell the image size; the usual one is taken",)
    assert_equal_weights(tmp_path / "out.safetensors", model.float().state_dict())


def test_names_and_sizes_in_a_checkpoint_without_a_network(tmp_path: Path) -> None:
    weights = yolov8_weights(build("detection/c2f_n", 3))
    content = {"model": weights, "names": {2: "c", 0: "a", 1: "b"}, "train_args": {"imgsz": [300, 640]}}
    report = convert(save(content, tmp_path / "w.pt"), tmp_path / "out.safetensors")
    assert report.class_names == ("a", "b", "c")
    assert report.input_size == (320, 640), "rounded up to the stride"
    package = load_model_file(tmp_path / "out.safetensors")
    assert package.config.category_ids == (1, 2, 3)
    assert (package.task.spec.height, package.task.spec.width) == (320, 640)
    given = convert(tmp_path / "w.pt", tmp_path / "given.safetensors", names=["x", "y", "z"])
    assert given.class_names == ("x", "y", "z")


def test_the_average_is_taken_and_constants_are_told(tmp_path: Path) -> None:
    last, average = yolov8_weights(build("detection/c2f_n", 1)), build("detection/c2f_n", 1)
    for value in average.state_dict().values():
        value += 1
    constants = {"model.22.strides": torch.tensor([8.0, 16.0, 32.0]), "model.22.anchors": torch.zeros(2, 10)}
    content = {"model": last, "ema": yolov8_weights(average) | constants}
    report = convert(save(content, tmp_path / "w.pt"), tmp_path / "out.safetensors", names=["thing"])
    assert [name for name, _ in report.unused] == list(constants)
    assert all(reason for _, reason in report.unused)
    assert "averaged weights (ema)" in report.notes[0]
    assert_equal_weights(tmp_path / "out.safetensors", average.state_dict())
    text = report.render()
    for part in (report.sha256, "YOLOv8 n, 1 classes (thing), input 640x640", "355 mapped, 2 unused, 0 missing"):
        assert part in text
    assert "unused: model.22.strides: the strides" in text


def test_counters_may_be_missing(tmp_path: Path) -> None:
    weights = yolox_weights(build("detection/yolox_nano", 2))
    fewer = {name: value for name, value in weights.items() if "num_batches_tracked" not in name}
    report = convert(save(fewer, tmp_path / "w.pth"), tmp_path / "out.safetensors", names=["cat", "dog"])
    assert len(report.missing) == len(weights) - len(fewer) > 0
    assert all(name.endswith("num_batches_tracked") for name, _ in report.missing)


# Checkpoints that do not fit.


def _change(**changes: Tensor | None) -> Callable[[Weights], Weights]:
    def changed(weights: Weights) -> Weights:
        together = weights | {name: value for name, value in changes.items() if value is not None}
        return {name: value for name, value in together.items() if changes.get(name, value) is not None}

    return changed


BIAS = "model.22.cv3.0.2.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _change(**{BIAS: None}),
            r"1 of 354 tensors do not fit.*missing: what detseg calls head\.class_branches\.0\.2",
        ),
        (_change(**{BIAS: torch.zeros(5)}), rf"{BIAS} has the shape \[5\], the network needs \[2\]"),
        (_change(**{BIAS: torch.zeros(2, dtype=torch.int64)}), "holds int64 numbers, the network needs float32"),
        (_change(**{BIAS: torch.tensor([0, torch.inf])}), "holds values that are not finite"),
        (_change(**{"model.22.extra": torch.zeros(3)}), r"unused: model\.22\.extra \[3\]"),
        (_change(**{"model.10.conv.weight": torch.zeros(3)}), r"unused: model\.10\.conv\.weight \[3\]"),
        (_change(**{f"model.{BIAS}": torch.zeros(2)}), f"twice: {BIAS} and model.{BIAS} are the same"),
        (_change(**{"model.22.cv4.0.2.bias": torch.zeros(3)}), "poses or rotated boxes"),
        (_change(**{"model.2.cv1.conv.weight": None, "model.4.cv1.conv.weight": None}), "2 of 353 tensors do not fit"),
    ],
)
def test_what_does_not_fit_is_listed(change: Callable[[Weights], Weights], message: str, tmp_path: Path) -> None:
    source = save(change(yolov8_weights(build("detection/c2f_n", 2))), tmp_path / "w.pt")
    with pytest.raises(ConversionError, match=message) as caught:
        convert(source, tmp_path / "out.safetensors", names=["cat", "dog"])
    assert str(caught.value).startswith(f"{source}: ")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("names", "found", "message"),
    [
        (None, None, "tells 2 classes apart and the file does not name them; give the names in order: --names"),
        (["cat"], None, r"--names has 1 class names \(cat\), the network tells 2 classes apart"),
        (["cat", "cat"], None, "--names has a class name twice, or an empty one: 'cat'"),
        (["cat", " "], None, "or an empty one: ' '"),
        (None, ["a", "b", "c"], r"the file has 3 class names \(a, b, c\)"),
        (None, {1: "a", 2: "b"}, r"numbered \[1, 2\], expected 0 to 1"),
        (None, {0: "a", 1: 7}, "no list of texts; give them with --names"),
        (None, 7, "no list of texts"),
    ],
)
def test_class_names_that_do_not_fit(names: list[str] | None, found: Any, message: str, tmp_path: Path) -> None:
    content = {"model": yolov8_weights(build("detection/c2f_n", 2))} | ({} if found is None else {"names": found})
    with pytest.raises(ConversionError, match=message):
        convert(save(content, tmp_path / "w.pt"), tmp_path / "out.safetensors", names=names)


@pytest.mark.parametrize("size", ["big", [640], [640, 640.0], 0, -32, 10**9, True])
def test_image_sizes_that_are_none(size: Any, tmp_path: Path) -> None:
    content = {"model": yolov8_weights(build("detection/c2f_n", 1)), "train_args": {"imgsz": size}}
    with pytest.raises(ConversionError, match="the image size of the file is"):
        convert(save(content, tmp_path / "w.pt"), tmp_path / "out.safetensors", names=["thing"])


def test_files_that_are_no_sources_or_outputs(tmp_path: Path, detseg_data: Path) -> None:
    source = detseg_data / "weights/yolox_nano_coco.pth"
    out = tmp_path / "out.safetensors"
    with pytest.raises(ConversionError, match=r"out\.pt must end in \.safetensors"):
        convert(source, tmp_path / "out.pt")
    with pytest.raises(ConversionError, match=r"w\.weights must end in \.pt, \.pth, \.onnx"):
        convert(tmp_path / "w.weights", out)
    with pytest.raises(FileNotFoundError, match=r"no file at .*w\.pt"):
        convert(tmp_path / "w.pt", out)
    (tmp_path / "half.pth").write_bytes(source.read_bytes()[:100_000])
    with pytest.raises(ForeignFileError, match=r"half\.pth"):
        convert(tmp_path / "half.pth", out)
    (tmp_path / "half.onnx").write_bytes((detseg_data / "weights/yolox_nano_coco.onnx").read_bytes()[:100_000])
    with pytest.raises(OnnxFileError, match=r"half\.onnx"):
        convert(tmp_path / "half.onnx", out)
    with pytest.raises(ConversionError, match=r"it must hold a state dict .* it holds a dictionary with epoch"):
        convert(save({"epoch": 3}, tmp_path / "w.pt"), out)
    (tmp_path / "a_file").touch()
    with pytest.raises((SaveError, FileExistsError, NotADirectoryError)):
        convert(source, tmp_path / "a_file/out.safetensors")
    assert not out.exists()
    out.write_bytes(b"precious")
    with pytest.raises(ConversionError, match="exists; remove it, or choose another name"):
        convert(source, out)
    assert out.read_bytes() == b"precious"


# Genuine checkpoints.


@pytest.fixture(scope="module")
def converted(detseg_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("converted")
    for name in ("yolov8n_bccd.pt", "yolox_nano_coco.pth", "yolox_nano_coco.onnx"):
        report = convert(detseg_data / "weights" / name, folder / f"{name}.safetensors")
        assert report.sha256 == sha256(detseg_data / "weights" / name)
        report.write_json(folder / f"{name}.json")
    return {path.name.removesuffix(".safetensors"): path for path in folder.glob("*.safetensors")}


def test_a_genuine_yolov8(converted: dict[str, Path]) -> None:
    package = load_model_file(converted["yolov8n_bccd.pt"])
    assert package.config.class_names == CELLS
    assert package.config.category_ids == (1, 2, 3)
    spec, rules = package.task.spec, package.config.task.postprocess
    assert (spec.height, spec.width, spec.anchor, spec.channel_order, spec.pad_value) == (
        320,
        320,
        "center",
        "rgb",
        114,
    )
    assert (spec.mean, spec.std) == ((0, 0, 0), (255, 255, 255))
    assert (rules.confidence, rules.iou, rules.max_detections, rules.multi_label) == (0.001, 0.7, 300, True)
    said = json.loads(converted["yolov8n_bccd.pt"].with_suffix(".json").read_text())
    assert len(said["mapped"]) == 355
    assert said["mapped"][0] == {"source": "model.0.conv.weight", "model": "backbone.stem.conv.weight"}


def test_genuine_yolox_files_say_the_same(converted: dict[str, Path]) -> None:
    pth, folded = (load_model_file(converted[f"yolox_nano_coco.{suffix}"]) for suffix in ("pth", "onnx"))
    assert pth.config == folded.config
    assert pth.config.class_names == COCO_NAMES
    assert pth.config.category_ids == tuple(COCO_CATEGORIES)
    generator = torch.Generator().manual_seed(0)
    images = 255 * torch.rand((2, 3, 96, 128), generator=generator)
    with torch.no_grad():
        for one, other in zip(pth.model(images), folded.model(images), strict=True):
            assert one.std() > 0.1
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)


def test_onnx_weights_are_those_of_the_other_file_folded(converted: dict[str, Path]) -> None:
    pth, folded = (load_model_file(converted[f"yolox_nano_coco.{suffix}"]).model for suffix in ("pth", "onnx"))
    expected, found = pth.fuse().state_dict(), folded.fuse().state_dict()
    assert len(expected) == 226
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_the_report_of_an_onnx_file_accounts_for_every_tensor(converted: dict[str, Path], detseg_data: Path) -> None:
    said = json.loads(converted["yolox_nano_coco.onnx"].with_suffix(".json").read_text())
    graph = onnx.load(detseg_data / "weights/yolox_nano_coco.onnx").graph
    told = {pair["source"] for pair in said["mapped"]} | {tensor["name"] for tensor in said["unused"]}
    assert {tensor.name for tensor in graph.initializer} <= told
    own = {pair["model"] for pair in said["mapped"]} | {tensor["name"] for tensor in said["missing"]}
    assert own == load_model_file(converted["yolox_nano_coco.onnx"]).model.state_dict().keys()
    assert "convert the .pth file" in said["notes"][0]


def test_a_converted_model_predicts(converted: dict[str, Path], detseg_data: Path) -> None:
    image = min((detseg_data / "bccd").rglob("*.jpg"))
    (found,) = detseg.load(converted["yolov8n_bccd.pt"], device="cpu").predict([image])
    assert len(found.result) > 5


@pytest.mark.slow
def test_a_converted_model_is_exported(converted: dict[str, Path], tmp_path: Path) -> None:
    made = export_model(converted["yolov8n_bccd.pt"], tmp_path / "cells.onnx")
    with pytest.raises(ConversionError, match="was exported by detseg and is used as it is"):
        convert(made.path, tmp_path / "again.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data", "ap", "tolerance"),
    [
        ("yolov8n_bccd.pt", "bccd", 0.5089, 0.003),
        ("yolox_nano_coco.pth", "coco-mini", 0.3073, 0.002),
        ("yolox_nano_coco.onnx", "coco-mini", 0.3073, 0.002),
    ],
)
def test_average_precision(
    name: str, data: str, ap: float, tolerance: float, converted: dict[str, Path], detseg_data: Path, tmp_path: Path
) -> None:
    eval_command(
        converted[name],
        weights=None,
        data=str(detseg_data / data),
        format=None,
        split="val",
        batch_size=16,
        num_workers=0,
        device="cpu",
        json_path=tmp_path / "metrics.json",
        output=None,
        postprocess={},
    )
    assert json.loads((tmp_path / "metrics.json").read_text())["AP"] == pytest.approx(ap, abs=tolerance)


# Volumes.


@pytest.fixture
def monai(tmp_path: Path) -> tuple[Path, MonaiVNet]:
    torch.manual_seed(0)
    model = MonaiVNet(out_channels=3, act="prelu").eval()
    return save(model.state_dict(), tmp_path / "vnet.pth"), model


def test_a_vnet_of_monai(monai: tuple[Path, MonaiVNet], tmp_path: Path) -> None:
    source, reference = monai
    (tmp_path / "volumes.yaml").write_text(VOLUME_CONFIG)
    names = ["background", "liver", "tumor"]
    report = convert(source, tmp_path / "out.safetensors", names=names, config=tmp_path / "volumes.yaml")
    assert (report.family, report.input_size, report.strides) == ("MONAI VNet", None, (16, 16, 16))
    assert (report.unused, report.missing, report.notes) == ((), (), ())
    package = load_model_file(tmp_path / "out.safetensors")
    assert package.config.category_ids == (0, 1, 2)
    assert package.task.spec.spacing == (1.0, 1.0, 2.0)
    assert package.task.spec.window == (-160.0, 240.0)
    volumes = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, 16, 32, 16)).astype(np.float32))
    with torch.no_grad():
        torch.testing.assert_close(package.model(volumes), reference(volumes), rtol=1e-4, atol=1e-5)


def test_what_a_vnet_needs_to_be_told(monai: tuple[Path, MonaiVNet], tmp_path: Path) -> None:
    source, _ = monai
    out, names = tmp_path / "out.safetensors", ["background", "liver", "tumor"]
    with pytest.raises(ConversionError, match="tells 3 classes apart and the file does not name them"):
        convert(source, out, config=CONFIGS / "volume/vnet.yaml")
    with pytest.raises(ConversionError, match=r"give a configuration with task\.input"):
        convert(source, out, names=names)
    with pytest.raises(ConversionError, match="is for the task detection, the network for volume"):
        convert(source, out, names=names, config=CONFIGS / "detection/c2f_n.yaml")
    report = convert(source, out, names=names, config=CONFIGS / "volume/vnet.yaml")
    assert "volumes go in at their own" in report.notes[0]


def test_a_configuration_replaces_what_is_known_of_the_family(detseg_data: Path, tmp_path: Path) -> None:
    text = (CONFIGS / "detection/yolox_nano.yaml").read_text().replace("416", "320")
    (tmp_path / "nano.yaml").write_text(text)
    source = shutil.copy(detseg_data / "weights/yolox_nano_coco.pth", tmp_path / "nano.pth")
    report = convert(Path(source), tmp_path / "out.safetensors", config=tmp_path / "nano.yaml")
    assert report.input_size == (320, 320)
    with pytest.raises(ConversionError, match="which is for a 'dfl' head"):
        convert(Path(source), tmp_path / "other.safetensors", config=CONFIGS / "detection/c2f_n.yaml")
