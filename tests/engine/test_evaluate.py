"""Evaluation on a data set whose objects are some of those that the model finds, so that AP is neither 0 nor 1."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detseg.data.open import open_dataset
from detseg.engine.evaluate import evaluate, evaluate_runner
from detseg.engine.evaluated import open_evaluated
from detseg.engine.reports.report import write_report
from detseg.exporters.export import export_model
from detseg.inference.load import make_runner
from detseg.models.backbones.csp_darknet import CSPDarknetConfig
from detseg.models.detector import DetectorConfig
from detseg.models.necks.pan import PANConfig
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.media.images import ImageError, write_image
from detseg.runtime.model import Model
from detseg.runtime.postprocess.config import PostprocessConfig
from detseg.structures import Detections
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.model_file import ModelFile, ModelFileConfig, save_model_file

CLASSES = ("circle", "square", "triangle")
NUM_IMAGES = 3


@pytest.fixture(scope="module")
def package() -> ModelFile:
    """A model with random weights that finds small boxes of all classes, everywhere."""
    config = ModelFileConfig(
        DetectorConfig(backbone=CSPDarknetConfig(width=0.0625, depth=0.01), neck=PANConfig(depth=0.01)),
        DetectionTaskConfig(input=InputSpec(64, 64), postprocess=PostprocessConfig(iou=0.5, max_detections=300)),
        CLASSES,
        (1, 2, 3),
    )
    torch.manual_seed(0)
    model, task = config.build()
    with torch.no_grad():
        # Norms that fit the images: without them all scores are nearly equal.
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        for _ in range(5):
            model.train()(torch.rand(4, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3))
        for branch in model.get_submodule("head.box_branches"):
            branch[-1].weight.mul_(3)
            branch[-1].bias.copy_(-0.8 * torch.arange(16).repeat(4))  # the mean distance is one cell
        for branch in model.get_submodule("head.class_branches"):
            branch[-1].weight.mul_(3)
            branch[-1].bias.fill_(-2)
    return ModelFile(model.eval(), task, config)


@pytest.fixture(scope="module")
def objects(package: ModelFile, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, list[float]]]]:
    """ReportImage -> class and box (xywh) of every third object that the model finds there, shaken a little."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(NUM_IMAGES)]
    for path in paths:
        write_image(path, rng.integers(0, 256, (6, 10, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1))
    model = Model(make_runner(package.model, package.task), "detection", CLASSES, range(1, len(CLASSES) + 1))
    found: dict[str, list[tuple[str, list[float]]]] = {}
    for prediction in model.predict(paths):
        assert isinstance(prediction.result, Detections)
        boxes = prediction.result.boxes_xyxy.astype(float)
        boxes[:, 2:] -= boxes[:, :2]
        boxes *= rng.uniform(0.9, 1.1, boxes.shape)
        rows = zip(prediction.result.labels.tolist(), boxes.round(2).tolist(), strict=True)
        found[str(prediction.path)] = [(CLASSES[label], box) for label, box in list(rows)[::3] if min(box[2:]) > 4]
    return found


def coco_folder(folder: Path, objects: dict[str, list[tuple[str, list[float]]]], categories: dict[str, int]) -> Path:
    """A COCO data set with the objects of these categories."""
    images, annotations = [], []
    for number, (path, found) in enumerate(objects.items(), start=1):
        images.append({"id": 10 * number, "file_name": Path(path).name, "height": 48, "width": 80})
        for name, box in found:
            if name in categories:
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": 10 * number, "category_id": categories[name],
                     "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                )  # fmt: skip
        (folder / "val").mkdir(parents=True, exist_ok=True)
        (folder / "val" / Path(path).name).write_bytes(Path(path).read_bytes())
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return folder


def measure(package: ModelFile, folder: Path, batch_size: int = 2) -> Any:
    dataset = open_dataset(folder, "val")
    device = torch.device("cpu")
    return evaluate(package.model, package.task, dataset, batch_size=batch_size, device=device, bar=False)


def per_class(evaluator: Any) -> dict[str, float]:
    return {name: value for name, value in evaluator.compute().items() if "/" in name}


IN_ORDER = {"circle": 1, "square": 2, "triangle": 3}


def test_classes_meet_by_name_whatever_their_order(package: ModelFile, objects: Any, tmp_path: Path) -> None:
    expected = per_class(measure(package, coco_folder(tmp_path / "same", objects, IN_ORDER)))
    assert expected.keys() >= {f"{name}/{class_name}" for name in ("AP", "AP50") for class_name in CLASSES}
    # Otherwise a mix-up of classes could not be seen.
    seen = {name: value for name, value in expected.items() if name.startswith(("AP/", "AP50/"))}
    assert len(set(seen.values())) == 6
    assert all(0.02 < value < 0.98 for value in seen.values())
    permuted = coco_folder(tmp_path / "permuted", objects, {"triangle": 4, "circle": 9, "square": 70})
    assert open_dataset(permuted, "val").class_names != CLASSES
    assert per_class(measure(package, permuted)) == expected


@pytest.mark.parametrize("kept", [("square",), ("triangle", "circle")])
def test_a_data_set_with_fewer_classes(package: ModelFile, objects: Any, tmp_path: Path, kept: Sequence[str]) -> None:
    expected = per_class(measure(package, coco_folder(tmp_path / "all", objects, IN_ORDER)))
    folder = coco_folder(tmp_path / "few", objects, {name: 5 - number for number, name in enumerate(kept)})
    evaluator = measure(package, folder)
    assert per_class(evaluator) == {name: value for name, value in expected.items() if name.endswith(tuple(kept))}
    assert {result["category_id"] for result in evaluator.results()} == {5 - number for number in range(len(kept))}


def test_a_class_that_the_model_does_not_know(package: ModelFile, objects: Any, tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "more", objects, {"circle": 1, "hexagon": 2})
    message = "does not know 1 classes of the data set: hexagon; the model has: circle, square, triangle; .*: circle, h"
    with pytest.raises(ValueError, match=message):
        measure(package, folder)


def test_the_report_equals_pycocotools_on_the_saved_detections(
    package: ModelFile, objects: Any, tmp_path: Path
) -> None:
    folder = coco_folder(tmp_path / "data", objects, {"square": 7, "triangle": 3, "circle": 50})
    evaluator = measure(package, folder)
    table = write_report(evaluator, evaluator.compute(), tmp_path / "report")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "calibration.png", "confusion_matrix.png", "detections.json", "f1_curve.png", "metrics.json", "pr_curve.png",
        "report.html",
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "annotations" / "instances_val.json"))
        official = COCOeval(truth, truth.loadRes(str(tmp_path / "report" / "detections.json")), "bbox")
        official.evaluate()
        official.accumulate()
        official.summarize()
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    twelve = [value for name, value in metrics.items() if "/" not in name and name != "evaluator"]
    assert twelve == pytest.approx(official.stats.tolist(), abs=1e-9)
    assert 0.02 < metrics["AP"] < 0.98
    assert f"{metrics['AP']:.4f}" in table


