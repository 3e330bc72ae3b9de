"""Data sets as LabelMe, CreateML, CVAT, Supervisely and VIA write them; the numbers are computed by hand."""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detseg.data.check import check_dataset
from detseg.data.open import available_splits, open_dataset
from detseg.data.source import DatasetError
from detseg.data.split import split_dataset
from detseg.runtime.media.images import write_image

HEIGHT, WIDTH = 48, 64
BOX = [20, 12, 24, 20]
"""Left, top, width and height of the object in every image."""
CORNERS = [[20, 12], [44, 12], [44, 32], [20, 32]]


def some_image(path: Path) -> None:
    seed = zlib.crc32(str(path).encode())
    write_image(path, np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()


def label_me(name: str, *shapes: Any, **changed: Any) -> dict[str, Any]:
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes) or [label_me_shape("polygon", CORNERS)],
        "imagePath": name,
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        **changed,
    }


def label_me_shape(kind: str, points: Any, label: Any = "cat", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def make_label_me(root: Path, **changed: Any) -> None:
    for name in "abcd":
        some_image(root / f"{name}.jpg")
        write(root / f"{name}.json", label_me(f"{name}.jpg", **changed))


def make_label_me_apart(root: Path) -> None:
    for name in "abcd":
        some_image(root / f"images/{name}.jpg")
        write(root / f"annotations/{name}.json", label_me(f"..\\images\\{name}.jpg"))


def make_label_me_renamed(root: Path) -> None:
    make_label_me(root, imagePath="C:\\Users\\me\\Desktop\\old.jpg")


def create_ml(names: str, **changed: Any) -> list[dict[str, Any]]:
    """Middle at 32, 22."""
    place = {"x": 32, "y": 22, "width": 24, "height": 20, **changed}
    return [{"image": f"{name}.jpg", "annotations": [{"label": "cat", "coordinates": place}]} for name in names]


def make_create_ml(root: Path) -> None:
    for name in "abcd":
        some_image(root / f"{name}.jpg")
    write(root / "annotations.json", create_ml("abcd"))


def make_create_ml_of_roboflow(root: Path) -> None:
    for split, names in (("train", "abc"), ("valid", "d")):
        for name in names:
            some_image(root / f"{split}/{name}.jpg")
        write(root / f"{split}/_annotations.createml.json", create_ml(names))


CVAT_BOX = '<box label="cat" source="manual" occluded="0" xtl="20.00" ytl="12.00" xbr="44.00" ybr="32.00" z_order="0"/>'


def cvat(images: str, labels: str = "cat") -> str:
    listed = "".join(f"<label><name>{one}</name><attributes/></label>" for one in labels.split(","))
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta><task>'
        f"<name>a task</name><labels>{listed}</labels></task></meta>{images}</annotations>"
    )


def cvat_image(name: str, inner: str = CVAT_BOX, more: str = "") -> str:
    return f'<image id="0" name="{name}" {more} width="{WIDTH}" height="{HEIGHT}">{inner}</image>'


def make_cvat(root: Path) -> None:
    for name in "abcd":
        some_image(root / f"images/{name}.jpg")
    write(root / "annotations.xml", cvat("".join(cvat_image(f"{name}.jpg") for name in "abcd")))


def make_cvat_of_a_project(root: Path) -> None:
    images = ""
    for subset, names in (("Train", "abc"), ("Validation", "d")):
        for name in names:
            some_image(root / f"images/{subset}/{name}.jpg")
            images += cvat_image(f"{name}.jpg", more=f'subset="{subset}" task_id="1"')
    write(root / "annotations.xml", cvat(images))


def supervisely(*objects: Any) -> dict[str, Any]:
    shapes = list(objects) or [supervisely_object("rectangle", points=points_of([[20, 12], [44, 32]]))]
    return {"description": "", "tags": [], "size": {"height": HEIGHT, "width": WIDTH}, "objects": shapes}


def points_of(exterior: Any, *interior: Any) -> dict[str, Any]:
    return {"exterior": exterior, "interior": list(interior)}


def supervisely_object(kind: str, label: Any = "cat", **more: Any) -> dict[str, Any]:
    return {"id": 7, "classTitle": label, "geometryType": kind, "tags": [], **more}


