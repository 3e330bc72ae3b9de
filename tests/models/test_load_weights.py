from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from detseg.config import from_dict
from detseg.models.detector import Detector, DetectorConfig
from detseg.models.load_weights import WeightsError, load_weights


def yolox_nano(num_classes: int = 80) -> Detector:
    form = {"block": "csp", "depth": 0.33, "depthwise": True}
    settings = {
        "backbone": {"name": "csp_darknet", "width": 0.25, **form},
        "neck": {"name": "pan", **form},
        "head": {"name": "yolox", "depthwise": True},
    }
    return from_dict(DetectorConfig, settings, "test").build(num_classes).eval()


def _sigmoid_rows(levels: list[Tensor]) -> np.ndarray:
    """The layout of the official ONNX file: raw x, y, w, h, then probabilities; a row per point, fine to coarse."""
    rows = torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)
    return torch.cat((rows[..., :4], rows[..., 4:].sigmoid()), dim=2).double().numpy()


def test_official_yolox_nano_computes_what_its_onnx_file_does(detseg_data: Path) -> None:
    image = cv2.imread(str(min((detseg_data / "coco-mini" / "val2017").glob("*.jpg"))))
    images = cv2.resize(image, (416, 416)).transpose(2, 0, 1)[None].astype(np.float32)
    session = onnxruntime.InferenceSession(str(detseg_data / "weights" / "yolox_nano_coco.onnx"))
    (expected,) = session.run(None, {"images": images})
    assert (expected[..., 4:5] * expected[..., 5:]).max() > 0.3, "the image shows nothing: a weak test"

    model = yolox_nano()
    report = load_weights(model, detseg_data / "weights" / "yolox_nano_coco.pth")
    assert report.unused == report.missing == ()
    assert len(report.mapped) == len(model.state_dict())
    with torch.no_grad():
        single = _sigmoid_rows(model(torch.from_numpy(images)))
        double = _sigmoid_rows(model.double()(torch.from_numpy(images).double()))
    # Pixels of 0-255 leave about 1e-4 of single precision's rounding in the raw boxes of either program.
    assert np.abs(single - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(single - expected)[..., 4:].max() <= 1e-4
    np.testing.assert_allclose(double, expected, rtol=1e-4, atol=1e-4)


class Small(nn.Module):
    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Conv2d(2, 4, 1)
        self.pred = nn.Conv2d(4, num_classes, 1)


def _save_safetensors(weights: dict[str, Tensor], folder: Path) -> Path:
    save_file(weights, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def _save_plain(weights: dict[str, Tensor], folder: Path) -> Path:
    torch.save(weights, folder / "weights.pth")
    return folder / "weights.pth"


def _save_wrapped(weights: dict[str, Tensor], folder: Path) -> Path:
    torch.save({"start_epoch": 3, "model": weights}, folder / "weights.pt")
    return folder / "weights.pt"


SAVES = [_save_safetensors, _save_plain, _save_wrapped]
Save = Callable[[dict[str, Tensor], Path], Path]


@pytest.mark.parametrize("save", SAVES)
def test_every_container(save: Save, tmp_path: Path) -> None:
    source, model = Small(), Small()
    report = load_weights(model, save(source.state_dict(), tmp_path))
    assert sorted(report.mapped) == ["body.bias", "body.weight", "pred.bias", "pred.weight"]
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def _without_bias(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if name != "body.bias"}


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (_without_bias, ["3 weights fit", "missing: body.bias"]),
        (lambda weights: weights | {"extra": torch.zeros(1)}, ["4 weights fit", "unused: extra"]),
        (
            lambda weights: weights | {"pred.bias": torch.zeros(80)},
            ["3 weights fit", r"shape of pred.bias: \[80\] in the file, \[3\] in the model"],
        ),
    ],
)
def test_strict_names_what_does_not_fit_and_changes_nothing(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], messages: list[str], tmp_path: Path
) -> None:
    model = Small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = _save_safetensors(change(Small().state_dict()), tmp_path)
    with pytest.raises(WeightsError) as caught:
        load_weights(model, path)
    for message in messages:
        assert caught.match(message)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_long_lists_are_cut(tmp_path: Path) -> None:
    weights = Small().state_dict() | {f"extra{index}": torch.zeros(1) for index in range(15)}
    with pytest.raises(WeightsError, match=r"unused: extra\d+; and 5 more$"):
        load_weights(Small(), _save_safetensors(weights, tmp_path))