def test_the_batch_size_does_not_matter(package: ModelFile, objects: Any, tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "data", objects, IN_ORDER)
    small, large = (measure(package, folder, batch_size) for batch_size in (1, 3))
    # Sums in another order: two scores may change places, no more.
    assert dict(small.compute()) == pytest.approx(dict(large.compute()), abs=0.01)


def test_nothing_found_is_ap_zero(package: ModelFile, objects: Any, tmp_path: Path) -> None:
    strict = ModelFileConfig(
        package.config.model, DetectionTaskConfig(input=InputSpec(64, 64), postprocess=PostprocessConfig(1.0)), CLASSES
    )
    task = strict.task.build(package.model, CLASSES)
    evaluator = measure(ModelFile(package.model, task, strict), coco_folder(tmp_path / "data", objects, IN_ORDER))
    assert evaluator.results() == []
    metrics = evaluator.compute()
    assert metrics["AP"] == metrics["AP50"] == 0
    write_report(evaluator, metrics, tmp_path / "report")
    assert json.loads((tmp_path / "report" / "detections.json").read_text()) == []


@pytest.mark.parametrize("training", [True, False])
def test_the_model_keeps_its_mode_and_is_not_trained(
    package: ModelFile, objects: Any, tmp_path: Path, training: bool
) -> None:
    folder = coco_folder(tmp_path / "data", objects, IN_ORDER)
    before = {name: value.clone() for name, value in package.model.state_dict().items()}
    try:
        package.model.train(training)
        measure(package, folder)
        assert package.model.training == training
    finally:
        package.model.eval()
    assert all(torch.equal(value, before[name]) for name, value in package.model.state_dict().items())


