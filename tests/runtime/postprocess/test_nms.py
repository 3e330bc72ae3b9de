from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detseg.runtime.postprocess.nms import floor_to_float32, nms, select_candidates, select_detections


def oracle(
    boxes_xyxy: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    iou: float,
    max_detections: int,
    class_agnostic: bool,
) -> list[int]:
    """Greedy NMS in plain loops, one class after the other, merged by score and index at the end."""
    suppresses = (all_ious(boxes_xyxy).astype(np.float64) > iou).tolist()
    kept: list[int] = []
    ranked = sorted(np.nonzero(~np.isnan(scores))[0].tolist(), key=lambda i: (-float(scores[i]), i))
    for label in [None] if class_agnostic else sorted(set(labels.tolist())):
        survivors: list[int] = []
        for i in ranked:
            same_class = label is None or labels[i] == label
            if same_class and not any(suppresses[j][i] for j in survivors):
                survivors.append(i)
        kept += survivors
    return sorted(kept, key=ranked.index)[:max_detections]


def all_ious(boxes_xyxy: np.ndarray) -> np.ndarray:
    first, second = boxes_xyxy[:, None], boxes_xyxy[None]
    with np.errstate(all="ignore"):
        areas = np.prod(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], axis=1)
        sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
        overlap = np.prod(np.maximum(sides, np.float32(0)), axis=2)
        return overlap / (areas[:, None] + areas - overlap)


def random_case(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    num_boxes = int(random.integers(1, 260))
    labels = random.integers(0, random.integers(1, 6), num_boxes)
    scores = random.random(num_boxes).astype(np.float32)
    centers = random.uniform(0, 100, (num_boxes, 2))
    sizes = random.uniform(1, 60, (num_boxes, 2))
    if kind in ("clustered", "tied"):
        cluster = random.integers(0, 6, num_boxes)
        centers = random.uniform(0, 100, (6, 2))[cluster] + random.normal(0, 3, (num_boxes, 2))
        sizes = random.uniform(20, 40, (6, 2))[cluster] + random.normal(0, 3, (num_boxes, 2))
    boxes_xyxy = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=1).astype(np.float32)
    if kind == "tied":
        scores = np.round(scores * 4) / np.float32(4)
        boxes_xyxy = np.round(boxes_xyxy / 8) * np.float32(8)
    if kind == "strange":
        boxes_xyxy[random.integers(0, num_boxes, 8), random.integers(0, 4, 8)] = random.choice(
            np.array([np.nan, np.inf, -np.inf, 0, 1e30], np.float32), 8
        )
        boxes_xyxy[random.integers(0, num_boxes, 3)] = 5
        scores[random.integers(0, num_boxes, 3)] = np.nan
    return boxes_xyxy, scores, labels


@pytest.mark.parametrize("kind", ["random", "clustered", "tied", "strange"])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_equals_the_oracle(kind: str, class_agnostic: bool) -> None:
    for seed in range(30):
        case = random_case(kind, seed)
        iou, max_detections = (0.3, 0.5, 0.6, 0.7)[seed % 4], (5, 40, 300)[seed % 3]
        expected = oracle(*case, iou=iou, max_detections=max_detections, class_agnostic=class_agnostic)
        assert nms(*case, iou, max_detections, class_agnostic).tolist() == expected, f"seed {seed}"


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


SAME = boxes((0, 0, 10, 10), (0, 0, 10, 10), (0, 0, 10, 10))


