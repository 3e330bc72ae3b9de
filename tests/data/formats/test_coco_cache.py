"""What was read of a large file is kept, for as long as it is what the file holds."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.data.datasets.kept_arrays import trim
from detseg.data.formats import coco_cache
from detseg.data.formats.coco import coco_records
from detseg.data.formats.coco_cache import load_columns, open_columns
from detseg.data.formats.coco_columns import CocoColumns, read_columns

MAX_BYTES = 10**7


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(coco_cache, "MIN_BYTES", 100)
    monkeypatch.setenv("DETSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "coco"


def write(folder: Path, num_objects: int = 3) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "ä.jpg").touch()
    document = {
        "images": [{"id": number, "file_name": "ä.jpg", "height": 20, "width": 40} for number in (5, 3)],
        "categories": [{"id": 7, "name": "straße"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"id": number, "image_id": 3 + 2 * (number % 2), "category_id": 2 + 5 * (number % 2), "area": number / 3,
             "bbox": [1, 2, 3, number], "iscrowd": number % 2, "segmentation": [[1, 2, 3, 4, 5, number]]}
            for number in range(num_objects)
        ],
    }  # fmt: skip
    path = folder / "instances.json"
    path.write_text(json.dumps(document))
    return path


def open_twice(path: Path) -> CocoColumns:
    first, second = (open_columns(path, MAX_BYTES, path.parent) for _ in range(2))
    assert first is not None
    assert second is not None
    return second


def values(columns: CocoColumns) -> dict[str, Any]:
    packed = columns.packed
    names = ("image_ids", "heights", "widths", "offsets", "boxes_xywh", "labels", "crowd", "difficult", "areas")
    outlines = [packed.segmentations[row] for row in range(len(packed.labels))]
    return {
        **{name: (getattr(packed, name).dtype, getattr(packed, name).tolist()) for name in (*names, "annotation_ids")},
        "names": [packed.names[index] for index in range(len(packed))],
        "outlines": [None if outline is None else np.asarray(outline).tolist() for outline in outlines],
        "categories": columns.categories,
        "category_ids": columns.category_ids.tolist(),
    }


@pytest.mark.parametrize("num_objects", [0, 1, 50])
def test_what_was_kept_is_what_was_read(tmp_path: Path, cache: Path, num_objects: int) -> None:
    path = write(tmp_path / "data", num_objects)
    read = read_columns(path, MAX_BYTES)
    assert read is not None
    kept = open_twice(path)
    assert values(kept) == values(read)
    assert len(list(cache.iterdir())) == 1
    assert {path.name for path in path.parent.iterdir()} == {"ä.jpg", "instances.json"}
    # All processes that open it share the pages of the file; none can change them.
    assert not kept.packed.boxes_xywh.flags.writeable


def test_records_are_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "data", 20)
    first, second = (coco_records(path, [path.parent], "val").to_dataset() for _ in range(2))
    for index in range(len(first)):
        one, other = first.ground_truth(index), second.ground_truth(index)
        assert one.boxes_xywh.tolist() == other.boxes_xywh.tolist()
        assert one.labels.tolist() == other.labels.tolist()
    assert first.class_names == second.class_names == ("cat", "straße")


def test_it_is_known_by_content(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "data")
    open_twice(path)
    # The same content elsewhere is the same; outlines are read where it is now.
    moved = path.rename(tmp_path / "data" / "moved.json")
    assert values(open_twice(moved))["outlines"][0] == [[[1, 2], [3, 4], [5, 1]]]
    assert len(list(cache.iterdir())) == 1
    # Other content of the same length and time is another.
    status = moved.stat()
    moved.write_text(moved.read_text().replace("[1, 2, 3, 1]", "[1, 2, 3, 9]"))
    os.utime(moved, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert moved.stat().st_size == status.st_size
    assert [1, 2, 3, 9] in values(open_twice(moved))["boxes_xywh"][1]
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:10],
        lambda content: content[:-1],
        lambda content: content[:-200] + bytes([content[-200] ^ 1]) + content[-199:],
        lambda content: content[:40] + b"}" + content[41:],
        lambda content: content.replace(b"detseg coco 1", b"detseg coco 0"),
        lambda content: content.replace(b'"crc32"', b'"crc33"'),
        lambda content: content + b"\0",
    ],
)
def test_what_is_damaged_or_of_another_version_is_made_again(
    tmp_path: Path, cache: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = write(tmp_path / "data", 30)
    expected = values(open_twice(path))
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    assert load_columns(kept, path, path.stat()) is None
    assert values(open_twice(path)) == expected
    assert kept.read_bytes() == whole


def test_small_files_and_unusual_ones_are_not_kept(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "data")
    path.write_text(path.read_text().replace('"height": 20', '"height": "20"'))
    assert open_columns(path, MAX_BYTES, path.parent) is None
    monkeypatch.setattr(coco_cache, "MIN_BYTES", 10**6)
    assert open_columns(write(tmp_path / "data"), MAX_BYTES, path.parent) is not None
    assert open_columns(tmp_path / "nowhere.json", MAX_BYTES, path.parent) is None
    assert not cache.exists()


def test_nothing_is_kept_in_the_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "data")
    monkeypatch.setenv("DETSEG_CACHE", str(path.parent / "cache"))
    with pytest.warns(UserWarning, match="is inside the data set .*, which is never written to; DETSEG_CACHE names"):
        assert open_columns(path, MAX_BYTES, path.parent) is not None
    assert not (path.parent / "cache").exists()


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "data")
    (tmp_path / "file").touch()
    monkeypatch.setenv("DETSEG_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="not kept for the next time: .*; DETSEG_CACHE names another folder"):
        assert open_columns(path, MAX_BYTES, path.parent) is not None


def test_the_size_is_bounded(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path / f"data{number}", number) for number in range(5)]
    for age, path in enumerate(paths):
        open_twice(path)
        for kept in cache.iterdir():
            os.utime(kept, ns=(0, kept.stat().st_mtime_ns - 10**9 * (5 - age)))
    sizes = {kept: kept.stat().st_size for kept in cache.iterdir()}
    assert len(sizes) == 5
    (cache / "of the user").write_bytes(bytes(10**6))
    by_age = sorted(sizes, key=lambda kept: kept.stat().st_mtime_ns)
    trim(cache, sum(sizes[kept] for kept in by_age[3:]))
    assert set(cache.iterdir()) == {*by_age[3:], cache / "of the user"}
    monkeypatch.setattr(coco_cache, "MAX_CACHE_BYTES", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_columns(paths[0], MAX_BYTES, tmp_path / "data0") is not None
    assert set(cache.iterdir()) == {cache / "of the user"}
