"""An evaluation as one HTML page that needs nothing else: no network, all images and the script inside."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from detseg.engine.reports.html_images import case_table, counts_table, data_block, filter_bar, gallery, hash_of, script
from detseg.engine.reports.html_style import STYLE
from detseg.engine.reports.report_images import ReportImages
from detseg.evaluation.report import MEANING, by_class
from detseg.files import write_text
from detseg.runtime.volumes.volume_files import volume_stem
from detseg.structures import Metrics


@dataclass(frozen=True, slots=True)
class Chart:
    """A PNG with what it shows, in words."""

    title: str
    png: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """All that a page shows; ``settings`` are sections of named values, see ``detseg.engine.reports.describe``."""

    metrics: Metrics
    classes_without_truth: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    images: ReportImages = field(default_factory=ReportImages)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    title: str = "Evaluation"
    cases: Sequence[Sequence[str]] = ()
    """A row of names, then rows of cells, the worst first."""
    num_cases: int = 0
    """How many there are with those that are not shown."""
    class_names: Sequence[str] = ()
    errors: Sequence[Sequence[str]] = ()
    """Of masks and volumes: a row of names, then what goes wrong with each class."""


_MOST_DOUBTS = 60
_GENERATOR = '<meta name="generator" content="detseg eval">'


def write_html(path: Path, report: Report) -> None:
    """Write ``report`` to ``path`` as one page, whole or not at all.

    Raises:
        SaveError: the file cannot be written.
    """
    write_text(path, render(report))


def is_html_report(path: Path) -> bool:
    """Whether the file ``path`` is such a page."""
    with path.open("rb") as stream:
        return _GENERATOR.encode() in stream.read(1000)


def render(report: Report) -> str:
    """The page as HTML. Every text in it is escaped: names of classes and files may hold anything."""
    images, class_names = report.images, report.class_names
    sections = [
        ("numbers", "Numbers", _numbers(report.metrics)),
        ("classes", "Classes", _class_table(report.metrics, report.classes_without_truth)),
        ("at-confidence", "At a confidence", counts_table(images, class_names)),
        ("errors", "Errors", _error_table(report)),
        ("doubts", "Labels to look at", _doubt_table(report.images)),
        ("charts", "Charts", _charts(report.charts)),
        ("cases", "Cases, worst first", f"{case_table(images)}\n{_case_table(report)}".strip()),
        ("images", "Images", gallery(images)),
        ("settings", "Settings", _settings(report.settings)),
    ]
    return page(report.title, _subject(report.settings), sections, images, class_names)


def page(
    title: str,
    subject: str,
    sections: Sequence[tuple[str, str, str]],
    images: ReportImages | None = None,
    class_names: Sequence[str] = (),
) -> str:
    """A page of ``sections``: an anchor, a heading and HTML each, left out where that is empty. ``title`` and
    ``subject`` are text."""
    images = images or ReportImages()
    shown = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{anchor}">{escape(heading)}</a>' for anchor, heading, _ in shown)
    body = "\n".join(
        f'<section id="{anchor}">\n<h2>{escape(heading)}</h2>\n{content}\n</section>'
        for anchor, heading, content in shown
    )
    title = escape(title)
    about = f'<p class="faint">{escape(subject)}</p>' if subject else ""
    # The browser may load nothing, and run nothing but this very script.
    policy = f"default-src 'none'; img-src data:; style-src {hash_of(STYLE)}; script-src {hash_of(script())}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{_GENERATOR}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{about}
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{filter_bar(images, class_names)}
{body}
</main>
{data_block(images, class_names)}
<script>{script()}</script>
</body>
</html>
"""