def make_supervisely(root: Path, folders: tuple[str, ...] = ("ds0",)) -> None:
    write(root / "meta.json", {"classes": [{"title": "cat", "shape": "any", "color": "#FF0000"}], "tags": []})
    for number, name in enumerate("abcd"):
        folder = root / folders[number % len(folders)]
        some_image(folder / f"img/{name}.jpg")
        write(folder / f"ann/{name}.jpg.json", supervisely())


def make_supervisely_with_splits(root: Path) -> None:
    make_supervisely(root, ("train", "val"))


def via(names: str, *regions: Any) -> dict[str, Any]:
    found = list(regions) or [via_region({"name": "rect", "x": 20, "y": 12, "width": 24, "height": 20})]
    return {
        f"{name}.jpg123": {"filename": f"{name}.jpg", "size": 123, "regions": found, "file_attributes": {}}
        for name in names
    }


def via_region(shape: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes or {"animal": "cat"}}


def make_via(root: Path) -> None:
    for name in "abcd":
        some_image(root / f"{name}.jpg")
    write(root / "via_export_json.json", via("abcd"))


def make_via_project(root: Path) -> None:
    for name in "abcd":
        some_image(root / f"{name}.jpg")
    write(root / "my.json", {"_via_settings": {"ui": {}}, "_via_img_metadata": via("abcd"), "_via_attributes": {}})


def make_via_1(root: Path) -> None:
    for split, names in (("train", "abc"), ("val", "d")):
        entries = via(names)
        for name in names:
            some_image(root / f"{split}/{name}.jpg")
            entries[f"{name}.jpg123"]["regions"] = {"0": entries[f"{name}.jpg123"]["regions"][0]}
        write(root / f"{split}/via_region_data.json", entries)


UNDIVIDED = {"all": 4}


@pytest.mark.parametrize(
    ("make", "splits"),
    [
        (make_label_me, UNDIVIDED),
        (make_label_me_apart, UNDIVIDED),
        (make_label_me_renamed, UNDIVIDED),
        (lambda root: [make_label_me(root / "train"), make_label_me(root / "val" / "inner")], {"train": 4, "val": 4}),
        (lambda root: [make_label_me(root / "monday"), make_label_me(root / "tuesday")], {"all": 8}),
        (make_create_ml, UNDIVIDED),
        (make_create_ml_of_roboflow, {"train": 3, "valid": 1}),
        (make_cvat, UNDIVIDED),
        (make_cvat_of_a_project, {"train": 3, "validation": 1}),
        (make_supervisely, UNDIVIDED),
        (make_supervisely_with_splits, {"train": 2, "val": 2}),
        (lambda root: make_supervisely(root, ("first", "second/datasets/inner")), UNDIVIDED),
        (make_via, UNDIVIDED),
        (make_via_project, UNDIVIDED),
        (make_via_1, {"train": 3, "val": 1}),
    ],
)
def test_layouts(tmp_path: Path, make: Callable[[Path], object], splits: dict[str, int]) -> None:
    root = tmp_path / "data"
    make(root)
    assert available_splits(root) == tuple(splits)
    assert [one for one in check_dataset(root).findings if one.code != "D203"] == []
    for split, count in splits.items():
        dataset = open_dataset(root, split)
        assert (len(dataset), dataset.class_names) == (count, ("cat",))
        for index in range(count):
            assert dataset.load(index).boxes_xyxy.tolist() == [[20, 12, 44, 32]]
    new = split_dataset(root, "5:5", 0, tmp_path / "new").yaml_path
    assert sum(len(open_dataset(new, name)) for name in ("train", "val")) == sum(splits.values())
    assert open_dataset(new, "val").load(0).boxes_xyxy.tolist() == [[20, 12, 44, 32]]


def in_label_me(root: Path, *shapes: Any) -> None:
    some_image(root / "a.jpg")
    write(root / "a.json", label_me("a.jpg", *shapes))


def in_cvat(root: Path, inner: str) -> None:
    some_image(root / "images/a.jpg")
    write(root / "annotations.xml", cvat(cvat_image("a.jpg", inner)))


def in_supervisely(root: Path, *objects: Any) -> None:
    make_supervisely(root)
    for name in "bcd":
        (root / f"ds0/ann/{name}.jpg.json").unlink()
        (root / f"ds0/img/{name}.jpg").unlink()
    write(root / "ds0/ann/a.jpg.json", supervisely(*objects))


def in_via(root: Path, *regions: Any) -> None:
    some_image(root / "a.jpg")
    write(root / "via_region_data.json", via("a", *regions))


