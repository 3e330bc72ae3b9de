from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from detseg.engine.reports.browse import BROWSED_BYTES, browsed, fit_browsed
from detseg.engine.reports.html_report import Chart, Report, render, write_html
from detseg.engine.reports.report_images import ReportImage, ReportImages
from detseg.evaluation.hardest import BoxTally, encode_jpeg
from detseg.evaluation.objects.explore import count_boxes, image_record
from detseg.files import SaveError
from detseg.structures import Detections, GroundTruth, Metrics

HOSTILE = '<script>alert("1")</script> & \'"><img src=http://example.com/x.png onerror=alert(1)>'
JPEG = encode_jpeg(np.zeros((8, 8, 3), np.uint8))
WITHOUT_END = {"meta", "img", "br", "link", "input"}


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
        images=ReportImages(
            (ReportImage(f"000001_{name}", "", JPEG),),
            (ReportImage(f"000002_{name}", "misses 3", JPEG),),
            f"by {name}",
            tally,
        ),
        settings={"Model": {"file": f"/models/{name}", "sha256": "ab" * 32}, "Data": {"split": name}},
        title=name,
        class_names=(name, "other", "never"),
    )


def browsed_report(name: str = "cell", num_images: int = 3) -> Report:
    """Images with two objects and four boxes, of which the score and whether they are right is told."""
    truth = GroundTruth(
        1, 100, 200, np.array([[10, 10, 40, 40], [100, 20, 50, 50]], np.float64), np.array([0, 1]),
        np.array([False, False]), np.array([1600.0, 2500.0]),
    )  # fmt: skip
    boxes = np.array([[10, 10, 50, 50], [100, 20, 150, 70], [0, 60, 30, 100], [60, 60, 90, 90]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.6, 0.4, 0.2], np.float32), np.array([0, 1, 0, 1]))
    image = np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8)
    images = ReportImages(
        (ReportImage("000000_a", "", JPEG),), (ReportImage("000001_b", "misses 3", JPEG),), "by errors", None,
        count_boxes([(found, truth)] * num_images, 2),
        tuple(
            browsed(index, f"{index:06d}_{name}", {"image": image}, image_record(found, truth, 2))
            for index in range(num_images)
        ),
    )  # fmt: skip
    return replace(full_report(name), images=images, class_names=(name, "other"))


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
    headings = [text for text in page.texts if text in ("Numbers", "Classes", "Errors", "Images", "Settings")]
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
    assert page.all("script") == [{"type": "application/json", "id": "data"}, {}]
    assert not page.all("link")
    assert [link["href"] for link in page.all("a")] == [
        "#numbers", "#classes", "#errors", "#charts", "#images", "#settings"
    ]  # fmt: skip
    assert {section["id"] for section in page.all("section")} == {(link["href"] or "")[1:] for link in page.all("a")}
    # The name of a kind of elements is no address that is asked for.
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert "default-src 'none'" in text
    assert "url(" not in text
    assert "@import" not in text
    for needed in ("prefers-color-scheme: dark", "@media print", 'lang="en"', 'charset="utf-8"'):
        assert needed in text


def test_the_policy_allows_this_script_and_style_alone() -> None:
    text = render(full_report())
    policy = next(meta["content"] or "" for meta in Page(text).all("meta") if "http-equiv" in meta)
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert set(parts) == {"default-src", "img-src", "style-src", "script-src"}
    for kind, element in (("script-src", "script"), ("style-src", "style")):
        content = text.split(f"<{element}>")[1].split(f"</{element}>")[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert parts[kind] == f"'sha256-{digest}'"
    assert "style=" not in text.split("<script>")[0], "which the policy would not allow"


def test_images_to_browse_are_data() -> None:
    text = render(browsed_report(HOSTILE))
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert data["classes"] == [HOSTILE, "other"]
    assert data["objects"] == [3, 3]
    # At 0.00, 0.40, 0.41, 0.90 and 0.91: each of three images has a right and a wrong box of the first class.
    assert [data["right"][0][at] for at in (0, 40, 41, 90, 91)] == [3, 3, 3, 3, 0]
    assert [data["wrong"][0][at] for at in (0, 40, 41, 90, 91)] == [3, 3, 0, 0, 0]
    # F1 is best where the right box of the second class still counts and no wrong one does.
    assert data["confidence"] == 60
    image = data["images"][1]
    assert image["name"] == f"000001_{HOSTILE}"
    assert image["truth"] == [[0, 50, 100, 250, 500, 0], [1, 500, 200, 750, 700, 0]]
    assert image["found"][0] == [0, 50, 100, 250, 500, 900, 1]
    assert [row[5:] for row in image["found"]] == [[900, 1], [600, 1], [400, 0], [200, 0]]
    page = Page(text)
    assert len(page.all("script")) == 2
    # No image under two headings: what can be browsed is no example.
    assert len(page.all("img")) == 2


def test_a_page_of_500_images_stays_small() -> None:
    noise = np.random.default_rng(0)
    images = [
        browsed(index, str(index), {"image": noise.integers(0, 256, (480, 640, 3), dtype=np.uint8)}, {})
        for index in range(4)
    ] * 125
    fitting = fit_browsed(images, BROWSED_BYTES)
    total = sum(len(jpeg) for one in fitting for jpeg in one.layers.values()) * 4 / 3
    assert 0.3 * BROWSED_BYTES < total <= BROWSED_BYTES
    assert [one.name for one in fitting[:5]] == ["0", "1", "2", "3", "0"]
    few = images[:2]
    assert fit_browsed(few, BROWSED_BYTES) == tuple(few), "as they are where there is room"


def test_every_name_is_escaped() -> None:
    text = render(full_report(HOSTILE))
    page = Page(text)
    assert len(page.all("script")) == 2
    assert len(page.all("img")) == 3
    assert all(set(image) == {"src", "alt"} for image in page.all("img"))
    assert all((image["src"] or "").startswith("data:image/") for image in page.all("img"))
    assert page.texts.count(HOSTILE) >= 3, "as a title, a heading and a class it reads as it is written"


def test_what_is_not_there_is_left_out() -> None:
    page = Page(render(Report(Metrics({"mIoU": 0.5}, primary="mIoU"))))
    assert [section["id"] for section in page.all("section")] == ["numbers"]
    no_error = Page(render(Report(Metrics({"AP": 1.0}), images=ReportImages(measure="by errors"))))
    assert "No image has an error." in no_error.texts


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
