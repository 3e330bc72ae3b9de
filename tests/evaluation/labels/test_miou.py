"""IoU worked out by hand, and equal to torchmetrics and to the official evaluation of Cityscapes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import args as official_settings
from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import evaluateImgLists
from cityscapesscripts.helpers.labels import labels as official_labels
from PIL import Image
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from detseg.arrays import ByteArray
from detseg.evaluation.base import Evaluator
from detseg.evaluation.labels.miou import SegmentationEvaluator
from detseg.evaluation.plots import plot_class_scores
from detseg.structures import IGNORE_INDEX, LabelMap

ABC = ("a", "b", "c")


def array(*rows: list[int]) -> ByteArray:
    return np.array(rows, np.uint8)


def evaluate(class_names: tuple[str, ...], *pairs: tuple[ByteArray, ByteArray]) -> SegmentationEvaluator:
    """``pairs`` of prediction and truth."""
    evaluator = SegmentationEvaluator(class_names)
    for number, (prediction, truth) in enumerate(pairs):
        evaluator.update(number, LabelMap(prediction), truth)
    return evaluator


def blocks(seed: int, num_classes: int, num_images: int = 3) -> Iterator[tuple[ByteArray, ByteArray]]:
    """Rectangles of classes with some ignored as truth; the prediction is that, shifted, with noise and some
    ignored."""
    generator = np.random.default_rng(seed)
    for _ in range(num_images):
        truth = np.full((40, 60), generator.integers(num_classes), np.uint8)
        for value in [*generator.integers(0, num_classes, 12), IGNORE_INDEX, IGNORE_INDEX]:
            top, left = generator.integers(0, 35), generator.integers(0, 50)
            truth[top : top + 15, left : left + 20] = value
        prediction = np.roll(truth, (2, 3), (0, 1))
        noise = generator.random(truth.shape) < 0.1
        prediction[noise] = generator.integers(0, num_classes, noise.sum())
        prediction[prediction == IGNORE_INDEX] = generator.integers(num_classes)
        yield prediction, truth


CASES = [
    # prediction, truth, metrics
    (
        array([0, 0, 1, 1]), array([0, 1, 1, 1]),
        {"mIoU": (1 / 2 + 2 / 3) / 2, "pixel_accuracy": 3 / 4, "mean_accuracy": (1 + 2 / 3) / 2,
         "IoU/a": 1 / 2, "IoU/b": 2 / 3, "accuracy/a": 1, "accuracy/b": 2 / 3},
    ),
    (  # c is predicted but never true: IoU 0, no accuracy
        array([0, 2, 1, 1]), array([0, 0, 1, 1]),
        {"mIoU": (1 / 2 + 1 + 0) / 3, "pixel_accuracy": 3 / 4, "mean_accuracy": (1 / 2 + 1) / 2,
         "IoU/a": 1 / 2, "IoU/b": 1, "IoU/c": 0, "accuracy/a": 1 / 2, "accuracy/b": 1},
    ),
    (  # what is predicted where the truth is ignored does not count, not even as a false positive
        array([0, 2, 1, 0]), array([0, IGNORE_INDEX, IGNORE_INDEX, 1]),
        {"mIoU": (1 / 2 + 0) / 2, "pixel_accuracy": 1 / 2, "mean_accuracy": 1 / 2,
         "IoU/a": 1 / 2, "IoU/b": 0, "accuracy/a": 1, "accuracy/b": 0},
    ),
    (  # a prediction of ignored is wrong, and a false positive of no class
        array([0, IGNORE_INDEX, 1, IGNORE_INDEX]), array([0, 0, 1, IGNORE_INDEX]),
        {"mIoU": (1 / 2 + 1) / 2, "pixel_accuracy": 2 / 3, "mean_accuracy": (1 / 2 + 1) / 2,
         "IoU/a": 1 / 2, "IoU/b": 1, "accuracy/a": 1 / 2, "accuracy/b": 1},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("prediction", "truth", "metrics"), CASES)
def test_by_hand(prediction: ByteArray, truth: ByteArray, metrics: dict[str, float]) -> None:
    found = evaluate(ABC, (prediction, truth)).compute()
    assert found.primary == "mIoU"
    assert list(found) == list(metrics)
    assert dict(found) == pytest.approx(metrics, rel=1e-12)


def test_pixels_of_all_images_count_alike() -> None:
    large = (np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8))
    evaluator = evaluate(ABC, large, (array([0, 1]), array([1, 1])))
    metrics = evaluator.compute()
    assert metrics["IoU/a"] == pytest.approx(100 / 101)
    assert metrics["pixel_accuracy"] == pytest.approx(101 / 102)
    assert evaluator.confusion_matrix().tolist() == [[100, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert evaluator.classes_without_truth() == ("c",)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_classes", [2, 11, 255])
def test_equals_torchmetrics(seed: int, num_classes: int) -> None:
    pairs = list(blocks(seed, num_classes))
    metrics = evaluate(tuple(map(str, range(num_classes))), *pairs).compute()
    predictions, truths = (torch.from_numpy(np.stack(arrays)).long() for arrays in zip(*pairs, strict=True))
    settings: dict[str, Any] = {"num_classes": num_classes, "ignore_index": IGNORE_INDEX, "average": "none"}
    ious = MulticlassJaccardIndex(**settings)(predictions, truths)
    recalls = MulticlassAccuracy(**settings)(predictions, truths)
    accuracy = MulticlassAccuracy(**{**settings, "average": "micro"})(predictions, truths)
    for position in range(num_classes):
        # torchmetrics has 0 where nothing can be said.
        assert metrics.get(f"IoU/{position}", 0.0) == pytest.approx(ious[position].item(), abs=1e-6)
        assert metrics.get(f"accuracy/{position}", 0.0) == pytest.approx(recalls[position].item(), abs=1e-6)
    assert metrics["pixel_accuracy"] == pytest.approx(accuracy.item(), abs=1e-6)
    macro = MulticlassJaccardIndex(num_classes, ignore_index=IGNORE_INDEX, average="macro")(predictions, truths)
    assert metrics["mIoU"] == pytest.approx(macro.item(), abs=1e-6)
    assert 0.02 < metrics["mIoU"] < 0.9


def cityscapes_pairs(kind: str) -> list[tuple[ByteArray, ByteArray]]:
    """Predicted and true label ids, including those that do not count."""
    ids = np.array([label.id for label in official_labels if label.id >= 0], np.uint8)
    generator = np.random.default_rng(5)
    if kind == "random":
        shape = (2, 30, 50)
        return [(generator.choice(ids, shape[1:]), generator.choice(ids, shape[1:])) for _ in range(3)]
    pairs = []
    for prediction, truth in blocks(1, 19):
        judged = np.array([label.id for label in official_labels if not label.ignoreInEval], np.uint8)
        true_ids = judged[np.minimum(truth, 18)]
        true_ids[truth == IGNORE_INDEX] = generator.choice(ids[:7], (truth == IGNORE_INDEX).sum())
        # One class is never true, another neither true nor predicted.
        true_ids[true_ids == 33] = 7
        predicted_ids = judged[prediction]
        predicted_ids[predicted_ids == 31], true_ids[true_ids == 31] = 24, 24
        predicted_ids[:2] = 4
        pairs.append((predicted_ids, true_ids))
    return pairs


@pytest.mark.parametrize("kind", ["random", "blocks"])
def test_equals_the_cityscapes_scripts(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = cityscapes_pairs(kind)
    files: tuple[list[str], list[str]] = ([], [])
    for number, pair in enumerate(pairs):
        for names, role, ids in zip(files, ("pred", "gt"), pair, strict=True):
            names.append(str(tmp_path / f"{role}_{number}_labelIds.png"))
            Image.fromarray(ids).save(names[-1])
    for name, value in {"evalInstLevelScore": False, "JSONOutput": False, "quiet": True, "evalLabels": []}.items():
        monkeypatch.setattr(official_settings, name, value)
    expected = evaluateImgLists(*files, official_settings)

    judged = [label for label in official_labels if not label.ignoreInEval]
    table = np.full(256, IGNORE_INDEX, np.uint8)
    table[[label.id for label in judged]] = np.arange(len(judged))
    evaluator = evaluate(tuple(label.name for label in judged), *((table[p], table[t]) for p, t in pairs))
    metrics = evaluator.compute()
    assert metrics["mIoU"] == pytest.approx(expected["averageScoreClasses"], rel=1e-12)
    for label in judged:
        iou = expected["classScores"][label.name]
        assert metrics.get(f"IoU/{label.name}", math.nan) == pytest.approx(iou, rel=1e-12, nan_ok=True)
    assert evaluator.confusion_matrix()[:, -1].any()
    if kind == "blocks":
        assert metrics["IoU/bicycle"] == 0
        assert "IoU/train" not in metrics


def test_two_shards_are_one() -> None:
    pairs = list(blocks(0, 5, num_images=5))
    names = tuple("abcde")
    whole = evaluate(names, *pairs)
    shards = [SegmentationEvaluator(names) for _ in range(3)]  # the last one sees no image
    for number, (prediction, truth) in enumerate(pairs):
        shards[number % 2].update(number, LabelMap(prediction), truth)
    states = [shard.state() for shard in shards]
    for shard in shards:
        shard.merge(states)
        assert dict(shard.compute()) == dict(whole.compute())
        assert sorted(shard.state()["image_ids"].tolist()) == [0, 1, 2, 3, 4]
        assert all(values.dtype == np.int64 for values in shard.state().values())
    with pytest.raises(ValueError, match="image 3 was evaluated twice"):
        shards[0].update(3, LabelMap(array([0])), array([0]))
    shards[0].reset()
    shards[0].update(3, LabelMap(array([1])), array([1]))
    assert shards[0].compute()["pixel_accuracy"] == 1


def test_a_state_is_a_copy() -> None:
    evaluator = evaluate(ABC, (array([0]), array([0])))
    state = evaluator.state()
    evaluator.update(1, LabelMap(array([1])), array([1]))
    assert state["counts"].sum() == 1
    evaluator.confusion_matrix()[0, 0] = 7
    assert evaluator.confusion_matrix().sum() == 2


def test_more_pixels_than_fit_in_32_bits() -> None:
    counts = np.zeros((3, 4), np.int64)
    counts[0, 0] = 2**53
    counts[1, 0] = 2**33
    evaluator = SegmentationEvaluator(ABC)
    evaluator.merge([{"image_ids": np.array([1]), "counts": counts}, {"image_ids": np.array([2]), "counts": counts}])
    evaluator.update(3, LabelMap(array([0, 1])), array([0, 1]))
    assert evaluator.confusion_matrix()[0, 0] == 2**54 + 1
    assert evaluator.compute()["IoU/b"] == pytest.approx(1 / (2**34 + 1))


def test_nothing_to_judge() -> None:
    evaluator = SegmentationEvaluator(ABC)
    for question in (evaluator.compute, evaluator.classes_without_truth, evaluator.confusion_matrix):
        with pytest.raises(ValueError, match="no image was evaluated"):
            question()
    evaluator.update(0, LabelMap(array([0, 1])), array([IGNORE_INDEX, IGNORE_INDEX]))
    with pytest.raises(ValueError, match="no labeled pixel in 1 images"):
        evaluator.compute()


def test_an_image_of_ignored_changes_nothing() -> None:
    evaluator = evaluate(ABC, (array([0, 1]), array([0, 0])))
    before = dict(evaluator.compute())
    evaluator.update(9, LabelMap(array([0, 2])), array([IGNORE_INDEX, IGNORE_INDEX]))
    evaluator.update(10, LabelMap(array([])), array([]))
    assert dict(evaluator.compute()) == before


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (
            array([0, 0]),
            array([0, 0, 0]),
            "image 4: the prediction is 1x2, the truth 1x3 of uint8; they must be of one",
        ),
        (array([0, 0]), np.zeros((1, 2), np.int64), "the truth 1x2 of int64"),
        (array([0, 0]), array([0, 3]), "image 4: label 3 in the truth, allowed 0 to 2 and 255"),
        (array([7, 254]), array([0, 0]), "image 4: label 254 in the prediction, allowed 0 to 2 and 255"),
    ],
)
def test_what_cannot_be_judged(prediction: ByteArray, truth: Any, message: str) -> None:
    evaluator = SegmentationEvaluator(ABC)
    with pytest.raises(ValueError, match=message):
        evaluator.update(4, LabelMap(prediction), truth)
    assert evaluator.state()["image_ids"].tolist() == []


@pytest.mark.parametrize(
    ("names", "ids", "message"),
    [
        ((), None, "masks hold 1 to 255 classes, got 0"),
        (tuple(map(str, range(256))), None, "got 256"),
        (("a", "b", "a"), None, "every class name must be unique, but these occur more than once: a"),
        (("a", "b"), (1,), "got 2 class names and 1 category ids"),
    ],
)
def test_classes_that_make_no_sense(names: tuple[str, ...], ids: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentationEvaluator(names, ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": np.zeros((2, 3), np.int64)}, r"counts \[3, 4\], got .*\(2, 3\)"),
        ({"image_ids": np.zeros((2, 3), np.int64)}, r"needs image_ids \[I\]"),
        ({"image_ids": np.array([0])}, "every image id must be unique, but these occur more than once: 0"),
    ],
)
def test_states_that_do_not_merge(change: dict[str, Any], message: str) -> None:
    evaluator = evaluate(ABC, (array([0]), array([0])))
    other = {"image_ids": np.array([1]), "counts": np.zeros((3, 4), np.int64), **change}
    with pytest.raises(ValueError, match=message):
        evaluator.merge([evaluator.state(), other])
    assert evaluator.compute()["mIoU"] == 1


def test_artifacts(tmp_path: Path) -> None:
    evaluator: Evaluator = evaluate(tuple("abcde"), *blocks(0, 5))
    evaluator.write_artifacts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["confusion_matrix.png", "iou.png"]


def test_a_class_without_iou_has_no_bar(tmp_path: Path) -> None:
    # class a: 1 of 2 pixels, class b: 1 of 2; nothing is c
    evaluate(ABC, (array([0, 1, 1]), array([0, 0, 1]))).write_artifacts(tmp_path)
    plot_class_scores({"a": 0.5, "b": 0.5}, 0.5, "IoU", tmp_path / "expected.png")
    assert (tmp_path / "iou.png").read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_what_goes_wrong_with_each_class() -> None:
    evaluator = SegmentationEvaluator(("road", "car", "never"))
    truth, found = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    truth[:2] = 1  # 20 pixels of car
    found[1:3] = 1  # of which 10 are found, and 10 of the road with them
    evaluator.update(0, LabelMap(found), truth)
    assert evaluator.error_table()[1:] == [
        ["road", "80.00%", "12.50%", "12.50%", "car 12.5%", "car 12.5%"],
        ["car", "20.00%", "50.00%", "50.00%", "road 50.0%", "road 50.0%"],
    ]
