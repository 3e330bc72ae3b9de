from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cityscapesscripts.helpers.labels import labels as official_labels
from PIL import Image

from detseg.data.check import check_dataset
from detseg.data.datasets.dataset import Dataset
from detseg.data.formats.cityscapes_labels import CLASSES, LABELS, THINGS
from detseg.data.open import available_splits, open_dataset
from detseg.data.source import DatasetError
from detseg.runtime.media.images import write_image
from detseg.structures import IGNORE_INDEX, Target

IMAGES = {
    "train": ["aachen_000000_000019", "aachen_000001_000019", "bochum_000000_000313"],
    "val": ["lindau_000000_000019", "munster_000003_000019"],
}
HEIGHT, WIDTH = 20, 40


def _instances() -> Any:
    """Two cars, one of them cut in two by a pole, a group of persons in two places, a trailer, a group of cars."""
    ids = np.full((HEIGHT, WIDTH), 7, np.int32)
    ids[:4] = 23
    ids[0, 0] = 3
    ids[6:10, 4:12] = 26000
    ids[5:15, 8] = 17
    ids[12:20, 30:40] = 26001
    ids[5:7, 20:23] = 24
    ids[9, 25] = 24
    ids[10:12, 20:24] = 30000
    ids[14:16, 2:4] = 29
    ids[17:19, 10:15] = 26
    return ids


EXPECTED_BOXES = [
    # x, y, width, height, class, crowd, area
    (4, 6, 8, 4, "car", False, 8 * 4 - 4),
    (30, 12, 10, 8, "car", False, 80),
    (20, 5, 3, 2, "person", True, 6),
    (25, 9, 1, 1, "person", True, 1),
    (10, 17, 5, 2, "car", True, 10),
]


def _label_ids() -> Any:
    ids = _instances()
    return np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)


def _polygon(label: str, left: int, top: int, right: int, bottom: int, **more: Any) -> dict[str, Any]:
    """A rectangle; the corners are the outermost pixels."""
    return {"label": label, "polygon": [[left, top], [right, top], [right, bottom], [left, bottom]], **more}


POLYGONS = [
    _polygon("sky", 0, 0, 39, 3),
    _polygon("car", 30, 12, 45, 19),
    _polygon("persongroup", 20, 5, 22, 6),
    _polygon("car", 1, 1, 5, 5, deleted=1),
    _polygon("license plate", 32, 15, 34, 16),
    _polygon("trailer", 20, 10, 23, 11),
    _polygon("bicycle", -3, 4, 2, 9),
]


def _truth_path(root: Path, name: str, kind: str, split: str) -> Path:
    return root / "gtFine" / split / name.partition("_")[0] / f"{name}_gtFine_{kind}"


def _add_truth(root: Path, kind: str, content: Any, splits: tuple[str, ...] = ("train", "val")) -> None:
    for split in splits:
        for name in IMAGES[split]:
            path = _truth_path(root, name, kind, split)
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, dict):
                path.write_text(json.dumps(content))
            else:
                Image.fromarray(content).save(path)


def _add_polygons(root: Path, objects: list[dict[str, Any]] = POLYGONS, **more: Any) -> None:
    _add_truth(root, "polygons.json", {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects, **more})


@pytest.fixture
def images_only(tmp_path: Path) -> Path:
    root = tmp_path / "cityscapes"
    for split, names in IMAGES.items():
        for name in names:
            path = root / "leftImg8bit" / split / name.partition("_")[0] / f"{name}_leftImg8bit.png"
            write_image(path, np.full((HEIGHT, WIDTH, 3), 50, np.uint8))
    return root


@pytest.fixture
def tree(images_only: Path) -> Path:
    """The official tree: two cities in each of two splits."""
    _add_truth(images_only, "labelIds.png", _label_ids())
    return images_only


def _boxes(dataset: Dataset, index: int = 0) -> list[tuple[Any, ...]]:
    truth = dataset.ground_truth(index)
    return [
        (*box, dataset.class_names[label], crowd, area)
        for box, label, crowd, area in zip(
            truth.boxes_xywh.tolist(),
            truth.labels.tolist(),
            truth.crowd.tolist(),
            truth.areas.tolist(),
            strict=True,
        )
    ]


