from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from detseg.engine.html_report import Chart, Report, render, write_html
from detseg.engine.pictures import Picture, Pictures
from detseg.evaluation.hardest import BoxTally, encode_jpeg
from detseg.files import SaveError
from detseg.structures import Metrics

HOSTILE = '<script>alert("1")</script> & \'"><img src=http://example.com/x.png onerror=alert(1)>'
JPEG = encode_jpeg(np.zeros((8, 8, 3), np.uint8))
WITHOUT_END = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """The elements of a page with their attributes, and its texts; elements must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.cells: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in WITHOUT_END:
            self._open.append(tag)
        if tag == "tr":
            self.cells.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())
        if self._open and self._open[-1] in ("td", "th"):
            self.cells[-1].append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def full_report(name: str = "cell", metrics: Metrics | None = None) -> Report:
    tally = BoxTally((name, "other", "never"), np.array([0.5, 0.25, 0.25]), np.array([[3, 1, 0, 2, 1]] * 2 + [[0] * 5]))
    return Report(
        metrics=metrics or Metrics({"AP": 0.51234, "AP_small": -1.0, f"AP/{name}": 0.75, "AP/other": -1.0}),
        classes_without_truth=[f"{name} 2"],
        charts=[Chart(f"curve of {name}", b"png")],
        pictures=Pictures(
            (Picture(f"000001_{name}", "", JPEG),), (Picture(f"000002_{name}", "misses 3", JPEG),), f"by {name}", tally
        ),
        settings={"Model": {"file": f"/models/{name}", "sha256": "ab" * 32}, "Data": {"split": name}},
        title=name,
    )


def test_everything_is_on_the_page() -> None:
    page = Page(render(full_report()))
    text = "\n".join(page.texts)
    for shown in (
        "0.5123",
        "0.7500",
        "No ground truth: cell 2.",
        "curve of cell",
        "by cell",
        "ab" * 32,
        "/models/cell",
    ):
        assert shown in text, shown
    assert "000002_cell: misses 3" in text
    assert "IoU 0.50:0.95" in text, "numbers are explained"
    headings = [text for text in page.texts if text in ("Numbers", "Classes", "Errors", "Examples", "Settings")]
    assert len(headings) == 10, "each once in the table of contents and once as a heading"
    assert ["cell", "0.7500"] in page.cells
    assert ["other", "-"] in page.cells, "a dash where there is no ground truth"
    assert ["cell", "0.500", "3", "1", "0", "2", "1"] in page.cells
    assert page.cells.count(["never"]) == 0, "a class with nothing to count"
    assert not any(row and row[0] == "never" for row in page.cells)
    assert ["all", "6", "2", "0", "4", "2"] in page.cells
    # 2 * 6 / (2 * 6 + 2 + 2 + 2 * 4)
    assert "F1 over all objects: 0.5000." in text


def test_the_page_needs_nothing_else() -> None:
    text = render(full_report())
    page = Page(text)
    images = page.all("img")
    assert len(images) == 3
    assert all(
        (image["src"] or "").startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for image in images
    )
    assert base64.b64encode(JPEG).decode() in (images[1]["src"] or "")
    assert all(image["alt"] for image in images)
    assert not page.all("script")
    assert not page.all("link")
    assert [link["href"] for link in page.all("a")] == [
        "#numbers", "#classes", "#errors", "#charts", "#hardest", "#examples", "#settings"
    ]  # fmt: skip
    assert {section["id"] for section in page.all("section")} == {(link["href"] or "")[1:] for link in page.all("a")}
    assert "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in text
    assert "url(" not in text
    assert "@import" not in text
    for needed in ("prefers-color-scheme: dark", "@media print", 'lang="en"', 'charset="utf-8"'):
        assert needed in text


def test_every_name_is_escaped() -> None:
    text = render(full_report(HOSTILE))
    page = Page(text)
    assert not page.all("script")
    assert len(page.all("img")) == 3
    assert all(set(image) == {"src", "alt"} for image in page.all("img"))
    assert all((image["src"] or "").startswith("data:image/") for image in page.all("img"))
    assert page.texts.count(HOSTILE) >= 3, "as a title, a heading and a class it reads as it is written"


def test_what_is_not_there_is_left_out() -> None:
    page = Page(render(Report(Metrics({"mIoU": 0.5}, primary="mIoU"))))
    assert [section["id"] for section in page.all("section")] == ["numbers"]
    no_error = Page(render(Report(Metrics({"AP": 1.0}), pictures=Pictures(measure="by errors"))))
    assert "No picture has an error." in no_error.texts


def test_the_primary_number_stands_out() -> None:
    page = Page(render(Report(Metrics({"Dice": 0.5, "HD95": 2.0}, primary="HD95"))))
    assert [item.get("class") for item in page.all("li")] == [None, "primary"]


def test_it_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_html(path, full_report("Grün 中"))
    assert "Grün 中" in path.read_text(encoding="utf-8")
    (tmp_path / "file").write_text("")
    with pytest.raises((SaveError, OSError)):
        write_html(tmp_path / "file" / "report.html", full_report())
