"""Previews: sheets of augmented batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detseg.arrays import FloatArray
from detseg.augment.config import AugmentConfig
from detseg.engine.command import preview_command
from detseg.engine.reports.preview import preview
from detseg.runtime.drawing.boxes import color_of
from detseg.runtime.kinds import load_kind
from detseg.runtime.media.images import read_image, write_image, write_mask
from detseg.structures import LetterboxTransform, Sample, Target

PLAIN = AugmentConfig(
    mosaic=0, translate=0, scale=(1, 1), flip_horizontal=0, hsv_hue=0, hsv_saturation=0, hsv_value=0, pad_value=0
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for number in range(5):
        image = np.full((64, 64, 3), 40 * number + 20, np.uint8)
        write_image(root / "images" / "train" / f"{number}.png", image)
        labels = root / "labels" / "train" / f"{number}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("0 0.5 0.5 0.5 0.5\n")
    (root / "classes.txt").write_text("thing\n")
    return root


def test_sheets(data: Path, tmp_path: Path) -> None:
    images = preview(data, tmp_path / "out", num_batches=3, batch_size=2, size=(64, 96))
    # Five images are three batches of at most two.
    assert [path.name for path in images] == [f"train_000_00{number}.png" for number in range(3)]
    assert sorted((tmp_path / "out").iterdir()) == sorted(images)
    # Two cells of 64x96 in a row with 6 pixels about each.
    assert read_image(images[1]).shape == (64 + 2 * 6, 2 * 96 + 3 * 6, 3)


def test_boxes_are_drawn_where_the_objects_are(data: Path, tmp_path: Path) -> None:
    (image,) = preview(data, tmp_path / "out", config=PLAIN, num_batches=1, batch_size=1, size=(64, 64))
    cell = read_image(image)[6:-6, 6:-6]
    # The box from (16, 16) to (48, 48): its left and bottom sides away from the tag, and nothing inside of it.
    assert (cell[30:40, 16] == color_of(0)).all()
    assert (cell[48, 20:40] == color_of(0)).all()
    assert len(np.unique(cell[36:44, 24:44])) == 1


def test_seed_and_epoch_decide(data: Path, tmp_path: Path) -> None:
    def draw(name: str, **settings: int) -> bytes:
        (image,) = preview(data, tmp_path / name, num_batches=1, batch_size=4, size=(64, 64), **settings)
        return image.read_bytes()

    assert draw("a", seed=1) == draw("b", seed=1)
    assert draw("a", seed=1) != draw("c", seed=2)
    assert draw("a", seed=1) != draw("d", seed=1, epoch=1)


def test_closed_mosaic_is_not_shown(data: Path, tmp_path: Path) -> None:
    mosaic = AugmentConfig(**{**vars(PLAIN), "mosaic": 1.0})
    (closed, open_) = (
        preview(data, tmp_path / str(closed), config=mosaic, batch_size=1, size=(64, 64), close_mosaic=closed)[0]
        for closed in (True, False)
    )
    # Without a mosaic there is one gray level outside of the box.
    assert len(np.unique(read_image(closed)[56:68, 10:60])) == 1
    assert closed.read_bytes() != open_.read_bytes()


def test_small_data_set_is_one_batch(data: Path, tmp_path: Path) -> None:
    images = preview(data, tmp_path / "out", batch_size=100, size=(32, 32))
    assert len(images) == 1
    assert read_image(images[0]).shape == (2 * 32 + 3 * 6, 3 * 32 + 4 * 6, 3)


def test_mask_and_crowd() -> None:
    mask = np.full((40, 40), 255, np.uint8)
    mask[:, 20:] = 1
    sample = Sample(
        image=np.full((40, 40, 3), 100, np.uint8),
        boxes_xyxy=np.array([[2, 2, 12, 38]], np.float32),
        labels=np.array([0]),
        crowd=np.array([True]),
        image_id=1,
        path="x",
        transform=LetterboxTransform.identity(40, 40),
        mask=mask,
    )
    drawn = load_kind("boxes").draw_sample(sample, ("a", "b"))
    tinted = np.round((100 + np.array(color_of(1))) / 2)
    assert np.abs(drawn[30, 30] - tinted).max() <= 1
    assert (drawn[30, 16] == 100).all()
    # A crowd region has its own color, that of label + number of classes.
    assert (drawn[30, 2] == color_of(2)).all()


def test_wrong_settings(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside the data set"):
        preview(data, data / "preview")
    with pytest.raises(ValueError, match="num_batches must be at least 1, got 0"):
        preview(data, tmp_path / "out", num_batches=0)
    with pytest.raises(ValueError, match="positive multiples of the stride, 32; got 50x320"):
        preview(data, tmp_path / "out", size=(50, 320))
    with pytest.raises(ValueError, match="no split 'val'; there is train"):
        preview(data, tmp_path / "out", split="val")
    assert not (tmp_path / "out").exists()


def test_shapes(tmp_path: Path) -> None:
    (image,) = preview("shapes", tmp_path, split="val", num_batches=1, batch_size=4, size=(64, 64))
    assert read_image(image).shape == (2 * 64 + 3 * 6, 2 * 64 + 3 * 6, 3)


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Gray images whose left half is class 1, whose right is class 0, and whose lowest quarter is ignored."""
    root = tmp_path / "masks"
    mask = np.ones((64, 64), np.uint8)
    mask[:, 32:] = 0
    mask[48:] = 255
    for number in range(2):
        write_image(root / "train" / "images" / f"{number}.png", np.full((64, 64, 3), 100, np.uint8))
        (root / "train" / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / "train" / "masks" / f"{number}.png")
    (root / "classes.txt").write_text("ground\nthing\n")
    return root


