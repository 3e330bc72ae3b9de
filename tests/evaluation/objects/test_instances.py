"""COCO's numbers of masks: equal to the official tool on real annotations, and to figures worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detseg.data.datasets.dataset import Dataset
from detseg.data.open import open_dataset
from detseg.evaluation.base import Evaluator
from detseg.evaluation.objects.coco_backend import BACKENDS
from detseg.evaluation.objects.coco_map import CocoEvaluator
from detseg.evaluation.objects.instances import InstanceEvaluator
from detseg.run_lengths import RunLengths, pack_masks
from detseg.structures import Detections, GroundTruth, Instances

TWELVE = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
NUM_IMAGES = 20


@pytest.fixture(scope="module")
def dataset(detseg_data: Path) -> Dataset:
    opened = open_dataset(detseg_data / "coco-mini", "val", target="instances")
    assert isinstance(opened, Dataset)
    return opened


@pytest.fixture(scope="module")
def pairs(dataset: Dataset) -> list[tuple[Instances, GroundTruth]]:
    """What a detector might find: masks of objects, moved and grown or shrunk a little, some of another class, and
    false alarms; many scores are equal, and in every seventh image nothing is found."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(NUM_IMAGES):
        truth = dataset.ground_truth(index)
        assert truth.masks is not None
        masks, labels = [], []
        for mask, label in [*zip(truth.masks, truth.labels, strict=True)] * (index % 7 > 0):
            dense = mask.to_mask().astype(np.uint8)
            kernel = np.ones([int(side) for side in rng.integers(1, 6, 2)], np.uint8)
            changed = (cv2.erode if rng.random() < 0.5 else cv2.dilate)(dense, kernel)
            masks.append(np.roll(changed, rng.integers(-3, 4, 2), axis=(0, 1)).astype(bool))
            labels.append(int(label) if rng.random() < 0.9 else int(rng.integers(80)))
            if rng.random() < 0.4:
                masks.append(rng.random(dense.shape) < 0.02)
                labels.append(int(label))
        scores = rng.random(len(masks)).astype(np.float32)
        scores[::2] = scores[::2].round(1)
        runs = pack_masks(masks)
        boxes = np.array([mask.box_xywh for mask in runs], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        made.append((Instances(boxes, scores, np.array(labels, np.int64), None, runs), truth))
    return made


def evaluated(dataset: Dataset, pairs: Any, backend: Any = None) -> InstanceEvaluator:
    evaluator = InstanceEvaluator(dataset.class_names, dataset.category_ids, backend)
    for found, truth in pairs:
        evaluator.update(truth.image_id, found, truth)
    return evaluator


def official(dataset: Dataset, file: Path, judged: str) -> list[float]:
    """The twelve numbers of pycocotools on a saved file, for the images that were evaluated."""
    annotations = COCO(next((Path(dataset.home) / "annotations").glob("instances_val*.json")))
    evaluation = COCOeval(annotations, annotations.loadRes(str(file)), judged)
    evaluation.params.imgIds = [dataset.image_id(index) for index in range(NUM_IMAGES)]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return list(evaluation.stats)


@pytest.fixture(scope="module")
def saved(dataset: Dataset, pairs: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], list[float]]:
    """What the official tool says of the saved files, by masks and by boxes."""
    folder = tmp_path_factory.mktemp("evaluated")
    evaluated(dataset, pairs).write_artifacts(folder)
    assert (folder / "pr_curve.png").is_file()
    assert "bbox" not in json.loads((folder / "detections.json").read_text())[0]
    files = {"segm": "detections.json", "bbox": "detections_boxes.json"}
    of_masks, of_boxes = (official(dataset, folder / file, judged) for judged, file in files.items())
    return of_masks, of_boxes


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_official_tool_on_the_saved_files(
    dataset: Dataset, pairs: Any, saved: Any, backend: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(BACKENDS[backend].coco_module.partition(".")[0])
    evaluator = evaluated(dataset, pairs, backend)
    metrics = evaluator.compute()
    assert capsys.readouterr().out == ""
    expected, of_boxes = saved
    assert 0.05 < expected[0] < 0.95
    assert [metrics[name] for name in TWELVE] == pytest.approx(expected, abs=1e-9, rel=0)
    assert [metrics[f"{name}_box"] for name in TWELVE[:3]] == pytest.approx(of_boxes[:3], abs=1e-9, rel=0)
    assert expected != of_boxes
    assert (metrics.primary, list(metrics)[:12]) == ("AP", list(TWELVE))


def test_boxes_are_judged_as_ever(dataset: Dataset, pairs: Any) -> None:
    metrics = evaluated(dataset, pairs).compute()
    boxes = CocoEvaluator(dataset.class_names, dataset.category_ids)
    for found, truth in pairs:
        boxes.update(truth.image_id, found, truth)
    assert {f"{name}_box": value for name, value in list(boxes.compute().items())[:3]}.items() <= metrics.items()


def test_states_put_together_say_the_same(dataset: Dataset, pairs: Any) -> None:
    whole = evaluated(dataset, pairs)
    parts = [evaluated(dataset, pairs[:11]), evaluated(dataset, []), evaluated(dataset, pairs[11:])]
    states = [part.state() for part in parts]
    for part in parts:
        part.merge(states)
        assert part.compute() == whole.compute()
        assert part.results() == whole.results()
    assert all(array.dtype in (np.int64, np.float64) for state in states for array in state.values())
    assert {name: array.shape[1:] for name, array in states[0].items()} == {
        name: array.shape[1:] for name, array in states[1].items()
    }
    evaluator: Evaluator = whole
    assert evaluator.classes_without_truth() == whole.classes_without_truth()


def square(top: int, left: int, side: int = 10) -> RunLengths:
    return RunLengths.from_crop(np.ones((side, side), bool), left, top, 40, 40)


def found(*objects: tuple[RunLengths, float]) -> Instances:
    """Objects of one class in a box that is the whole image."""
    count = len(objects)
    boxes = np.array([[0, 0, 40, 40]] * count, np.float32).reshape(-1, 4)
    scores = np.array([score for _, score in objects], np.float32)
    return Instances(boxes, scores, np.zeros(count, np.int64), None, tuple(mask for mask, _ in objects))


def truth(*masks: RunLengths, crowd: bool = False, image_id: int = 1) -> GroundTruth:
    count = len(masks)
    return GroundTruth(
        image_id, 40, 40, np.array([[0, 0, 40, 40]] * count, np.float64).reshape(-1, 4), np.zeros(count, np.int64),
        np.full(count, crowd), np.array([mask.area for mask in masks], np.float64), masks,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("detections", "ground_truth", "expected"),
    [
        (found((square(0, 0), 0.9)), truth(square(0, 0)), {"AP": 1, "AP_small": 1, "AP_large": -1}),
        # 90 of 110 pixels in both: IoU 0.818, which passes 0.50, 0.55, ..., 0.80
        (found((square(0, 1), 0.9)), truth(square(0, 0)), {"AP": 0.7, "AP50": 1, "AP_box": 1}),
        (found((square(20, 20), 0.9)), truth(square(0, 0)), {"AP": 0, "AP_box": 1}),
        (found((square(20, 20), 0.9), (square(0, 0), 0.5)), truth(square(0, 0)), {"AP": 0.5, "AR1": 0, "AR10": 1}),
        (found(), truth(square(0, 0)), {"AP": 0, "AR100": 0}),
        # Found inside of a crowd region is neither right nor wrong.
        (found((square(5, 5, 5), 0.9)), truth(square(0, 0, 30), crowd=True), {"AP": -1}),
    ],
)
def test_small_cases_by_hand(detections: Instances, ground_truth: GroundTruth, expected: dict[str, float]) -> None:
    for backend in BACKENDS:
        evaluator = InstanceEvaluator(["cat"], backend=backend)  # type: ignore[arg-type]
        evaluator.update(1, detections, ground_truth)
        metrics = evaluator.compute()
        assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-9), backend


