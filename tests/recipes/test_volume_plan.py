"""What is planned for sets of volumes, by the published rules, and that it is what can be trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml

from detseg.cli import main
from detseg.config import load_config
from detseg.engine.run import train
from detseg.engine.settings import RunConfig
from detseg.models.vnet import VNetConfig
from detseg.recipes.volume_plan import (
    VolumeFacts,
    memory_of_training,
    network_for,
    plan_volumes,
    pooling,
    target_spacing,
)

NAMES = ("background", "lesion")


def facts(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], channels: tuple[str, ...] = (), count: int = 10
) -> VolumeFacts:
    return VolumeFacts(NAMES, channels, np.array([shape] * count), np.array([spacing] * count), (0.9, 0.1))


@pytest.mark.parametrize(
    ("spacings", "shapes", "expected", "thick"),
    [
        ([(1, 1, 1), (1, 1, 3), (2, 1, 1)], [(90, 90, 90)] * 3, (1, 1, 1), None),
        ([(0.7, 0.7, 2.0)] * 3, [(512, 512, 200)] * 3, (0.7, 0.7, 2.0), None),  # not thick enough
        ([(0.7, 0.7, 3.0)] * 3, [(512, 512, 200)] * 3, (0.7, 0.7, 3.0), 2),  # thick, and many slices: the median
        # thick and few slices: the tenth percentile of 4, 5, 6 is 4.2
        ([(0.5, 0.5, 4), (0.5, 0.5, 5), (0.5, 0.5, 6)], [(512, 512, 20)] * 3, (0.5, 0.5, 4.2), 2),
        ([(4, 0.5, 0.5), (6, 0.5, 0.5)], [(20, 512, 512)] * 2, (4.2, 0.5, 0.5), 0),
        # never finer than the others: the percentile of 0.6 and 9 would be 1.4, the others have 1.5
        ([(1.5, 1.5, 0.6), (1.5, 1.5, 9), (1.5, 1.5, 9)], [(512, 512, 20)] * 3, (1.5, 1.5, 2.28), 2),
    ],
)
def test_target_spacing(
    spacings: list[tuple[float, ...]], shapes: list[tuple[int, ...]], expected: tuple[float, ...], thick: int | None
) -> None:
    found, axis = target_spacing(np.array(spacings, float), np.array(shapes))
    assert found == pytest.approx(expected, rel=1e-3)
    assert axis == thick


@pytest.mark.parametrize(
    ("patch", "spacing", "expected"),
    [
        # By hand: 40, 56, 40 -> 20, 28, 20 -> 10, 14, 10 -> 5, 7, 5, of which no side has 8 voxels.
        ((40, 56, 40), (1, 1, 1), [(2, 2, 2)] * 3),
        ((128, 128, 128), (1, 1, 1), [(2, 2, 2)] * 5),
        # 0.5x0.5x5: two axes until 4 mm, less than half of which 5 mm are not any more; then all; 12 voxels once.
        ((256, 256, 12), (0.5, 0.5, 5), [(2, 2, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 1)]),
        ((6, 6, 6), (1, 1, 1), []),
        ((8, 4, 4), (1, 1, 1), [(2, 1, 1)]),
    ],
)
def test_axes_are_halved_until_voxels_are_cubes(
    patch: tuple[int, int, int], spacing: tuple[float, float, float], expected: list[tuple[int, int, int]]
) -> None:
    assert list(pooling(patch, spacing)) == expected


def test_the_plan_of_a_large_isotropic_set() -> None:
    plan = plan_volumes(facts((240, 240, 200), (1, 1, 1)), 8)
    settings = plan.settings
    assert settings["task.input.spacing"] == [1, 1, 1]
    patch = settings["task.patch"]
    assert all(side % 32 == 0 for side in patch)
    assert max(patch) / min(patch) <= 1.5
    assert settings["model.strides"] == [[2, 2, 2]] * 5
    assert settings["train.batch_size"] == 2
    assert 4 < plan.memory_gb <= 8
    assert settings["train.epochs"] == 2000  # 10,000 steps of 5 to an epoch
    assert set(settings) == set(plan.reasons)
    small = plan_volumes(facts((240, 240, 200), (1, 1, 1)), 3)
    assert np.prod(small.settings["task.patch"]) < np.prod(patch)
    assert small.memory_gb <= 3


def test_the_plan_of_thick_slices() -> None:
    settings = plan_volumes(facts((320, 320, 24), (0.5, 0.5, 5)), 2).settings
    width, height, depth = settings["task.patch"]
    assert width == height
    assert depth <= 24
    assert width > 4 * depth
    assert settings["model.strides"][:3] == [[2, 2, 1]] * 3
    assert settings["augment.rotation_degrees"] == [0, 0, 180]
    assert settings["task.input.spacing"] == [0.5, 0.5, 5]


def test_the_plan_of_several_channels_and_of_ct() -> None:
    names = ("FLAIR", "T1w", "T1gd", "T2w")
    settings = plan_volumes(facts((48, 48, 40), (1, 1, 1), names), 4).settings
    assert settings["model.in_channels"] == 4
    assert [one["name"] for one in settings["task.input.channels"]] == list(names)
    assert {one["intensity"] for one in settings["task.input.channels"]} == {"zscore"}
    assert plan_volumes(facts((48, 48, 40), (1, 1, 1), ("CT",)), 4).settings["task.input.intensity"] == "ct"
    mixed = plan_volumes(facts((48, 48, 40), (1, 1, 1), ("CT", "PET")), 4).settings["task.input.channels"]
    assert [one["intensity"] for one in mixed] == ["ct", "zscore"]


def test_too_little_memory_is_said() -> None:
    with pytest.raises(ValueError, match=r"0\.001 GB are not enough for 2 patches of \d+x\d+x\d+ voxels of 1 channels"):
        plan_volumes(facts((40, 40, 40), (1, 1, 1)), 0.001)


def test_memory_grows_with_patches_and_weights() -> None:
    network = network_for(1, ((2, 2, 2),) * 2)
    one, two, four = (memory_of_training(network, 2, (32, 32, 32), count) for count in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one))
    assert memory_of_training(network, 2, (64, 32, 32), 1) > 1.5 * one
    # What the first convolution alone keeps: input, output of the convolution, of the norm, of the activation.
    assert two - one > 32**3 * 4 * (1 + 3 * 16)
    assert isinstance(network, VNetConfig)


def write_set(folder: Path, shape: tuple[int, ...], spacing: tuple[float, ...], num_channels: int = 1) -> Path:
    """Three cases with a bright cube."""
    rng = np.random.default_rng(0)
    affine = np.diag([*spacing, 1.0])
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for number in range(5):
        labels = np.zeros(shape, np.uint8)
        labels[2:6, 3:9, 2:5] = 1
        for channel in range(num_channels):
            scan = (rng.random(shape) + labels).astype(np.float32)
            name = f"case_{number}_{channel:04d}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(scan, affine), folder / "imagesTr" / name)
        nibabel.save(nibabel.Nifti1Image(labels, affine), folder / "labelsTr" / f"case_{number}.nii.gz")
    names = {str(channel): f"channel{channel}" for channel in range(num_channels)}
    text = json.dumps({"labels": {"background": 0, "cube": 1}, "channel_names": names})
    (folder / "dataset.json").write_text(text)
    return folder


SETS = {
    "isotropic": ((20, 24, 20), (1.0, 1.0, 1.0), 1),
    "thick": ((32, 32, 8), (0.5, 0.5, 5.0), 1),
    "channels": ((16, 16, 16), (1.0, 1.0, 1.0), 4),
}


@pytest.mark.parametrize("name", SETS)
def test_what_is_planned_can_be_trained(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_set(tmp_path / name, *SETS[name])
    config = tmp_path / "plan.yaml"
    assert main(["plan", str(root), "--memory", "1", "-o", str(config), "--json", str(tmp_path / "seen.json")]) == 0
    text = config.read_text()
    assert text in capsys.readouterr().out
    assert "cube 0.7" in text or "cube" in text
    assert text.count("  # ") > 15  # each setting has its reason above it
    seen = yaml.safe_load((tmp_path / "seen.json").read_text())
    assert seen["shapes"] == [list(SETS[name][0])] * 4
    assert main(["plan", str(root), "-o", str(config)]) == 2
    assert "is there already" in capsys.readouterr().err
    loaded = load_config(
        RunConfig,
        config,
        # One step, without MONAI's transforms, whose import takes seconds.
        ["train.epochs=1", "data.num_workers=0", "train.num_threads=1", "augment.rotation=0", "augment.scaling=0"]
        + [f"augment.{key}=0" for key in no_intensity()],
    )
    with torch.random.fork_rng():
        result = train(loaded, tmp_path / "run", bar=False)
    assert result is not None or (tmp_path / "run" / "best.safetensors").is_file()


def no_intensity() -> Iterator[str]:
    yield from ("noise", "blur", "brightness", "contrast", "low_resolution", "gamma", "gamma_inverted")


def test_a_fold_is_judged_by_its_own_other_part(tmp_path: Path) -> None:
    write_set(tmp_path / "set", (16, 16, 16), (1.0, 1.0, 1.0))
    data = tmp_path / "data.yaml"
    data.write_text("format: nifti\npath: set\nnames: [background, cube]\nsplit: {folds: 2}\n")
    assert main(["plan", str(data), "--split", "fold1-train", "--memory", "1", "-o", str(tmp_path / "a.yaml")]) == 0
    planned = load_config(RunConfig, tmp_path / "a.yaml").data
    assert (planned.train_split, planned.val_split) == ("fold1-train", "fold1-val")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shapes", "-o", "a.yaml"], "volumes were asked for"),
        (["blobs", "-o", "a.json"], "a file that ends in .yaml"),
        (["blobs", "--split", "nothing", "-o", "a.yaml"], "nothing"),
    ],
)
def test_what_cannot_be_planned(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_hippocampus(detseg_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan sees the hippocampus as the recipe by hand does, and as nnU-Net's own plan: patches of 40x56x40."""
    monkeypatch.setenv("DETSEG_DATA", str(detseg_data))
    assert main(["plan", str(Path("configs/data/hippocampus.yaml").absolute()), "-o", str(tmp_path / "a.yaml")]) == 0
    plan = load_config(RunConfig, tmp_path / "a.yaml")
    by_hand = load_config(RunConfig, Path("configs/volume/vnet_hippocampus.yaml"))
    assert plan.task.patch == by_hand.task.patch
    assert plan.model.num_convolutions == by_hand.model.num_convolutions
    assert plan.augment.flip[1] == 0
