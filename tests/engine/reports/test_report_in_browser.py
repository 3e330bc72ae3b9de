"""The page in a real browser: what a reader does is done, and what is seen afterwards is compared."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.engine.reports.browse import browsed
from detseg.engine.reports.html_report import Report, write_html
from detseg.engine.reports.report_images import ReportImages
from detseg.structures import Metrics
from tests.engine.reports.test_html_report import HOSTILE, browsed_report

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = os.environ.get("DETSEG_AXE")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        # As root, as in containers, Chromium has no sandbox; the page is our own.
        running = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


def open_page(browser: Any, folder: Path, width: int = 1400, scheme: str = "light", name: str = "cell") -> Any:
    write_html(folder / "report.html", browsed_report(name, num_images=30))
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True).new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.said = said
    page.goto(f"file://{folder}/report.html")
    return page


def cells(page: Any, label: str) -> list[str]:
    texts: list[str] = page.locator(f'#counts tr[data-label="{label}"] td').all_text_contents()
    return texts


def confidence(page: Any, percent: int) -> None:
    page.locator("#confidence").fill(str(percent))


def test_the_slider_redraws_counts_scores_and_boxes(browser: Any, tmp_path: Path) -> None:
    page = open_page(browser, tmp_path)
    assert page.locator("#confidence-value").text_content() == "0.60"
    assert cells(page, "0") == ["30", "30", "0", "0", "1.000", "1.000", "1.000"]
    assert page.locator("#gallery figure").count() == 24
    assert page.locator("#gallery figure").first.locator("rect.right").count() == 2
    confidence(page, 20)
    assert cells(page, "0") == ["30", "30", "30", "0", "0.500", "1.000", "0.667"]
    assert cells(page, "-1") == ["60", "60", "60", "0", "0.500", "1.000", "0.667"]
    assert page.locator("#gallery figure").first.locator("rect.wrong").count() == 2
    confidence(page, 95)
    assert cells(page, "-1") == ["60", "0", "0", "60", "-", "0.000", "0.000"]
    assert page.locator("#gallery rect.right").count() == 0
    page.locator("#more").click()
    assert page.locator("#gallery figure").count() == 30
    assert page.said == []


def test_one_class_alone(browser: Any, tmp_path: Path) -> None:
    page = open_page(browser, tmp_path)
    confidence(page, 20)
    page.locator("#class").select_option("1")
    assert page.locator('#counts tr[data-label="0"]').is_hidden()
    assert page.locator('#classes tr[data-class="cell"]').is_hidden()
    assert page.locator('#classes tr[data-class="other"]').is_visible()
    assert page.locator("#gallery figure").first.locator("rect").count() == 3  # one object, two boxes
    assert "right 1, wrong 1, missed 0" in (page.locator("#gallery figcaption").first.text_content() or "")


def test_tables_are_sorted_by_their_headings(browser: Any, tmp_path: Path) -> None:
    page = open_page(browser, tmp_path)
    heading = page.locator("#counts thead button", has_text="class")
    order = page.locator("#counts tbody th")
    heading.focus()
    page.keyboard.press("Enter")
    assert page.locator("#counts th[aria-sort]").get_attribute("aria-sort") == "descending"
    assert order.all_text_contents() == ["other", "cell", "all"], "the sum stays below"
    page.keyboard.press("Enter")
    assert order.all_text_contents() == ["cell", "other", "all"]


def test_an_image_is_enlarged_and_left_by_keyboard(browser: Any, tmp_path: Path) -> None:
    page = open_page(browser, tmp_path)
    confidence(page, 20)
    page.locator("#gallery button").nth(1).click()
    dialog = page.locator("#large")
    assert dialog.is_visible()
    assert page.locator("#large-name").text_content() == "000001_cell"
    assert page.locator("#large-view .tag").all_text_contents() == [
        "cell", "other", "cell 0.90", "other 0.60", "cell 0.40", "other 0.20"
    ]  # fmt: skip
    page.keyboard.press("ArrowRight")
    assert page.locator("#large-name").text_content() == "000002_cell"
    page.keyboard.press("Escape")
    assert dialog.is_hidden()
    page.locator("#layers").select_option("truth")
    assert page.locator("#gallery figure").first.locator("rect").count() == 2
    # A link leads to an image.
    page.locator("#gallery figcaption a").nth(4).click()
    assert page.locator("#large-name").text_content() == "000004_cell"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 360])
def test_the_page_fits_its_window(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    page = open_page(browser, tmp_path, width, scheme, "a class name without end " * 5)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    assert page.said == []


def test_names_are_text_to_the_script_too(browser: Any, tmp_path: Path) -> None:
    page = open_page(browser, tmp_path, name=HOSTILE)
    page.locator("#gallery button").first.click()
    assert page.locator("#large-name").text_content() == f"000000_{HOSTILE}"
    assert page.locator("#large-view .tag").first.text_content() == HOSTILE
    assert page.said == []


def test_without_scripts_the_hardest_images_are_there(browser: Any, tmp_path: Path) -> None:
    write_html(tmp_path / "report.html", browsed_report())
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(f"file://{tmp_path}/report.html")
    assert page.locator("#images figure").count() == 1
    assert page.locator("#images figure").is_visible()
    assert page.locator("#confidence").is_hidden()


@pytest.mark.skipif(AXE is None, reason="DETSEG_AXE names no axe.min.js (npm pack axe-core)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 360])
def test_axe_finds_no_violation(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    assert AXE is not None
    write_html(tmp_path / "report.html", browsed_report(num_images=3))
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, bypass_csp=True
    )
    page = context.new_page()
    page.goto(f"file://{tmp_path}/report.html")
    page.evaluate(Path(AXE).read_text(encoding="utf-8"))
    ask = "axe.run(document).then(found => found.violations.map(one => one.id + ': ' + one.nodes[0].html))"
    assert page.evaluate(ask) == []
    page.locator("#gallery button").first.click()
    assert page.evaluate(ask) == [], "with an image enlarged"


def images_of(*colors: tuple[str, int]) -> dict[str, np.ndarray]:
    return {what: np.full((40, 60, 3), level, np.uint8) for what, level in colors}


def open_labels(browser: Any, folder: Path, layers: dict[str, np.ndarray]) -> Any:
    """Two images of labels, of which the second fits less."""
    records: list[dict[str, Any]] = [
        {"labels": [1], "difficulty": 100, "caption": "Dice 0.900"},
        {"labels": [2], "difficulty": 400, "caption": "Dice 0.600"},
    ]
    made = tuple(browsed(index, f"case {index}", layers, record) for index, record in enumerate(records))
    report = Report(
        Metrics({"Dice": 0.75}, primary="Dice"), images=ReportImages(browsed=made), class_names=("no", "a", "b")
    )
    write_html(folder / "report.html", report)
    page = browser.new_context(viewport={"width": 900, "height": 900}, offline=True).new_page()
    page.goto(f"file://{folder}/report.html")
    return page


def test_slices_of_a_volume(browser: Any, tmp_path: Path) -> None:
    page = open_labels(browser, tmp_path, images_of(("three planes", 10), ("slice 3", 100), ("slice 5", 200)))
    assert page.locator("#gallery figcaption a").all_text_contents() == ["case 1", "case 0"], "the worst first"
    page.locator("#cases a", has_text="case 1").click()
    assert page.locator("#large-words").text_content() == "Dice 0.600"
    assert page.locator("#slice-value").text_content() == "slice 5"
    before = page.locator("#large-view img").get_attribute("src")
    page.locator("#slice").fill("0")
    assert page.locator("#slice-value").text_content() == "slice 3"
    assert page.locator("#large-view img").get_attribute("src") != before
    page.keyboard.press("Escape")
    page.locator("#class").select_option("1")
    assert page.locator("#gallery figcaption a").all_text_contents() == ["case 0"], "where that class is"


def test_truth_and_prediction_of_a_mask(browser: Any, tmp_path: Path) -> None:
    page = open_labels(browser, tmp_path, images_of(("truth", 10), ("prediction", 100), ("errors", 200)))
    assert page.locator("#gallery figure").first.locator("img").count() == 2
    page.locator("#layers").select_option("errors")
    (shown,) = [page.locator("#gallery figure").first.locator("img").get_attribute("src")]
    page.locator("#gallery button").first.click()
    assert page.locator("#slice-row").is_hidden()
    assert page.locator("#large-view img").get_attribute("src") == shown