def test_what_has_no_masks_cannot_be_judged_by_them() -> None:
    for detections, ground_truth in ((Detections.empty(), truth()), (found(), replace(truth(), masks=None))):
        with pytest.raises(ValueError, match="image 1 comes without masks, by which instances are judged"):
            InstanceEvaluator(["cat"]).update(1, detections, ground_truth)
    wide = RunLengths.from_mask(np.ones((40, 50), bool))
    with pytest.raises(ValueError, match="image 1 has 40x40 pixels, but a mask found in it has 50x40"):
        InstanceEvaluator(["cat"]).update(1, found((wide, 0.5)), truth())


@pytest.mark.parametrize("name", ["found_runs", "true_runs", "found_runs_counts"])
def test_states_that_lack_masks_are_refused(name: str) -> None:
    evaluator = InstanceEvaluator(["cat"])
    evaluator.update(1, found((square(0, 0), 0.9)), truth(square(0, 0)))
    state = evaluator.state()
    for broken in ({key: array for key, array in state.items() if key != name}, state | {name: state[name][:-1]}):
        with pytest.raises(ValueError, match="the runs of one mask for each of its"):
            InstanceEvaluator(["cat"]).merge([broken])


def test_the_confusion_matrix_pairs_by_masks() -> None:
    """All boxes are equal; one object is found, one missed, one found in a crowd region, and one where nothing is."""
    evaluator = InstanceEvaluator(["cat"])
    group = replace(truth(square(0, 0), square(28, 0), square(0, 20, 20)), crowd=np.array([False, False, True]))
    evaluator.update(1, found((square(1, 0), 0.9), (square(2, 24, 8), 0.8), (square(28, 28), 0.7)), group)
    assert evaluator.confusion_matrix().counts.tolist() == [[1, 1], [1, 0]]