BLOCK = np.ones((4, 6), bool)
BLOCK[0, 0] = False
PACKED = {"data": base64.b64encode(zlib.compress(png(BLOCK))).decode(), "origin": [10, 8]}
RING = points_of(CORNERS, [[30, 20], [34, 20], [34, 26], [30, 26]])


@pytest.mark.parametrize(
    ("make", "box", "area"),
    [
        (lambda root: in_label_me(root, label_me_shape("rectangle", [[44, 32], [20, 12]])), BOX, None),
        (lambda root: in_label_me(root, label_me_shape("rectangle", CORNERS)), BOX, None),
        (lambda root: in_label_me(root, label_me_shape("polygon", CORNERS)), BOX, 480),
        # A circle of radius 5 has an area of 78.5.
        (lambda root: in_label_me(root, label_me_shape("circle", [[30, 20], [33, 24]])), [25, 15, 10, 10], 78.5),
        (
            lambda root: in_label_me(
                root, label_me_shape("mask", [[10, 8], [15, 11]], mask=base64.b64encode(png(BLOCK)).decode())
            ),
            [10, 8, 6, 4],
            23,
        ),
        (lambda root: in_cvat(root, CVAT_BOX), BOX, None),
        # Turned by a quarter about its middle, 32 and 22, width and height change places.
        (lambda root: in_cvat(root, CVAT_BOX.replace("/>", ' rotation="90.0"/>')), [22, 10, 20, 24], 480),
        (
            lambda root: in_cvat(root, '<polygon label="cat" points="20.0,12.0;44.0,12.0;44.0,32.0;20.0,32.0"/>'),
            BOX,
            480,
        ),
        (
            lambda root: in_cvat(
                root, '<mask label="cat" rle="1, 23" left="10" top="8" width="6" height="4" source="manual"/>'
            ),
            [10, 8, 6, 4],
            23,
        ),
        # pi * 10 * 5
        (lambda root: in_cvat(root, '<ellipse label="cat" cx="30" cy="20" rx="10" ry="5"/>'), [20, 15, 20, 10], 157.1),
        (
            lambda root: in_cvat(root, '<ellipse label="cat" cx="30" cy="20" rx="10" ry="5" rotation="90"/>'),
            [25, 10, 10, 20],
            157.1,
        ),
        (lambda root: in_supervisely(root, supervisely_object("polygon", points=points_of(CORNERS))), BOX, 480),
        # The hole takes 4 x 6 pixels.
        (lambda root: in_supervisely(root, supervisely_object("polygon", points=RING)), BOX, 456),
        (lambda root: in_supervisely(root, supervisely_object("bitmap", bitmap=PACKED)), [10, 8, 6, 4], 23),
        (
            lambda root: in_via(
                root,
                via_region({"name": "polygon", "all_points_x": [20, 44, 44, 20], "all_points_y": [12, 12, 32, 32]}),
            ),
            BOX,
            480,
        ),
        (lambda root: in_via(root, via_region({"name": "circle", "cx": 30, "cy": 20, "r": 5})), [25, 15, 10, 10], 78.5),
        (
            lambda root: in_via(root, via_region({"name": "ellipse", "cx": 30, "cy": 20, "rx": 10, "ry": 5})),
            [20, 15, 20, 10],
            157.1,
        ),
    ],
)
def test_shapes(tmp_path: Path, make: Callable[[Path], object], box: list[float], area: float | None) -> None:
    make(tmp_path)
    assert check_dataset(tmp_path).findings == ()
    truth = open_dataset(tmp_path, "all").ground_truth(0)
    assert truth.boxes_xywh == pytest.approx(np.array([box]), abs=1e-6)
    if area is None:
        with pytest.raises(DatasetError, match="has no outline, which instances are learned from"):
            open_dataset(tmp_path, "all", target="instances")
        return
    (mask,) = open_dataset(tmp_path, "all", target="instances").object_masks(0)
    assert mask.area == pytest.approx(area, rel=0.04 if area % 1 else 0)


@pytest.mark.parametrize(
    ("make", "area"),
    [
        (make_label_me, 480),
        (lambda root: make_supervisely_with(root, supervisely_object("bitmap", bitmap=PACKED)), 23),
    ],
)
def test_new_splits_keep_outlines(tmp_path: Path, make: Callable[[Path], object], area: int) -> None:
    root = tmp_path / "data"
    make(root)
    new = split_dataset(root, "5:5", 0, tmp_path / "new").yaml_path
    dataset = open_dataset(new, "val", target="instances")
    assert [mask.area for index in range(2) for mask in dataset.object_masks(index)] == [area, area]


