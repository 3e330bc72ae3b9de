from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from detseg.runtime.postprocess.class_settings import (
    below,
    confidences_of,
    describe_confidences,
    reaches,
    read_confidences,
    require_class_settings,
    require_in_graph,
    settle,
)
from detseg.structures import Detections

NAMES = ("a", "b", "c")


def test_confidences_of_a_report_and_of_a_list(tmp_path: Path) -> None:
    report = {"AP": 0.5, "F1_confidence": 0.3, "F1_confidence/a": 0.41, "F1_confidence/b": -1.0, "F1/a": 0.9}
    (tmp_path / "metrics.json").write_text(json.dumps(report))
    assert read_confidences(tmp_path / "metrics.json") == {"a": 0.41}, "of b no box was right"
    (tmp_path / "mine.yaml").write_text("a: 0.3\nc: 1\n")
    assert read_confidences(tmp_path / "mine.yaml") == {"a": 0.3, "c": 1}
    assert confidences_of({"a": 0.3, "c": 1}, NAMES, "x") == (0.3, 0.25, 1.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[0.5]", "expected metrics.json"),
        ('{"mIoU": 0.5}', "only an evaluation of boxes"),
        ("", "expected metrics.json"),
    ],
)
def test_files_without_confidences(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_confidences(tmp_path / "x.yaml")
    with pytest.raises(FileNotFoundError, match="--conf-per-class"):
        read_confidences(tmp_path / "none.yaml")


@pytest.mark.parametrize("value", [1.5, -0.1, True, "0.5", None, float("nan")])
def test_what_is_no_confidence(value: object) -> None:
    with pytest.raises(ValueError, match="a number from 0 to 1"):
        confidences_of({"a": value}, NAMES, "x")
    with pytest.raises(ValueError, match="no class d; it has a, b, c"):
        confidences_of({"d": 0.5}, NAMES, "x")


def test_what_a_user_says_counts_before_what_is_stored() -> None:
    stored = (0.4, 0.5, 0.6)
    assert settle({"iou": 0.5}, stored, NAMES) == ({"iou": 0.5, "confidence": below(stored)}, stored)
    assert settle({"confidence": 0.3}, stored, NAMES) == ({"confidence": 0.3}, ())
    changed, floors = settle({"confidence": {"b": 0.9}}, stored, NAMES)
    assert floors == (0.25, 0.9, 0.25)
    assert changed["confidence"] == pytest.approx(0.25, abs=1e-5)
    assert settle({}, (), NAMES) == ({}, ())


def test_a_box_that_just_reaches_its_confidence_counts() -> None:
    scores = np.array([0.3, 0.9, 0.7, 0.7], np.float32)
    found = Detections(np.zeros((4, 4), np.float32), scores, np.array([0, 1, 1, 2]))
    floors = (float(scores[0]), float(scores[1]), 0.71)
    assert reaches(found, floors).tolist() == [True, True, False, False]
    assert float(np.float32(below(floors))) < float(scores[0]), "a network that takes what is above gives it"
    assert below((0.0, 1.0)) == 0.0


def test_what_a_file_cannot_mean() -> None:
    require_class_settings((), (), NAMES)
    require_class_settings((0.0, 0.5, 1.0), [(0, 0, 0), (255, 1, 2), (1, 1, 1)], NAMES)
    for confidences, colors, message in (
        ((0.5,), (), "class_confidences must hold one for each of 3 classes"),
        ((0.5, 1.1, 0.5), (), "between 0 and 1, got 1"),
        ((), [(0, 0, 0)], "class_colors must hold one for each"),
        ((), [(0, 0, 256)] * 3, "from 0 to 255"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            require_class_settings(confidences, colors, NAMES)
    with pytest.raises(ValueError, match=r"leaves out what scores below 0\.3"):
        require_in_graph((0.29, 0.5), 0.3)


def test_many_confidences_are_told_in_short() -> None:
    assert describe_confidences(NAMES, (0.4142, 0.5, 1.0)) == "a 0.414, b 0.5, c 1"
    many = describe_confidences([str(number) for number in range(20)], [0.5] * 20)
    assert many.endswith("11 0.5, and 8 more")
