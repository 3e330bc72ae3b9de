"""COCO's numbers: equal to the official tool on real annotations, and to figures worked out by hand on small ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detseg.evaluation.base import Evaluator
from detseg.evaluation.objects.coco_backend import BACKENDS
from detseg.evaluation.objects.coco_map import CocoEvaluator
from detseg.runtime.writers.boxes import write_results
from detseg.structures import Detections, GroundTruth

TWELVE = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip

Box = tuple[float, float, float, float]


def found(*rows: tuple[Box, float, int]) -> Detections:
    """Detections from (xyxy, score, label)."""
    return Detections(
        boxes_xyxy=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        scores=np.array([row[1] for row in rows], np.float32),
        labels=np.array([row[2] for row in rows], np.int64),
    )


def truth(image_id: int, *rows: tuple[Box, int], crowd: Sequence[int] = (), areas: Sequence[float] = ()) -> GroundTruth:
    """Ground truth from (xywh, label); ``crowd`` names the rows that are crowd regions."""
    boxes_xywh = np.array([row[0] for row in rows], np.float64).reshape(-1, 4)
    return GroundTruth(
        image_id=image_id,
        height=400,
        width=400,
        boxes_xywh=boxes_xywh,
        labels=np.array([row[1] for row in rows], np.int64),
        crowd=np.isin(np.arange(len(rows)), crowd),
        areas=np.array(areas, np.float64) if areas else boxes_xywh[:, 2] * boxes_xywh[:, 3],
    )


@pytest.fixture(scope="module")
def annotations(detseg_data: Path) -> dict[str, Any]:
    """The annotation file of 80 images of val2017."""
    file = detseg_data / "coco-mini" / "annotations" / "instances_val2017.json"
    loaded: dict[str, Any] = json.loads(file.read_text())
    loaded["path"] = file
    return loaded


def imitate_detector(annotations: dict[str, Any], seed: int) -> list[tuple[Detections, GroundTruth]]:
    """Each object twice, moved a little, sometimes with another class, and false alarms; many scores are equal. Every
    ninth image has no detection, and some images of the file have no object."""
    generator = np.random.default_rng(seed)
    category_ids = sorted(category["id"] for category in annotations["categories"])
    pairs = []
    for number, image in enumerate(annotations["images"]):
        objects = [record for record in annotations["annotations"] if record["image_id"] == image["id"]]
        boxes_xywh = np.array([record["bbox"] for record in objects], np.float64).reshape(-1, 4)
        labels = np.array([category_ids.index(record["category_id"]) for record in objects], np.int64)
        ground_truth = GroundTruth(
            image_id=image["id"],
            height=image["height"],
            width=image["width"],
            boxes_xywh=boxes_xywh,
            labels=labels,
            crowd=np.array([record["iscrowd"] for record in objects], np.bool_),
            areas=np.array([record["area"] for record in objects], np.float64),
        )
        false_alarms = generator.uniform(1, 200, (130, 4))
        around = np.concatenate([boxes_xywh, boxes_xywh, false_alarms])
        around[:, :2] += generator.normal(0, 0.1, (len(around), 2)) * around[:, 2:]
        around[:, 2:] *= generator.uniform(0.8, 1.25, (len(around), 2))
        around[:, 2:] += around[:, :2]
        around_labels = np.concatenate([labels, labels, generator.integers(0, 3, len(false_alarms))])
        is_wrong = generator.random(len(around)) < 0.1
        around_labels[is_wrong] = generator.integers(0, len(category_ids), is_wrong.sum())
        scores = generator.random(len(around)).astype(np.float32)
        scores[::2] = np.round(scores[::2], 1)
        detections = Detections(around.astype(np.float32), scores, around_labels)
        pairs.append((Detections.empty() if number % 9 == 0 else detections, ground_truth))
    return pairs


def evaluator_for(annotations: dict[str, Any], **settings: Any) -> CocoEvaluator:
    categories = sorted(annotations["categories"], key=lambda category: int(category["id"]))
    names, ids = [category["name"] for category in categories], [category["id"] for category in categories]
    return CocoEvaluator(names, ids, **settings)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_official_tool_on_the_saved_file(
    annotations: dict[str, Any], tmp_path: Path, backend: Any, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(BACKENDS[backend].coco_module.partition(".")[0])
    evaluator = evaluator_for(annotations, backend=backend)
    for detections, ground_truth in imitate_detector(annotations, seed):
        evaluator.update(ground_truth.image_id, detections, ground_truth)
    metrics = evaluator.compute()
    assert capsys.readouterr().out == ""

    write_results(tmp_path / "results.json", evaluator.results())
    official_truth = COCO(annotations["path"])
    official = COCOeval(official_truth, official_truth.loadRes(str(tmp_path / "results.json")), "bbox")
    official.evaluate()
    official.accumulate()
    official.summarize()
    assert 0.05 < official.stats[0] < 0.95
    assert [metrics[name] for name in TWELVE] == pytest.approx(list(official.stats), abs=1e-9, rel=0)
    assert list(metrics)[:12] == list(TWELVE)

    num_undefined = 0
    for category in annotations["categories"]:
        name, position = category["name"], official.params.catIds.index(category["id"])
        precision, recall = official.eval["precision"][:, :, position], official.eval["recall"][:, position]
        if (precision[..., 0, -1] == -1).all():
            assert not [key for key in metrics if key.endswith(f"/{name}")]
            assert name in evaluator.classes_without_truth()
            continue
        expected = {
            "AP": precision[:, :, 0, 2],
            "AP50": precision[0, :, 0, 2],
            "AP75": precision[5, :, 0, 2],
            "AP_small": precision[:, :, 1, 2],
            "AP_medium": precision[:, :, 2, 2],
            "AP_large": precision[:, :, 3, 2],
            "AR100": recall[:, 0, 2],
        }
        assert {key.partition("/")[0] for key in metrics if key.endswith(f"/{name}")} == expected.keys()
        for key, values in expected.items():
            # of one class and one size either all is defined or nothing
            assert metrics[f"{key}/{name}"] == pytest.approx(values.mean(), abs=1e-9)
            num_undefined += metrics[f"{key}/{name}"] == -1
    assert num_undefined > 10


def test_one_class_is_what_the_official_tool_says_of_that_class_alone(annotations: dict[str, Any]) -> None:
    pairs = imitate_detector(annotations, seed=0)
    evaluator = evaluator_for(annotations)
    for detections, ground_truth in pairs:
        evaluator.update(ground_truth.image_id, detections, ground_truth)
    metrics = evaluator.compute()
    official_truth, results = COCO(annotations["path"]), evaluator.results()
    for name in ("person", "car", "chair"):
        official = COCOeval(official_truth, official_truth.loadRes(list(results)), "bbox")
        official.params.catIds = official_truth.getCatIds(catNms=[name])
        official.evaluate()
        official.accumulate()
        official.summarize()
        of_class = {key: metrics[f"{key}/{name}"] for key in TWELVE if f"{key}/{name}" in metrics}
        assert of_class == pytest.approx(
            {key: value for key, value in zip(TWELVE, official.stats, strict=True) if key in of_class}, abs=1e-9
        )
        assert len(of_class) == 7


OBJECT = ((10.0, 10.0, 50.0, 100.0), 0)
HIT = (10.0, 10.0, 60.0, 110.0)
MISS = (200.0, 200.0, 260.0, 290.0)


@pytest.mark.parametrize(
    ("detections", "ground_truth", "expected"),
    [
        pytest.param(found((HIT, 0.9, 0)), truth(0, OBJECT), {"AP": 1, "AR1": 1}, id="one perfect detection"),
        pytest.param(
            # 82 of 100 rows are covered: IoU 0.82 passes the thresholds 0.50, 0.55, ..., 0.80, seven of ten
            found(((10, 10, 60, 92), 0.9, 0)),
            truth(0, OBJECT),
            {"AP": 0.7, "AP50": 1, "AP75": 1, "AR100": 0.7},
            id="IoU 0.82",
        ),
        pytest.param(
            found((MISS, 0.9, 0), (HIT, 0.8, 0)), truth(0, OBJECT), {"AP50": 0.5, "AR1": 0, "AR10": 1}, id="false first"
        ),
        pytest.param(found((MISS, 0.7, 0), (HIT, 0.8, 0)), truth(0, OBJECT), {"AP50": 1, "AR1": 1}, id="false last"),
        pytest.param(
            # precision 1 up to recall 0.5, which 51 of the 101 recalls do not exceed
            found((HIT, 0.8, 0)),
            truth(0, OBJECT, ((200, 200, 50, 50), 0)),
            {"AP50": 51 / 101, "AR100": 0.5},
            id="one of two found",
        ),
        pytest.param(
            found((HIT, 0.9, 0), (HIT, 0.8, 0)),
            truth(0, OBJECT, ((200, 200, 60, 90), 0)),
            {"AP50": 51 / 101},
            id="a second detection of one object is false",
        ),
        pytest.param(found((HIT, 0.9, 1)), truth(0, OBJECT), {"AP": 0, "AP/a": 0}, id="another class"),
        pytest.param(
            # the first two lie in a crowd region that 90 % of their own area share: neither right nor wrong
            found(((210, 210, 230, 230), 0.9, 0), ((205, 205, 215, 215), 0.85, 0), (HIT, 0.8, 0)),
            truth(0, OBJECT, ((200, 200, 150, 150), 0), crowd=[1]),
            {"AP": 1, "AR100": 1},
            id="crowd regions forgive",
        ),
        pytest.param(
            # the same without the flag: two false alarms before the hit, and an object missed
            found(((210, 210, 230, 230), 0.9, 0), ((205, 205, 215, 215), 0.85, 0), (HIT, 0.8, 0)),
            truth(0, OBJECT, ((200, 200, 150, 150), 0)),
            {"AP50": 51 / 101 / 3, "AR100": 0.5},
            id="objects do not",
        ),
        pytest.param(
            found(*[(MISS, 0.9, 0)] * 99, (HIT, 0.8, 0)), truth(0, OBJECT), {"AP50": 1 / 100, "AR100": 1}, id="100th"
        ),
        pytest.param(
            found(*[(MISS, 0.9, 0)] * 100, (HIT, 0.8, 0)), truth(0, OBJECT), {"AP50": 0, "AR100": 0}, id="101st"
        ),
        pytest.param(
            found((HIT, 0.9, 0), ((200, 200, 250, 250), 0.8, 0)),
            truth(0, OBJECT, ((200, 200, 50, 50), 0)),
            {"AP": 1, "AR1": 0.5, "AR10": 1},
            id="one detection per image",
        ),
        pytest.param(
            found((HIT, 0.9, 0)), truth(0, OBJECT), {"AP_small": -1, "AP_medium": 1, "AP_large": -1}, id="5000 px"
        ),
        pytest.param(
            # COCO measures the segmentation, and the unmatched detection of 5400 px is not the business of the small
            found((MISS, 0.95, 0), (HIT, 0.9, 0)),
            truth(0, OBJECT, areas=[900]),
            {"AP50": 0.5, "AP_small": 1, "AP_medium": -1, "AR_small": 1},
            id="area comes from the annotation",
        ),
        pytest.param(
            # two objects at the same place: each detection takes one
            found((HIT, 0.9, 0), (HIT, 0.8, 0)),
            truth(0, OBJECT, OBJECT),
            {"AP": 1},
            id="equal objects",
        ),
    ],
)  # fmt: skip
def test_small_cases_by_hand(detections: Detections, ground_truth: GroundTruth, expected: dict[str, float]) -> None:
    evaluator = CocoEvaluator(["a", "b"])
    evaluator.update(0, detections, ground_truth)
    metrics = evaluator.compute()
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_sizes_of_each_class_by_hand() -> None:
    evaluator = CocoEvaluator(["small", "both", "absent"])
    # One object of 20x20 px that is found; one of 50x100 px that is found, and one of 120x120 px that is missed.
    evaluator.update(
        1,
        found(((300, 300, 320, 320), 0.9, 0), (HIT, 0.8, 1)),
        truth(1, ((300, 300, 20, 20), 0), ((10, 10, 50, 100), 1), ((150, 150, 120, 120), 1)),
    )
    of_classes = {name: value for name, value in evaluator.compute().items() if "/" in name}
    half = 51 / 101  # precision 1 up to recall 0.5
    expected = {
        "small": {"AP": 1, "AP50": 1, "AP75": 1, "AP_small": 1, "AP_medium": -1, "AP_large": -1, "AR100": 1},
        "both": {"AP": half, "AP50": half, "AP75": half, "AP_small": -1, "AP_medium": 1, "AP_large": 0, "AR100": 0.5},
    }
    assert of_classes == pytest.approx(
        {f"{name}/{label}": value for label, values in expected.items() for name, value in values.items()}, abs=1e-12
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_detections_give_zero(backend: Any) -> None:
    pytest.importorskip(BACKENDS[backend].coco_module.partition(".")[0])
    evaluator = CocoEvaluator(["a", "b"], backend=backend)
    evaluator.update(1, Detections.empty(), truth(1, OBJECT))
    metrics = evaluator.compute()
    assert metrics["AP"] == metrics["AP50"] == metrics["AR100"] == metrics["AP/a"] == 0
    assert [curve.precision.max() for curve in evaluator.precision_recall_curves()] == [0]


def test_images_without_ground_truth_count() -> None:
    evaluator = CocoEvaluator(["a"])
    evaluator.update(1, found((HIT, 0.8, 0)), truth(1, OBJECT))
    evaluator.update(2, found((MISS, 0.9, 0)), truth(2))
    assert evaluator.compute()["AP50"] == pytest.approx(0.5, abs=1e-12)


def test_images_without_detections_count() -> None:
    evaluator = CocoEvaluator(["a"])
    evaluator.update(1, found((HIT, 0.8, 0)), truth(1, OBJECT))
    evaluator.update(2, Detections.empty(), truth(2, OBJECT))
    assert evaluator.compute()["AR100"] == 0.5


def test_without_any_ground_truth_nothing_is_said() -> None:
    evaluator = CocoEvaluator(["a", "b"])
    evaluator.update(1, found((HIT, 0.9, 0)), truth(1))
    metrics = evaluator.compute()
    assert dict(metrics) == dict.fromkeys(TWELVE, -1.0)
    assert evaluator.classes_without_truth() == ("a", "b")
    assert evaluator.precision_recall_curves() == []


def test_classes_keep_their_names_whatever_the_order_of_category_ids() -> None:
    evaluator = CocoEvaluator(["first", "second", "absent"], category_ids=[90, 0, 3])
    evaluator.update(1, found((HIT, 0.9, 0)), truth(1, OBJECT, ((200, 200, 50, 50), 1)))
    metrics = evaluator.compute()
    assert metrics["AP/first"] == pytest.approx(1)
    assert metrics["AP50/first"] == pytest.approx(1)
    assert metrics["AP/second"] == metrics["AP50/second"] == 0
    assert metrics["AP"] == pytest.approx(0.5)
    assert "AP/absent" not in metrics
    assert evaluator.classes_without_truth() == ("absent",)
    assert [record["category_id"] for record in evaluator.results()] == [90]
    assert [curve.class_name for curve in evaluator.precision_recall_curves()] == ["first", "second"]


def test_reset_forgets_and_update_refreshes() -> None:
    evaluator = CocoEvaluator(["a"])
    evaluator.update(1, found((HIT, 0.9, 0)), truth(1, OBJECT))
    assert evaluator.compute()["AP"] == pytest.approx(1)
    evaluator.update(2, Detections.empty(), truth(2, OBJECT))
    assert evaluator.compute()["AR100"] == 0.5
    evaluator.reset()
    with pytest.raises(ValueError, match="no image was evaluated"):
        evaluator.compute()
    evaluator.update(1, Detections.empty(), truth(1, OBJECT))
    assert evaluator.compute()["AP"] == 0


def test_merged_states_equal_one_evaluator(annotations: dict[str, Any]) -> None:
    pairs = imitate_detector(annotations, seed=2)
    whole, shares = evaluator_for(annotations), [evaluator_for(annotations) for _ in range(4)]
    for number, (detections, ground_truth) in enumerate(pairs):
        whole.update(ground_truth.image_id, detections, ground_truth)
        shares[number % 3].update(ground_truth.image_id, detections, ground_truth)  # the last one sees nothing
    states = [share.state() for share in shares]
    for name, columns in (("images", 5), ("detections", 6), ("truths", 7)):
        assert [state[name].shape[1] for state in states] == [columns] * 4
        assert {state[name].dtype for state in states} == {np.dtype(np.int64 if name == "images" else np.float64)}
    for share in (shares[0], shares[3]):
        merged: Evaluator = share
        merged.merge(states)
        assert merged.compute() == whole.compute()
    by_image = lambda record: (record["image_id"], -record["score"], record["bbox"])  # noqa: E731
    assert sorted(shares[3].results(), key=by_image) == sorted(whole.results(), key=by_image)
    assert (shares[3].confusion_matrix().counts == whole.confusion_matrix().counts).all()


def test_merge_refuses_an_image_that_two_states_hold() -> None:
    evaluator = CocoEvaluator(["a"])
    evaluator.update(7, found((HIT, 0.9, 0)), truth(7, OBJECT))
    with pytest.raises(ValueError, match="image 7 was evaluated twice"):
        evaluator.merge([evaluator.state(), evaluator.state()])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truths": np.zeros((1, 6))}, r"'truths' of shape Nx7, got \(1, 6\)"),
        ({"detections": np.zeros((3, 6))}, "announces 1 detections but holds 3"),
        ({"truths": np.zeros((0, 7))}, "announces 1 truths but holds 0"),
    ],
)
def test_merge_refuses_foreign_arrays(change: dict[str, Any], message: str) -> None:
    evaluator = CocoEvaluator(["a"])
    evaluator.update(7, found((HIT, 0.9, 0)), truth(7, OBJECT))
    with pytest.raises(ValueError, match=message):
        evaluator.merge([{**evaluator.state(), **change}])
    assert evaluator.compute()["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("detections", "ground_truth", "message"),
    [
        (found((HIT, 0.9, 2)), truth(5, OBJECT), "image 5 has a detection with a label outside 0 to 1"),
        (found((HIT, 0.9, -1)), truth(5, OBJECT), "image 5 has a detection with a label outside 0 to 1"),
        (found(((60, 10, 10, 110), 0.9, 0)), truth(5, OBJECT), "right or bottom lies before its left or top"),
        (found(((10.5, 10, 10, 110), 0.9, 0)), truth(5, OBJECT), "right or bottom lies before its left or top"),
        (Detections.empty(), truth(5, ((10, 10, 50, -0.5), 0), areas=[1]), "ground truth with a box of negative size"),
        (Detections.empty(), truth(5, (OBJECT[0], -1)), "ground truth with a label outside 0 to 1"),
        (Detections.empty(), truth(5, ((0, 0, np.nan, 5), 0), areas=[1]), "a box that is not finite"),
        (Detections.empty(), truth(5, ((0, 0, -4, 5), 0), areas=[1]), "a box of negative size"),
        (Detections.empty(), truth(5, OBJECT, areas=[np.nan]), "an area that is negative or not finite"),
        (Detections.empty(), truth(6, OBJECT), "image 5 came with ground truth of image 6"),
    ],
)
def test_update_refuses_what_cannot_be_judged(detections: Detections, ground_truth: GroundTruth, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CocoEvaluator(["a", "b"]).update(5, detections, ground_truth)


def test_update_refuses_an_image_twice() -> None:
    evaluator = CocoEvaluator(["a"])
    evaluator.update(3, Detections.empty(), truth(3, OBJECT))
    with pytest.raises(ValueError, match="image 3 was evaluated twice"):
        evaluator.update(3, Detections.empty(), truth(3, OBJECT))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_names": []}, "at least one class"),
        ({"class_names": ["a", "b"], "category_ids": [1]}, "2 class names and 1 category ids"),
        ({"class_names": ["a", "b", "a"]}, "class name must be unique, but these occur more than once: a"),
        ({"class_names": ["a", "b"], "category_ids": [4, 4]}, "category id must be unique.*: 4"),
        (
            {"class_names": ["a"], "backend": "coco"},
            "unknown evaluator 'coco'; allowed are hotcoco, faster-coco-eval, pycocotools",
        ),
    ],
)
def test_constructor_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CocoEvaluator(**settings)


def test_curves_see_up_to_100_detections_of_an_image() -> None:
    evaluator = CocoEvaluator(["a"])
    corners = [(20.0 * number, 0.0) for number in range(20)]
    hits = [((x, y, x + 10, y + 10), 0.99 - 0.01 * number, 0) for number, (x, y) in enumerate(corners)]
    evaluator.update(1, found(*hits), truth(1, *(((x, y, 10, 10), 0) for x, y in corners)))
    (curve,) = evaluator.precision_recall_curves()
    assert curve.precision.tolist() == pytest.approx([1] * 101)
    # The recall of 0.5 is that of ten detections, the full recall that of all twenty.
    assert curve.confidences[[0, 50, 100]].tolist() == pytest.approx([0.99, 0.90, 0.80])


def test_curves_follow_the_threshold() -> None:
    evaluator = CocoEvaluator(["a"])
    evaluator.update(1, found(((10, 10, 60, 92), 0.9, 0)), truth(1, OBJECT))  # IoU 0.82
    precisions = [evaluator.precision_recall_curves(iou)[0].average_precision for iou in (0.5, 0.8, 0.85)]
    assert precisions == pytest.approx([1, 1, 0])
    with pytest.raises(ValueError, match=r"no results at IoU 0.3; COCO evaluates at 0.50, 0.55"):
        evaluator.precision_recall_curves(0.3)


@pytest.mark.parametrize(
    ("truths", "images"),
    [
        ((OBJECT,), ["calibration.png", "confusion_matrix.png", "f1_curve.png", "pr_curve.png"]),
        ((), ["calibration.png", "confusion_matrix.png"]),
    ],
)
def test_artifacts(truths: Sequence[tuple[Box, int]], images: list[str], tmp_path: Path) -> None:
    evaluator: Evaluator = CocoEvaluator(["a"], [17])
    with pytest.raises(ValueError, match="no image was evaluated"):
        evaluator.write_artifacts(tmp_path)
    evaluator.update(1, found(((10, 10, 60, 92), 0.9, 0)), truth(1, *truths))
    evaluator.write_artifacts(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == images
    records = json.loads((tmp_path / "detections.json").read_text())
    assert [(record["image_id"], record["category_id"]) for record in records] == [(1, 17)]
