"""Volumes of several channels, in the layouts of nnU-Net and the Decathlon, through all verbs."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from detseg.cli import main
from detseg.config import load_config
from detseg.data.check import check_dataset
from detseg.data.datasets.volumes import VolumeDataset
from detseg.data.formats.blobs import write_blobs
from detseg.data.open import open_dataset
from detseg.data.source import DatasetError
from detseg.engine.run import train
from detseg.engine.settings import RunConfig
from detseg.runtime.volumes.nifti_header import VolumeError
from detseg.structures import IGNORE_INDEX
from detseg.tasks.model_file import load_model_file
from detseg.volumes import Volume

Tiny = Callable[..., RunConfig]
TINY = """
model: {name: vnet, width: 4, num_convolutions: [1, 1], kernel_size: 3, norm: instance}
task: {name: volume, patch: [16, 16, 16]}
data: {path: DATA, num_workers: 0}
# Without MONAI's transforms, whose import takes seconds; they have their own tests.
augment:
  name: volume
  rotation: 0
  scaling: 0
  noise: 0
  blur: 0
  brightness: 0
  contrast: 0
  low_resolution: 0
  gamma: 0
  gamma_inverted: 0
train: {epochs: 1, batch_size: 2, num_threads: 1, schedule: {warmup_epochs: 0}}
"""
LABELS = {"background": 0, "bright": 1, "dark": 2, "ignore": 3}
CHANNELS = ("CT", "PET")


def second(scan: np.ndarray) -> np.ndarray:
    return np.flip(scan, 0) * 3 - 1


def write_set(folder: Path, layout: str, num_volumes: int = 5) -> Path:
    """Blobs with a second channel and some voxels that belong to no class."""
    write_blobs(folder / "plain", num_volumes)
    images, labels = folder / "imagesTr", folder / "labelsTr"
    images.mkdir()
    labels.mkdir()
    training = []
    for number, path in enumerate(sorted((folder / "plain" / "imagesTr").iterdir())):
        case, scan = f"case_{number:03d}", nibabel.load(path)
        voxels = np.asarray(scan.dataobj)
        channels = [voxels, second(voxels)]
        truth = nibabel.load(folder / "plain" / "labelsTr" / path.name)
        values = np.asarray(truth.dataobj).copy()
        values[0, 0, :3] = 3
        nibabel.save(nibabel.Nifti1Image(values, truth.affine), labels / f"{case}.nii.gz")
        if layout == "4-D":
            nibabel.save(nibabel.Nifti1Image(np.stack(channels, -1), scan.affine), images / f"{case}.nii.gz")
        else:
            for channel, array in enumerate(channels):
                nibabel.save(nibabel.Nifti1Image(array, scan.affine), images / f"{case}_{channel:04d}.nii.gz")
        training.append({"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"})
    shutil.rmtree(folder / "plain")
    names = dict(zip("01", CHANNELS, strict=True))
    description: dict[str, Any] = {"labels": LABELS, "channel_names": names}
    if layout in ("nnunet1", "4-D"):
        description = {"labels": LABELS, "modality": names, "training": training}
    if layout == "listed":
        cases = {
            Path(one["image"]).name.partition(".")[0]: {
                "images": [one["image"].replace(".nii", f"_{channel:04d}.nii") for channel in range(2)],
                "label": one["label"],
            }
            for one in training
        }
        description["dataset"] = cases
    if layout == "undescribed":
        del description["channel_names"]
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def opened(path: Path, split: str = "all") -> VolumeDataset:
    dataset = open_dataset(path, split)
    assert isinstance(dataset, VolumeDataset)
    return dataset


@pytest.mark.parametrize("layout", ["nnunet2", "nnunet1", "4-D", "listed", "undescribed"])
def test_a_case_is_one_sample_in_every_layout(tmp_path: Path, layout: str) -> None:
    root = write_set(tmp_path / "set", layout)
    report = check_dataset(root)
    assert [finding.code for finding in report.findings] == []
    assert report.splits["all"].num_images == 5
    dataset = opened(root)
    assert dataset.channels == (("0", "1") if layout == "undescribed" else CHANNELS)
    assert dataset.class_names == ("background", "bright", "dark")
    suffix = "" if layout == "4-D" else "_0000"
    assert [Path(dataset.path(index)).name for index in range(5)] == [
        f"case_{number:03d}{suffix}.nii.gz" for number in range(5)
    ]
    volume, labels = dataset.read(2)
    assert labels is not None
    assert volume.voxels.shape == (2, *volume.shape)
    assert dataset.header(2).shape == volume.shape == labels.labels.shape
    np.testing.assert_allclose(volume.voxels[1], second(volume.voxels[0]), rtol=1e-5)
    assert (labels.labels[0, 0, :3] == IGNORE_INDEX).all()
    assert np.count_nonzero(labels.labels == IGNORE_INDEX) == 3
    before = dataset.fingerprint(0)
    (root / "imagesTr" / ("case_000.nii.gz" if layout == "4-D" else "case_000_0001.nii.gz")).touch()
    assert dataset.fingerprint(0) != before


def trained(tiny: Tiny, tmp_path: Path, *overrides: str) -> tuple[Path, Path]:
    """A data set of two channels and a model of it."""
    root = write_set(tmp_path / "set", "nnunet2")
    (tmp_path / "tiny.yaml").write_text(TINY.replace("DATA", str(root)))
    train(tiny(*overrides), tmp_path / "run", bar=False)
    return root, tmp_path / "run" / "best.safetensors"


def test_a_model_of_two_channels(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, model = trained(tiny, tmp_path)
    monkeypatch.chdir(tmp_path)
    loaded = load_model_file(model)
    assert loaded.config.model.in_channels == 2
    ct, pet = loaded.task.spec.channels
    assert (ct.name, ct.intensity, pet.name, pet.intensity) == ("CT", "ct", "PET", "zscore")
    train_set = opened(root, "train")
    inside = []
    for index in range(len(train_set)):
        volume, labels = train_set.read(index)
        assert labels is not None
        inside.append(volume.voxels[0][(labels.labels == 1) | (labels.labels == 2)])
    # Each volume counts as much as another, however large its structures are.
    assert ct.mean == pytest.approx(np.mean([values.mean() for values in inside]), rel=0.01)
    assert ct.window is not None
    assert np.concatenate(inside).min() <= ct.window[0] < ct.mean < ct.window[1] <= np.concatenate(inside).max()

    assert main(["predict", str(model), str(root / "imagesTr"), "-o", "found", "--save", "nifti"]) == 0
    cases = [f"case_{number:03d}" for number in range(5)]
    assert sorted(path.name for path in Path("found/labels").iterdir()) == [f"{case}.nii.gz" for case in cases]

    # A single channel is refused by name, and a file of all of them is as good.
    second_channel = root / "imagesTr/case_000_0001.nii.gz"
    both = [np.asarray(nibabel.load(second_channel.with_name(f"case_000_{c:04d}.nii.gz")).dataobj) for c in (0, 1)]
    Path("other").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.stack(both, -1), nibabel.load(second_channel).affine), "other/whole.nii.gz")
    shutil.copy(second_channel, "other/alone.nii.gz")
    assert main(["predict", str(model), "other", "-o", "found_other", "--save", "nifti"]) == 1
    assert "expected 2 channels" in Path("found_other/errors.jsonl").read_text()
    places = ("found_other/labels/whole.nii.gz", "found/labels/case_000.nii.gz")
    written = [np.asarray(nibabel.load(path).dataobj) for path in places]
    assert np.array_equal(*written)


@pytest.mark.slow
def test_the_other_verbs_with_two_channels(
    tiny: Tiny, tmp_path: Path, fingerprint: Callable[[Path], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, model = trained(tiny, tmp_path)
    monkeypatch.chdir(tmp_path)
    # The same from the resolved configuration, and from the cache.
    resolved = load_config(RunConfig, tmp_path / "run" / "config.yaml")
    assert resolved.model.in_channels == 2
    train(resolved, tmp_path / "again", bar=False)
    train(tiny("data.cache=ram"), tmp_path / "cached", bar=False)
    assert fingerprint(tmp_path / "again") == fingerprint(tmp_path / "cached") == fingerprint(tmp_path / "run")

    assert main(["eval", str(model), "--data", str(root), "-o", "report"]) == 0
    assert main(["check", str(root), "--preview", "preview", "--config", "tiny.yaml"]) == 0
    assert main(["predict", str(model), str(root / "imagesTr/case_000_0000.nii.gz"), "-o", "found"]) == 0
    assert [path.name for path in Path("found/slices").iterdir()] == ["case_000.png"]
    with Path("found/volumes.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1
    assert main(["export", str(model), "-o", "model.onnx"]) == 0
    second_channel = root / "imagesTr/case_000_0001.nii.gz"
    assert main(["predict", "model.onnx", str(second_channel), "-o", "found_onnx", "--save", "nifti"]) == 0
    assert [path.name for path in Path("found_onnx/labels").iterdir()] == ["case_000.nii.gz"]
    same = np.equal(
        *(np.asarray(nibabel.load(f"{folder}/labels/case_000.nii.gz").dataobj) for folder in ("found", "found_onnx"))
    )
    assert same.mean() > 0.999


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.in_channels=4", "model.in_channels is 4, but the volumes have 2 channels"),
        ("task.input.channels=[{intensity: zscore}]", "task.input.channels has 1 channels, the training set 2"),
    ],
)
def test_other_channels_than_those_of_the_data(tiny: Tiny, tmp_path: Path, override: str, message: str) -> None:
    root = write_set(tmp_path / "set", "4-D")
    (tmp_path / "tiny.yaml").write_text(TINY.replace("DATA", str(root)))
    with pytest.raises(ValueError, match=message):
        train(tiny(override), tmp_path / "run", bar=False)


def test_channels_that_do_not_fit_each_other(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", "nnunet2")
    path = root / "imagesTr" / "case_001_0001.nii.gz"
    image = nibabel.load(path)
    moved = image.affine.copy()
    moved[0, 3] += 2
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), moved), path)
    with pytest.raises(VolumeError, match=r"case_001_0001\.nii\.gz: its voxels lie up to 2 mm away from those of the"):
        opened(root).read(1)
    assert [finding.code for finding in check_dataset(root).findings] == ["D401"]
    path.unlink()
    with pytest.raises(VolumeError, match=r"case_001_0000.* values, expected 2 channels, as a fourth"):
        opened(root).read(1)


def test_one_named_channel_beside_others(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", "nnunet2")
    description = json.loads((root / "dataset.json").read_text())
    description["channel_names"] = {"0": "CT"}
    (root / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(
        DatasetError, match=r"case_000_0001\.nii\.gz is one of the channels of case_000: 2 channels, but"
    ):
        opened(root)
    (root / "set.yaml").write_text(
        "format: nifti\nnames: [background, bright, dark]\nignore_index: 3\nchannels: [a, b]\n"
    )
    dataset = opened(root / "set.yaml")
    assert (dataset.channels, dataset.ignored) == (("a", "b"), 3)
    for text, words in (
        ("channels: 2", "channels: expected a list of names"),
        ("ignore_index: 1", "ignore_index: expected a value that"),
    ):
        (root / "set.yaml").write_text(f"format: nifti\nnames: [background, bright, dark]\n{text}\n")
        description["channel_names"] = {"0": "CT", "1": "PET"}
        (root / "dataset.json").write_text(json.dumps(description))
        with pytest.raises(DatasetError, match=words):
            opened(root / "set.yaml")


def test_a_volume_of_other_channels_is_refused_where_it_is_placed() -> None:
    from detseg.runtime.inputs.volume_geometry import ChannelSpec, VolumeSpec, place_volume

    spec = VolumeSpec(channels=(ChannelSpec("CT"), ChannelSpec("PET")))
    one = Volume(np.ones((3, 4, 5), np.float32), np.eye(4))
    with pytest.raises(VolumeError, match=r"the volume has 1 channels, the model takes 2 \(CT, PET\)"):
        place_volume(one, spec)
