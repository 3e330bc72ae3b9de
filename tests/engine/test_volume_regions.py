"""Regions that lie in each other, as nnU-Net defines them, from dataset.json to predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

import detseg
from detseg.cli import main
from detseg.data.datasets.volumes import VolumeDataset
from detseg.data.open import open_dataset
from detseg.data.source import DatasetError
from detseg.engine.run import train
from detseg.engine.settings import RunConfig
from detseg.evaluation.labels.dice import VolumeEvaluator
from detseg.losses.dice import DiceLossConfig
from detseg.losses.nested import RegionLoss
from detseg.ops.inferers import probabilities_of as tensor_probabilities
from detseg.runtime.postprocess.inferers import probabilities_of
from detseg.runtime.postprocess.results import best_voxel_classes
from detseg.runtime.volumes.volume_files import read_label_values
from detseg.structures import IGNORE_INDEX
from detseg.tasks.model_file import load_model_file
from detseg.volumes import LabelVolume, VolumeTransform

TINY = """
model: {name: vnet, width: 8, num_convolutions: [1, 1], kernel_size: 3, norm: instance, deep_supervision: true}
task: {name: volume, patch: [16, 16, 16]}
data: {path: DATA, num_workers: 0}
augment: {name: volume, foreground: 1.0, rotation: 0, scaling: 0, noise: 0, blur: 0, brightness: 0, contrast: 0,
          low_resolution: 0, gamma: 0, gamma_inverted: 0}
train: {epochs: 25, evaluate_epochs: 25, batch_size: 2, num_threads: 1, schedule: {warmup_epochs: 0},
        optimizer: {learning_rate: 0.02}, ema: null}