def test_the_table_of_labels_is_the_official_one() -> None:
    ours = {
        (one.label_id, one.name, -1 if one.label_id < 0 else one.train_id, one.is_thing, one.train_id == IGNORE_INDEX)
        for one in LABELS
    }
    assert ours == {(one.id, one.name, one.trainId, one.hasInstances, one.ignoreInEval) for one in official_labels}
    assert len(LABELS) == 35
    assert [label.train_id for label in CLASSES] == list(range(19))
    assert [label.label_id for label in THINGS] == [24, 25, 26, 27, 28, 31, 32, 33]


def test_masks_of_the_official_tree(tree: Path) -> None:
    assert available_splits(tree) == ("train", "val")
    dataset = open_dataset(tree, "train")
    assert dataset.target == "masks"
    assert len(dataset) == 3
    assert dataset.class_names[:3] == ("road", "sidewalk", "building")
    assert dataset.category_ids == (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    assert dataset.path(2).endswith("leftImg8bit/train/bochum/bochum_000000_000313_leftImg8bit.png")
    assert dataset.mask_path(2).endswith("gtFine/train/bochum/bochum_000000_000313_gtFine_labelIds.png")
    mask = dataset.load(2).mask
    assert mask is not None
    # Out of the region, sky, road, car, pole, and the trailer, which is not evaluated.
    pixels = [mask[place].item() for place in ((0, 0), (0, 1), (19, 0), (6, 4), (6, 8), (10, 20))]
    assert pixels == [IGNORE_INDEX, 10, 0, 13, 5, IGNORE_INDEX]


def test_every_label_id_has_its_train_id(images_only: Path) -> None:
    ids = np.resize(np.arange(34, dtype=np.uint8), (HEIGHT, WIDTH))
    _add_truth(images_only, "labelIds.png", ids)
    official = {one.id: one.trainId for one in official_labels}
    expected = [official[value] for value in ids.ravel().tolist()]
    assert open_dataset(images_only, "val").mask(0).ravel().tolist() == expected


def test_train_ids_where_there_are_no_label_ids(images_only: Path) -> None:
    train_ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    train_ids[0] = 18
    train_ids[1] = 255
    _add_truth(images_only, "labelTrainIds.png", train_ids)
    dataset = open_dataset(images_only, "val")
    assert dataset.mask(0)[:3, 0].tolist() == [18, IGNORE_INDEX, 0]
    assert dataset.category_ids[18] == 33
    _add_truth(images_only, "labelIds.png", _label_ids())
    assert open_dataset(images_only, "val").mask_path(0).endswith("_gtFine_labelIds.png")


@pytest.mark.parametrize(("kind", "value"), [("labelIds.png", 34), ("labelIds.png", 255), ("labelTrainIds.png", 19)])
def test_an_unknown_id(images_only: Path, kind: str, value: int) -> None:
    ids = np.full((HEIGHT, WIDTH), 7, np.uint8)
    ids[3, 5:9] = value
    _add_truth(images_only, kind, ids)
    with pytest.raises(DatasetError, match=f"gtFine_{kind}: value {value}, first at x 5, y 3, 4 pixels, is neither"):
        open_dataset(images_only, "val").mask(0)


def test_boxes_of_instances(tree: Path) -> None:
    _add_truth(tree, "instanceIds.png", _instances().astype(np.uint16))
    dataset = open_dataset(tree, "train", target="boxes")
    assert dataset.target == "boxes"
    assert not dataset.has_masks
    assert dataset.class_names == ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    assert dataset.category_ids == (24, 25, 26, 27, 28, 31, 32, 33)
    for index in range(3):
        assert _boxes(dataset, index) == EXPECTED_BOXES
    sample = dataset.load(0)
    assert sample.mask is None
    assert sample.boxes_xyxy[1].tolist() == [30, 12, 40, 20]


def test_instances_of_32_bits(tree: Path) -> None:
    path = _truth_path(tree, IMAGES["val"][0], "instanceIds.png", "val")
    _add_truth(tree, "instanceIds.png", _instances().astype(np.uint16))
    Image.fromarray(_instances()).save(path, format="TIFF")
    assert _boxes(open_dataset(tree, "val", target="boxes")) == EXPECTED_BOXES


def test_boxes_of_polygons(tree: Path) -> None:
    """Groups are crowds, what is deleted is left out, and what reaches over the border is cut off there."""
    _add_polygons(tree)
    dataset = open_dataset(tree, "val", target="boxes")
    assert _boxes(dataset) == [
        (30, 12, 10, 8, "car", False, 15 * 7),
        (20, 5, 3, 2, "person", True, 2),
        (0, 4, 3, 6, "bicycle", False, 5 * 5),
    ]
    outline = dataset.segmentations(0)[2]
    assert isinstance(outline, list)
    assert [polygon.tolist() for polygon in outline] == [[[-3, 4], [2, 4], [2, 9], [-3, 9]]]


def test_polygons_and_instances_agree_as_the_official_tool_draws_them(tree: Path) -> None:
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2instanceImg import createInstanceImage

    objects = [_polygon("road", 0, 0, 39, 19), _polygon("car", 3, 3, 9, 8), _polygon("car", 12, 3, 14, 5)]
    objects += [_polygon("cargroup", 20, 3, 28, 9), _polygon("rider", 30, 2, 50, 12)]
    for entry in objects:
        entry.update(id=0, deleted=0, verified=1, user="", date="")
    _add_polygons(tree, objects)
    annotation = Annotation()
    annotation.fromJsonFile(str(_truth_path(tree, IMAGES["val"][0], "polygons.json", "val")))
    drawn = np.asarray(createInstanceImage(annotation, "ids")).astype(np.uint16)
    _add_truth(tree, "instanceIds.png", drawn)
    sources = {}
    for source in ("instances", "polygons"):
        path = tree.parent / f"{source}.yaml"
        path.write_text(yaml.safe_dump({"format": "cityscapes", "path": str(tree), "boxes": source}))
        boxes = _boxes(open_dataset(path, "val", target="boxes"))
        sources[source] = sorted(box[:-1] for box in boxes)
    assert sources["instances"] == sources["polygons"]
    assert len(sources["polygons"]) == 4


def test_the_source_of_boxes_can_be_chosen(tree: Path) -> None:
    _add_truth(tree, "instanceIds.png", _instances().astype(np.uint16))
    _add_polygons(tree, [])
    path = tree / "data.yaml"
    for chosen, count in ((None, 5), ("instances", 5), ("polygons", 0)):
        path.write_text(yaml.safe_dump({"format": "cityscapes", **({"boxes": chosen} if chosen else {})}))
        assert len(open_dataset(tree, "val", target="boxes").ground_truth(0).labels) == count
    path.write_text("format: cityscapes\nboxes: masks\n")
    with pytest.raises(DatasetError, match="boxes: allowed are instances and polygons, got 'masks'"):
        open_dataset(tree, "val", target="boxes")
    path.write_text("format: cityscapes\nbox: polygons\n")
    with pytest.raises(DatasetError, match="unknown keys box; allowed are format, path, boxes"):
        open_dataset(tree, "val")


@pytest.mark.parametrize("value", [34, 999, 7000, 23001, 34000, 65535])
def test_a_number_that_is_no_instance(tree: Path, value: int) -> None:
    ids = _instances()
    ids[18, 38:] = value
    _add_truth(tree, "instanceIds.png", ids.astype(np.uint16))
    with pytest.raises(
        DatasetError, match=f"instanceIds.png: value {value}, first at x 38, y 18, 2 pixels, is no inst"
    ):
        open_dataset(tree, "val", target="boxes")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected an object with imgHeight, imgWidth and objects"),
        ({"imgHeight": 40, "imgWidth": 20, "objects": []}, "is for an image of 20x40 pixels, but .* has 40x20"),
        ({"objects": None}, "objects must be a list, got 'None'"),
        ({"objects": [3]}, r"objects\[0\]: expected {label, polygon"),
        ({"objects": [{"label": "car", "polygon": [[0, 0], [1, 1]]}]}, r"objects\[0\]: expected {label"),
        ({"objects": [{"label": "car", "polygon": [[0, 0], [1, 1], [1, "2"]]}]}, r"objects\[0\]: expected {label"),
        ({"objects": [_polygon("cat", 0, 0, 1, 1)]}, r"objects\[0\]: unknown label 'cat'; allowed are bicycle, bridge"),
        ({"objects": [_polygon("catgroup", 0, 0, 1, 1)]}, "unknown label 'catgroup'"),
    ],
)
def test_malformed_polygons(tree: Path, content: Any, message: str) -> None:
    _add_polygons(tree)
    path = _truth_path(tree, IMAGES["val"][0], "polygons.json", "val")
    size = {"imgHeight": HEIGHT, "imgWidth": WIDTH}
    path.write_text(json.dumps({**size, **content} if isinstance(content, dict) else content))
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset(tree, "val", target="boxes")
    assert str(caught.value).startswith(str(path))
    path.write_text("{")
    with pytest.raises(DatasetError, match="no valid JSON"):
        open_dataset(tree, "val", target="boxes")