def _subject(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """The model and the data set in a line, as far as they are told."""
    model, data = settings.get("Model", {}), settings.get("Data", {})
    parts = [model.get("file"), data.get("data set"), data.get("split"), data.get("images")]
    names = ("model", "data", "split", "images")
    return " · ".join(f"{name} {part}" for name, part in zip(names, parts, strict=True) if part is not None)


def _numbers(metrics: Metrics) -> str:
    items = []
    for name, value in metrics.items():
        if "/" not in name:
            kind = ' class="primary"' if name == metrics.primary else ""
            meaning = f"<small>{escape(MEANING[name])}</small>" if name in MEANING else ""
            items.append(f"<li{kind}>{escape(name)}<strong>{_number(value)}</strong>{meaning}</li>")
    return f'<ul class="numbers">\n{"".join(items)}\n</ul>'


def _class_table(metrics: Metrics, classes_without_truth: Sequence[str]) -> str:
    columns, class_names = by_class(metrics)
    parts = []
    if class_names:
        rows = [[name, *(_number(column.get(name, -1.0)) for column in columns.values())] for name in class_names]
        parts.append(table(["class", *columns], rows, "Each metric by class; a dash where there is no ground truth"))
    if classes_without_truth:
        parts.append(f"<p>No ground truth: {escape(', '.join(classes_without_truth))}.</p>")
    return "\n".join(parts)


def _case_table(report: Report) -> str:
    if len(report.cases) < 2:
        return ""
    header, *rows = report.cases
    left = report.num_cases - len(rows)
    caption = "Each class in each volume, by its Dice" + (f"; {left} better ones are in cases.csv" if left else "")
    column = header.index("class") if "class" in header else 0
    return table(header, rows, caption, looks=("low",), classes=[row[column] for row in rows])


def _error_table(report: Report) -> str:
    tally = report.images.tally
    if tally is None:
        rows_of_labels = report.errors[1:]
        caption = "What goes wrong with each class"
        return table(report.errors[0], rows_of_labels, caption, looks=("words",)) if rows_of_labels else ""
    header = ["class", "confidence", "right", "false positives", "wrong class", "badly placed", "missed"]
    rows = [
        [name, f"{confidence:.3f}", *map(str, counts)]
        for name, confidence, counts in zip(
            tally.class_names, tally.confidences.tolist(), tally.counts.tolist(), strict=True
        )
        if any(counts)
    ]
    rows.append(["all", "", *map(str, tally.counts.sum(axis=0).tolist())])
    at = "chosen for each class" if tally.is_chosen else "of best F1 of each class"
    caption = f"Boxes by what they turned out to be, at the confidence {at}, IoU 0.5"
    advice = "" if tally.is_chosen else _how_to_use()
    return f"{advice}<p>F1 over all objects: {tally.f1:.4f}.</p>\n{table(header, rows, caption)}"


def _doubt_table(images: ReportImages) -> str:
    """Where the model is sure and the annotation says otherwise."""
    shown = images.doubts[:_MOST_DOUBTS]
    if not shown:
        return ""
    numbers: dict[str, int] = {}
    for number, browsed in enumerate(images.browsed):
        numbers.setdefault(browsed.name.partition("_")[2], number)
    rows = [
        [
            one.file,
            one.kind,
            f"{one.sureness:.2f}",
            one.annotated or "-",
            one.found or "-",
            ", ".join(f"{value:.0f}" for value in one.box_xyxy),
        ]
        for one in shown
    ]
    links = [f"#image-{numbers[stem]}" if (stem := volume_stem(one.file)) in numbers else "" for one in shown]
    left = len(images.doubts) - len(shown)
    more = f"; {left} more are in label_doubts.json" if left else ""
    caption = f"Where the model is sure and the annotation says otherwise, the surest first{more}"
    header = ["file", "what the model says", "sureness", "annotated", "found", "left, top, right, bottom"]
    advice = (
        "<p>One of both is wrong: look whether it is the label. <code>detseg check DATA --doubts FOLDER</code> prints "
        "this list.</p>\n"
    )
    classes = [one.found or one.annotated or "" for one in shown]
    return advice + table(header, rows, caption, looks=("low", "words"), links=links, classes=classes)


def _how_to_use() -> str:
    """How the best confidence of each class is put to use."""
    return (
        "<p>These confidences are best on the images of this evaluation. <code>detseg predict MODEL ... "
        "--conf-per-class metrics.json</code> uses them, <code>detseg set MODEL --conf-per-class metrics.json -o "
        "NEW</code> keeps them in a model file. Judge them on other images than these: <code>detseg eval "
        "NEW</code> gives F1_chosen.</p>\n"
    )


def _charts(charts: Sequence[Chart]) -> str:
    figures = (
        f"<figure>\n{_image('png', chart.png, chart.title)}\n<figcaption>{escape(chart.title)}</figcaption>\n</figure>"
        for chart in charts
    )
    content = "\n".join(figures)
    return f'<div class="charts">\n{content}\n</div>' if content else ""


def _settings(settings: Mapping[str, Mapping[str, Any]]) -> str:
    parts = []
    for section, values in settings.items():
        rows = "".join(
            f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td></tr>\n'
            for name, value in values.items()
        )
        parts.append(f'<h3>{escape(section)}</h3>\n<table class="settings">\n<tbody>\n{rows}</tbody>\n</table>')
    return "\n".join(parts)


def table(
    header: Iterable[str],
    rows: Iterable[Sequence[str]],
    caption: str,
    *,
    looks: Sequence[str] = (),
    links: Sequence[str] = (),
    classes: Sequence[str] = (),
) -> str:
    """A table as HTML that can be sorted; the first cell of a row names it. All cells are text.

    Args:
        header: the names of the columns.
        rows: the cells.
        caption: what the table shows.
        looks: ``low`` for one that is scrolled, ``words`` for one whose cells are words more than numbers.
        links: the places on the page that rows lead to, where there are any.
        classes: of which class each row is, by which the page filters; where nothing is given, its name.
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    lines = []
    for number, row in enumerate(rows):
        name = escape(row[0])
        shown = f'<a href="{escape(links[number])}">{name}</a>' if links and links[number] else name
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        of_class = escape(classes[number]) if classes else name
        lines.append(f'<tr data-class="{of_class}"><th scope="row">{shown}</th>{cells}</tr>')
    caption, body = escape(caption), "\n".join(lines)
    return (
        f'<div class="{" ".join(("wide", *looks))}" tabindex="0" role="region" aria-label="{caption}">\n'
        f'<table class="sortable">\n<caption class="faint"><span>{caption}</span></caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def _image(format: str, content: bytes, alternative: str) -> str:
    encoded = base64.b64encode(content).decode("ascii")
    return f'<img src="data:image/{format};base64,{encoded}" alt="{escape(alternative)}">'


def _number(value: float) -> str:
    return f"{value:.4f}" if value >= 0 else "-"
