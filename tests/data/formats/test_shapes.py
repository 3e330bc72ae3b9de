from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from detseg.data.formats.shapes import CLASS_NAMES, MASK_CLASS_NAMES, ShapesConfig, ShapesDataset, draw_image
from detseg.data.open import open_dataset
from detseg.data.source import DatasetError

SMALL = ShapesConfig(num_train=40, num_val=8, num_test=8)


def test_sizes_and_classes() -> None:
    for split, count in (("train", 256), ("val", 64), ("test", 64)):
        dataset = open_dataset("shapes", split)
        assert len(dataset) == count
        assert dataset.class_names == CLASS_NAMES
        assert dataset.has_masks
    sample = dataset.load(3)
    assert sample.image.shape == (160, 160, 3)
    assert sample.mask is not None
    assert sample.path == "shapes/test/000003"
    assert sample.image_id == 4


def test_the_classes_of_the_masks() -> None:
    boxes, masks = (open_dataset("shapes", "val", target=truth) for truth in ("boxes", "masks"))
    assert masks.target == "masks"
    assert masks.class_names == MASK_CLASS_NAMES == ("background", "circle", "square", "triangle")
    assert masks.category_ids == (0, 1, 2, 3)
    for index in (0, 5):
        with_boxes, with_masks = boxes.load(index), masks.load(index)
        assert np.array_equal(with_boxes.image, with_masks.image)
        assert with_boxes.mask is not None
        assert np.array_equal(with_boxes.mask, masks.mask(index))
        assert not len(with_masks.labels)
        found = {MASK_CLASS_NAMES[value] for value in np.unique(masks.mask(index))}
        assert found == {"background", *(CLASS_NAMES[label] for label in with_boxes.labels)}
    assert masks.mask_path(3) == masks.path(3)


def test_images_are_a_pure_function() -> None:
    first, again = ShapesDataset("train", SMALL), ShapesDataset("train", SMALL)
    for index in (7, 3):
        assert np.array_equal(first.load(index).image, again.load(index).image)
    assert np.array_equal(first.ground_truth(7).boxes_xywh, again.ground_truth(7).boxes_xywh)


@pytest.mark.parametrize("other", [("val", 0, 0), ("test", 0, 0), ("train", 1, 0), ("train", 0, 1)])
def test_images_differ(other: tuple[str, int, int]) -> None:
    split, index, seed = other
    image, _ = draw_image(SMALL, "train", 0)
    different, _ = draw_image(dataclasses.replace(SMALL, seed=seed), split, index)
    # Independent images, not the same one with other noise.
    assert np.abs(image.astype(int) - different).mean() > 20


def test_boxes_are_those_of_the_mask() -> None:
    """An image of one object: every pixel of the mask is its own, and the box ends where they end."""
    config = dataclasses.replace(SMALL, min_objects=1, max_objects=1)
    dataset = ShapesDataset("train", config)
    for index in range(len(dataset)):
        sample = dataset.load(index)
        assert sample.mask is not None
        ys, xs = np.nonzero(sample.mask)
        assert sample.boxes_xyxy.tolist() == [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]
        assert np.unique(sample.mask[ys, xs]).tolist() == [sample.labels[0] + 1]
        assert dataset.ground_truth(index).areas.tolist() == [len(xs)]


def test_objects_can_be_seen() -> None:
    """Inside of its outline an object has a color of its own, at the place where its box says."""
    config = dataclasses.replace(SMALL, min_objects=1, max_objects=1)
    dataset = ShapesDataset("train", config)
    for index in range(len(dataset)):
        sample = dataset.load(index)
        assert sample.mask is not None
        inside = sample.image[sample.mask > 0]
        color = np.median(inside, axis=0)
        # 99.7 % of the noise is within 12; pixels at the rim may be mixed with the background.
        assert (np.abs(inside - color).max(axis=1) <= 14).mean() > 0.85
        assert np.linalg.norm(color - sample.image[sample.mask == 0].mean(axis=0)) > 80


def test_objects_have_the_asked_number_size_and_visibility() -> None:
    dataset = ShapesDataset("train", SMALL)
    numbers = np.diff(dataset.annotations.offsets)
    assert numbers.min() >= 2
    assert numbers.max() == 5
    sides = dataset.annotations.boxes_xywh[:, 2:]
    # A triangle is at least as high as 3/4 of the diameter around it, a square's side 1/sqrt(2) of it.
    assert sides.min() >= 26 * 0.7 * 0.8
    assert sides.max() <= 71
    assert dataset.num_dropped == 0
    assert sorted(set(dataset.annotations.labels.tolist())) == [0, 1, 2]
    for index in range(len(dataset)):
        mask = dataset.load(index).mask
        assert mask is not None
        truth = dataset.ground_truth(index)
        assert int((mask > 0).sum()) == truth.areas.sum()


def test_shapes_have_the_area_of_their_kind() -> None:
    """Area over that of the circle around: 1, 2 / pi, and 3 sqrt(3) / (4 pi)."""
    config = dataclasses.replace(SMALL, min_objects=1, max_objects=1, min_side=60, max_side=60)
    dataset = ShapesDataset("train", config)
    expected = np.array([1, 2 / np.pi, 3 * np.sqrt(3) / (4 * np.pi)])
    shares = dataset.annotations.areas / (np.pi * 30**2)
    np.testing.assert_allclose(shares, expected[dataset.annotations.labels], rtol=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 8}, "image_size: allowed are 32 to 4096, got 8"),
        ({"num_val": -1}, "num_val: allowed are 0 to 1,000,000, got -1"),
        ({"num_train": 10**12}, "num_train: allowed are 0 to 1,000,000, got 1000000000000"),
        ({"min_objects": 6}, "min_objects, max_objects: allowed are 0 to 100, in order, got 6 and 5"),
        ({"max_side": 159.0}, r"min_side, max_side: allowed are 8 to 158 .* got 26.0 and 159.0"),
        ({"max_covered": 0.9}, "max_covered: allowed are 0 to 0.5, got 0.9"),
        ({"seed": -1}, "seed: allowed are 0 or more, got -1"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        dataclasses.replace(SMALL, **change)


def test_masks_of_objects_are_their_visible_pixels() -> None:
    boxes, instances = (ShapesDataset("val", SMALL, truth) for truth in ("boxes", "instances"))  # type: ignore[arg-type]
    assert (instances.target, instances.class_names) == ("instances", CLASS_NAMES)
    for index in range(8):
        sample, plain = instances.load(index), boxes.load(index)
        masks = np.asarray(sample.object_masks)
        assert sample.mask is not None
        assert np.array_equal(sample.boxes_xyxy, plain.boxes_xyxy)
        assert np.array_equal(masks.any(axis=0), sample.mask > 0)
        assert masks.sum(axis=(1, 2)).tolist() == instances.ground_truth(index).areas.tolist()
        for mask, label, box in zip(masks, sample.labels, sample.boxes_xyxy.astype(int), strict=True):
            assert (sample.mask[mask] == label + 1).all()
            rows, columns = np.nonzero(mask)
            assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box.tolist()
        assert masks.sum(axis=0).max() == 1, "no pixel belongs to two"
