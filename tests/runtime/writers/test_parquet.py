"""Rows of objects: as they come, after a run that was ended, and put together. Needs pyarrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.run_lengths import RunLengths
from detseg.runtime.sources.frames import Frame, StreamInfo
from detseg.runtime.writers.instances import mask_runs
from detseg.runtime.writers.parquet import GrowingParquet, ParquetWriter, read_rows, unfinish_parquet
from detseg.structures import Detections, Instances

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow, the extra parquet, is not installed")
parquet = pytest.importorskip("pyarrow.parquet")

NAMES = ("cat", "dog")
IMAGE = np.zeros((40, 80, 3), np.uint8)
STILL = Frame(IMAGE, "in/a, b.jpg", Path("in/a, b.jpg"))
MOVING = Frame(IMAGE, "walk.mp4", Path("walk.mp4"), 7, 0.28, StreamInfo(25.0, 80, 40))
BOXES = np.array([[10, 10, 30, 20], [0, 0.1, 80, 40]], np.float32)
SCORES, LABELS = np.array([0.9, 0.123456789], np.float32), np.array([1, 0])
FOUND = Detections(BOXES, SCORES, LABELS)


def written(folder: Path, *given: tuple[Frame, Detections], **settings: Any) -> Any:
    with ParquetWriter(folder / "objects.parquet", NAMES, **settings) as writer:
        for frame, result in given:
            writer.write(frame, result)
        assert not (folder / "objects.parquet").exists()
    assert [path.name for path in folder.iterdir()] == ["objects.parquet"]
    return parquet.read_table(folder / "objects.parquet")


def test_a_row_for_every_object(tmp_path: Path) -> None:
    tracked = Detections(BOXES, SCORES, LABELS, np.array([3, 0]))
    table = written(tmp_path, (STILL, FOUND), (STILL, Detections.empty()), (MOVING, tracked))
    rows = table.to_pylist()
    assert rows[0] == {
        "file": "in/a, b.jpg", "height": 40, "width": 80, "frame": None, "time_s": None, "class": "dog",
        "class_index": 1, "score": float(np.float32(0.9)), "left": 10, "top": 10, "right": 30, "bottom": 20,
        "track_id": None,
    }  # fmt: skip
    assert [(row["file"], row["frame"], row["time_s"], row["track_id"]) for row in rows[1:]] == [
        ("in/a, b.jpg", None, None, None), ("walk.mp4", 7, 0.28, 3), ("walk.mp4", 7, 0.28, None),
    ]  # fmt: skip
    assert rows[1]["score"] == float(SCORES[1]), "no digit is lost"
    assert [str(kind) for kind in table.schema.types[6:12]] == ["int32"] + ["float"] * 5


def test_masks_are_runs_of_coco(tmp_path: Path) -> None:
    mask = np.zeros((40, 80), bool)
    mask[:, 0] = True
    found = Instances(BOXES[:1], SCORES[:1], LABELS[:1], None, (RunLengths.from_mask(mask),))
    (row,) = written(tmp_path, (STILL, found), masks_of=mask_runs).to_pylist()
    assert row["mask"] == found.masks[0].to_coco()["counts"]


def test_no_objects_are_an_empty_table(tmp_path: Path) -> None:
    table = written(tmp_path, (STILL, Detections.empty()))
    assert (table.num_rows, table.num_columns) == (0, 13)


def test_what_an_exception_leaves_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    written(tmp_path / "a", (STILL, FOUND), (MOVING, FOUND))

    def broken_off() -> None:
        with ParquetWriter(tmp_path / "b" / "objects.parquet", NAMES) as writer:
            writer.write(STILL, FOUND)
            raise KeyError

    with pytest.raises(KeyError):
        broken_off()
    lines = (tmp_path / "b" / "objects.unfinished.jsonl").read_bytes()
    written(tmp_path / "b", (MOVING, FOUND), goes_on=True)
    assert (tmp_path / "b" / "objects.parquet").read_bytes() == (tmp_path / "a" / "objects.parquet").read_bytes()
    unfinish_parquet(tmp_path / "b" / "objects.parquet", tmp_path / "b" / "objects.unfinished.jsonl")
    assert (tmp_path / "b" / "objects.unfinished.jsonl").read_bytes().startswith(lines)
    assert not (tmp_path / "b" / "objects.parquet").exists()


def test_files_of_others_are_one_message(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"no table")
    parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "b.parquet")
    for name in ("a", "b"):
        with pytest.raises(ValueError, match=rf"{name}\.parquet: is not as detseg predict wrote it"):
            read_rows(tmp_path / f"{name}.parquet")


def test_more_rows_than_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detseg.runtime.writers.parquet._ROWS_AT_A_TIME", 3)
    rows = [["a", 4, 5, None, None, "cat", 0, 0.5, 1.0, 2.0, 3.0, number / 4, None] for number in range(8)]
    with GrowingParquet(tmp_path / "o.parquet") as table:
        table.append(rows)
    assert parquet.ParquetFile(tmp_path / "o.parquet").num_row_groups == 3
    has_masks, found = read_rows(tmp_path / "o.parquet")
    assert (has_masks, list(found)) == (False, rows)
