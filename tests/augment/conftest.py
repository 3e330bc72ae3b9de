"""Samples whose image, label mask and boxes can be checked against each other pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from detseg.structures import LetterboxTransform, Sample

BACKGROUND = 0
PALETTE = np.array(
    [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255], [255, 255, 255]],
    np.uint8,
)

MakeSample = Callable[..., Sample]


@pytest.fixture
def palette() -> np.ndarray:
    """Color ``[8, 3]`` of each value in a label mask; 0 is background."""
    return PALETTE


@pytest.fixture
def make_sample() -> MakeSample:
    """``make_sample(index, height, width, boxes)``: rectangles in the colors of their labels, which the mask holds."""

    def make(
        index: int = 0,
        height: int = 96,
        width: int = 128,
        boxes: tuple[tuple[int, int, int, int], ...] = ((8, 10, 50, 40), (70, 50, 120, 90)),
        with_mask: bool = True,
    ) -> Sample:
        mask = np.full((height, width), BACKGROUND, np.uint8)
        labels = [1 + (2 * index + i) % 7 for i in range(len(boxes))]
        for (left, top, right, bottom), label in zip(boxes, labels, strict=True):
            mask[top:bottom, left:right] = label
        return Sample(
            image=PALETTE[mask],
            boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
            labels=np.array(labels, np.int64),
            crowd=np.arange(len(boxes)) % 2 == 1,
            image_id=100 + index,
            path=f"{index}.png",
            transform=LetterboxTransform.identity(height, width),
            mask=mask if with_mask else None,
        )

    return make


@pytest.fixture
def assert_aligned() -> Callable[..., None]:
    """Check that the image, the mask and the boxes of a sample still say the same."""

    def check(sample: Sample, mask_fill: int = 255, pad_value: int = 114, tight: bool = True) -> None:
        assert sample.mask is not None
        height, width = sample.mask.shape
        expected = np.full((256, 3), pad_value, np.int16)
        expected[: len(PALETTE)] = PALETTE
        expected[mask_fill] = pad_value
        difference = np.abs(sample.image.astype(np.int16) - expected[sample.mask]).max(axis=2)
        assert (difference[_far_from_edges(sample.mask)] <= 1).all()
        for label in np.unique(sample.mask):
            if label in (BACKGROUND, mask_fill):
                continue
            boxes = sample.boxes_xyxy[sample.labels == label]
            rows, columns = np.nonzero(sample.mask == label)
            inside = np.zeros(len(rows), bool)
            for left, top, right, bottom in boxes:
                inside |= (
                    (columns >= left - 1.5) & (columns <= right + 0.5) & (rows >= top - 1.5) & (rows <= bottom + 0.5)
                )
            assert inside.all()
            touching = (boxes[:, :2].min() <= 0) or boxes[:, 2].max() >= width or boxes[:, 3].max() >= height
            if tight and not touching:
                extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                union = [*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)]
                np.testing.assert_allclose(extent, union, atol=1.5)

    return check


def _far_from_edges(mask: np.ndarray, distance: int = 2) -> np.ndarray:
    """True where all labels within ``distance`` pixels are equal, and none of them lies outside the image."""
    padded = np.pad(mask, distance, constant_values=254)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * distance + 1, 2 * distance + 1))
    return windows.min(axis=(2, 3)) == windows.max(axis=(2, 3))