def test_other_classes_keep_the_rest(tmp_path: Path) -> None:
    source, model = Small(80), Small(3)
    own = model.pred.weight.clone()
    report = load_weights(model, _save_plain(source.state_dict(), tmp_path), strict=False)
    assert sorted(report.mapped) == ["body.bias", "body.weight"]
    assert sorted(report.unused) == sorted(report.missing) == ["pred.bias", "pred.weight"]
    assert torch.equal(model.body.weight, source.body.weight)
    assert torch.equal(model.pred.weight, own)


def test_official_weights_start_a_detector_for_other_classes(detseg_data: Path) -> None:
    report = load_weights(yolox_nano(3), detseg_data / "weights" / "yolox_nano_coco.pth", strict=False)
    assert report.missing == tuple(f"head.class_preds.{i}.{part}" for i in range(3) for part in ("weight", "bias"))
    assert report.unused == tuple(f"head.cls_preds.{i}.{part}" for i in range(3) for part in ("weight", "bias"))


def test_nothing_that_fits_is_an_error_even_when_not_strict(tmp_path: Path) -> None:
    path = _save_safetensors({"other": torch.zeros(1)}, tmp_path)
    with pytest.raises(WeightsError, match=r"0 weights fit\): unused: other"):
        load_weights(Small(), path, strict=False)


class _Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_foreign_objects_are_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for name, write in (("new.pt", torch.save), ("old.pt", lambda what, where: where.write_bytes(pickle.dumps(what)))):
        write({"model": _Trap(trace)}, tmp_path / name)
        with pytest.raises(WeightsError, match=re.escape(name)):
            load_weights(Small(), tmp_path / name)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.pth", None, "no file of weights at"),
        ("weights.onnx", b"", r"must end in \.safetensors, \.pth or \.pt"),
        ("garbage.safetensors", b"\xff" * 100, "is not a whole safetensors file"),
        ("garbage.pth", b"\xff" * 100, r"garbage\.pth: "),
        ("empty.pth", b"", r"empty\.pth: "),
    ],
)
def test_files_that_cannot_be_read(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        load_weights(Small(), tmp_path / name)


@pytest.mark.parametrize("save", [_save_safetensors, _save_plain])
def test_half_a_file(save: Save, tmp_path: Path) -> None:
    path = save({"body.weight": torch.zeros(1000)}, tmp_path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(WeightsError, match=re.escape(str(path))):
        load_weights(Small(), path)


def test_a_moving_average_comes_before_the_weights_it_was_made_from(tmp_path: Path) -> None:
    last, average, model = Small(), Small(), Small()
    torch.save({"model": last.state_dict(), "ema": average.state_dict()}, tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert torch.equal(model.pred.weight, average.pred.weight)
    torch.save({"model": last.state_dict(), "ema": None}, tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert torch.equal(model.pred.weight, last.pred.weight)


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    source, model = Small().half(), Small()
    load_weights(model, _save_plain(source.state_dict(), tmp_path))
    assert model.pred.weight.dtype == torch.float32
    assert torch.equal(model.pred.weight, source.pred.weight.float())


def test_a_pickled_network_of_ultralytics(detseg_data: Path) -> None:
    model = DetectorConfig().build(3)
    report = load_weights(model, detseg_data / "weights" / "yolov8n_bccd.pt")
    assert report.unused == report.missing == ()
    assert torch.equal(model.head.projection.flatten(), torch.arange(16.0))

    other = DetectorConfig().build(7)
    report = load_weights(other, detseg_data / "weights" / "yolov8n_bccd.pt", strict=False)
    # The width of the branches for classes depends on the finest level's channels here, not on the number of classes.
    assert report.unused == tuple(f"model.22.cv3.{level}.2.{part}" for level in range(3) for part in ("weight", "bias"))


@pytest.mark.parametrize("content", [{"model": {"epoch": 3}}, [torch.zeros(1)], {"a": torch.zeros(1), "epoch": 3}])
def test_something_other_than_a_state_dict(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="must hold a state dict"):
        load_weights(Small(), tmp_path / "w.pt")
