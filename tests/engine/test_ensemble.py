"""Several models over volumes as one: their probabilities are averaged, kept and judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

import detseg
from detseg.cli import main
from detseg.data.formats.blobs import write_blobs
from detseg.models.vnet import VNetConfig
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.postprocess.components import CleanConfig, clean_labels
from detseg.runtime.volumes.volume_files import read_label_values, read_volume
from detseg.tasks.model_file import ModelFileConfig, load_model_file, save_model_file
from detseg.tasks.volume import VolumeTaskConfig

NAMES = ("background", "bright", "dark")


def write_model(path: Path, seed: int, names: tuple[str, ...] = NAMES, spacing: float = 1.3) -> Path:
    """A V-Net with weights at random, large enough that every class is found somewhere."""
    torch.manual_seed(seed)
    config = ModelFileConfig(
        VNetConfig(width=4, num_convolutions=(1, 1), kernel_size=3, norm="instance"),
        VolumeTaskConfig(input=VolumeSpec(spacing=(spacing,) * 3), patch=(16, 16, 16)),
        names,
        tuple(range(len(names))),
    )
    model, _ = config.build()
    weights = {
        name: tensor + 0.3 * torch.randn_like(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    save_model_file(path, weights, config)
    return path


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    write_blobs(tmp_path / "set", 5)
    return [write_model(tmp_path / f"{seed}.safetensors", seed) for seed in range(2)]


def by_hand(path: Path, scan: Path) -> np.ndarray:
    """The probabilities of one model on its own grid, ``[C, D, H, W]``."""
    loaded = load_model_file(path)
    array, _ = loaded.task.spec.place(read_volume(scan))
    with torch.inference_mode():
        return np.asarray(loaded.task.infer(loaded.model, torch.from_numpy(array[None]))[0])


def test_probabilities_are_averaged_and_kept(models: list[Path]) -> None:
    scan = next(iter(sorted(Path("set/imagesTr").iterdir())))
    assert (
        main(
            [
                "predict",
                "0.safetensors",
                str(scan),
                "--ensemble",
                "1.safetensors",
                "--save",
                "nifti,probabilities",
                "-o",
                "found",
            ]
        )
        == 0
    )
    image = nibabel.load(next(iter(Path("found/probabilities").iterdir())))
    kept = np.asarray(image.dataobj)
    assert kept.shape == (*nibabel.load(scan).shape, 3)
    np.testing.assert_allclose(image.affine, nibabel.load(scan).affine)
    np.testing.assert_allclose(kept.sum(-1), 1, atol=1e-4)
    values, _ = read_label_values(next(iter(Path("found/labels").iterdir())))
    sure = np.sort(kept, -1)
    clear = sure[..., -1] - sure[..., -2] > 1e-4
    assert np.array_equal(kept.argmax(-1)[clear], values[clear])
    # On one grid, without resampling, it is the mean itself.
    single = [detseg.load(path).with_probabilities()(str(scan))[0].result.probabilities for path in models]
    np.testing.assert_allclose(np.moveaxis(kept, -1, 0), (single[0] + single[1]) / 2, atol=2e-5)
    assert not np.array_equal(single[0].argmax(0), kept.argmax(-1))
    mean = (by_hand(models[0], scan) + by_hand(models[1], scan)) / 2
    assert mean.min() >= 0
    assert len(np.unique(values)) > 1


def test_members_may_have_other_grids_and_orders_of_classes(models: list[Path]) -> None:
    scan = next(iter(sorted(Path("set/imagesTr").iterdir())))
    loaded = load_model_file(models[0])
    turned = write_model(Path("turned.safetensors"), 0, ("background", "dark", "bright"))
    # The same network, asked the other way round: the average must be the network itself.
    state = dict(loaded.model.state_dict())
    other = load_model_file(turned)
    last = [name for name, tensor in state.items() if tensor.shape[:1] == (3,)]
    for name in last:
        state[name] = state[name][[0, 2, 1]]
    save_model_file(turned, state, other.config)
    alone = detseg.load(models[0]).with_probabilities()(str(scan))[0].result
    both = detseg.load([models[0], turned]).with_probabilities()(str(scan))[0].result
    np.testing.assert_allclose(both.probabilities, alone.probabilities, atol=1e-5)
    coarse = write_model(Path("coarse.safetensors"), 1, spacing=2.0)
    mixed = detseg.load([models[0], coarse]).with_probabilities()(str(scan))[0].result
    np.testing.assert_allclose(mixed.probabilities.sum(0), 1, atol=1e-3)
    assert mixed.labels.shape == alone.labels.shape


def test_an_ensemble_is_judged(models: list[Path]) -> None:
    data = ["--data", "set", "--split", "val", "--workers", "0"]
    dice = {}
    for name, more in (
        ("one", []),
        ("twice", ["--ensemble", "0.safetensors"]),
        ("both", ["--ensemble", "1.safetensors"]),
    ):
        assert main(["eval", "0.safetensors", *data, *more, "--json", f"{name}.json"]) == 0
        dice[name] = json.loads(Path(f"{name}.json").read_text())
    assert dice["one"]["Dice"] == pytest.approx(dice["twice"]["Dice"])
    assert dice["both"]["Dice"] != dice["one"]["Dice"]
    found = detseg.evaluate(["0.safetensors", "1.safetensors"], "set", workers=0, output="report")
    assert found["Dice"] == pytest.approx(dice["both"]["Dice"])
    assert "1.safetensors" in Path("report/report.html").read_text()


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["other.safetensors"], "model 2 has the classes background, bright, grey, the first background, bright, dark"),
        (["missing.safetensors"], "no model file at missing.safetensors"),
    ],
)
def test_what_cannot_be_averaged(
    models: list[Path], capsys: pytest.CaptureFixture[str], others: list[str], message: str
) -> None:
    write_model(Path("other.safetensors"), 0, ("background", "bright", "grey"))
    for verb in (["predict", "0.safetensors", "set/imagesTr"], ["eval", "0.safetensors", "--data", "set"]):
        assert main([*verb, "--ensemble", *others]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_onnx_files_are_averaged_too(models: list[Path]) -> None:
    pytest.importorskip("onnxruntime")
    for path in models:
        detseg.export(path, path.with_suffix(".onnx"))
    scan = next(iter(sorted(Path("set/imagesTr").iterdir())))
    torch_result = detseg.load(models).with_probabilities()(str(scan))[0].result
    onnx_result = detseg.load([path.with_suffix(".onnx") for path in models]).with_probabilities()(str(scan))[0].result
    np.testing.assert_allclose(onnx_result.probabilities, torch_result.probabilities, atol=1e-3)
    assert (onnx_result.labels == torch_result.labels).mean() > 0.999


def test_pieces_are_left_out_in_every_way_of_prediction(models: list[Path]) -> None:
    """By torch, by an ensemble, by ONNX Runtime and in evaluation: what the model file says."""
    clean = (CleanConfig("bright", largest=True), CleanConfig("dark", min_ml=0.05))
    plain = load_model_file(models[0])
    task = replace(plain.config.task, postprocess=replace(plain.config.task.postprocess, clean=clean))
    save_model_file(Path("clean.safetensors"), plain.model.state_dict(), replace(plain.config, task=task))
    detseg.export("clean.safetensors", "clean.onnx")
    scan = next(iter(sorted(Path("set/imagesTr").iterdir())))
    raw = detseg.load(models[0])(str(scan))[0].result
    expected = clean_labels(raw, clean, NAMES).labels
    assert np.count_nonzero(expected) < np.count_nonzero(raw.labels)
    for model in ("clean.safetensors", ["clean.safetensors", "clean.safetensors"], "clean.onnx"):
        found = detseg.load(model)(str(scan))[0].result.labels
        assert (found == expected).mean() > 0.999, model
    kept = detseg.load("clean.safetensors").with_probabilities()(str(scan))[0].result
    assert np.array_equal(kept.labels, expected)
    judged = [detseg.evaluate(one, "set", workers=0)["Dice"] for one in ("clean.safetensors", "0.safetensors")]
    assert judged[0] != judged[1]
