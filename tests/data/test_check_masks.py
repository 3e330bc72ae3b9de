"""``check_dataset`` on data sets with masks that are broken in one known way each, on the official tree, on CamVid."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from detseg.data.check import check_dataset
from detseg.data.checks.report import CheckReport, MaskSummary
from detseg.data.open import available_splits, open_dataset
from detseg.data.source import DatasetError
from detseg.runtime.media.images import write_image

HEIGHT, WIDTH = 6, 10
NAMES = ["sky", "road", "car"]
IMAGES = {"train": ("a", "b", "c"), "val": ("d", "e")}

Break = Callable[[Path], object]


def some_image(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def labels() -> Any:
    """20 pixels of 0, 18 of 1, 2 of 2 and 20 of ignored."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[2:4] = 1
    mask[3, 8:] = 2
    mask[4:] = 255
    return mask


def save(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def relabel(path: Path, **values: int) -> None:
    """Write ``labels`` with single pixels changed, as ``y_x=value``."""
    mask = labels()
    for place, value in values.items():
        _, y, x = place.split("_")
        mask[int(y), int(x)] = value
    save(path, mask)


def describe(root: Path, **settings: Any) -> None:
    (root / "data.yaml").write_text(yaml.safe_dump({"format": "masks", "names": NAMES, **settings}))


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for split, names in IMAGES.items():
        for name in names:
            write_image(root / split / "images" / f"{name}.png", some_image(ord(name)))
            save(root / split / "masks" / f"{name}.png", labels())
    describe(root)
    return root


def found(report: CheckReport) -> list[tuple[str, str, str | None]]:
    return [(finding.code, finding.file, finding.split) for finding in report.findings]


def message_of(report: CheckReport, code: str) -> str:
    (finding,) = (finding for finding in report.findings if finding.code == code)
    return finding.message


def assert_opens(root: Path) -> None:
    for split in available_splits(root):
        dataset = open_dataset(root, split)
        for index in range(len(dataset)):
            dataset.load(index)


def test_nothing_wrong(data: Path) -> None:
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in data.rglob("*.*")}
    report = check_dataset(data)
    assert report.findings == ()
    assert report.exit_code == 0
    assert report.splits["train"] == MaskSummary(
        num_images=3,
        num_pixels=3 * 40,
        num_ignored_pixels=3 * 20,
        num_pixels_by_class={"sky": 60, "road": 54, "car": 6},
        num_images_by_class={"sky": 3, "road": 3, "car": 3},
    )
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in data.rglob("*.*")} == before


