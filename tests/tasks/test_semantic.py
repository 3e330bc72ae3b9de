from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detseg.losses.segmentation import SegmentationLossConfig
from detseg.runtime.inputs.geometry import InputSpec, letterbox
from detseg.runtime.postprocess.config import InfererConfig
from detseg.structures import IGNORE_INDEX, LabelMap, LetterboxTransform, Sample
from detseg.tasks.base import Batch
from detseg.tasks.semantic import SemanticCriterion, SemanticTask, SemanticTaskConfig

CLASSES = ("sky", "road", "car")
PLAIN = InputSpec(64, 64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class ByColor(nn.Module):
    """Channel number c of the image is the logit of class c."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, int]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append((images.shape[2], images.shape[3]))
        return images


class Masks:
    """A data set of masks in memory."""

    class_names = CLASSES

    def __init__(self, *masks: list[list[int]]) -> None:
        self.masks = [np.array(mask, np.uint8) for mask in masks]

    def __len__(self) -> int:
        return len(self.masks)

    def mask(self, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return self.masks[index]


def make_task(**settings: Any) -> SemanticTask:
    return SemanticTaskConfig(**{"input": PLAIN, **settings}).build(ByColor(), CLASSES)


def make_criterion(**settings: Any) -> SemanticCriterion:
    task = make_task(**settings)
    return task.config.build_criterion(ByColor(), task)


def make_sample(mask: list[list[int]] | None) -> Sample:
    return Sample(
        image=np.full((2, 3, 3), (1, 2, 3), np.uint8),
        boxes_xyxy=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        crowd=np.zeros(0, np.bool_),
        image_id=7,
        path="a.png",
        transform=LetterboxTransform.identity(2, 3),
        mask=None if mask is None else np.array(mask, np.uint8),
    )


def predict(task: SemanticTask, *images: np.ndarray[Any, np.dtype[np.uint8]]) -> list[LabelMap]:
    """Images through letterbox, normalization and a model that knows classes by their color."""
    placed = [letterbox(image, task.spec) for image in images]
    batch = torch.from_numpy(np.stack([image for image, _ in placed]).transpose(0, 3, 1, 2).copy())
    return task.results(task.infer(ByColor(), task.normalize(batch)), [transform for _, transform in placed])


def colored(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return (np.eye(3)[labels] * 200).astype(np.uint8)


def quarters(height: int, width: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    labels = np.zeros((height, width), np.int64)
    labels[height // 2 :] = 1
    labels[height // 2 :, width // 2 :] = 2
    return labels


def test_collate_stacks_images_and_masks() -> None:
    batch = make_criterion().collate(
        [make_sample([[0, 1, 2], [2, IGNORE_INDEX, 0]]), make_sample([[1, 1, 1], [0, 0, 0]])]
    )
    assert batch.images.shape == (2, 3, 2, 3)
    assert batch.images[1, :, 1, 2].tolist() == [1, 2, 3]
    assert batch.targets["mask"].dtype == torch.uint8
    assert batch.targets["mask"].tolist() == [[[0, 1, 2], [2, 255, 0]], [[1, 1, 1], [0, 0, 0]]]
    assert (batch.image_ids, batch.paths) == ((7, 7), ("a.png", "a.png"))
    with pytest.raises(ValueError, match=r"a\.png: has no mask; semantic segmentation needs one for every image"):
        make_criterion().collate([make_sample([[0, 1, 2], [2, 2, 0]]), make_sample(None)])


@pytest.mark.parametrize(
    ("height", "width"),
    [(64, 64), (32, 64), (48, 20), (128, 128), (40, 160), (37, 53)],
    ids=["as it is", "padded", "enlarged and padded", "halved", "a band", "odd"],
)
def test_labels_come_back_in_pixels_of_the_originals(height: int, width: int) -> None:
    labels = quarters(height, width)
    (found,) = predict(make_task(), colored(labels))
    assert found.labels.shape == (height, width)
    wrong = np.argwhere(found.labels != labels)
    # Resizing may move a border by a pixel of the coarser side.
    step = max(1.0, height / 64, width / 64) + 1
    from_borders = np.minimum(abs(wrong[:, 0] + 0.5 - height // 2), abs(wrong[:, 1] + 0.5 - width // 2))
    assert (from_borders <= step).all()
    if (height, width) in ((64, 64), (32, 64)):
        assert not len(wrong)


def test_what_counts_boxes_is_not_for_masks() -> None:
    with pytest.raises(ValueError, match="'pycocotools' is for boxes, and this model gives masks"):
        make_task().evaluator(("a", "b"), (0, 1), "pycocotools")


def test_an_image_is_the_same_alone_and_in_a_batch() -> None:
    images = [colored(quarters(*size)) for size in ((64, 64), (50, 90), (128, 30))]
    for one, together in zip(images, predict(make_task(), *images), strict=True):
        assert np.array_equal(predict(make_task(), one)[0].labels, together.labels)


@pytest.mark.parametrize(
    "views",
    [
        InfererConfig(window=(32, 48)),
        InfererConfig(window=(64, 64), overlap=0.0, weighting="uniform"),
        InfererConfig(flip=True),
        InfererConfig(scales=(0.5, 1.0, 1.5)),
        InfererConfig(scales=(1.0, 1.25), flip=True, window=(40, 40), overlap=0.5),
    ],
)
def test_other_views_of_an_easy_image_agree_with_the_plain_one(views: InfererConfig) -> None:
    labels = quarters(64, 64)
    (found,) = predict(make_task(postprocess=views), colored(labels))
    inside = np.ones((64, 64), np.bool_)
    inside[30:34] = inside[:, 30:34] = False
    assert np.array_equal(found.labels[inside], labels[inside])


def test_views_are_what_the_model_sees() -> None:
    model, images = ByColor(), torch.zeros(1, 3, 64, 64)
    for views, sizes in (
        (InfererConfig(), {(64, 64)}),
        (InfererConfig(window=(32, 48)), {(32, 48)}),
        (InfererConfig(scales=(0.5, 2.0)), {(32, 32), (128, 128)}),
    ):
        model.sizes.clear()
        make_task(postprocess=views).infer(model, images)
        assert set(model.sizes) == sizes


def test_the_mirror_image_counts() -> None:
    """A model that claims class 1 wherever it looks at the left half: with its mirror image both halves tie."""

    class LeftIsRoad(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits = torch.zeros_like(images)
            logits[:, 1, :, :32] = 9
            logits[:, 2, :, 32:] = 3
            return logits

    def classes(flip: bool) -> list[int]:
        task = make_task(postprocess=InfererConfig(flip=flip))
        (found,) = task.results(
            task.infer(LeftIsRoad(), torch.zeros(1, 3, 64, 64)), [LetterboxTransform.identity(64, 64)]
        )
        return [int(found.labels[0, 0]), int(found.labels[0, 63])]

    assert classes(flip=False) == [1, 2]
    assert classes(flip=True) == [1, 1]


def test_relabeling_goes_by_position_and_unknown_becomes_ignored() -> None:
    found = LabelMap(np.array([[0, 1, 2], [2, 1, 0]], np.uint8))
    relabeled = make_task().kind.relabel(found, np.array([4, -1, 0]))
    assert relabeled.labels.tolist() == [[4, IGNORE_INDEX, 0], [0, IGNORE_INDEX, 4]]


def test_class_weights_come_from_the_training_set() -> None:
    # Shares: sky 4 of 8, road 3 of 8, car 1 of 8; ENet: 1 / ln(1.02 + share)
    data = Masks([[0, 0], [0, 0]], [[1, 1], [1, IGNORE_INDEX]], [[2, IGNORE_INDEX], [IGNORE_INDEX, IGNORE_INDEX]])
    criterion = make_criterion(loss=SegmentationLossConfig(class_weights="enet"))
    facts = criterion.prepare(data)["class_weights"]
    assert {name: fact["pixels"] for name, fact in facts.items()} == {"sky": 4, "road": 3, "car": 1}
    expected = [1 / math.log(1.02 + share / 8) for share in (4, 3, 1)]
    assert [fact["weight"] for fact in facts.values()] == pytest.approx(expected)

    mask = torch.tensor([[[0, 0], [2, IGNORE_INDEX]]], dtype=torch.uint8)
    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 2] = 1.0
    loss = criterion(logits, Batch(logits, {"mask": mask}, (1,), ("a.png",), ()))
    plain = torch.nn.functional.cross_entropy(
        logits, torch.tensor([[[0, 0], [2, 255]]]), torch.tensor(expected), ignore_index=255
    )
    assert loss.total().item() == pytest.approx(plain.item(), rel=1e-5)


def test_a_loss_without_such_weights_does_not_look_at_the_data() -> None:
    assert make_criterion().prepare(Masks([[77]])) == {}


def test_sizes() -> None:
    assert make_task().config.train_size == (64, 64)
    task = make_task(crop=(32, 48))
    assert (task.config.train_size, (task.spec.height, task.spec.width)) == ((32, 48), (64, 64))


@pytest.mark.parametrize("count", [0, 256])
def test_numbers_of_classes_that_a_mask_cannot_hold(count: int) -> None:
    with pytest.raises(ValueError, match=f"takes 1 to 255 classes, got {count}"):
        SemanticTaskConfig().build(ByColor(), [str(number) for number in range(count)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": (0, 64)}, r"window must be a positive height and width, got \(0, 64\)"),
        ({"overlap": 1.0}, r"overlap must lie in \[0, 1\), got 1.0"),
        ({"scales": ()}, "scales must be positive numbers, at least one"),
        ({"scales": (1.0, -1.0)}, "scales must be positive numbers"),
    ],
)
def test_impossible_views_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InfererConfig(**settings)


def test_an_impossible_crop_is_refused() -> None:
    with pytest.raises(ValueError, match=r"crop must be a positive height and width, got \(0, 3\)"):
        SemanticTaskConfig(crop=(0, 3))


def test_comparison_shows_image_truth_and_prediction() -> None:
    task = make_task()
    truth = quarters(60, 80).astype(np.uint8)
    image = task.kind.compare(colored(truth), truth, LabelMap(truth), CLASSES)
    worse = task.kind.compare(colored(truth), truth, LabelMap(np.zeros_like(truth)), CLASSES)
    assert image.shape[0] * image.shape[1] > 4 * 60 * 80
    assert (image != worse).any()
    assert task.ground_truth(Masks([[0, 1]]), 0).tolist() == [[0, 1]]
