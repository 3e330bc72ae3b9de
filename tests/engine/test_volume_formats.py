"""A set of MetaImage, NRRD, NIfTI pairs and DICOM series in one folder, through check, train, predict and eval."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from detseg.cli import main
from detseg.data.check import check_dataset
from detseg.data.formats.blobs import write_blobs
from detseg.data.open import open_dataset
from detseg.engine.run import train
from detseg.engine.settings import RunConfig
from detseg.runtime.volumes.volume_files import read_label_values, read_volume

TINY = """
model: {name: vnet, width: 4, num_convolutions: [1, 1], kernel_size: 3, norm: instance}
task: {name: volume, patch: [16, 16, 16]}
data: {path: DATA, num_workers: 0}
augment: {name: volume, rotation: 0, scaling: 0, noise: 0, blur: 0, brightness: 0, contrast: 0, low_resolution: 0,
          gamma: 0, gamma_inverted: 0}
train: {epochs: 1, batch_size: 2, num_threads: 1, schedule: {warmup_epochs: 0}}
"""
FORMS = (".mha", ".nrrd", ".hdr", "series", ".mhd")


def write_as(image: SimpleITK.Image, folder: Path, name: str, form: str) -> None:
    """``image`` as a file of this form, or as a folder of slices."""
    if form == ".hdr":
        SimpleITK.WriteImage(image, str(folder / f"{name}.nii"))
        nibabel.save(nibabel.Nifti1Pair.from_image(nibabel.load(folder / f"{name}.nii")), folder / f"{name}.hdr")
        (folder / f"{name}.nii").unlink()
        return
    if form != "series":
        SimpleITK.WriteImage(image, str(folder / f"{name}{form}"), True)
        return
    (folder / name).mkdir()
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    direction = image.GetDirection()
    for number in range(image.GetDepth()):
        plane = image[:, :, number]
        place = image.TransformIndexToPhysicalPoint((0, 0, number))
        plane.SetMetaData("0020|000e", "1.2.3")
        plane.SetMetaData("0020|0032", "\\".join(f"{value:.6f}" for value in place))
        plane.SetMetaData("0020|0037", "\\".join(str(direction[at]) for at in (0, 3, 6, 1, 4, 7)))
        plane.SetMetaData("0008|0018", f"1.2.3.{number + 1}")
        writer.SetFileName(str(folder / name / f"{number}.dcm"))
        writer.Execute(plane)


def write_set(folder: Path) -> Path:
    """Blobs, each case in another format; labels of every second one are .nrrd."""
    write_blobs(folder / "plain", len(FORMS))
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir()
    for form, path in zip(FORMS, sorted((folder / "plain" / "imagesTr").iterdir()), strict=True):
        image = SimpleITK.Cast(SimpleITK.ReadImage(str(path)) * 10, SimpleITK.sitkInt16)
        name = f"case.{FORMS.index(form)}"
        write_as(image, folder / "imagesTr", name, form)
        labels = SimpleITK.ReadImage(str(folder / "plain" / "labelsTr" / path.name))
        write_as(labels, folder / "labelsTr", name, ".nrrd" if FORMS.index(form) % 2 else ".nii.gz")
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "bright": 1, "dark": 2}}))
    return folder


def test_every_format_in_every_verb(
    tmp_path: Path, tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_set(tmp_path / "set")
    report = check_dataset(root)
    assert [finding.render() for finding in report.findings] == []
    dataset = open_dataset(root, "all")
    assert [Path(dataset.path(index)).name for index in range(5)] == [
        "case.0.mha", "case.1.nrrd", "case.2.hdr", "case.3", "case.4.mhd",
    ]  # fmt: skip
    plain = open_dataset(tmp_path / "set" / "plain", "all")
    for index in range(5):
        volume, labels = dataset.read(index)
        expected, truth = plain.read(index)
        np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4)
        np.testing.assert_allclose(volume.voxels, np.trunc(expected.voxels * 10), atol=1)
        assert np.array_equal(labels.labels, truth.labels)
        before = dataset.fingerprint(index)
        next(iter(sorted((root / "imagesTr").glob(f"case.{index}*/*.dcm"))), Path(dataset.path(index))).touch()
        assert dataset.fingerprint(index) != before
    (tmp_path / "tiny.yaml").write_text(TINY.replace("DATA", str(root)))
    train(tiny(), tmp_path / "run", bar=False)
    monkeypatch.chdir(tmp_path)
    model = "run/best.safetensors"
    assert main(["predict", model, str(root / "imagesTr"), "--save", "source,nifti,table", "-o", "found"]) == 0
    written = sorted(path.name for path in (tmp_path / "found" / "labels").iterdir())
    assert written == sorted([f"case.{number}.nii.gz" for number in range(5)] + [
        "case.0.mha", "case.1.nrrd", "case.4.mha",
    ])  # fmt: skip
    for name in ("case.0.mha", "case.1.nrrd", "case.4.mha"):
        values, affine = read_label_values(tmp_path / "found" / "labels" / name)
        others, other_affine = read_label_values(tmp_path / "found" / "labels" / f"{Path(name).stem}.nii.gz")
        assert np.array_equal(values, others)
        np.testing.assert_allclose(affine, other_affine, atol=1e-5)
    scan = read_volume(root / "imagesTr" / "case.3")
    values, affine = read_label_values(tmp_path / "found" / "labels" / "case.3.nii.gz")
    assert values.shape == scan.shape
    np.testing.assert_allclose(affine, scan.affine, atol=1e-5)
    assert main(["eval", model, "--data", str(root), "--json", "metrics.json"]) == 0
    assert "Dice" in capsys.readouterr().out