def tint(gray: int, label: int) -> FloatArray:
    return np.round((gray + np.array(color_of(label), np.float32)) / 2)


def test_masks_are_tinted_and_ignored_is_clear(masks: Path, tmp_path: Path) -> None:
    (image,) = preview(masks, tmp_path / "out", config=PLAIN, num_batches=1, batch_size=1, size=(64, 64))
    cell = read_image(image)[6:-6, 6:-6].astype(np.float32)
    for (y, x), expected in {(40, 4): tint(100, 1), (40, 60): tint(100, 0), (60, 4): 100, (60, 60): 100}.items():
        assert np.abs(cell[y, x] - expected).max() <= 1, (y, x)


def test_masks_turn_with_their_images(masks: Path, tmp_path: Path) -> None:
    turned = AugmentConfig(**{**vars(PLAIN), "flip_horizontal": 1.0})
    (image,) = preview(masks, tmp_path / "out", config=turned, num_batches=1, batch_size=1, size=(64, 64))
    cell = read_image(image)[6:-6, 6:-6].astype(np.float32)
    assert np.abs(cell[40, 60] - tint(100, 1)).max() <= 1
    assert np.abs(cell[40, 4] - tint(100, 0)).max() <= 1


def test_the_truth_decides_what_is_drawn(tmp_path: Path) -> None:
    def draw(name: str, target: Target | None) -> bytes:
        settings: dict[str, Any] = {"config": PLAIN, "num_batches": 1, "batch_size": 1, "size": (160, 160)}
        (image,) = preview("shapes", tmp_path / name, split="val", target=target, **settings)
        return image.read_bytes()

    assert draw("none", None) == draw("boxes", "boxes") != draw("masks", "masks")


def test_a_truth_that_is_not_there(data: Path, masks: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boxes were asked for"):
        preview(masks, tmp_path / "out", target="boxes")
    with pytest.raises(ValueError, match="masks were asked for"):
        preview(data, tmp_path / "out", target="masks")
    assert not (tmp_path / "out").exists()


def test_camvid(detseg_data: Path, tmp_path: Path) -> None:
    assert (detseg_data / "camvid").is_dir()
    described = Path(__file__).parents[3] / "configs/data/camvid.yaml"
    (image,) = preview(described, tmp_path, target="masks", num_batches=1, batch_size=4, size=(96, 128))
    assert read_image(image).shape == (2 * 96 + 3 * 6, 2 * 128 + 3 * 6, 3)


def test_masks_are_shown_as_they_are_trained_on(tmp_path: Path) -> None:
    """Without a configuration one image in each cell, with one the stride of its model: 360 is no multiple of 32."""
    for number in range(4):
        gray = 60 * number + 20
        write_image(tmp_path / "set/train/images" / f"{number}.png", np.full((64, 64, 3), gray, np.uint8))
        write_mask(tmp_path / "set/train/masks" / f"{number}.png", np.full((64, 64), 255, np.uint8))
    (tmp_path / "set/data.yaml").write_text("format: masks\nnames: {0: a, 1: b}\nignore_index: 255\n")
    (image,) = preview(tmp_path / "set", tmp_path / "out", num_batches=1, batch_size=4, size=(60, 60))
    sheet = read_image(image)
    assert sheet.shape == (2 * 60 + 3 * 6, 2 * 60 + 3 * 6, 3)
    for row in range(2):
        for column in range(2):
            cell = sheet[6 + 66 * row : 66 + 66 * row, 6 + 66 * column : 66 + 66 * column]
            # The image and what is around it; a mosaic would show several images.
            assert len(np.unique(cell[..., 0])) <= 2
    (tmp_path / "run.yaml").write_text(
        "model: letnet\ntask: {name: semantic, input: {height: 36, width: 48}}\naugment: {mosaic: 0}\n"
    )
    (image,) = preview_command(str(tmp_path / "set"), tmp_path / "config", None, tmp_path / "run.yaml")
    assert read_image(image).shape == (2 * 36 + 3 * 6, 2 * 48 + 3 * 6, 3)


def test_instances_are_drawn_with_their_masks(tmp_path: Path) -> None:
    write_image(tmp_path / "data" / "images" / "train" / "a.png", np.full((64, 64, 3), 60, np.uint8))
    (tmp_path / "data" / "labels" / "train").mkdir(parents=True)
    (tmp_path / "data" / "labels" / "train" / "a.txt").write_text("0 0.25 0.25 0.75 0.25 0.25 0.75\n")
    (tmp_path / "data" / "classes.txt").write_text("thing\n")
    images = [
        preview(
            tmp_path / "data", tmp_path / truth, target=truth, config=PLAIN, num_batches=1, batch_size=1, size=(64, 64)
        )
        for truth in ("boxes", "instances")
    ]
    cells = [read_image(image[0])[6:-6, 6:-6] for image in images]
    inside, outside = (26, 26), (42, 42)
    assert (cells[1][inside] == np.round(60 * 0.55 + np.array(color_of(0)) * 0.45)).all()
    assert (cells[0][inside] == cells[0][outside]).all()
    assert (cells[0][outside] == cells[1][outside]).all(), "the other half of the box"
    (image,) = preview_command("shapes", tmp_path / "shapes", None, None, target="instances")[:1]
    assert image.is_file()
