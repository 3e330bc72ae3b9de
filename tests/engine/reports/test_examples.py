from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detseg.arrays import ByteArray
from detseg.data.formats.blobs import BlobsConfig, BlobsDataset
from detseg.data.formats.shapes import ShapesConfig, ShapesDataset
from detseg.engine.reports.examples import Examples
from detseg.engine.reports.report_images import ReportImages
from detseg.evaluation.objects.coco_map import CocoEvaluator
from detseg.evaluation.objects.errors import Outcome
from detseg.models.detector import DetectorConfig
from detseg.models.letnet import LETNetConfig
from detseg.runtime.drawing.compare import compare_labels
from detseg.runtime.media.images import read_image
from detseg.structures import Detections, LabelMap
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.semantic import SemanticTaskConfig
from detseg.tasks.volume import VolumeTaskConfig


def shapes(num_images: int, truth: Any = "masks", num_objects: int = 1) -> ShapesDataset:
    config = ShapesConfig(
        image_size=64, num_val=num_images, max_objects=num_objects, min_objects=num_objects, min_side=16, max_side=24
    )
    return ShapesDataset("val", config, truth)


def draw(folder: Path, num_images: int, num_shown: int) -> list[str]:
    """The names of the images of a data set whose predictions all are class 1."""
    dataset = shapes(num_images)
    task: Any = SemanticTaskConfig().build(LETNetConfig().build(4), dataset.class_names)
    examples = Examples(task, dataset, folder, num_shown)
    result = LabelMap(np.ones((64, 64), np.uint8))
    for index in range(num_images):
        examples(index, result, dataset.mask(index))
    if folder.exists():
        image, mask = dataset.read(0)
        assert mask is not None
        expected = compare_labels(image, mask, result.labels, dataset.class_names).astype(int)
        assert np.abs(read_image(folder / "000000_000000.jpg") - expected).mean() < 3
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize(
    ("num_images", "num_shown", "expected"),
    [(9, 3, [0, 4, 8]), (3, 12, [0, 1, 2]), (5, 1, [0])],
    ids=["spread from the first to the last", "all of a few", "one"],
)
def test_images_are_spread_over_the_data_set(
    tmp_path: Path, num_images: int, num_shown: int, expected: list[int]
) -> None:
    names = draw(tmp_path / "images", num_images, num_shown)
    assert names == [f"{index:06d}_{index:06d}.jpg" for index in expected]


def task_for(truth: str) -> Any:
    """The task that is judged by such truth."""
    if truth == "boxes":
        return DetectionTaskConfig().build(DetectorConfig().build(3), ("a", "b", "c"))
    if truth == "volumes":
        return VolumeTaskConfig().build(None, ("background", "bright", "dark"))
    return SemanticTaskConfig().build(None, ("background", "circle", "square", "triangle"))


def spoiled(mask: ByteArray, num_wrong_rows: int) -> LabelMap:
    """The truth, but for the first rows, which hold another class."""
    labels = mask.copy()
    labels[:num_wrong_rows] = (labels[:num_wrong_rows] + 1) % 3
    return LabelMap(labels)


def decoded(jpeg: bytes) -> ByteArray:
    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], np.uint8)


WRONG_ROWS = (10, 0, 40, 20, 0, 50, 30)


def look_at_masks(folder: Path | None, num_shown: int, indices: Sequence[int]) -> ReportImages:
    dataset = shapes(len(WRONG_ROWS))
    evaluator: Any = None  # masks are ranked without
    examples = Examples(task_for("masks"), dataset, folder, num_shown)
    for index in indices:
        examples(index, spoiled(dataset.mask(index), WRONG_ROWS[index]), dataset.mask(index))
    return examples.finish(evaluator)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("num_shown", "expected"), [(3, [5, 2, 6]), (7, [5, 2, 6, 3, 0])])
def test_the_worst_masks(tmp_path: Path, num_shown: int, expected: list[int], backward: bool) -> None:
    indices = range(len(WRONG_ROWS))
    images = look_at_masks(tmp_path / "images", num_shown, indices[::-1] if backward else indices)
    # An image without an error is not among them, wherever there is room.
    assert [image.name for image in images.hardest] == [f"{index:06d}_{index:06d}" for index in expected]
    assert "mIoU" in images.measure
    assert images.hardest[0].caption.startswith("mIoU 0.")
    names = sorted(path.name for path in (tmp_path / "images" / "hardest").iterdir())
    assert names == [f"{rank:02d}_{image.name}.jpg" for rank, image in enumerate(images.hardest, start=1)]
    dataset = shapes(len(WRONG_ROWS))
    image, mask = dataset.read(expected[0])
    assert mask is not None
    shown = compare_labels(image, mask, spoiled(mask, 50).labels, dataset.class_names)
    assert np.abs(decoded(images.hardest[0].jpeg).astype(int) - shown).mean() < 5


def test_the_worst_of_equals_are_the_first(tmp_path: Path) -> None:
    dataset = shapes(4)
    evaluator: Any = None
    examples = Examples(task_for("masks"), dataset, None, 2)
    for index in (3, 1, 0, 2):
        examples(index, LabelMap(np.full((64, 64), 255, np.uint8)), dataset.mask(index))
    assert [image.name[:6] for image in examples.finish(evaluator).hardest] == ["000000", "000001"]


