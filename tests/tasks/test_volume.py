from __future__ import annotations

from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.postprocess.config import WindowsConfig
from detseg.structures import IGNORE_INDEX
from detseg.tasks.model_file import adapt_task
from detseg.tasks.volume import VolumeCriterion, VolumeTask, VolumeTaskConfig, _best_classes
from detseg.volumes import LabelVolume, Volume, VolumeSample, VolumeTransform

CLASSES = ("background", "dark", "bright")
PLAIN = VolumeSpec(spacing=(1.0, 1.0, 1.0), intensity="window", window=(0.0, 2.0))
"""Intensities 0, 1, 2 become -1, 0, 1."""


class ByIntensity(nn.Module):
    """The class whose number is nearest to the intensity, plus one: an ideal segmentation of 0, 1, 2."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, volumes: Tensor) -> Tensor:
        self.shapes.append(tuple(volumes.shape))
        return torch.cat([-20 * (volumes + 1 - number) ** 2 for number in range(3)], dim=1)


class LowerHalf(nn.Module):
    """Class 1 in the lower half of every axis of what it is given, wherever that lies."""

    def forward(self, volumes: Tensor) -> Tensor:
        logits = torch.zeros(len(volumes), 3, *volumes.shape[2:])
        depth, height, width = volumes.shape[2:]
        logits[:, 1, : depth // 2, : height // 2, : width // 2] = 6.0
        logits[:, 0] = 3.0
        return logits


def make_task(**settings: Any) -> VolumeTask:
    return VolumeTaskConfig(**{"input": PLAIN, "patch": (8, 8, 8), **settings}).build(ByIntensity(), CLASSES)


def make_criterion() -> VolumeCriterion:
    task = make_task()
    return task.config.build_criterion(ByIntensity(), task)


def labels_of(shape: tuple[int, int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Two boxes at different places of each axis, so that no flip or turn of the axes leaves them as they are."""
    labels = np.zeros(shape, np.uint8)
    x, y, z = shape
    labels[: x // 2, y // 2 :, : z // 3] = 1
    labels[x // 2 :, : y // 3, z // 2 :] = 2
    return labels


def predict(task: VolumeTask, volume: Volume, model: nn.Module | None = None) -> LabelVolume:
    array, transform = task.spec.place(volume)
    outputs = task.infer(model or ByIntensity(), task.normalize(torch.from_numpy(array[None])))
    (found,) = task.results(outputs, [transform])
    return found


def make_sample(shape: tuple[int, int, int] = (4, 5, 6), with_labels: bool = True) -> VolumeSample:
    transform = VolumeTransform((0, 1, 2), (False, False, False), shape, shape, np.eye(4))
    labels = np.full(shape, 2, np.uint8) if with_labels else None
    return VolumeSample(np.full(shape, 0.5, np.float32), 7, "a.nii.gz", transform, labels)


def test_collate_stacks_volumes_and_labels() -> None:
    batch = make_criterion().collate([make_sample(), make_sample()])
    assert batch.images.shape == (2, 1, 4, 5, 6)
    assert batch.images.dtype == torch.float32
    assert batch.targets["labels"].shape == (2, 4, 5, 6)
    assert batch.targets["labels"].dtype == torch.uint8
    assert (batch.image_ids, batch.paths) == ((7, 7), ("a.nii.gz", "a.nii.gz"))


def test_volumes_without_labels_can_be_predicted_but_not_learned_from() -> None:
    batch = make_criterion().collate([make_sample(with_labels=False)])
    assert batch.targets == {}
    with pytest.raises(ValueError, match=r"a\.nii\.gz: has no labels; training needs them for every volume"):
        make_criterion()(torch.zeros(1, 3, 4, 5, 6), batch)


def test_the_loss_is_that_of_the_settings() -> None:
    batch = make_criterion().collate([make_sample()])
    right = torch.full((1, 3, 4, 5, 6), -20.0)
    right[:, 2] = 20.0
    loss = make_criterion()(right, batch)
    assert set(loss.parts) == {"dice", "cross_entropy"}
    assert loss.total() < 0.51  # one of the two structures is absent: MONAI's smooth terms give it 0 or 1, nothing else
    assert make_criterion()(right.flip(1), batch).total() > loss.total() + 1


@pytest.mark.parametrize(
    ("directions", "spacing", "shape"),
    [
        ("RAS", (1.0, 1.0, 1.0), (12, 10, 9)),
        ("LPS", (1.0, 1.0, 1.0), (12, 10, 9)),
        ("SAR", (1.0, 1.0, 1.0), (9, 12, 10)),
        ("PIL", (1.0, 1.0, 1.0), (8, 8, 8)),
        ("RAS", (1.0, 1.0, 1.0), (5, 17, 3)),
        ("LSP", (2.0, 1.0, 3.0), (12, 18, 9)),
        ("AIR", (0.5, 0.7, 0.6), (20, 20, 20)),
    ],
)
def test_labels_come_back_on_the_grid_of_the_file(
    directions: str, spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    orientation = nibabel.orientations.axcodes2ornt(tuple(directions))
    affine = np.linalg.inv(nibabel.orientations.inv_ornt_aff(orientation, shape))
    affine[:3, :3] *= np.array(spacing)
    affine[:3, 3] = (-20.0, 30.0, 5.0)
    labels = labels_of(shape)
    found = predict(make_task(), Volume(labels.astype(np.float32), affine))
    assert found.labels.shape == shape
    assert np.array_equal(found.affine, affine)
    wrong = np.mean(found.labels != labels)
    if spacing == (1.0, 1.0, 1.0):
        assert wrong == 0
    else:
        # Between 0 and 2 an ideal segmentation of blurred intensities finds a thin layer of 1: only borders may differ.
        assert wrong < 0.25
        inner = np.s_[: shape[0] // 2 - 2, shape[1] // 2 + 2 :, : shape[2] // 3 - 1]
        assert (found.labels[inner] == 1).all()


def test_windows_have_the_size_of_the_patches_unless_another_is_given() -> None:
    volume = Volume(labels_of((12, 10, 9)).astype(np.float32), np.eye(4))
    for task, window in (
        (make_task(), (8, 8, 8)),
        (make_task(postprocess=WindowsConfig(window=(4, 6, 16), batch_size=3)), (4, 6, 16)),
    ):
        model = ByIntensity()
        found = predict(task, volume, model)
        assert {shape[2:] for shape in model.shapes} == {window}
        assert max(shape[0] for shape in model.shapes) == task.config.postprocess.batch_size
        assert np.array_equal(found.labels, volume.voxels)


def test_flip_averages_over_all_eight_views() -> None:
    volume = Volume(np.zeros((8, 8, 8), np.float32), np.eye(4))
    plain = predict(make_task(), volume, LowerHalf())
    assert np.count_nonzero(plain.labels) == 4**3
    assert (plain.labels[:4, :4, :4] == 1).all()
    # Each voxel is in the marked corner of exactly one of eight views: everywhere 7 votes for 0 against 1.
    flipped = predict(make_task(postprocess=WindowsConfig(flip=True)), volume, LowerHalf())
    assert not flipped.labels.any()


def test_flip_averages_over_the_axes_that_are_named() -> None:
    """Toward the right or the left, each voxel is in the marked corner of one of two views, and the surer one wins."""
    volume = Volume(np.zeros((8, 8, 8), np.float32), np.eye(4))
    found = predict(make_task(postprocess=WindowsConfig(flip=True, flip_axes=(0,))), volume, LowerHalf()).labels
    assert np.count_nonzero(found) == 8 * 4 * 4
    assert (found[:, :4, :4] == 1).all()


def test_what_the_data_set_does_not_know_is_background() -> None:
    found = LabelVolume(np.array([[[0, 1, 2, 1]]], np.uint8), np.eye(4))
    assert make_task().kind.relabel(found, np.array([0, -1, 1])).labels.tolist() == [[[0, 0, 1, 0]]]


def test_the_spacing_is_the_median_of_the_training_set_unless_it_is_given() -> None:
    class Spacings:
        def spacings(self) -> np.ndarray[Any, np.dtype[np.float64]]:
            return np.array([[1.0, 2.0, 3.0], [1.5, 2.0, 0.5], [9.0, 2.00004, 4.0]])

        def label_volume(self, index: int) -> LabelVolume:
            raise AssertionError("no labels are needed")

    assert VolumeTaskConfig().adapted_to(Spacings()).input.spacing == (1.5, 2.0, 3.0)
    assert VolumeTaskConfig(input=PLAIN).adapted_to(Spacings()).input.spacing == (1.0, 1.0, 1.0)


def test_the_evaluator_takes_the_tolerance_and_the_classes_of_the_data() -> None:
    truth = LabelVolume(np.zeros((6, 6, 6), np.uint8), np.eye(4))
    truth.labels[1:5, 1:5, 1:4] = 1
    moved = LabelVolume(np.roll(truth.labels, 1, axis=2), np.eye(4))
    values = {}
    for tolerance in (0.5, 1.0):
        evaluator = make_task(surface_tolerance_mm=tolerance).evaluator(("background", "dark"), (0, 1))
        evaluator.update(1, moved, truth)
        values[tolerance] = evaluator.compute()["surface_dice/dark"]
    assert values[1.0] == 1.0
    assert values[0.5] < 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch": (8, 0, 8)}, r"patch must be a positive depth, height and width, got \(8, 0, 8\)"),
        ({"surface_tolerance_mm": -1.0}, r"surface_tolerance_mm must not be negative, got -1\.0"),
        ({"surface_tolerance_mm": float("nan")}, "surface_tolerance_mm must not be negative, got nan"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VolumeTaskConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": (8, 8)}, r"window must be a positive depth, height and width, got \(8, 8\)"),
        ({"window": (8, 0, 8)}, r"window must be a positive depth"),
        ({"overlap": 1.0}, r"overlap must lie in \[0, 1\), got 1\.0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_windows(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WindowsConfig(**settings)


@pytest.mark.parametrize("num_classes", [0, 1, IGNORE_INDEX + 1])
def test_the_background_needs_a_class_beside_it(num_classes: int) -> None:
    with pytest.raises(ValueError, match=rf"takes 2 to 255 classes with the background, got {num_classes}"):
        VolumeTaskConfig().build(ByIntensity(), [str(number) for number in range(num_classes)])


def test_volumes_have_no_input_size() -> None:
    with pytest.raises(ValueError, match="the task volume has no input size, as volumes keep theirs; got 64x64"):
        adapt_task(VolumeTaskConfig(), {}, (64, 64))


@pytest.mark.parametrize("shape", [(9, 7, 5), (4, 5, 6), (8, 10, 12)])
def test_the_best_class_is_that_of_all_classes_resampled_at_once(shape: tuple[int, int, int]) -> None:
    scores = torch.rand(5, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    scores[3] = scores[1]  # equal: the first counts
    expected = torch.nn.functional.interpolate(scores[None], size=shape, mode="trilinear")[0].argmax(0)
    assert torch.equal(_best_classes(scores, shape), expected.to(torch.uint8))