@pytest.mark.parametrize(("kind", "target"), [("labelIds.png", "masks"), ("instanceIds.png", "boxes")])
def test_a_mask_of_another_size(images_only: Path, kind: str, target: Target) -> None:
    _add_truth(images_only, kind, np.full((HEIGHT, WIDTH + 1), 7, np.uint16 if target == "boxes" else np.uint8))
    with pytest.raises(DatasetError, match=f"gtFine_{kind}: 41x20 pixels, but the image .* has 40x20"):
        open_dataset(images_only, "val", target=target).load(0)


@pytest.mark.parametrize(("kind", "target"), [("labelIds.png", "masks"), ("instanceIds.png", "boxes")])
def test_a_missing_file(images_only: Path, kind: str, target: Target) -> None:
    _add_truth(images_only, kind, _label_ids())
    _truth_path(images_only, IMAGES["train"][1], kind, "train").unlink()
    what = "mask" if target == "masks" else kind
    message = rf"1 of 3 images have no {what}; the first is .*aachen_000001_000019_leftImg8bit\.png: .*_{kind} was exp"
    with pytest.raises(DatasetError, match=message):
        open_dataset(images_only, "train", target=target)


@pytest.mark.parametrize("target", ["masks", "boxes"])
def test_no_truth_at_all(images_only: Path, target: Target) -> None:
    with pytest.raises(
        DatasetError, match=r"gtFine/val: is missing; the truth about lindau_000000_000019.* in .*gtFine_"
    ):
        open_dataset(images_only, "val", target=target)
    _add_truth(images_only, "color.png", _label_ids())
    with pytest.raises(DatasetError, match="gtFine/val: has no such files"):
        open_dataset(images_only, "val", target=target)