def make_supervisely_with(root: Path, *objects: Any) -> None:
    make_supervisely(root)
    for name in "abcd":
        write(root / f"ds0/ann/{name}.jpg.json", supervisely(*objects))


def labels_of(root: Path) -> list[str]:
    dataset = open_dataset(root, "all")
    return [dataset.class_names[label] for label in dataset.ground_truth(0).labels]


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        # The balloons of a well-known tutorial have no attributes.
        ([{"shape_attributes": {"name": "circle", "cx": 30, "cy": 20, "r": 5}, "region_attributes": {}}], ["object"]),
        ([via_region({"name": "circle", "cx": 30, "cy": 20, "r": 5}, label="cat", quality="good")], ["cat"]),
        ([via_region({"name": "circle", "cx": 30, "cy": 20, "r": 5}, kind={"cat": True, "dog": False})], ["cat"]),
    ],
)
def test_which_attribute_of_via_is_the_class(tmp_path: Path, regions: list[Any], expected: list[str]) -> None:
    in_via(tmp_path, *regions)
    assert labels_of(tmp_path) == expected


def test_classes_are_in_the_order_of_the_program_or_of_the_yaml(tmp_path: Path) -> None:
    some_image(tmp_path / "images/a.jpg")
    write(tmp_path / "annotations.xml", cvat(cvat_image("a.jpg"), labels="dog,cat"))
    assert open_dataset(tmp_path, "all").class_names == ("dog", "cat")
    write(tmp_path / "my.yaml", f"format: cvat\npath: {tmp_path}\nnames: [bird, cat]\n")
    assert open_dataset(tmp_path / "my.yaml", "all").class_names == ("bird", "cat")
    write(tmp_path / "my.yaml", f"format: cvat\npath: {tmp_path}\nclasses: {{dog: cat}}\n")
    assert open_dataset(tmp_path / "my.yaml", "all").class_names == ("cat",)


@pytest.mark.parametrize(
    "make",
    [
        lambda root: in_label_me(root, label_me_shape("point", [[3, 4]]), label_me_shape("rectangle", CORNERS)),
        lambda root: in_cvat(root, f'<polyline label="cat" points="1,2;3,4"/>{CVAT_BOX}<tag label="cat"/>'),
        lambda root: in_supervisely(
            root,
            supervisely_object("line", points=points_of([[1, 2], [3, 4]])),
            supervisely_object("rectangle", points=points_of([[20, 12], [44, 32]])),
        ),
        lambda root: in_via(
            root,
            via_region({"name": "point", "cx": 1, "cy": 2}),
            via_region({"name": "rect", "x": 20, "y": 12, "width": 24, "height": 20}),
        ),
    ],
)
def test_what_encloses_nothing_is_told_and_left_out(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path)
    assert {one.code for one in check_dataset(tmp_path).findings} == {"D014"}
    assert open_dataset(tmp_path, "all").load(0).boxes_xyxy.tolist() == [[20, 12, 44, 32]]


def damaged(path: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / path).write_text(text)


