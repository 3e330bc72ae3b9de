"""``split_dataset`` on data sets with masks: sizes, stratification, copies, the files, and reading them back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from detseg.data.check import check_dataset
from detseg.data.checks.report import MaskSummary
from detseg.data.open import open_dataset
from detseg.data.source import DatasetError
from detseg.data.split import SplitResult, split_dataset
from detseg.runtime.media.images import write_image

NUM_IMAGES = 20
SIZE = 16


def save(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def labels(number: int) -> Any:
    """Class 0 everywhere, class 1 in every fourth image, in one of them on most of it; and some ignored."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    if number % 4 == 0:
        mask[: 12 if number == 8 else 1] = 1
    mask[-1] = 255
    return mask


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images 0 to 14 in train, 15 to 19 in val."""
    root = tmp_path / "data"
    for number in range(NUM_IMAGES):
        folder = root / ("train" if number < 15 else "val")
        image = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        write_image(folder / "images" / f"{number:02d}.png", image)
        save(folder / "masks" / f"{number:02d}.png", labels(number))
    describe(root)
    return root


def describe(root: Path, **settings: Any) -> None:
    (root / "data.yaml").write_text(yaml.safe_dump({"format": "masks", "names": ["ground", "thing"], **settings}))


def images_of(result: SplitResult, split: str) -> list[str]:
    return [Path(line).name for line in (result.yaml_path.parent / f"{split}.txt").read_text().splitlines()]


def test_exact_sizes_and_every_image_once(data: Path, tmp_path: Path) -> None:
    result = split_dataset(data, "6:2:2", 0, tmp_path / "out")
    parts = [images_of(result, split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [12, 4, 4]
    assert sorted(name for part in parts for name in part) == [f"{number:02d}.png" for number in range(NUM_IMAGES)]


def test_written_splits_are_read(data: Path, tmp_path: Path) -> None:
    result = split_dataset(data, "6:2:2", 0, tmp_path / "out")
    for split, summary in result.splits.items():
        dataset = open_dataset(result.yaml_path, split)
        assert isinstance(summary, MaskSummary)
        assert len(dataset) == summary.num_images
        assert dataset.class_names == ("ground", "thing")
        assert dataset.category_ids == (0, 1)
        for index in range(len(dataset)):
            number = int(Path(dataset.path(index)).stem)
            np.testing.assert_array_equal(dataset.mask(index), labels(number))
        assert summary.num_pixels_by_class["thing"] == sum(
            int((dataset.mask(index) == 1).sum()) for index in range(len(dataset))
        )
    report = check_dataset(result.yaml_path)
    assert report.findings == ()
    assert report.splits == result.splits


def test_rare_class_is_in_every_split(data: Path, tmp_path: Path) -> None:
    for seed in range(5):
        result = split_dataset(data, "6:2:2", seed, tmp_path / str(seed))
        # Five images have it.
        assert [summary.num_images_by_class["thing"] for summary in result.splits.values()] == [3, 1, 1]


def test_pixels_are_spread_as_well(tmp_path: Path) -> None:
    """Every image has both classes; half of the images have ten times the pixels of one of them."""
    root = tmp_path / "data"
    for number in range(40):
        image = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        write_image(root / "all" / "images" / f"{number:02d}.png", image)
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[: 10 if number < 20 else 1] = 1
        save(root / "all" / "masks" / f"{number:02d}.png", mask)
    describe(root)
    for seed in range(3):
        result = split_dataset(root, "6:2:2", seed, tmp_path / str(seed))
        large = [sum(int(name[:2]) < 20 for name in images_of(result, split)) for split in result.splits]
        assert large == [12, 4, 4]


def test_seed_decides_and_order_does_not(data: Path, tmp_path: Path) -> None:
    def divide(name: str, seed: int, **settings: Any) -> list[list[str]]:
        result = split_dataset(data, "8:2", seed, tmp_path / name, **settings)
        return [images_of(result, split) for split in ("train", "val")]

    first = divide("a", 0)
    assert divide("b", 0) == first
    assert divide("c", 0, splits=["val", "train"]) == first
    assert divide("d", 1) != first


def test_copies_stay_together(data: Path, tmp_path: Path) -> None:
    for name in ("x", "y"):
        shutil.copy(data / "train/images/04.png", data / f"val/images/{name}.png")
        shutil.copy(data / "train/masks/04.png", data / f"val/masks/{name}.png")
    for seed in range(5):
        result = split_dataset(data, "5:5", seed, tmp_path / str(seed))
        assert result.num_copies == 2
        assert "2 copies kept with their originals" in result.render()
        holders = [split for split in ("train", "val") if {"x.png", "y.png", "04.png"} & set(images_of(result, split))]
        assert len(holders) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"names": {3: "ground", 7: "thing"}, "ignore_index": [0, 255]},
        {"names": {0: "ground", 1: "thing"}},
        {"names": ["ground", "thing"]},
    ],
)
def test_what_the_values_mean_is_kept(data: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    if settings.get("ignore_index"):
        for path in data.rglob("masks/*.png"):
            save(path, np.array([3, 7, 0], np.uint8)[np.minimum(np.asarray(Image.open(path)), 2)])
    describe(data, **settings)
    result = split_dataset(data, "8:2", 0, tmp_path / "out")
    written = yaml.safe_load(result.yaml_path.read_text())
    assert {key: written[key] for key in written if key in ("names", "ignore_index", "colors")} == settings
    assert written["path"] == str(data)
    assert written["train"] == {
        "images": str(tmp_path / "out" / "train.txt"),
        "masks": str(tmp_path / "out" / "train_masks.txt"),
    }
    dataset = open_dataset(result.yaml_path, "val")
    np.testing.assert_array_equal(dataset.mask(0), labels(int(Path(dataset.path(0)).stem)))


def test_color_maps(data: Path, tmp_path: Path) -> None:
    colors = np.array([[9, 8, 7], [200, 0, 1], [0, 0, 0]], np.uint8)
    for path in data.rglob("masks/*.png"):
        save(path, colors[np.minimum(np.asarray(Image.open(path)), 2)])
    describe(data, colors=colors[:2].tolist(), ignore_index=[0, 0, 0])
    result = split_dataset(data, "8:2", 0, tmp_path / "out")
    assert [summary.num_images_by_class["thing"] for summary in result.splits.values()] == [4, 1]
    assert check_dataset(result.yaml_path).findings == ()


def test_names_from_a_text_file(data: Path, tmp_path: Path) -> None:
    (data / "data.yaml").unlink()
    (data / "classes.txt").write_text("ground\nthing\n")
    result = split_dataset(data, "8:2", 0, tmp_path / "out")
    assert open_dataset(result.yaml_path, "train").class_names == ("ground", "thing")


def test_splits_can_be_split_again(data: Path, tmp_path: Path) -> None:
    first = split_dataset(data, "6:2:2", 0, tmp_path / "first")
    second = split_dataset(first.yaml_path, "8:2", 0, tmp_path / "second", splits=["train", "val"])
    assert [summary.num_images for summary in second.splits.values()] == [13, 3]
    assert set(images_of(second, "train") + images_of(second, "val")) == set(
        images_of(first, "train") + images_of(first, "val")
    )


def test_same_names_in_two_splits(data: Path, tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        for number in range(15, 20):
            (data / f"val/{kind}/{number}.png").rename(data / f"val/{kind}/{number - 15:02d}.png")
    result = split_dataset(data, "8:2", 0, tmp_path / "out")
    for split in ("train", "val"):
        dataset = open_dataset(result.yaml_path, split)
        for index in range(len(dataset)):
            assert Path(dataset.path(index)).parents[1] == Path(dataset.mask_path(index)).parents[1]
            assert Path(dataset.path(index)).name == Path(dataset.mask_path(index)).name


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: (root / "train/masks/03.png").unlink(), "D301"),
        (lambda root: save(root / "train/masks/03.png", np.full((SIZE, SIZE), 9, np.uint8)), "D304"),
        (lambda root: (root / "data.yaml").unlink(), "D307 .*names: {0: NAME, 1: NAME}"),
    ],
)
def test_errors_are_refused_and_nothing_is_written(data: Path, tmp_path: Path, break_it: Any, message: str) -> None:
    break_it(data)
    with pytest.raises(DatasetError, match=message):
        split_dataset(data, "8:2", 0, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_cityscapes_is_not_divided(tmp_path: Path) -> None:
    write_image(tmp_path / "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DatasetError, match="official: results compare on no others, and no city is in two of them"):
        split_dataset(tmp_path, "8:2", 0, tmp_path.parent / "out", "cityscapes")


def test_camvid(detseg_data: Path, tmp_path: Path) -> None:
    described = Path(__file__).parents[2] / "configs/data/camvid.yaml"
    result = split_dataset(described, "6:2:2", 0, tmp_path / "out")
    assert {name: one.num_images for name, one in result.splits.items()} == {"train": 281, "val": 94, "test": 93}
    pixels = np.array([list(one.num_pixels_by_class.values()) for one in result.splits.values()])  # type: ignore[union-attr]
    images = np.array([list(one.num_images_by_class.values()) for one in result.splits.values()])
    wanted = np.array([[281], [94], [93]]) / 468
    np.testing.assert_allclose(pixels / pixels.sum(0), np.broadcast_to(wanted, pixels.shape), atol=0.02)
    np.testing.assert_allclose(images / images.sum(0), np.broadcast_to(wanted, images.shape), atol=0.02)
    report = check_dataset(result.yaml_path)
    assert report.findings == ()
    assert report.splits == result.splits
