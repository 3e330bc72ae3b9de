from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from detseg.runtime.sources.frames import Frame
from detseg.runtime.writers.boxes import CsvWriter
from detseg.runtime.writers.cells import as_text_cell
from detseg.runtime.writers.volumes import TableWriter
from detseg.structures import Detections
from detseg.volumes import LabelVolume, Volume


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_what_begins_as_a_formula_gets_a_quote(text: str) -> None:
    assert as_text_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "a=1", "1-1", " =1", "größe", "'=1", "dir/-a.jpg"])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert as_text_cell(text) == text


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_names_but_no_numbers_of_boxes(tmp_path: Path) -> None:
    found = Detections(np.array([[-5.5, -2, 3, 4]], np.float32), np.ones(1, np.float32), np.array([0]))
    with CsvWriter(tmp_path / "a.csv", ["=HYPERLINK(1)"]) as writer:
        writer.write(Frame(np.zeros((9, 9, 3), np.uint8), "-a\udce4.jpg"), found)
    (row,) = rows_of(tmp_path / "a.csv")[1:]
    assert row[0] == "'-a\\udce4.jpg"
    assert row[3:9] == ["'=HYPERLINK(1)", "1.0", "-5.5", "-2.0", "3.0", "4.0"]


def test_names_in_the_table_of_volumes(tmp_path: Path) -> None:
    labels = np.ones((2, 2, 2), np.uint8)
    with TableWriter(tmp_path, ["background", "@class"]) as writer:
        volume = Volume(labels.astype(np.float32), np.eye(4))
        writer.write(Frame(volume, "=a.nii"), LabelVolume(labels, np.eye(4)))
    head, row = rows_of(tmp_path / "volumes.csv")
    assert head[-2:] == ["'@class_voxels", "'@class_ml"]
    assert row == ["'=a.nii", "1.0", "1.0", "1.0", "8", "0.008"]
