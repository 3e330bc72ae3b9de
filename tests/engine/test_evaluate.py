"""A model and a data set meet by class name, and the numbers are pycocotools'."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detseg.data.open import open_dataset
from detseg.engine.evaluate import evaluate
from detseg.engine.report import write_report
from detseg.evaluation.coco_map import CocoEvaluator
from detseg.models.detector import DetectorConfig
from detseg.runtime.geometry import InputSpec
from detseg.runtime.images import write_image
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.package import PackageConfig

NAMES = ("circle", "square", "triangle")


def make_model(class_names: tuple[str, ...]) -> tuple[torch.nn.Module, object]:
    torch.manual_seed(0)
    task = DetectionTaskConfig(input=InputSpec(64, 64))
    model, built = PackageConfig(DetectorConfig(), task, class_names).build()
    with torch.no_grad():
        for branch in model.head.class_branches:
            branch[-1].bias.fill_(-2.0)  # a fresh head is sure that there is nothing
        for branch in model.head.box_branches:
            branch[-1].bias.view(4, 16)[:, 1] = 10.0  # and its boxes are 15 strides wide; these are 2
    return model, built


def write_coco(folder: Path, names: dict[str, int]) -> Path:
    """Six pictures of shapes as COCO files whose category ids are those of ``names``, in that order."""
    shapes = open_dataset("shapes", "val")
    images, annotations = [], []
    for index in range(6):
        sample, truth = shapes.load(index), shapes.ground_truth(index)
        write_image(folder / f"val/{index}.png", sample.image)
        images.append({"id": index + 1, "file_name": f"{index}.png", "height": 160, "width": 160})
        for box, label, area in zip(truth.boxes_xywh.tolist(), truth.labels, truth.areas.tolist(), strict=True):
            name = NAMES[label]
            if name in names:
                annotations.append({"id": len(annotations) + 1, "image_id": index + 1, "category_id": names[name],
                                    "bbox": box, "area": area, "iscrowd": 0})  # fmt: skip
    categories = [{"id": number, "name": name} for name, number in names.items()]
    path = folder / "annotations/instances_val.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def run(folder: Path, class_names: tuple[str, ...] = NAMES) -> CocoEvaluator:
    model, task = make_model(class_names)
    found = evaluate(model, task, open_dataset(folder, "val"), batch_size=4, device=torch.device("cpu"), bar=False)
    assert isinstance(found, CocoEvaluator)
    return found


def test_the_twelve_numbers_are_those_of_pycocotools_on_the_saved_file(tmp_path: Path) -> None:
    truth = write_coco(tmp_path, {"circle": 7, "triangle": 90, "square": 11})
    evaluator = run(tmp_path)
    metrics = evaluator.compute()
    write_report(evaluator, metrics, tmp_path / "report")
    with contextlib.redirect_stdout(io.StringIO()):
        official = COCO(str(truth))
        judged = COCOeval(official, official.loadRes(str(tmp_path / "report/detections.json")), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    names = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100", "AR_small", "AR_medium"]
    ours = [metrics[name] for name in (*names, "AR_large")]
    assert np.abs(np.array(ours) - judged.stats).max() <= 1e-9
    assert 0 < metrics["AR100"] < 1
    saved = json.loads((tmp_path / "report/metrics.json").read_text())
    assert saved["AP"] == metrics["AP"]
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "metrics.json",
        "detections.json",
        "pr_curve.png",
        "confusion_matrix.png",
    }


def test_the_order_of_the_classes_in_the_data_set_does_not_matter(tmp_path: Path) -> None:
    write_coco(tmp_path / "one", {"circle": 1, "square": 2, "triangle": 3})
    write_coco(tmp_path / "other", {"triangle": 1, "circle": 2, "square": 3})
    one, other = run(tmp_path / "one").compute(), run(tmp_path / "other").compute()
    assert one["AR100"] > 0
    for name in NAMES:
        assert other[f"AP/{name}"] == one[f"AP/{name}"]


def test_a_class_that_the_data_set_does_not_have_is_left_out(tmp_path: Path) -> None:
    write_coco(tmp_path / "all", {"circle": 1, "square": 2, "triangle": 3})
    write_coco(tmp_path / "few", {"square": 4})
    whole, few = run(tmp_path / "all"), run(tmp_path / "few")
    assert few.compute()["AP/square"] == whole.compute()["AP/square"]
    squares = [record for record in whole.results() if record["category_id"] == 2]
    assert len(few.results()) == len(squares) > 0


def test_a_class_that_the_model_does_not_know_is_an_error_that_lists_both(tmp_path: Path) -> None:
    write_coco(tmp_path, {"circle": 1, "square": 2})
    with pytest.raises(ValueError, match=r"square; the model has: circle, star; the data set has: circle, square"):
        run(tmp_path, ("circle", "star"))


def test_the_mode_of_the_model_comes_back(tmp_path: Path) -> None:
    write_coco(tmp_path, {"circle": 1})
    model, task = make_model(NAMES)
    for training in (True, False):
        model.train(training)
        evaluate(model, task, open_dataset(tmp_path, "val"), batch_size=4, device=torch.device("cpu"), bar=False)
        assert model.training == training