def test_histogram_and_json(data: Path, tmp_path: Path) -> None:
    relabel(data / "val/masks/d.png", at_3_8=1, at_3_9=1)
    report = check_dataset(data)
    assert report.render().splitlines()[2:] == [
        "share of labeled pixels    train  images      val  images",
        "sky                      50.00 %       3  50.00 %       2",
        "road                     45.00 %       3  47.50 %       2",
        "car                       5.00 %       3   2.50 %       1",
        "ignored, of all pixels   33.33 %          33.33 %",
        "images                                 3                2",
        "",
        "0 errors, 0 warnings, 0 infos",
    ]
    report.write_json(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["splits"]["val"] == {
        "num_images": 2,
        "num_pixels": 80,
        "num_ignored_pixels": 40,
        "num_pixels_by_class": {"sky": 40, "road": 38, "car": 2},
        "num_images_by_class": {"sky": 2, "road": 2, "car": 1},
    }


BREAKS: dict[str, tuple[Break, list[tuple[str, str]]]] = {
    "missing mask": (lambda root: (root / "train/masks/b.png").unlink(), [("D301", "train/masks/b.png")]),
    "truncated mask": (lambda root: cut_in_half(root / "train/masks/b.png"), [("D302", "train/masks/b.png")]),
    "no image at all": (lambda root: (root / "train/masks/b.png").write_bytes(b"?"), [("D302", "train/masks/b.png")]),
    "color instead of values": (
        lambda root: save(root / "train/masks/b.png", some_image(0)),
        [("D303", "train/masks/b.png")],
    ),
    "mask of 16 bits": (
        lambda root: save(root / "train/masks/b.png", labels().astype(np.uint16) * 257),
        [("D303", "train/masks/b.png")],
    ),
    "unknown value": (lambda root: relabel(root / "train/masks/b.png", at_5_3=9), [("D304", "train/masks/b.png")]),
    "ignored only": (
        lambda root: save(root / "train/masks/b.png", np.full((HEIGHT, WIDTH), 255, np.uint8)),
        [("D305", "train/masks/b.png")],
    ),
    "mask without image": (lambda root: save(root / "train/masks/z.png", labels()), [("D306", "train/masks/z.png")]),
    "two masks of one name": (
        lambda root: save(root / "train/masks/b.tif", labels()),
        [("D106", "train/masks/b.png")],
    ),
    "two images of one name": (
        lambda root: write_image(root / "train/images/b.jpg", some_image(1)),
        [("D106", "train/images/b.jpg")],
    ),
    "missing image": (
        lambda root: (root / "train/images/b.png").unlink(),
        # Without a list, nothing but the mask says that there should be one.
        [("D306", "train/masks/b.png")],
    ),
    "truncated image": (lambda root: cut_in_half(root / "train/images/b.png"), [("D102", "train/images/b.png")]),
    "mask of another size": (
        lambda root: save(root / "train/masks/b.png", labels()[:-1]),
        [("D103", "train/images/b.png")],
    ),
    "same image in both splits": (
        lambda root: shutil.copy(root / "train/images/b.png", root / "val/images/d.png"),
        [("D201", "train/images/b.png")],
    ),
    "same image twice in a split": (
        lambda root: shutil.copy(root / "train/images/b.png", root / "train/images/c.png"),
        [("D203", "train/images/b.png")],
    ),
    "class missing in a split": (
        lambda root: [save(root / f"val/masks/{name}.png", np.minimum(labels(), 1)) for name in "de"],
        [("D202", "data.yaml")],
    ),
    "names that contradict each other": (
        lambda root: describe(root, ignore_index=[2]),
        [("D100", "data.yaml")],
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_one_thing_wrong(data: Path, name: str) -> None:
    break_it, expected = BREAKS[name]
    break_it(data)
    report = check_dataset(data)
    assert [(code, file) for code, file, _ in found(report)] == expected
    if report.num_findings("error"):
        # Either the split is not opened, or one of its samples is not loaded, or it is no error of reading: leakage.
        assert report.exit_code == 2
    else:
        assert_opens(data)


def test_everything_wrong_at_once(data: Path) -> None:
    (data / "train/masks/a.png").unlink()
    relabel(data / "train/masks/b.png", at_0_0=9)
    cut_in_half(data / "train/images/c.png")
    save(data / "val/masks/d.png", some_image(0))
    save(data / "val/masks/e.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    assert found(check_dataset(data)) == [
        ("D102", "train/images/c.png", "train"),
        ("D202", "data.yaml", "val"),
        ("D301", "train/masks/a.png", "train"),
        ("D303", "val/masks/d.png", "val"),
        ("D304", "train/masks/b.png", "train"),
        ("D305", "val/masks/e.png", "val"),
    ]


def test_a_split_without_a_labeled_pixel_is_an_error(data: Path) -> None:
    """As evaluation has it, which could give no number."""
    for path in (data / "val/masks").iterdir():
        save(path, np.full((HEIGHT, WIDTH), 255, np.uint8))
    report = check_dataset(data)
    assert [(one.code, one.split) for one in report.findings if one.severity == "error"] == [("D311", "val")]
    assert "every pixel of all" in message_of(report, "D311")
    save(next((data / "val/masks").iterdir()), labels())
    assert not any(one.code == "D311" for one in check_dataset(data).findings)


def test_unknown_values_are_one_finding_per_file(data: Path) -> None:
    relabel(data / "train/masks/b.png", at_1_4=9, at_1_5=9, at_0_2=7)
    report = check_dataset(data)
    assert message_of(report, "D304") == (
        "neither a class nor ignore_index: 7 (1 pixel, the first at x 2, y 0), 9 (2 pixels, the first at x 4, y 1); "
        "allowed are 0 sky, 1 road, 2 car, 255 ignored"
    )
    # The other pixels still count.
    assert report.splits["train"].num_images_by_class["car"] == 3


def test_sizes_and_wrong_kinds_are_described(data: Path) -> None:
    save(data / "train/masks/b.png", labels()[:-1])
    save(data / "train/masks/c.png", some_image(0))
    report = check_dataset(data)
    assert message_of(report, "D103") == "the image is 10x6, the mask b.png is for 10x5"
    assert "3 channels (RGB)" in message_of(report, "D303")


def test_an_orientation_explains_the_size(data: Path) -> None:
    (data / "train/images/b.png").unlink()
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(some_image(1)).save(data / "train/images/b.jpg", exif=exif)
    message = message_of(check_dataset(data), "D103")
    assert message.startswith("the image is 6x10, the mask b.png is for 10x6: its EXIF orientation 6 turns the image")


def test_without_names_values_stand_for_themselves(data: Path) -> None:
    (data / "data.yaml").unlink()
    relabel(data / "val/masks/d.png", at_0_0=11)
    (data / "train/masks/a.png").unlink()
    report = check_dataset(data)
    assert [code for code, _, _ in found(report)] == ["D202", "D301", "D307"]
    assert report.splits["val"].num_images_by_class == {"0": 2, "1": 2, "2": 2, "11": 1}
    assert f"format: masks; path: {data}; names: {{0: NAME, 1: NAME, 2: NAME, 11: NAME}}" in message_of(report, "D307")
    with pytest.raises(DatasetError):
        open_dataset(data, "val")


def test_what_the_finding_says_to_write_is_right(data: Path) -> None:
    (data / "data.yaml").unlink()
    instructions = message_of(check_dataset(data), "D307").partition("data set: ")[2].partition("; or,")[0]
    written = data.parent / "written.yaml"
    written.write_text(instructions.replace("; ", "\n").replace("NAME", "x", 1).replace("NAME", "y", 1))
    assert check_dataset(written).exit_code == 0
    assert open_dataset(written, "val").class_names == ("x", "y", "NAME")


def test_class_names_in_a_text_file(data: Path) -> None:
    (data / "data.yaml").unlink()
    (data / "classes.txt").write_text("\n".join(NAMES))
    assert check_dataset(data).findings == ()


def test_empty_folders(data: Path) -> None:
    for path in (data / "val").rglob("*.png"):
        path.unlink()
    report = check_dataset(data)
    assert found(report) == [("D309", "val/images", "val")]
    assert report.exit_code == 2


def test_folders_that_are_not_there(data: Path) -> None:
    describe(data, train={"images": "train/images", "masks": "nowhere"})
    report = check_dataset(data)
    assert found(report) == [("D100", "data.yaml", "train")]
    assert "masks not found" in message_of(report, "D100")


def test_lists(data: Path) -> None:
    (data / "list.txt").write_text("train/images/a.png\ntrain/images/a.png\ntrain/images/missing.png\n")
    describe(data, train={"images": "list.txt", "masks": "train/masks"})
    # The masks of images that are not in the list are not strange, they may be in another list.
    assert found(check_dataset(data)) == [
        ("D101", "train/images/missing.png", "train"),
        ("D106", "list.txt", "train"),
        ("D301", "train/masks/missing.png", "train"),
    ]
    (data / "masks.txt").write_text("train/masks/b.png\n")
    describe(data, train={"images": "list.txt", "masks": "masks.txt"})
    assert "has 2 images" in message_of(check_dataset(data), "D100")


def test_color_maps(data: Path) -> None:
    colors = np.array([[0, 0, 255], [128, 64, 128], [64, 0, 0], [0, 0, 0]], np.uint8)
    for path in data.rglob("masks/*.png"):
        save(path, colors[np.minimum(labels(), 3)])
    describe(data, colors=colors[:3].tolist(), ignore_index=[[0, 0, 0]])
    report = check_dataset(data)
    assert report.findings == ()
    assert report.splits["val"] == MaskSummary(
        2, 80, 40, {"sky": 40, "road": 36, "car": 4}, {"sky": 2, "road": 2, "car": 2}
    )
    wrong = colors[np.minimum(labels(), 3)]
    wrong[5, 9] = (0, 0, 254)
    save(data / "val/masks/d.png", wrong)
    message = message_of(check_dataset(data), "D304")
    assert message.startswith(
        "neither a class nor ignore_index: (0, 0, 254) (1 pixel, the first at x 9, y 5); allowed are"
    )


def test_headers_only_still_reads_the_masks(data: Path) -> None:
    relabel(data / "train/masks/b.png", at_5_3=9)
    assert [code for code, _, _ in found(check_dataset(data, decode=False))] == ["D304"]


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    """The official tree: 7 is road and 23 sky, 3 is ignored."""
    root = tmp_path / "cityscapes"
    ids = np.full((HEIGHT, WIDTH), 7, np.uint8)
    ids[:2] = 23
    ids[5] = 3
    places = (("train", "aachen", 0), ("train", "aachen", 1), ("train", "bochum", 0), ("test", "berlin", 0))
    for number, (split, city, frame) in enumerate(places):
        name = f"{city}_{frame:06d}_000019"
        write_image(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", some_image(number))
        if split == "train":
            save(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", ids)
    return root


def test_cityscapes(cityscapes: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = check_dataset(cityscapes, "cityscapes")
    summary = report.splits["train"]
    assert isinstance(summary, MaskSummary)
    assert (summary.num_images, summary.num_pixels, summary.num_ignored_pixels) == (3, 150, 30)
    assert len(summary.num_pixels_by_class) == 19
    assert (summary.num_pixels_by_class["road"], summary.num_pixels_by_class["sky"]) == (90, 60)
    assert found(report) == [
        ("D204", str(cityscapes), None),
        ("D308", "gtFine/test", "test"),
    ]
    assert "there is no pixel of 17 classes: sidewalk, building" in message_of(report, "D204")


@pytest.mark.parametrize(
    ("break_it", "code", "file"),
    [
        (
            lambda root: (root / "gtFine/train/aachen/aachen_000001_000019_gtFine_labelIds.png").unlink(),
            "D301",
            "gtFine/train/aachen/aachen_000001_000019_gtFine_labelIds.png",
        ),
        (
            lambda root: (root / "leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png").unlink(),
            "D306",
            "gtFine/train/aachen/aachen_000001_000019_gtFine_labelIds.png",
        ),
        (
            lambda root: save(
                root / "gtFine/train/bochum/bochum_000000_000019_gtFine_labelIds.png",
                np.full((HEIGHT, WIDTH), 200, np.uint8),
            ),
            "D304",
            "gtFine/train/bochum/bochum_000000_000019_gtFine_labelIds.png",
        ),
    ],
)
def test_broken_cityscapes(cityscapes: Path, break_it: Break, code: str, file: str) -> None:
    break_it(cityscapes)
    assert (code, file, "train") in found(check_dataset(cityscapes, "cityscapes"))


def test_the_published_ignored_masks_of_the_test_split(cityscapes: Path) -> None:
    mask = cityscapes / "gtFine/test/berlin/berlin_000000_000019_gtFine_labelIds.png"
    save(mask, np.full((HEIGHT, WIDTH), 3, np.uint8))
    report = check_dataset(cityscapes, "cityscapes", splits=["test"])
    assert [code for code, _, _ in found(report)] == ["D308"]
    assert report.exit_code == 0


def test_a_city_without_images(cityscapes: Path) -> None:
    shutil.rmtree(cityscapes / "leftImg8bit/train/bochum")
    report = check_dataset(cityscapes, "cityscapes", splits=["train"])
    assert [code for code, _, _ in found(report)] == ["D100"]
    assert "bochum" in message_of(report, "D100")


def test_camvid(detseg_data: Path) -> None:
    report = check_dataset(Path(__file__).parents[2] / "configs/data/camvid.yaml")
    assert report.findings == ()
    assert {name: summary.num_images for name, summary in report.splits.items()} == {"train": 367, "val": 101}
    train = report.splits["train"]
    assert isinstance(train, MaskSummary)
    assert train.num_pixels + train.num_ignored_pixels == 367 * 360 * 480
    files = sorted((detseg_data / "camvid/val/masks").iterdir())
    cars = [int((np.asarray(Image.open(path)) == 8).sum()) for path in files]
    val = report.splits["val"]
    assert isinstance(val, MaskSummary)
    assert (val.num_pixels_by_class["car"], val.num_images_by_class["car"]) == (sum(cars), sum(map(bool, cars)))


def test_camvid_without_names(detseg_data: Path) -> None:
    report = check_dataset(detseg_data / "camvid", splits=["val"])
    assert [code for code, _, _ in found(report)] == ["D307"]
    assert list(report.splits["val"].num_images_by_class) == [str(value) for value in range(12)]
    assert os.fspath(report.root) == str(detseg_data / "camvid")
