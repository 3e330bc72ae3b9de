from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from detseg.runtime.postprocess.greedy_nms import suppress

ALL = 100_000


def one_by_one(
    boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray, iou: np.float32, max_detections: int
) -> list[int]:
    """Each box in turn, the best first, suppresses what is left; IoU by the textbook, in float32."""
    left, top, right, bottom = boxes_xyxy.T
    zero = np.float32(0)
    waiting = sorted(np.nonzero(~np.isnan(scores))[0].tolist(), key=lambda i: (-float(scores[i]), i))
    kept: list[int] = []
    with np.errstate(all="ignore"):
        areas = (right - left) * (bottom - top)
        while waiting and len(kept) < max_detections:
            best, others = waiting[0], np.array(waiting[1:], np.int64)
            width = np.maximum(np.minimum(right[best], right[others]) - np.maximum(left[best], left[others]), zero)
            height = np.maximum(np.minimum(bottom[best], bottom[others]) - np.maximum(top[best], top[others]), zero)
            overlap = width * height
            overlaps = overlap / (areas[best] + areas[others] - overlap)
            waiting = others[~((overlaps > iou) & (labels[others] == labels[best]))].tolist()
            kept.append(best)
    return kept


def crowd(num_boxes: int, num_clusters: int, num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes that differ by some percent from those of their cluster, which has one class; scores with ties."""
    random = np.random.default_rng(seed)
    cluster = random.integers(0, num_clusters, num_boxes)
    sizes = random.uniform(20, 200, (num_clusters, 2))[cluster]
    centers = random.uniform(0, 640, (num_clusters, 2))[cluster] + random.normal(0, 0.05, (num_boxes, 2)) * sizes
    sizes *= np.exp(random.normal(0, 0.1, (num_boxes, 2)))
    boxes_xyxy = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=1).astype(np.float32)
    labels = random.integers(0, num_classes, num_clusters)[cluster]
    return boxes_xyxy, random.integers(0, num_boxes, num_boxes).astype(np.float32) / np.float32(num_boxes), labels


@pytest.mark.parametrize(
    ("num_boxes", "num_clusters", "num_classes", "max_detections"),
    [
        pytest.param(3000, 40, 1, ALL, id="one class"),
        pytest.param(3000, 40, 80, ALL, id="a table by class"),
        pytest.param(3000, 100, 3, ALL, id="too few classes for a table"),
        pytest.param(12_000, 50, 80, ALL, id="several tiles by class"),
        pytest.param(3000, 3000, 1, 900, id="most survive"),
        pytest.param(3000, 40, 1, 100, id="max_detections ends it"),
        pytest.param(3000, 40, 80, 100, id="max_detections ends it by class"),
        pytest.param(3000, 40, 80, 1, id="the best only"),
        *(pytest.param(size, 5, 2, ALL, id=f"{size} boxes") for size in (1, 2, 63, 64, 65, 127, 128, 129)),
        *(pytest.param(size, 300, 2, ALL, id=f"{size} boxes") for size in (639, 640, 641, 2688, 2689)),
    ],
)
@pytest.mark.parametrize("iou", [0.45, 0.7])
def test_equals_one_by_one(
    num_boxes: int, num_clusters: int, num_classes: int, max_detections: int, iou: float
) -> None:
    case = crowd(num_boxes, num_clusters, num_classes, seed=num_boxes)
    expected = one_by_one(*case, np.float32(iou), max_detections)
    assert suppress(*case, np.float32(iou), max_detections).tolist() == expected


@pytest.mark.parametrize("iou", [0.0, 0.5, 1.0])
def test_impossible_boxes_suppress_as_little_as_one_by_one(iou: float) -> None:
    """Sides that are NaN, infinite, swapped or equal, and areas that overflow or vanish, in many classes and in one."""
    for seed in range(10):
        boxes_xyxy, scores, labels = crowd(700, 30, 20, seed)
        random = np.random.default_rng(seed)
        odd = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1e30, -1e30, 1e-30], np.float32)
        boxes_xyxy[random.integers(0, 700, 120), random.integers(0, 4, 120)] = random.choice(odd, 120)
        swapped = random.integers(0, 700, 60)
        boxes_xyxy[swapped] = boxes_xyxy[swapped][:, [2, 3, 0, 1]]  # an area above 0, but neither width nor height
        boxes_xyxy[random.integers(0, 700, 20)] *= np.float32(1e-23)
        for classes in (labels, labels * 0):
            expected = one_by_one(boxes_xyxy, scores, classes, np.float32(iou), ALL)
            assert suppress(boxes_xyxy, scores, classes, np.float32(iou), ALL).tolist() == expected, seed


@pytest.mark.parametrize("stretch", [1, -1, 1_000, 10**15])
def test_any_number_is_a_class(stretch: int) -> None:
    boxes_xyxy, scores, labels = crowd(2000, 40, 30, seed=3)
    expected = one_by_one(boxes_xyxy, scores, labels, np.float32(0.5), ALL)
    moved = (labels - 7) * stretch
    assert suppress(boxes_xyxy, scores, moved, np.float32(0.5), ALL).tolist() == expected


def test_a_class_that_has_no_better_box_is_left_alone() -> None:
    """The higher numbers of the later windows are in no table of the boxes kept before."""
    boxes_xyxy, scores, labels = crowd(2000, 40, 30, seed=4)
    labels[np.argsort(-scores)[1000:]] += 500
    expected = one_by_one(boxes_xyxy, scores, labels, np.float32(0.5), ALL)
    assert suppress(boxes_xyxy, scores, labels, np.float32(0.5), ALL).tolist() == expected


def test_order_of_scores() -> None:
    smallest = np.nextafter(np.float32(0), np.float32(1))
    scores = np.array([-0.0, 0.0, -smallest, smallest, -np.inf, np.nan, np.inf, -2, -1, 1, 2, -0.0], np.float32)
    tops = np.arange(len(scores), dtype=np.float32) * 20
    apart = np.stack([tops * 0, tops, tops * 0 + 10, tops + 10], axis=1)
    kept = suppress(apart, scores, np.zeros(len(scores), np.int64), np.float32(0.5), ALL)
    assert kept.dtype == np.int64
    assert kept.tolist() == [6, 10, 9, 3, 0, 1, 11, 2, 8, 7, 4]


@pytest.mark.parametrize("num_classes", [1, 80])
def test_memory_is_linear_in_the_boxes(num_classes: int) -> None:
    """A matrix of 30,000 x 30,000 bits alone would be 112 MB."""
    case = crowd(30_000, 40, num_classes, seed=5)
    tracemalloc.start()
    try:
        suppress(*case, np.float32(0.7), 300)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()
