"""The part of a report that answers to its reader: a class, a confidence, images to browse. It is drawn by a script
from data in the page; without scripts, the hardest images stand there as they are."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from detseg.engine.reports.browse import SHOWN_BYTES, SLICE, Browsed, fitted
from detseg.engine.reports.report_images import ReportImage, ReportImages


@cache
def script() -> str:
    """What runs in the page."""
    return Path(__file__).with_name("report.js").read_text(encoding="utf-8")


def hash_of(text: str) -> str:
    """What allows the script ``text`` in a content security policy."""
    written = text.encode(errors="backslashreplace")  # as `write_text` does it
    return f"'sha256-{base64.b64encode(hashlib.sha256(written).digest()).decode('ascii')}'"


def data_block(images: ReportImages, class_names: Sequence[str]) -> str:
    """What the script draws, as JSON in which nothing can end the element or begin another."""
    known: dict[str, Any] = {"classes": list(class_names), "images": _browsed(images)}
    if images.counts is not None:
        counts = images.counts
        known |= {
            "confidence": round(100 * counts.best_confidence()),
            "objects": counts.num_objects.tolist(),
            "right": counts.right.tolist(),
            "wrong": counts.wrong.tolist(),
        }
    text = json.dumps(known, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" id="data">{text}</script>'


def _browsed(images: ReportImages) -> list[dict[str, Any]]:
    return [
        {
            "name": one.name,
            "default": next(iter(one.layers)),
            "layers": {
                what: f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"
                for what, jpeg in one.layers.items()
            },
            **one.record,
            **_slices(one),
        }
        for one in images.browsed
    ]


def _slices(one: Browsed) -> dict[str, list[str]]:
    names = [what for what in one.layers if what.startswith(SLICE)]
    return {"slices": names} if names else {}


def case_table(images: ReportImages) -> str:
    """Of masks and volumes how well each fits, with a link to it."""
    rows = [
        f'<tr><th scope="row"><a href="#image-{number}">{escape(one.name)}</a></th>'
        f"<td>{1 - one.record['difficulty'] / 1000:.3f}</td><td>{escape(one.record['caption'])}</td></tr>"
        for number, one in sorted(
            ((number, one) for number, one in enumerate(images.browsed) if "difficulty" in one.record),
            key=lambda pair: -pair[1].record["difficulty"],
        )
    ]
    if not rows:
        return ""
    body = "\n".join(rows)
    return f"""<div class="wide low words" tabindex="0" role="region" aria-label="How well each fits">
<table class="sortable">
<caption class="faint"><span>How well each fits by itself: the mean of the classes that it holds</span></caption>
<thead><tr><th scope="col">case</th><th scope="col">mean</th><th scope="col">in words</th></tr></thead>
<tbody>
{body}
</tbody>
</table>
</div>"""


def filter_bar(images: ReportImages, class_names: Sequence[str]) -> str:
    """The choice of a class and, of boxes, of a confidence, with the numbers at that."""
    if not images.browsed and images.counts is None:
        return ""
    options = "".join(f'<option value="{label}">{escape(name)}</option>' for label, name in enumerate(class_names))
    parts = [f'<label>Class <select id="class"><option value="-1">all</option>{options}</select></label>']
    if images.counts is not None:
        parts.append(
            '<label>Confidence <input type="range" id="confidence" min="0" max="100" step="1"> '
            '<output id="confidence-value" for="confidence"></output></label>'
            '<span id="said" role="status"></span>'
        )
    return f'<div class="live bar" hidden role="group" aria-label="What is shown">{"".join(parts)}</div>'


def counts_table(images: ReportImages, class_names: Sequence[str]) -> str:
    """The table of numbers at the chosen confidence, whose cells the script fills, and their curves."""
    if images.counts is None:
        return ""
    header = ["class", "objects", "right", "wrong", "missed", "precision", "recall", "F1"]
    head = "".join(f'<th scope="col">{name}</th>' for name in header)
    cells = "<td></td>" * (len(header) - 1)
    rows = [
        f'<tr data-label="{label}"><th scope="row">{escape(name)}</th>{cells}</tr>'
        for label, name in enumerate(class_names)
        if images.counts.num_objects[label] or images.counts.wrong[label, 0]
    ]
    rows.append(f'<tr data-label="-1" class="total"><th scope="row">all</th>{cells}</tr>')
    body = "\n".join(rows)
    return f"""<div class="live" hidden>