@pytest.mark.parametrize(
    ("boxes_xyxy", "scores", "labels", "options", "expected"),
    [
        pytest.param(SAME, [0.1, 0.9, 0.5], [0, 0, 0], {}, [1], id="the best stays"),
        pytest.param(SAME, [0.1, 0.9, 0.5], [0, 1, 0], {}, [1, 2], id="classes do not meet"),
        pytest.param(SAME, [0.1, 0.9, 0.5], [0, 1, 0], {"class_agnostic": True}, [1], id="unless agnostic"),
        pytest.param(SAME, [0.5, 0.5, 0.5], [0, 0, 0], {}, [0], id="ties go to the lower index"),
        pytest.param(SAME, [np.nan, 0.2, np.nan], [0, 0, 1], {}, [1], id="a NaN score drops its box"),
        pytest.param(SAME, [0.5, 0.5, 0.5], [2, 1, 0], {"max_detections": 2}, [0, 1], id="no more than max_detections"),
        # IoU 0.6 exactly: 15 of 25; float32(0.6) is above 0.6
        pytest.param(boxes((0, 0, 5, 5), (0, 0, 5, 3)), [0.9, 0.8], [0, 0], {"iou": 0.6}, [0], id="0.6"),
        # IoU 0.5 exactly, which float32 holds exactly: not greater
        pytest.param(boxes((0, 0, 4, 4), (0, 0, 4, 2)), [0.9, 0.8], [0, 0], {"iou": 0.5}, [0, 1], id="0.5"),
        # a suppresses b, and b, being gone, does not suppress c
        pytest.param(
            boxes((0, 0, 10, 10), (0, 4, 10, 14), (0, 8, 10, 18)),
            [0.9, 0.8, 0.7], [0, 0, 0], {"iou": 0.4}, [0, 2], id="the suppressed do not suppress",
        ),
        pytest.param(boxes((5, 5, 5, 5), (5, 5, 5, 5)), [0.9, 0.8], [0, 0], {}, [0, 1], id="no area, no IoU"),
        # far from the origin, where an offset by class would lose the fraction of a pixel
        pytest.param(
            boxes((1e6, 0, 1e6 + 1, 1), (1e6 + 1, 0, 1e6 + 2, 1)), [0.9, 0.8], [70, 70], {"iou": 0.0}, [0, 1],
            id="neighbors far out",
        ),
        pytest.param(boxes(), [], [], {}, [], id="no boxes"),
    ],
)  # fmt: skip
def test_rules(
    boxes_xyxy: np.ndarray, scores: list[float], labels: list[int], options: dict[str, Any], expected: list[int]
) -> None:
    settings = {"iou": 0.7, "max_detections": 300, **options}
    keep = nms(boxes_xyxy, np.array(scores, np.float32), np.array(labels, np.int64), **settings)
    assert keep.dtype == np.int64
    assert keep.tolist() == expected


def test_chunks_make_no_difference() -> None:
    """A chain in which each box overlaps the next only crosses every border between chunks: each second stays."""
    tops = np.arange(2000, dtype=np.float32) * 5
    chain = np.stack([tops * 0, tops, tops * 0 + 10, tops + 10], axis=1)
    scores = np.linspace(1, 0.5, 2000, dtype=np.float32)
    keep = nms(chain, scores, np.zeros(2000, np.int64), 0.3, 5000)
    assert keep.tolist() == list(range(0, 2000, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iou": 1.1}, "0 to 1, got 1.1"),
        ({"iou": float("nan")}, "0 to 1, got nan"),
        ({"max_detections": 0}, "at least 1, got 0"),
        ({"scores": np.zeros(2, np.float32)}, r"\(3, 4\), \(2,\) and \(3,\)"),
    ],
)
def test_impossible_requests_are_refused(options: dict[str, Any], message: str) -> None:
    usual = {"boxes_xyxy": SAME, "scores": np.zeros(3, np.float32), "labels": np.zeros(3, np.int64)}
    with pytest.raises(ValueError, match=message):
        nms(**{**usual, "iou": 0.5, "max_detections": 10, **options})


@pytest.mark.parametrize("value", [0.1, 0.25, 0.3, 0.6, 0.7, 0.0, 1.0])
def test_floor_to_float32_is_the_nearest_below(value: float) -> None:
    floor = floor_to_float32(value)
    assert float(floor) <= value < float(np.nextafter(floor, np.float32(2)))


# anchors x classes
SCORES = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.3], [np.nan, 0.7, 0.0]], np.float32)
SPREAD = boxes((0, 0, 1, 1), (5, 0, 6, 1), (9, 0, 10, 1))


