"""The report: exit codes, text and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detseg.data.checks.report import CheckReport, SplitSummary
from detseg.data.findings import CODES, Finding

ERROR, WARNING, INFO = "D101", "D001", "D104"


def make_report(*codes: str) -> CheckReport:
    findings = tuple(Finding(code, f"{number}.jpg", "message", (number,)) for number, code in enumerate(codes))
    splits = {
        "train": SplitSummary(3, 12, {"cat": 10, "dog": 2}, {"cat": 3, "dog": 1}),
        "val": SplitSummary(1, 1, {"cat": 1, "dog": 0}, {"cat": 1, "dog": 0}),
    }
    return CheckReport(Path("/data"), Path("/data"), "coco", findings, splits)


@pytest.mark.parametrize(
    ("codes", "exit_code"),
    [
        ((), 0),
        ((INFO,), 0),
        ((INFO, INFO), 0),
        ((WARNING,), 1),
        ((WARNING, INFO), 1),
        ((ERROR,), 2),
        ((INFO, ERROR, WARNING), 2),
    ],
)
def test_exit_code(codes: tuple[str, ...], exit_code: int) -> None:
    assert make_report(*codes).exit_code == exit_code


def test_codes_are_grouped_and_examples_limited() -> None:
    text = make_report(*[WARNING] * 7, ERROR).render(num_examples=2)
    assert text.splitlines() == [
        "/data (coco, images decoded)",
        "",
        f"D001 warning: degenerate box (7). To do: {CODES['D001'].remedy}.",
        "    0.jpg [0]: message",
        "    1.jpg [1]: message",
        "    ... and 5 more",
        "",
        f"D101 error: missing image (1). To do: {CODES['D101'].remedy}.",
        "    7.jpg [7]: message",
        "",
        "boxes per class  train  val",
        "cat                 10    1",
        "dog                  2    0",
        "all boxes           12    1",
        "images               3    1",
        "",
        "1 error, 7 warnings, 0 infos",
    ]


def test_json_has_everything(tmp_path: Path) -> None:
    report = make_report(*[WARNING] * 40, INFO)
    report.write_json(tmp_path / "new" / "report.json")
    loaded = json.loads((tmp_path / "new" / "report.json").read_text())
    assert (loaded["exit_code"], loaded["num_warnings"], loaded["num_infos"], len(loaded["findings"])) == (1, 40, 1, 41)
    assert loaded["findings"][39]["annotation_ids"] == [39]
    assert loaded["findings"][40]["severity"] == "info"
    assert loaded["splits"]["train"]["num_boxes_by_class"] == {"cat": 10, "dog": 2}


def test_many_ids_are_shortened_in_the_text_only() -> None:
    finding = Finding("D004", "a.json", "message", tuple(range(20)))
    report = CheckReport(Path("/data"), Path("/data"), "coco", (finding,))
    assert "[0, 1, 2, 3, 4, 5, 6, 7, ...]" in report.render()
    assert report.to_dict()["findings"][0]["annotation_ids"] == list(range(20))
    assert "no split could be read" in report.render()