def test_the_test_split_may_be_without_truth(tree: Path) -> None:
    (tree / "leftImg8bit/val").rename(tree / "leftImg8bit/test")
    with pytest.warns(UserWarning, match="leftImg8bit/test: 2 images without truth: they can be predicted, not judged"):
        dataset = open_dataset(tree, "test")
    assert dataset.category_ids[0] == 7
    mask = dataset.load(1).mask
    assert mask is not None
    assert mask.shape == (HEIGHT, WIDTH)
    assert set(mask.ravel().tolist()) == {IGNORE_INDEX}
    assert dataset.mask_path(0).endswith("gtFine/test/lindau/lindau_000000_000019_gtFine_labelIds.png")
    with pytest.warns(UserWarning, match="without truth"):
        assert not len(open_dataset(tree, "test", target="boxes").ground_truth(0).labels)


def test_the_dummies_of_the_official_test_split(tree: Path) -> None:
    """They hold labels that are not evaluated, and nothing else."""
    for folder in ("leftImg8bit", "gtFine"):
        (tree / folder / "val").rename(tree / folder / "test")
    dummy = np.full((HEIGHT, WIDTH), 3, np.uint8)
    dummy[15:] = 1
    for path in (tree / "gtFine/test").rglob("*_labelIds.png"):
        Image.fromarray(dummy).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = open_dataset(tree, "test")
    assert set(dataset.mask(0).ravel().tolist()) == {IGNORE_INDEX}