@pytest.mark.parametrize(
    ("confidence", "multi_label", "max_candidates", "expected"),
    [
        (0.25, True, 100, [(0, 0), (0, 1), (1, 1), (1, 2), (2, 1)]),
        (0.25, False, 100, [(0, 0), (1, 1)]),
        (0.5, True, 100, [(0, 0), (0, 1), (2, 1)]),
        (0.9, True, 100, []),  # float32(0.9) is not above itself, and below the double 0.9
        (0.95, True, 100, []),
        (0.25, True, 2, [(0, 0), (0, 1)]),
        (0.25, True, 4, [(0, 0), (0, 1), (1, 1), (2, 1)]),  # 0.3 twice, room for one: the lower index
    ],
)
def test_candidates(confidence: float, multi_label: bool, max_candidates: int, expected: list[tuple[int, int]]) -> None:
    found = select_candidates(SPREAD, SCORES, confidence, multi_label, max_candidates)
    assert list(zip(found.anchors.tolist(), found.labels.tolist(), strict=True)) == expected
    assert found.boxes_xyxy.tolist() == SPREAD[found.anchors].tolist()
    assert found.scores.tolist() == [SCORES[row, column] for row, column in expected]
    assert [array.dtype for array in found] == [np.float32, np.float32, np.int64, np.int64]


def test_dense_predictions_become_detections_best_first() -> None:
    found = select_detections(SPREAD, SCORES, 0.25, 0.7, max_detections=3, multi_label=True, class_agnostic=False)
    assert found.labels.tolist() == [0, 1, 1]
    assert found.boxes_xyxy[:, 0].tolist() == [0, 0, 9]
    assert found.anchors.tolist() == [0, 0, 2]
    agnostic = select_detections(SPREAD, SCORES, 0.25, 0.7, max_detections=3, multi_label=True, class_agnostic=True)
    assert agnostic.boxes_xyxy[:, 0].tolist() == [0, 9, 5]


def test_empty_predictions() -> None:
    for scores in (np.zeros((0, 3), np.float32), np.zeros((3, 0), np.float32)):
        for multi_label in (False, True):
            found = select_detections(boxes(*[(0, 0, 1, 1)] * len(scores)), scores, 0.2, 0.7, 10, multi_label, False)
            assert [array.shape for array in found] == [(0, 4), (0,), (0,), (0,)]


BESIDE = boxes((0, 0, 9, 9), (20, 0, 29, 9), (40, 0, 49, 9), (60, 0, 69, 9))
OF_TWO_CLASSES = np.array([[0.9, 0.2], [0.8, 0.7], [0.7, 0.1], [0.3, 0.6]], np.float32)


@pytest.mark.parametrize(
    ("kept", "multi_label", "limit", "expected"),
    [
        # anchor and class of what is left, best first; without a choice the limit is used up by the first class
        (None, False, 2, [(0, 0), (1, 0)]),
        ([False, True], False, 2, [(3, 1)]),
        ([False, True], True, 2, [(1, 1), (3, 1)]),
        ([False, True], True, 9, [(1, 1), (3, 1), (0, 1), (2, 1)]),
        ([True, False], True, 9, [(0, 0), (1, 0), (2, 0), (3, 0)]),
        ([True, False], False, 9, [(0, 0), (1, 0), (2, 0)]),
        ([True, True], True, 3, [(0, 0), (1, 0), (1, 1)]),
        ([False, False], True, 9, []),
        ([False, False], False, 9, []),
    ],
)
def test_classes_are_chosen_before_the_limit(
    kept: list[bool] | None, multi_label: bool, limit: int, expected: list[tuple[int, int]]
) -> None:
    chosen = None if kept is None else np.array(kept)
    for max_candidates in (limit, 30_000):
        found = select_detections(
            BESIDE, OF_TWO_CLASSES, 0.05, 0.5, limit, multi_label, False, max_candidates, kept=chosen
        )
        assert list(zip(found.anchors.tolist(), found.labels.tolist(), strict=True)) == expected


def test_what_is_not_looked_for_suppresses_nothing() -> None:
    twice = np.repeat(BESIDE[:1], 2, axis=0)
    scores = np.array([[0.9, 0.0], [0.0, 0.8]], np.float32)
    for kept, expected in ((None, [0]), (np.array([False, True]), [1])):
        found = select_detections(twice, scores, 0.05, 0.5, 9, True, class_agnostic=True, kept=kept)
        assert found.anchors.tolist() == expected
