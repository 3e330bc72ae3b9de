from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detseg.evaluation.compare import compare_tables
from detseg.evaluation.labels.miou import SegmentationEvaluator
from detseg.evaluation.objects.coco_map import CocoEvaluator
from detseg.evaluation.per_image import (
    ImageTable,
    Resampler,
    boxes_entry,
    pixels_entry,
    read_table,
    write_table,
)
from detseg.structures import IGNORE_INDEX, Detections, GroundTruth, LabelMap

NAMES = ("cat", "dog")


def images(num_images: int, noise: float, seed: int = 0) -> list[tuple[Detections, GroundTruth]]:
    """Objects, and boxes that lie the further off the more ``noise`` there is; some are missing or invented."""
    random = np.random.default_rng(seed)
    made = []
    for image_id in range(num_images):
        boxes = random.uniform(0, 60, (4, 4))
        boxes[:, 2:] = random.uniform(20, 40, (4, 2))
        labels = random.integers(0, 2, 4)
        truth = GroundTruth(image_id, 100, 100, boxes, labels, np.zeros(4, bool), boxes[:, 2:].prod(axis=1))
        found_xyxy = truth.boxes_xyxy + random.normal(0, noise, (4, 4))
        found_xyxy[:, 2:] = np.maximum(found_xyxy[:, 2:], found_xyxy[:, :2] + 1)
        scores = np.sort(random.random(4))[::-1].astype(np.float32)
        made.append((Detections(found_xyxy.astype(np.float32), scores, labels), truth))
    return made


def table_of(made: list[tuple[Detections, GroundTruth]]) -> ImageTable:
    images = {f"{number:03d}": boxes_entry(found, truth, 2) for number, (found, truth) in enumerate(made)}
    return ImageTable("boxes at IoU 0.5", NAMES, images)


def test_the_whole_is_what_evaluation_gives() -> None:
    made = images(30, noise=4)
    evaluator = CocoEvaluator(NAMES)
    for image_id, (found, truth) in enumerate(made):
        evaluator.update(image_id, found, truth)
    metrics = evaluator.compute()
    table = table_of(made)
    values = Resampler(table, list(table.images))(np.ones(30))
    assert values.mean() == pytest.approx(metrics["AP50"], abs=1e-6)
    assert 0.2 < values.mean() < 0.95


def test_weights_stand_for_images_given_so_often() -> None:
    made = images(10, noise=4)
    weights = np.array([2, 0, 1, 3, 0, 1, 1, 0, 1, 1])
    again = [made[number] for number, count in enumerate(weights) for _ in range(count)]
    table, repeated = table_of(made), table_of(again)
    expected = Resampler(repeated, list(repeated.images))(np.ones(10))
    np.testing.assert_allclose(Resampler(table, list(table.images))(weights.astype(float)), expected, atol=1e-9)


def test_pixels_are_pooled_and_cases_averaged() -> None:
    random = np.random.default_rng(0)
    evaluator = SegmentationEvaluator(("a", "b", "c"))
    images = {}
    for number in range(5):
        truth, found = random.integers(0, 3, (2, 8, 9)).astype(np.uint8)
        truth[0, :number] = IGNORE_INDEX
        evaluator.update(number, LabelMap(found), truth)
        images[str(number)] = pixels_entry(found, truth, 3)
    values = Resampler(ImageTable("pixels", ("a", "b", "c"), images), list(images))(np.ones(5))
    assert values.mean() == pytest.approx(evaluator.compute()["mIoU"])
    cases = ImageTable("cases", NAMES, {"x": [None, 0.5], "y": [None, 0.7], "z": [None, None]})
    means = Resampler(cases, ["x", "y", "z"])(np.array([1.0, 3.0, 1.0]))
    assert np.isnan(means[0])
    assert means[1] == pytest.approx(0.65)


def test_a_difference_is_sure_where_it_is_large() -> None:
    good, bad = images(60, noise=1), images(60, noise=9)
    compared = compare_tables([table_of(bad), table_of(good), table_of(bad)], num_samples=200)
    (_, better, same) = compared.differences
    assert better[0].low > 0.2
    assert better[0].low < better[0].value < better[0].high
    assert (same[0].value, same[0].low, same[0].high) == (0, 0, 0)
    assert compared.values[0][0].low < compared.values[0][0].value < compared.values[0][0].high
    assert compared.changed(2, 5) == []
    assert len(compared.changed(1, 5)) == 5
    again = compare_tables([table_of(bad), table_of(good), table_of(bad)], num_samples=200)
    assert again.differences == compared.differences, "the same seed"


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Dice of cases around 0.7: the mean of 40 lies within the interval in about 95 of 100 data sets."""
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        scores = np.clip(random.normal(0.7, 0.1, (2, 40)), 0, 1)
        tables = [
            ImageTable("cases", ("organ",), {str(number): [float(score)] for number, score in enumerate(run)})
            for run in scores
        ]
        interval = compare_tables(tables, num_samples=200).values[0][0]
        hits += interval.low <= 0.7 <= interval.high
    assert 86 <= hits <= 99


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    table = table_of(images(3, noise=2))
    write_table(tmp_path / "images.json", table)
    assert read_table(tmp_path / "images.json") == table


def test_runs_that_cannot_be_compared(tmp_path: Path) -> None:
    boxes, cases = table_of(images(3, 2)), ImageTable("cases", NAMES, {"000": [0.1, 0.2]})
    with pytest.raises(ValueError, match=r"run 2 gives cases, run 1 boxes at IoU 0\.5; compare runs of one task"):
        compare_tables([boxes, cases])
    with pytest.raises(ValueError, match="run 2 has the classes a, b, run 1 cat, dog"):
        compare_tables([cases, ImageTable("cases", ("a", "b"), cases.images)])
    with pytest.raises(ValueError, match="no image in common"):
        compare_tables([cases, ImageTable("cases", NAMES, {"x": [1.0, 1.0]})])
    with pytest.raises(ValueError, match="two runs or more"):
        compare_tables([cases])
    with pytest.raises(ValueError, match="100 samples or more, got 3"):
        compare_tables([cases, cases], num_samples=3)
    with pytest.raises(FileNotFoundError, match="detseg eval MODEL --data DATA -o FOLDER"):
        read_table(tmp_path / "images.json")
    for text in (
        '{"version": 1}',
        '{"version": 1, "form": "cases", "classes": ["a", 1.5], "images": {}}',
        '{"version": 1, "form": 3, "classes": ["a"], "images": {}}',
        '{"version": 1, "form": "cases", "classes": "ab", "images": {}}',
    ):
        (tmp_path / "images.json").write_text(text)
        with pytest.raises(ValueError, match=r"images\.json: is no table of images"):
            read_table(tmp_path / "images.json")