def test_cities_that_are_links(tree: Path) -> None:
    city = tree / "leftImg8bit/train/bochum"
    elsewhere = tree.parent / "elsewhere"
    city.rename(elsewhere)
    with pytest.raises(
        DatasetError, match=r"gtFine/train/bochum: there is no .*leftImg8bit/train/bochum with its imag"
    ):
        open_dataset(tree, "train")
    city.symlink_to(elsewhere)
    assert len(open_dataset(tree, "train")) == 3
    elsewhere.rename(tree.parent / "moved")
    with pytest.raises(DatasetError, match=r"train/bochum: a link that leads nowhere; .*elsewhere does not exist"):
        open_dataset(tree, "train")


def test_a_city_or_split_without_images(tree: Path) -> None:
    (tree / "leftImg8bit/train/empty").mkdir()
    with pytest.raises(DatasetError, match=r"train/empty: no images; their names end in _leftImg8bit\.png"):
        open_dataset(tree, "train")
    (tree / "leftImg8bit/test").mkdir()
    with pytest.raises(DatasetError, match="leftImg8bit/test: no cities; the images of test lie in a folder for each"):
        open_dataset(tree, "test")


def test_a_yaml_that_names_the_tree(tree: Path) -> None:
    path = tree.parent / "my.yaml"
    path.write_text("format: cityscapes\npath: cityscapes\n")
    assert open_dataset(path, "val").home == tree
    path.write_text("format: cityscapes\npath: .\n")
    with pytest.raises(
        DatasetError, match=r"no cityscapes data set; looked for \n  cityscapes: leftImg8bit/SPLIT/CITY"
    ):
        open_dataset(path, "val")


def test_instances_have_masks_of_their_visible_pixels(tree: Path) -> None:
    ids = _instances()
    _add_truth(tree, "instanceIds.png", ids.astype(np.uint16))
    dataset = open_dataset(tree, "val", target="instances")
    assert isinstance(dataset, Dataset)
    truth = dataset.ground_truth(0)
    assert truth.boxes_xywh.tolist() == [list(row[:4]) for row in EXPECTED_BOXES]
    persons = np.zeros_like(ids, bool)
    persons[9, 25] = True
    expected = [ids == 26000, ids == 26001, (ids == 24) & ~persons, persons, ids == 26]
    sample = dataset.load(0)
    assert sample.object_masks is not None
    assert np.array_equal(sample.object_masks, np.array(expected))
    assert sample.crowd.tolist() == [row[5] for row in EXPECTED_BOXES]
    boxes_only = open_dataset(tree, "val", target="boxes")
    assert isinstance(boxes_only, Dataset)
    assert boxes_only.segmentations(0) == [None] * 5, "what is not needed is not kept"


def test_instances_of_polygons_reach_behind_what_covers_them(tree: Path) -> None:
    _add_polygons(tree)
    dataset = open_dataset(tree, "val", target="instances")
    assert isinstance(dataset, Dataset)
    masks = dataset.ground_truth(0).masks
    assert masks is not None
    assert len(masks) == len(dataset.ground_truth(0).labels)
    assert masks[0].to_mask()[13:18, 31:39].all()


def test_check_finds_nothing_wrong_with_instances(tree: Path) -> None:
    _add_truth(tree, "instanceIds.png", _instances().astype(np.uint16))
    report = check_dataset(tree, target="instances", decode=False)
    assert {one.code for one in report.findings if one.severity == "error"} <= {"D201"}, "all images are gray alike"
    assert not [code for code in report.by_code() if code in ("D007", "D009", "D010", "D011", "D012", "D013")]
