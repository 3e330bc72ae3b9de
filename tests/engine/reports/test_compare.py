from __future__ import annotations

import json
from pathlib import Path

import pytest

from detseg.cli import main
from detseg.evaluation.per_image import ImageTable, write_table


def write_run(folder: Path, scores: list[float], name: str = "organ") -> str:
    images = {f"case <{number}>": [None, score] for number, score in enumerate(scores)}
    write_table(folder / "images.json", ImageTable("cases", ("background", name), images))
    return str(folder)


def test_two_runs_as_a_table_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write_run(tmp_path / "a", [0.5, 0.6, 0.7, 0.5, 0.6])
    after = write_run(tmp_path / "b", [0.6, 0.7, 0.8, 0.65, 0.6])
    output, numbers = tmp_path / "page.html", tmp_path / "c.json"
    arguments = ["compare", before, after, "-o", str(output), "--json", str(numbers), "--samples", "500"]
    assert main(arguments) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "5 images in common; intervals of 95% from 500 bootstrap samples"
    organ = next(line for line in said if line.startswith("organ"))
    assert "0.5800 (" in organ
    assert "+0.0900 (+0.0" in organ
    assert organ.endswith("better")
    assert "-" in next(line for line in said if line.startswith("background"))
    page = output.read_text()
    assert "case &lt;3&gt;" in page
    assert page.index("case &lt;3&gt;") < page.index("case &lt;0&gt;"), "what changed most comes first"
    assert "case &lt;4&gt;" not in page, "what did not change is left out"
    plain = json.loads(numbers.read_text())
    assert plain["runs"][1]["differences"]["organ"][0] == pytest.approx(0.09)
    assert plain["runs"][0]["values"]["background"] == [None, None, None]
    # A page of ours is replaced, numbers are not.
    assert main(["compare", before, after, "-o", str(output)]) == 0
    assert main(arguments) == 2
    assert "c.json" in capsys.readouterr().err


def test_what_cannot_be_compared_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a", [0.5])
    for arguments, message in (
        ([run, str(tmp_path / "none")], "there is no such file"),
        ([run], "a comparison needs two runs or more"),
        ([run, run, "-o", "page.txt"], "name a file that ends in .html"),
        ([run, write_run(tmp_path / "b", [0.5], "other")], "compare runs on one data set"),
    ):
        assert main(["compare", *arguments]) == 2
        assert message in capsys.readouterr().err
