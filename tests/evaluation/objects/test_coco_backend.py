"""All programs that count boxes give the same numbers, on whatever can be asked of them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import pytest

from detseg.evaluation.objects.coco_backend import BACKENDS, Accumulated, Backend, accumulate, choose_backend
from detseg.evaluation.objects.coco_map import CocoEvaluator
from detseg.structures import Detections, GroundTruth

INSTALLED: list[Backend] = [
    name
    for name, program in BACKENDS.items()  # type: ignore[misc]
    if importlib.util.find_spec(program.coco_module.partition(".")[0])
]
NUM_SETS = 1000
"""In each of two tests: 2,000 sets through every backend."""


def random_set(generator: np.random.Generator) -> tuple[list[GroundTruth], list[Detections], list[int]]:
    """Some images with boxes on a coarse grid, so that overlaps, scores and areas are often equal or at a limit;
    detections are near the truth or anywhere, and any part may be missing."""
    num_classes, num_images = generator.integers(1, 4), generator.integers(1, 6)
    category_ids = generator.permutation([0, 1, 7, 2**40])[:num_classes].tolist()
    image_ids = generator.permutation([0, -3, 5, 12, 2**53, 2**53 + 1])[:num_images].tolist()
    scale, score_steps = generator.choice([1, 4, 12, 40]), generator.choice([1, 3, 1000])
    truths, detections = [], []
    for image_id in image_ids:
        num_objects = generator.integers(0, 7) * (generator.random() < 0.8)
        boxes_xywh = np.column_stack(
            [generator.integers(0, 8, (num_objects, 2)), generator.integers(0, 5, (num_objects, 2))]
        )
        boxes_xywh = (boxes_xywh * scale).astype(np.float64)
        areas = boxes_xywh[:, 2] * boxes_xywh[:, 3] * generator.choice([1.0, 0.5, 0.0], num_objects)
        labels = generator.integers(0, num_classes, num_objects)
        crowd = generator.random(num_objects) < generator.choice([0, 0.3, 1])
        truths.append(GroundTruth(image_id, 400, 400, boxes_xywh, labels, crowd, areas))
        num_found = generator.choice([0, 1, 5, 15, 130], p=[0.2, 0.2, 0.3, 0.25, 0.05])
        found_xywh = np.column_stack(
            [generator.integers(0, 8, (num_found, 2)), generator.integers(0, 5, (num_found, 2))]
        )
        found_xywh = (found_xywh * scale).astype(np.float64)
        if num_objects:
            near = generator.random(num_found) < 0.6
            found_xywh[near] = boxes_xywh[generator.integers(0, num_objects, int(near.sum()))]
            found_xywh[near, 2:] += generator.choice([0, 0, 1, 0.3], (int(near.sum()), 2)) * scale
        xyxy = np.concatenate([found_xywh[:, :2], found_xywh[:, :2] + found_xywh[:, 2:]], axis=1).astype(np.float32)
        scores = (generator.integers(0, score_steps + 1, num_found) / score_steps).astype(np.float32)
        detections.append(Detections(xyxy, scores, generator.integers(0, num_classes, num_found)))
    return truths, detections, category_ids


def differences(one: Accumulated, other: Accumulated) -> list[str]:
    names = ("iou_thresholds", "recalls", "precision", "recall", "confidences")
    return [
        name
        for name in names
        if not np.allclose(getattr(one, name), getattr(other, name), rtol=0, atol=1e-9, equal_nan=False)
    ]


@pytest.mark.skipif(len(INSTALLED) < 2, reason="there is nothing to compare with")
@pytest.mark.parametrize("seed", range(2))
def test_all_that_is_installed_gives_the_same(seed: int) -> None:
    generator = np.random.default_rng(seed)
    means = []
    for number in range(NUM_SETS):
        truths, detections, category_ids = random_set(generator)
        official, *others = (accumulate(name, truths, detections, category_ids) for name in reversed(INSTALLED))
        for name, other in zip(reversed(INSTALLED[:-1]), others, strict=True):
            assert differences(official, other) == [], f"{name}, set {number} of seed {seed}"
        means.append(official.mean("precision", None, "all", 100))
    assert np.ptp(means) > 0.5
    assert -1 in means


@pytest.mark.parametrize("backend", INSTALLED)
def test_nothing_reaches_the_terminal(backend: Backend, capfd: pytest.CaptureFixture[str]) -> None:
    truths, detections, category_ids = random_set(np.random.default_rng(1))
    accumulate(backend, truths, detections, category_ids)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("backend", INSTALLED)
def test_the_program_is_named(backend: Backend) -> None:
    assert CocoEvaluator(["a"], backend=backend).facts()["evaluator"].startswith(f"{backend} ")
    assert CocoEvaluator(["a"]).backend == INSTALLED[0]


@pytest.mark.parametrize(
    ("installed", "chosen"),
    [
        (["hotcoco", "faster_coco_eval", "pycocotools"], "hotcoco"),
        (["faster_coco_eval", "pycocotools"], "faster-coco-eval"),
        (["pycocotools"], "pycocotools"),
    ],
)
def test_the_fastest_that_is_installed_is_chosen(
    monkeypatch: pytest.MonkeyPatch, installed: Sequence[str], chosen: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in installed else None)
    assert choose_backend() == chosen
    for name in BACKENDS:
        if BACKENDS[name].coco_module.partition(".")[0] in installed:
            assert choose_backend(name) == name
        else:
            with pytest.raises(ValueError, match=f"{name}.*not installed: pip install"):
                choose_backend(name)


def test_a_backend_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ValueError, match="'faster-coco-eval' needs a package that is not installed"):
        accumulate("faster-coco-eval", [], [], [1])