"""
LABELS: dict[str, Any] = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
ORDER = [1, 2, 3]
REGIONS = ((1, 2, 3), (2, 3), (3,))


def write_set(folder: Path, labels: Any = None, order: Any = None, values: tuple[int, int, int] = (1, 2, 3)) -> Path:
    """Cubes in cubes, each brighter than that around it."""
    rng = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for number in range(5):
        truth = np.zeros((24, 24, 24), np.uint8)
        corner = 3 + number
        for depth, value in enumerate(values):
            truth[
                corner + 2 * depth : 19 - 2 * depth, 5 + 2 * depth : 19 - 2 * depth, 4 + 2 * depth : 20 - 2 * depth
            ] = value
        level = np.zeros(4, np.float32)
        level[list(values)] = (1, 2, 3)
        scan = level[truth] + 0.1 * rng.standard_normal(truth.shape).astype(np.float32)
        nibabel.save(
            nibabel.Nifti1Image(scan.astype(np.float32), np.eye(4)), folder / "imagesTr" / f"{number}_0000.nii.gz"
        )
        nibabel.save(nibabel.Nifti1Image(truth, np.eye(4)), folder / "labelsTr" / f"{number}.nii.gz")
    described = {"labels": labels or LABELS, "regions_class_order": ORDER if order is None else order}
    (folder / "dataset.json").write_text(json.dumps({**described, "channel_names": {"0": "T1"}}))
    return folder


def test_regions_are_read_as_nnunet_writes_them(tmp_path: Path) -> None:
    dataset = open_dataset(write_set(tmp_path / "set"), "all")
    assert isinstance(dataset, VolumeDataset)
    assert dataset.class_names == ("background", "whole", "core", "enhancing")
    assert dataset.category_ids == (0, 1, 2, 3)
    assert dataset.regions == REGIONS
    assert main(["check", str(tmp_path / "set")]) == 0


def test_the_order_says_which_value_each_region_is_written_as(tmp_path: Path) -> None:
    """As of BraTS: 1 is the core, 2 the edema around it, 3 the enhancing part."""
    labels = {"background": 0, "whole": [1, 2, 3], "core": [1, 3], "enhancing": [3], "ignore": 4}
    dataset = open_dataset(write_set(tmp_path / "set", labels, [2, 1, 3]), "all")
    assert isinstance(dataset, VolumeDataset)
    assert dataset.category_ids == (0, 2, 1, 3)
    assert dataset.regions == REGIONS
    assert dataset.ignored == 4
    yaml = tmp_path / "set.yaml"
    yaml.write_text(
        "format: nifti\npath: set\nnames: {background: 0, whole: [1, 2, 3], core: [1, 3], enhancing: 3}\n"
        "regions_class_order: [2, 1, 3]\n"
    )
    by_yaml = open_dataset(yaml, "all")
    assert isinstance(by_yaml, VolumeDataset)
    assert (by_yaml.category_ids, by_yaml.regions) == (dataset.category_ids, dataset.regions)


@pytest.mark.parametrize(
    ("labels", "order", "message"),
    [
        (LABELS, [1, 2], r"regions_class_order: expected a value of its own for each of whole, core, enhancing, got"),
        (LABELS, [1, 1, 3], "expected a value of its own"),
        (LABELS, [3, 2, 1], "enhancing has the values 3; its own, 1, must be one of them"),
        (
            {**LABELS, "whole": [1, 2, 3, 5]},
            [1, 2, 3],
            "whole has the values 1, 2, 3, 5; .*each of them that of a region",
        ),
        (
            {"whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
            [1, 2, 3],
            "one name, the background, must have the value",
        ),
        ({**LABELS, "whole": "all"}, [1, 2, 3], "whole: expected a value or a list of values from 0 to 65535"),
        (LABELS, "1", "expected a value of its own"),
    ],
)
def test_regions_that_make_no_sense(tmp_path: Path, labels: Any, order: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        open_dataset(write_set(tmp_path / "set", labels, order), "all")


def test_regions_without_an_order_are_refused_with_what_to_write(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    (root / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    with pytest.raises(
        DatasetError, match="whole is a region of several values, so regions_class_order must say which"
    ):
        open_dataset(root, "all")


def test_the_loss_by_hand() -> None:
    """Two voxels, one of class 2 and one of none that counts: regions 1 and 2 hold the first."""
    logits = torch.tensor([[5.0, -5.0], [1.0, 7.0], [0.0, 7.0], [-2.0, 7.0]]).reshape(1, 4, 1, 1, 2)
    labels = torch.tensor([2, IGNORE_INDEX], dtype=torch.uint8).reshape(1, 1, 1, 2)
    loss = RegionLoss(DiceLossConfig(), REGIONS)(logits, labels)
    p = 1 / (1 + np.exp(-np.array([1.0, 0.0, -2.0])))
    truth = np.array([1, 1, 0])
    cross_entropy = -(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean()
    dice = 1 - np.mean((2 * p * truth + 1e-5) / (p + truth + 1e-5))
    assert float(loss.parts["cross_entropy"]) == pytest.approx(cross_entropy, rel=1e-5)
    assert float(loss.parts["dice"]) == pytest.approx(dice, rel=1e-4)
    assert float(loss.normalizer) == 1
    empty = RegionLoss(DiceLossConfig(), REGIONS)(logits, torch.full_like(labels, IGNORE_INDEX))
    assert float(empty.total()) == 0
    with pytest.raises(ValueError, match="class_weights are for classes that exclude each other"):
        RegionLoss(DiceLossConfig(class_weights=(1.0, 1.0, 1.0, 1.0)), REGIONS)


def test_later_regions_are_written_over_those_before() -> None:
    logits = np.array([[9, 9, 9, 9], [3, 3, -3, -3], [1, -1, -1, -1], [0.5, 0.4, 0.3, -0.1]], np.float32)
    logits = np.stack([logits.reshape(4, 2, 2, 1)])
    found = probabilities_of(logits.copy(), nested=True)
    np.testing.assert_allclose(found[0, 1:], 1 / (1 + np.exp(-logits[0, 1:])), rtol=1e-6)
    np.testing.assert_allclose(found[0, 0], 1 - found[0, 1:].max(0), rtol=1e-5)
    np.testing.assert_allclose(tensor_probabilities(torch.from_numpy(logits), nested=True), found, rtol=1e-5)
    transform = VolumeTransform((0, 1, 2), (False, False, False), (2, 2, 1), (2, 2, 1), np.eye(4))
    labels = best_voxel_classes(found[0], transform, nested=True).labels
    assert labels.ravel().tolist() == [3, 3, 3, 0]


def test_each_region_is_judged_with_what_lies_in_it() -> None:
    truth, result = np.zeros((6, 1, 1), np.uint8), np.zeros((6, 1, 1), np.uint8)
    truth[:4, 0, 0] = (1, 2, 3, 3)
    result[:5, 0, 0] = (1, 1, 2, 3, 1)
    evaluator = VolumeEvaluator(("background", "whole", "core", "enhancing"), None, 1.0, REGIONS)
    evaluator.update(1, LabelVolume(result, np.eye(4)), LabelVolume(truth, np.eye(4)))
    metrics = evaluator.compute()
    assert metrics["Dice/whole"] == pytest.approx(2 * 4 / (4 + 5))
    assert metrics["Dice/core"] == pytest.approx(2 * 2 / (3 + 2))
    assert metrics["Dice/enhancing"] == pytest.approx(2 * 1 / (2 + 1))


@pytest.mark.slow
def test_a_model_of_regions_in_every_verb(
    tmp_path: Path, tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_set(tmp_path / "set", {**LABELS, "core": [1, 3], "whole": [1, 2, 3]}, [2, 1, 3], (2, 1, 3))
    (tmp_path / "tiny.yaml").write_text(TINY.replace("DATA", str(root)))
    result = train(tiny(), tmp_path / "run", bar=False)
    assert result.metrics["Dice/whole"] > 0.8
    assert result.metrics["Dice/enhancing"] > 0.5
    loaded = load_model_file(result.best)
    assert loaded.task.config.regions == REGIONS
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "run", str(root / "imagesTr"), "--save", "nifti", "-o", "found"]) == 0
    values, _ = read_label_values(next(iter(sorted(Path("found/labels").iterdir()))))
    truth, _ = read_label_values(root / "labelsTr" / "0.nii.gz")
    assert (values == truth).mean() > 0.9
    assert set(np.unique(values)) <= {0, 1, 2, 3}
    both = detseg.load(["run", "run"])(str(root / "imagesTr" / "0_0000.nii.gz"))[0].result.labels
    alone = detseg.load("run")(str(root / "imagesTr" / "0_0000.nii.gz"))[0].result.labels
    assert (both == alone).mean() > 0.999
    detseg.export("run", "model.onnx")
    by_onnx = detseg.load("model.onnx")(str(root / "imagesTr" / "0_0000.nii.gz"))[0].result.labels
    assert (by_onnx == alone).mean() > 0.999
    dice = [detseg.evaluate(one, root, workers=0)["Dice"] for one in ("run", "model.onnx")]
    assert dice[0] == pytest.approx(result.metrics["Dice"], abs=1e-6)
    assert dice[1] == pytest.approx(dice[0], abs=1e-3)