def metrics_of(model_path: Path, folder: Path, num_workers: int = 0, **postprocess: Any) -> dict[str, float]:
    opened = open_evaluated(model_path, data=str(folder), device="cpu", postprocess=postprocess)
    return dict(opened.evaluate(batch_size=2, num_workers=num_workers).compute())


@pytest.mark.parametrize("form", ["decoded", "nms", pytest.param("raw", marks=pytest.mark.slow)])
def test_an_exported_file_has_the_numbers_of_its_model(
    package: ModelFile, objects: Any, tmp_path: Path, form: str
) -> None:
    folder = coco_folder(tmp_path / "data", objects, {"triangle": 4, "circle": 9, "square": 70})
    model_path = tmp_path / "model.safetensors"
    save_model_file(model_path, package.model.state_dict(), package.config)
    made = export_model(model_path, tmp_path / "model.onnx", form=form)
    few = metrics_of(model_path, folder, confidence=0.25)
    expected = few if form == "nms" else metrics_of(model_path, folder)
    if form == "nms":
        with pytest.warns(UserWarning, match=r"leaves out what scores below 0\.25.*--conf 0\.001"):
            found = metrics_of(made.path, folder)
        with pytest.raises(ValueError, match="NMS is part of the graph, so confidence cannot be changed"):
            metrics_of(made.path, folder, confidence=0.001)
    else:
        found = metrics_of(made.path, folder, num_workers=2)
    assert expected.keys() == found.keys()
    assert found == pytest.approx(expected, abs=1e-6)
    # Evaluation counts what prediction leaves out.
    assert 0.01 < few["AP"] < metrics_of(model_path, folder)["AP"] - 0.01
    if form != "nms":
        assert metrics_of(made.path, folder, confidence=0.25) == pytest.approx(few, abs=1e-6)


