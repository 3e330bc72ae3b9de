"""What is said of names that a mirror image makes untrue, and of images that become much smaller."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.augment.config import AugmentConfig
from detseg.augment.volume_config import VolumeAugmentConfig
from detseg.config import load_config
from detseg.data.datasets.volumes import VolumeDataset
from detseg.data.formats.shapes import ShapesConfig, ShapesDataset
from detseg.data.loading.volume_cache import PlacedVolumes
from detseg.data.open import open_dataset
from detseg.engine.notices import OPPOSITES, notice_of_size, opposite_names, warn_of_mirroring, warn_of_vanishing
from detseg.engine.run import train
from detseg.engine.settings import RunConfig
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.media.images import write_image, write_mask
from detseg.runtime.volumes.nifti import write_label_volume, write_volume
from detseg.structures import IGNORE_INDEX
from detseg.tasks.model_file import load_model_file
from detseg.volumes import LabelVolume, Volume

Tiny = Callable[..., RunConfig]

PAIRS = [
    (("left hand", "right hand"), True),
    (("hand_l", "hand_r"), True),
    (("kidney_L", "kidney_R", "liver"), True),
    (("LeftVentricle", "RightVentricle"), True),
    (("lefthand", "righthand"), True),
    (("LH_cortex", "RH_cortex"), True),
    (("left", "right"), True),
    (("LEFT_TURN", "RIGHT_TURN"), True),
    (("left hand", "right foot"), False),
    (("left hand", "hand"), False),
    (("bright", "dark"), False),
    (("right", "wrong"), False),
    (("a", "b", "l", "x"), False),
    (("all", "arr"), False),
    (("左", "右"), False),
    (("same", "same"), False),
]


@pytest.mark.parametrize(("names", "are_opposite"), PAIRS)
def test_names_that_differ_by_side(names: tuple[str, ...], are_opposite: bool) -> None:
    assert opposite_names(names, "left and right") == ([names[:2]] if are_opposite else [])
    assert opposite_names(names[::-1], "left and right") == ([names[1::-1]] if are_opposite else [])


def test_the_other_axes() -> None:
    names = ("Anterior", "Posterior", "upper lobe", "lower lobe")
    assert opposite_names(names, "front and back") == [("Anterior", "Posterior")]
    assert opposite_names(names, "top and bottom") == [("upper lobe", "lower lobe")]


@pytest.mark.parametrize(
    ("augment", "mirrors"),
    [
        (AugmentConfig(), {"left and right": "augment.flip_horizontal=0"}),
        (AugmentConfig(flip_horizontal=0, flip_vertical=0.1), {"top and bottom": "augment.flip_vertical=0"}),
        (VolumeAugmentConfig(flip=(0, 0, 0)), {}),
        (
            VolumeAugmentConfig(flip=(0.5, 0.25, 0)),
            {"left and right": "augment.flip=[0,0.25,0]", "front and back": "augment.flip=[0.5,0,0]"},
        ),
    ],
)
def test_what_augmentation_mirrors(augment: Any, mirrors: dict[str, str]) -> None:
    assert augment.mirrors == mirrors
    assert mirrors.keys() <= OPPOSITES.keys()


def test_the_setting_that_is_named_ends_it(tiny: Tiny) -> None:
    names = ("left hand", "right hand")
    (text,) = warn_of_mirroring(tiny(), names)
    assert "'left hand' and 'right hand' differ by left and right" in text
    setting = "augment.flip_horizontal=0"
    assert f"set {setting} if the names mean that" in text
    assert list(warn_of_mirroring(tiny(setting), names)) == []
    assert list(warn_of_mirroring(tiny(), ("circle", "square"))) == []


SIZES = [
    ((240, 320), 96, ""),
    ((2880, 3840), 480, "are 2880x3840 (height x width, median) and are reduced 8.0 times to fit 480x480"),
    ((64, 2048), 480, "reduced 4.3 times"),
    ((0, 0), 64, ""),
]


@pytest.mark.parametrize(("size", "side", "message"), SIZES)
def test_images_that_become_much_smaller(tiny: Tiny, size: tuple[int, int], side: int, message: str) -> None:
    dataset = ShapesDataset("train", ShapesConfig(num_train=2))
    for name, value in zip(("heights", "widths"), size, strict=True):
        object.__setattr__(dataset.annotations, name, np.full(2, value))
    notice = notice_of_size(tiny(f"task.input={{height: {side}, width: {side}}}"), dataset)
    assert message in notice
    assert bool(notice) == bool(message)


def test_tiles_are_proposed_for_masks_and_can_be_trained(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        folder = tmp_path / "data" / split
        write_image(folder / "images" / "0.png", generator.integers(0, 256, (130, 160, 3), np.uint8))
        write_mask(folder / "masks" / "0.png", generator.integers(0, 2, (130, 160), np.uint8))
    (tmp_path / "data" / "classes.txt").write_text("ground\nthing\n")
    (tmp_path / "run.yaml").write_text(
        "model: letnet\ntask: {name: semantic, input: {height: 32, width: 32}}\n"
        "augment: {mosaic: 0, close_mosaic_epochs: 0}\ndata: {path: data, num_workers: 0}\n"
        "train: {batch_size: 1, epochs: 1}\n"
    )
    config = load_config(RunConfig, tmp_path / "run.yaml")
    notice = notice_of_size(config, open_dataset(tmp_path / "data", "train"))
    settings = notice.partition("train and predict in tiles: ")[2].split()
    assert settings[:3] == ["task.input.height=160", "task.input.width=160", "task.crop=[32,32]"]
    tiled = load_config(RunConfig, tmp_path / "run.yaml", settings)
    assert notice_of_size(tiled, open_dataset(tmp_path / "data", "train")) == ""
    result = train(tiled, tmp_path / "run", bar=False)
    model_file = load_model_file(result.best)
    assert model_file.config.task.postprocess.window == (32, 32)
    assert (model_file.task.spec.height, model_file.task.spec.width) == (160, 160)


def test_the_size_that_images_are_fitted_into_counts() -> None:
    assert AugmentConfig().fitted_size((512, 512)) == (512, 512)
    assert AugmentConfig(fit=(1024, 2048)).fitted_size((512, 512)) == (1024, 2048)
    assert VolumeAugmentConfig().fitted_size((40, 40, 40)) is None


def test_masks_of_one_class_are_not_trained_on(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_image(tmp_path / "data" / split / "images" / "0.png", np.zeros((32, 32, 3), np.uint8))
        write_mask(tmp_path / "data" / split / "masks" / "0.png", np.zeros((32, 32), np.uint8))
    (tmp_path / "data" / "classes.txt").write_text("thing\n")
    (tmp_path / "run.yaml").write_text(
        "model: letnet\ntask: {name: semantic, input: {height: 32, width: 32}}\n"
        "augment: {mosaic: 0, close_mosaic_epochs: 0}\ndata: {path: data, num_workers: 0}\ntrain: {batch_size: 1}\n"
    )
    config = load_config(RunConfig, tmp_path / "run.yaml")
    with pytest.raises(ValueError, match=r"thing is the only class, .* `names: \{0: background, 1: thing\}`"):
        train(config, tmp_path / "run", bar=False)
    assert not (tmp_path / "run").exists()


def test_structures_that_vanish_on_the_grid_of_training(tmp_path: Path) -> None:
    names = [tmp_path / f"{number}.nii" for number in range(3)]
    (tmp_path / "labels").mkdir()
    for number, image in enumerate(names):
        labels = np.zeros((8, 8, 8), np.uint8)
        labels[2:6, 2:6, 2:6] = 1
        labels[4, 4, 2 : 3 + number] = 2  # 1, 2 and 3 voxels long and one thick
        labels[:, :, 7] = IGNORE_INDEX if number == 2 else 0
        affine = np.eye(4)
        write_volume(image, Volume(np.ones((8, 8, 8), np.float32), affine))
        write_label_volume(tmp_path / "labels" / image.name, LabelVolume(labels, affine))
    dataset = VolumeDataset(
        root=tmp_path, split="train", class_names=("background", "body", "vessel", "rest"),
        category_ids=(0, 1, 2, IGNORE_INDEX), images=names, labels=[tmp_path / "labels" / name.name for name in names],
    )  # fmt: skip
    modes: tuple[Any, ...] = ("none", "ram")
    for step, mode in itertools.product((1.0, 2.0), modes):
        spec = VolumeSpec(spacing=(step, step, 1.0))
        said = list(warn_of_vanishing(PlacedVolumes(dataset, spec, mode), spec))
        assert len(said) == (step == 2)
        if said:
            assert "'vessel' vanishes in 3 of 3 volumes of train at the spacing of training, 2x2x1 mm" in said[0]
            assert f"the first is {names[0]}: set a smaller task.input.spacing" in said[0]
    names[1].write_bytes(b"damaged")
    assert "in 2 of 3 volumes" in next(iter(warn_of_vanishing(PlacedVolumes(dataset, spec), spec)))


def test_a_run_says_it(tiny: Tiny, tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 1)):
        for number in range(count):
            write_image(tmp_path / "hands/images" / split / f"{number}.png", np.zeros((300, 400, 3), np.uint8))
            label = tmp_path / "hands/labels" / split / f"{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(f"{number % 2} 0.5 0.5 0.4 0.4\n")
    (tmp_path / "hands/classes.txt").write_text("hand_left\nhand_right\n")
    with pytest.warns(UserWarning, match="'hand_left' and 'hand_right' differ by left and right"):
        train(tiny("train.epochs=1", f"data.path={tmp_path / 'hands'}"), tmp_path / "run", bar=False)
    log = (tmp_path / "run/log.txt").read_text()
    assert "differ by left and right" in log
    assert "300x400 (height x width, median) and are reduced 6.2 times to fit 64x64" in log
