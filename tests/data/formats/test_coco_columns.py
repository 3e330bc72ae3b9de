"""A file that is read at once gives what the reader of single entries makes of it, and any other is left to that."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.data.datasets.outlines_in_file import OutlinesInFile
from detseg.data.formats import coco
from detseg.data.formats.coco_columns import read_columns
from detseg.data.records import BoxRecords
from detseg.data.source import DatasetError

OUTLINES: list[Any] = [
    None,
    [],
    [[1, 2, 3.5, 4, 5, 6]],
    [[0, 0, 1, 0, 1, 1], [5, 5, 6, 5, 6, 6, 5, 6]],
    [1, 2, 3, 4, 5, 6],
    {"counts": [3, 4], "size": [7, 1]},
    {"counts": 'abc\\]"}', "size": [7, 1]},
    [[]],
    # Of no use, which a check says.
    [[1, 2, 3]],
    [[1, "2"]],
    [[1e30, 0]],
    {"size": [1, 1]},
    "polygon",
    7,
]


def random_document(seed: int) -> dict[str, Any]:
    """A well-formed document, with names, ids and outlines of all kinds, and keys that nobody reads."""
    generator = random.Random(seed)
    image_ids = generator.sample([0, -5, 3, 17, 2**40, 2**62, 9], generator.randint(0, 7))
    category_ids = generator.sample([0, 1, 5, 90, 2**33], generator.randint(1, 5))
    categories = [
        {"id": number, "name": f"straße {number}", "supercategory": generator.choice(["none", "straße 0", "x"])}
        for number in category_ids
    ]
    images = [
        {"id": number, "file_name": f"{number}/ä.jpg", "height": 20, "width": 40, "segmentation": [[1, 2]]}
        for number in image_ids
    ]
    annotations = []
    for number in generator.sample(range(-50, 50), generator.randint(0, 30) if image_ids else 0):
        entry: dict[str, Any] = {
            "id": number,
            "image_id": generator.choice(image_ids),
            "category_id": generator.choice(category_ids[-2:]),
            "bbox": [generator.choice([0, 1, 2.5, -3, 1e7]) for _ in range(4)],
            "note": {"segmentation": "of no meaning", "id": 3},
        }
        for key, values in (("area", [0, 12, 3.25, None]), ("iscrowd", [0, 1, None]), ("segmentation", OUTLINES)):
            if generator.random() < 0.8:
                entry[key] = generator.choice(values)
        annotations.append(dict(generator.sample(list(entry.items()), len(entry))))
    document = {"info": None, "images": images, "annotations": annotations, "categories": categories}
    return dict(generator.sample(list(document.items()), 4))


def both_ways(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[BoxRecords, BoxRecords]:
    at_once = coco.coco_records(path, [path.parent], "val")
    with monkeypatch.context() as context:
        context.setattr(coco, "open_columns", lambda path, max_bytes, home: None)
        carefully = coco.coco_records(path, [path.parent], "val")
    for records in (at_once, carefully):
        records.read_rest()
    return at_once, carefully


def require_equal(one: BoxRecords, other: BoxRecords) -> None:
    assert (one.class_names, one.category_ids, one.root) == (other.class_names, other.category_ids, other.root)
    assert (one.sources, one.states_size) == (other.sources, other.states_size)
    by_code = lambda records: sorted(records.findings, key=lambda finding: finding.code)  # noqa: E731
    assert by_code(one) == by_code(other)
    assert one.paths() == other.paths()
    for field in fields(one.packed):
        ours, theirs = getattr(one.packed, field.name), getattr(other.packed, field.name)
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype, field.name
            np.testing.assert_array_equal(ours, theirs, err_msg=field.name)
    for row in range(len(one.packed.labels)):
        ours, theirs = one.packed.segmentations[row], other.packed.segmentations[row]
        if isinstance(theirs, list):
            assert [points.tolist() for points in ours] == [points.tolist() for points in theirs]
        else:
            assert ours == theirs


@pytest.mark.parametrize("layout", [{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}])
def test_both_readers_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: dict[str, Any]) -> None:
    path, num_outlines, num_found = tmp_path / "a.json", 0, 0
    for seed in range(60):
        document = random_document(seed)
        for image in document["images"][:1]:
            (tmp_path / image["file_name"]).parent.mkdir(exist_ok=True)
            (tmp_path / image["file_name"]).touch()
        path.write_text(json.dumps(document, **layout), encoding="utf-8")
        assert read_columns(path, 10**6) is not None
        at_once, carefully = both_ways(path, monkeypatch)
        require_equal(at_once, carefully)
        assert isinstance(at_once.packed.segmentations, OutlinesInFile)
        num_outlines += sum(at_once.packed.segmentations[row] is not None for row in range(len(at_once.packed.labels)))
        num_found += len(at_once.findings)
    assert num_outlines > 100
    assert num_found > 50


PLAIN = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 20, "width": 40}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
}


def changed(table: str, key: str, value: object) -> dict[str, Any]:
    document = json.loads(json.dumps(PLAIN))
    document[table][0][key] = value
    return document


UNUSUAL: dict[str, Any] = {
    **{f"image {key} {value!r}": changed("images", key, value) for key, value in [
        ("id", "1"), ("id", 2), ("id", 2**63), ("file_name", None), ("file_name", "../a.jpg"), ("file_name", ""),
        ("file_name", "/a.jpg"), ("file_name", "b\\a.jpg"), ("file_name", "C:a.jpg"), ("height", 0), ("width", None),
        ("width", 1_000_001),
    ]},
    **{f"category {key} {value!r}": changed("categories", key, value) for key, value in [
        ("id", "1"), ("id", True), ("id", 2), ("name", 7), ("name", "")
    ]},
    **{f"annotation {key} {value!r}": changed("annotations", key, value) for key, value in [
        ("id", 1.5), ("id", -(2**63)), ("image_id", None), ("category_id", 7), ("bbox", None), ("bbox", [1, 2, 3]),
        ("bbox", [1, 2, 3, 1e8]), ("bbox", [1, 2, 3, True]), ("area", -1), ("area", 1e16), ("area", "4"),
        ("iscrowd", 2), ("iscrowd", True), ("iscrowd", 200), ("bbox", [1, 2, 3, float("nan")]),
    ]},
    "ids twice": {**PLAIN, "images": PLAIN["images"] * 2},
    "annotations twice": {**PLAIN, "annotations": PLAIN["annotations"] * 2},
    "no annotations": {"images": [], "categories": []},
    "a list": [],
}  # fmt: skip


@pytest.mark.parametrize("document", UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_unusual_is_read_with_care(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: Any) -> None:
    path = tmp_path / "a.json"
    (tmp_path / "a.jpg").touch()
    path.write_text(json.dumps(document))
    require_equal(*both_ways(path, monkeypatch))
    columns = read_columns(path, 10**6)
    assert columns is None or document["categories"][0]["name"] == ""


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.decode().encode("utf-16"),
        lambda text: text[:-1] + b', "info": "\xff"}',
        lambda text: text[:-1] + b', "info": NaN}',
        lambda text: text[:-3],
        lambda text: text + b" {}",
        lambda text: b"",
    ],
)
def test_what_is_no_usual_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "a.json"
    (tmp_path / "a.jpg").touch()
    path.write_bytes(spoil(json.dumps(PLAIN).encode()))
    assert read_columns(path, 10**6) is None
    require_equal(*both_ways(path, monkeypatch))


def test_too_large_or_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert read_columns(path, 10**6) is None
    path.write_text(json.dumps(PLAIN))
    assert read_columns(path, path.stat().st_size) is not None
    assert read_columns(path, path.stat().st_size - 1) is None


def test_outlines_of_a_file_that_changed_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(changed("annotations", "segmentation", [[1, 2, 3, 4, 5, 6]])))
    columns = read_columns(path, 10**6)
    assert columns is not None
    outlines = columns.packed.segmentations
    assert np.asarray(outlines[0]).tolist() == [[[1, 2], [3, 4], [5, 6]]]
    os.utime(path, ns=(0, 0))
    with pytest.raises(DatasetError, match=r"a\.json has changed since it was opened"):
        outlines[0]
    path.unlink()
    with pytest.raises(DatasetError, match=r"a\.json: its outlines cannot be read: No such file"):
        outlines[0]