def test_a_runner_has_the_numbers_of_its_network(package: ModelFile, objects: Any, tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "data", objects, {"triangle": 4, "square": 70})
    dataset = open_dataset(folder, "val")
    told: list[tuple[int, int, int]] = []
    evaluator = evaluate_runner(
        make_runner(package.model, package.task),
        package.task,
        dataset,
        batch_size=2,
        bar=False,
        on_result=lambda index, found, truth: told.append((index, len(found), truth.image_id)),
    )
    expected = measure(package, folder)
    assert dict(evaluator.compute()) == pytest.approx(dict(expected.compute()), abs=1e-6)
    assert [(index, image_id) for index, _, image_id in told] == [(0, 10), (1, 20), (2, 30)]
    assert sum(number for _, number, _ in told) == len(expected.results())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_on_the_way_ends_the_loader_and_leaves_the_mode(
    package: ModelFile, objects: Any, tmp_path: Path, num_workers: int
) -> None:
    folder = coco_folder(tmp_path / "data", objects, IN_ORDER)
    (folder / "val" / "1.png").write_bytes(b"no image")
    dataset, children = open_dataset(folder, "val"), len(multiprocessing.active_children())
    package.model.train()
    try:
        with pytest.raises(ImageError, match=r"1\.png"):
            evaluate(
                package.model,
                package.task,
                dataset,
                batch_size=1,
                device=torch.device("cpu"),
                num_workers=num_workers,
                bar=False,
            )
        assert package.model.training
    finally:
        package.model.eval()
    with pytest.raises(ImageError, match=r"1\.png"):
        evaluate_runner(
            make_runner(package.model, package.task),
            package.task,
            dataset,
            batch_size=1,
            num_workers=num_workers,
            bar=False,
        )
    assert len(multiprocessing.active_children()) == children


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_precision_that_is_asked_for(
    package: ModelFile, objects: Any, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(coco_folder(tmp_path / "data", objects, {"square": 7, "triangle": 3, "circle": 50}), "val")
    seen: list[torch.dtype] = []
    task, infer = package.task, type(package.task).infer

    def remember(self: Any, model: Any, images: Any) -> Any:
        seen.append(model(images)[0].dtype)
        return infer(self, model, images)

    monkeypatch.setattr(type(task), "infer", remember)
    settings: dict[str, Any] = {"batch_size": 2, "device": torch.device("cpu"), "bar": False}
    whole = evaluate(package.model, task, dataset, **settings).compute()["AP"]
    half = evaluate(package.model, task, dataset, **settings, precision=precision).compute()["AP"]
    assert set(seen[:2]) == {torch.float32}
    assert set(seen[2:]) == {{"bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
    assert half == pytest.approx(whole, abs=0.1)
    assert half != whole
    with pytest.raises(ValueError, match="precision must be one of fp32, fp16, bf16, got 'int8'"):
        evaluate(package.model, task, dataset, **settings, precision="int8")


@pytest.mark.filterwarnings("ignore:without Triton's kernels")
def test_batches_come_from_workers_into_pinned_memory_where_a_gpu_takes_them(
    package: ModelFile, objects: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(coco_folder(tmp_path / "data", objects, IN_ORDER), "val")
    made: list[dict[str, Any]] = []

    class ReachedError(Exception):
        """The loader was made, and there may be no GPU for what follows."""

    def make(*_: Any, **settings: Any) -> Any:
        made.append(settings)
        raise ReachedError

    monkeypatch.setattr("detseg.engine.evaluate.EvalLoader", make)
    for device in ("cuda", "cpu"):
        with pytest.raises(ReachedError):
            evaluate(
                package.model,
                package.task,
                dataset,
                batch_size=2,
                device=torch.device(device),
                num_workers=3,
                bar=False,
            )
    assert [(one["pin_memory"], one["num_workers"], one["batch_size"]) for one in made] == [(True, 3, 2), (False, 3, 2)]


def test_the_network_that_is_judged_has_its_norms_folded(
    package: ModelFile, objects: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(coco_folder(tmp_path / "data", objects, IN_ORDER), "val")
    norms: list[int] = []
    infer = type(package.task).infer

    def remember(self: Any, model: torch.nn.Module, images: Any) -> Any:
        norms.append(sum(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()))
        return infer(self, model, images)

    monkeypatch.setattr(type(package.task), "infer", remember)
    evaluate(package.model, package.task, dataset, batch_size=3, device=torch.device("cpu"), bar=False)
    assert norms == [0]
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in package.model.modules())


def test_evaluation_leaves_the_model_as_it_was(package: ModelFile, objects: Any, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in package.model.state_dict().items()}
    measure(package, coco_folder(tmp_path / "data", objects, {"square": 7, "triangle": 3, "circle": 50}))
    after = package.model.state_dict()
    assert list(after) == list(before), "its batch norms are not folded"
    assert all(torch.equal(after[name], value) for name, value in before.items())