def test_a_folder_is_not_needed_and_holds_nothing_stale(tmp_path: Path) -> None:
    indices = range(len(WRONG_ROWS))
    in_memory = look_at_masks(None, 3, indices)
    assert list(tmp_path.iterdir()) == []
    folder = tmp_path / "images"
    look_at_masks(folder, 7, indices)
    (folder / "hardest" / "notes.jpg").write_bytes(b"mine")
    assert look_at_masks(folder, 3, indices) == in_memory
    names = sorted(path.name[:2] for path in (folder / "hardest").iterdir())
    assert names == ["01", "02", "03", "no"], "those of the larger set are gone, other files are not"


def test_the_worst_volumes() -> None:
    dataset = BlobsDataset("val", BlobsConfig(num_val=3, min_side=20, max_side=24, max_radius=8.0))
    evaluator: Any = None
    examples = Examples(task_for("volumes"), dataset, None, 2)
    for index in range(3):
        truth = dataset.label_volume(index)
        found = truth.labels.copy()
        found[: (0, 14, 9)[index]] = 0
        examples(index, type(truth)(found, truth.affine), truth)
    images = examples.finish(evaluator)
    assert [image.name[:6] for image in images.hardest] == ["000001", "000002"]
    assert images.hardest[0].caption.startswith("Dice ")
    assert "Dice" in images.measure


def test_the_worst_boxes(tmp_path: Path) -> None:
    dataset = shapes(4, "boxes", num_objects=3)
    evaluator = CocoEvaluator(dataset.class_names)
    task = task_for("boxes")
    examples, single = Examples(task, dataset, tmp_path / "images", 2), Examples(task, dataset, None, 1)
    # ReportImage 1 misses its first object, image 3 has one box too many and takes an object for another class.
    for index in range(4):
        truth = dataset.ground_truth(index)
        boxes = truth.boxes_xywh.copy()
        boxes[:, 2:] += boxes[:, :2]
        labels, scores = truth.labels.copy(), np.full(len(boxes), 0.9)
        if index == 1:
            boxes, labels, scores = boxes[1:], labels[1:], scores[1:]
        if index == 3:
            labels[0] = (labels[0] + 1) % 3
            boxes = np.concatenate([boxes, [[0, 0, 5, 5]]])
            labels, scores = np.append(labels, 0), np.append(scores, 0.9)
        found = Detections(boxes.astype(np.float32), scores.astype(np.float32), labels)
        evaluator.update(truth.image_id, found, truth)
        examples(index, found, truth)
        single(index, found, truth)
    images = examples.finish(evaluator)
    assert single.finish(evaluator).hardest == images.hardest[:1]
    assert [(image.name[:6], image.caption) for image in images.hardest] == [
        ("000003", "false positives 1, wrong class 1, right 2"),
        ("000001", "misses 1, right 2"),
    ]
    assert images.tally is not None
    assert images.tally.class_names == dataset.class_names
    totals = dict(zip(Outcome, images.tally.counts.sum(axis=0).tolist(), strict=True))
    assert totals == {
        Outcome.RIGHT: 10, Outcome.FALSE_POSITIVE: 1, Outcome.WRONG_CLASS: 1, Outcome.BADLY_PLACED: 0, Outcome.MISS: 1
    }  # fmt: skip
    # 10 right of 12 found and 12 true
    assert images.tally.f1 == pytest.approx(20 / 24)
    written = read_image(tmp_path / "images" / "hardest" / f"01_{images.hardest[0].name}.jpg")
    assert np.array_equal(written, decoded(images.hardest[0].jpeg))
    violet = (np.abs(written.astype(int) - (170, 95, 240)) < 40).all(axis=2)
    assert violet.sum() > 200, "the box of the wrong class"


TWO_PROCESSES = """
import sys
import importlib.util
from pathlib import Path
import torch
import torch.distributed as dist
from detseg.engine.distributed import Group
from detseg.engine.reports.examples import Examples
test_path, folder, rank = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
spec = importlib.util.spec_from_file_location("test_gallery", test_path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
dataset = module.shapes(len(module.WRONG_ROWS))
idle = Examples(module.task_for("masks"), dataset)
if rank == 0:
    idle(0, module.spoiled(dataset.mask(0), 9), dataset.mask(0))
assert len(idle.finish(None, Group(rank, 2, rank), torch.device("cpu")).hardest) == 1
examples = Examples(module.task_for("masks"), dataset, folder / "images", 3)
for index in range(rank, len(module.WRONG_ROWS), 2):
    examples(index, module.spoiled(dataset.mask(index), module.WRONG_ROWS[index]), dataset.mask(index))
images = examples.finish(None, Group(rank, 2, rank), torch.device("cpu"))
dist.destroy_process_group()
assert images == module.look_at_masks(None, 3, range(len(module.WRONG_ROWS)))

"""


@pytest.mark.slow
def test_two_processes_show_the_same(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, __file__, str(tmp_path), str(rank)], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    assert len(list((tmp_path / "images").glob("*.jpg"))) == 3
    assert len(list((tmp_path / "images" / "hardest").glob("*.jpg"))) == 3