<svg id="curves" viewBox="0 0 600 215" role="img" aria-label="Precision, recall and F1 over confidence"></svg>
<p class="legend faint"><span class="key precision"></span> precision <span class="key recall"></span> recall
<span class="key f1"></span> F1, at IoU 0.5</p>
<div class="wide" tabindex="0" role="region" aria-label="Counts at this confidence">
<table class="sortable" id="counts">
<caption class="faint"><span>Boxes at this confidence and above, IoU 0.5, over the whole data set</span></caption>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</div>
</div>"""


def gallery(images: ReportImages) -> str:
    """The images: to browse, and for readers without scripts the hardest ones, each once."""
    parts = []
    if images.measure:
        marks = ' class="static"' if images.browsed else ""
        parts.append(f"<p{marks}>{escape(images.measure)}</p>")
    if images.browsed:
        layers = list(images.browsed[0].layers)
        has_boxes = "found" in images.browsed[0].record
        choices = ["both", "truth", "prediction"] if has_boxes else (["both", *layers] if "truth" in layers else [])
        options = "".join(
            f'<option value="{escape(name)}">{"truth and prediction" if name == "both" else escape(name)}</option>'
            for name in choices
        )
        switch = f'<label>Show <select id="layers">{options}</select></label>' if choices else ""
        legend = (
            '<p class="legend faint"><span class="key right"></span> right <span class="key wrong"></span> wrong '
            '<span class="key true"></span> truth (dashed)</p>'
            if has_boxes
            else ""
        )
        parts.append(f"""<div class="live" hidden>
<div class="bar">{switch}<label>Order <select id="order"><option value="wrong">most errors first</option>
<option value="index">as in the data set</option></select></label> <span id="num-shown" role="status"></span></div>
{legend}
<div class="gallery small" id="gallery"></div>
<button type="button" id="more">More images</button>
</div>
<dialog id="large" aria-labelledby="large-name">
<div class="bar"><strong id="large-name"></strong> <span id="large-words"></span>
<span class="buttons"><button type="button" id="previous">Previous</button><button type="button" id="next">Next</button>
<button type="button" id="close">Close</button></span></div>
<div class="bar" id="slice-row" hidden><label>Slice <input type="range" id="slice" min="0" step="1"></label>
<output id="slice-value" for="slice"></output></div>
<div id="large-view"></div>
</dialog>""")
    static = _each_once(images)
    if static:
        figures = "".join(_figure(image) for image in static)
        marks = "static gallery" if images.browsed else "gallery"
        parts.append(f'<div class="{marks}">\n{figures}\n</div>')
    elif images.measure and not images.browsed:
        parts.append("<p>No image has an error.</p>")
    return "\n".join(parts)


def _each_once(images: ReportImages) -> list[ReportImage]:
    """The hardest images, then the examples that are not among them; where all can be browsed, no examples."""
    names = {image.name for image in images.hardest}
    examples = () if images.browsed else images.examples
    every = [*images.hardest, *(image for image in examples if image.name not in names)]
    smaller = fitted([image.jpeg for image in every], SHOWN_BYTES)
    return [ReportImage(one.name, one.caption, jpeg) for one, jpeg in zip(every, smaller, strict=True)]


def _figure(image: ReportImage) -> str:
    caption = f"{image.name}: {image.caption}" if image.caption else f"{image.name}: truth beside prediction"
    encoded = base64.b64encode(image.jpeg).decode("ascii")
    element = f'<img src="data:image/jpeg;base64,{encoded}" alt="{escape(caption)}">'
    return f"<figure>\n{element}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"