@pytest.mark.parametrize(
    ("make", "break_it", "code", "message"),
    [
        (make_label_me, damaged("a.json", "{"), "D100", "no valid JSON: .* at line 1"),
        (make_label_me, damaged("a.json", "[]"), "D100", r"the file must be an object, got \[\]"),
        (make_label_me, damaged("a.json", '{"a": 1}'), "D100", "shapes must be a list, got None"),
        (make_via, damaged("via_export_json.json", '{"filename": "shape_attributes"'), "D100", "no valid JSON"),
        (make_cvat, damaged("annotations.xml", "<annotations><version>1.1</version><meta>"), "D100", "no valid XML"),
        (make_supervisely, damaged("meta.json", "{}"), "D100", r"classes in meta\.json must be a list, got None"),
        (make_supervisely, damaged("ds0/ann/a.jpg.json", "{}"), "D100", "objects must be a list"),
    ],
)
def test_files_that_cannot_be_read(
    tmp_path: Path, make: Callable[[Path], object], break_it: Callable[[Path], object], code: str, message: str
) -> None:
    make(tmp_path)
    break_it(tmp_path)
    assert code in [one.code for one in check_dataset(tmp_path).findings]
    with pytest.raises(DatasetError, match=message):
        open_dataset(tmp_path, "all")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: in_label_me(root, label_me_shape("polygon", [[1, 2], [3, 4]])), "three corners or more"),
        (lambda root: in_label_me(root, label_me_shape("rectangle", [[1, 2]])), "a box must have two corners"),
        (lambda root: in_label_me(root, label_me_shape("rectangle", [[1, 2], [3, None]])), "a box must have two"),
        (lambda root: in_label_me(root, label_me_shape("circle", [[1, 2], [1, 2]])), "radii over 0"),
        (lambda root: in_label_me(root, label_me_shape("rectangle", CORNERS, label="")), "no shape has a class"),
        (
            lambda root: in_label_me(
                root, label_me_shape("rectangle", CORNERS), label_me_shape("rectangle", CORNERS, label=None)
            ),
            "a shape without a class",
        ),
        (lambda root: in_label_me(root, label_me_shape("mask", [[1, 2], [3, 4]], mask="?")), "the mask cannot be used"),
        (lambda root: in_cvat(root, '<mask label="cat" rle="1,2" left="1" top="1" width="6" height="4"/>'), "add up"),
        (lambda root: in_cvat(root, '<box label="cat" xtl="1" ytl="2" xbr="3"/>'), "a box must have two corners"),
        (
            lambda root: in_supervisely(root, supervisely_object("bitmap", bitmap={"data": "", "origin": [1, 2]})),
            "the mask cannot be used",
        ),
        (lambda root: in_via(root, via_region({"name": "rect", "x": 1, "y": 2})), "a rect must have x, y"),
        (
            lambda root: in_via(root, via_region({"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1]})),
            "lists of one length",
        ),
    ],
)
def test_shapes_that_are_none(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path)
    assert {"D005", "D100"} & {one.code for one in check_dataset(tmp_path).findings}
    with pytest.raises(DatasetError, match=message):
        open_dataset(tmp_path, "all")


def test_via_with_several_attributes_asks_which_one_is_the_class(tmp_path: Path) -> None:
    in_via(tmp_path, via_region({"name": "circle", "cx": 30, "cy": 20, "r": 5}, color="red", size="big"))
    with pytest.raises(DatasetError, match="any of the attributes color, size of regions may be their class"):
        open_dataset(tmp_path, "all")


def test_tracks_of_cvat_are_refused_by_name(tmp_path: Path) -> None:
    track = '<track id="0" label="cat"><box frame="0" outside="0" xtl="1" ytl="2" xbr="3" ybr="4"/></track>'
    write(tmp_path / "annotations.xml", cvat(track))
    with pytest.raises(DatasetError, match="tracks in a video; export them as CVAT for images"):
        open_dataset(tmp_path, "all")


def test_a_document_type_is_refused(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY b "c">]><annotations>\n<version>1.1</version></annotations>'
    write(tmp_path / "annotations.xml", bomb)
    with pytest.raises(DatasetError, match="has a DOCTYPE"):
        open_dataset(tmp_path, "all")


@pytest.mark.parametrize("name", ["../out.jpg", "/etc/out.jpg", "..\\..\\out.jpg"])
def test_images_outside_of_the_data_set_are_not_read(tmp_path: Path, name: str) -> None:
    root = tmp_path / "data"
    some_image(tmp_path / "out.jpg")
    some_image(root / "a.jpg")
    entries = create_ml("a")
    entries[0]["image"] = name
    write(root / "annotations.json", entries)
    with pytest.raises(DatasetError, match="must lie inside"):
        open_dataset(root, "all")


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        (
            "export.json",
            '[{"id": 1, "image": "/data/upload/a.jpg", "label": [{"original_width": 640}]}]',
            "Label Studio",
        ),
        ("train.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n", "train.csv is a table of boxes: export"),
        ("train-annotations-bbox.csv", "ImageID,Source,LabelName,Confidence,XMin,XMax\n", "boxes of Open Images"),
        ("via_export.csv", "filename,file_size,region_count,region_shape_attributes\n", "which is read as JSON"),
        ("train/cells.tfrecord", "\0", "cells.tfrecord is a file with records of TensorFlow: export"),
    ],
)
def test_other_programs_are_refused_by_name(tmp_path: Path, name: str, content: str, advice: str) -> None:
    some_image(tmp_path / "train/a.jpg")
    write(tmp_path / name, content)
    with pytest.raises(DatasetError, match=f"(?s)no data set in a known layout; .*{advice}"):
        check_dataset(tmp_path)
