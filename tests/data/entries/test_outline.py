"""Polygons as masks, held equal to pycocotools pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as official

from detseg.data.entries.outline import rasterize, runs_of_outline


def official_text(polygons: list[Any], height: int, width: int) -> str:
    parts = official.frPyObjects([polygon.ravel().tolist() for polygon in polygons], height, width)
    text: str = official.merge(parts)["counts"].decode()
    return text


def random_polygon(rng: np.random.Generator, kind: int, height: int, width: int) -> Any:
    corners = rng.uniform(0, 1, (int(rng.integers(3, 12)), 2)) * [width, height]
    return {
        0: rng.uniform(-20, 80, corners.shape),  # reaches out of the image on all sides
        1: corners,
        2: corners.round(1),  # as annotation tools write it: many edges are passed exactly in the middle of a step
        3: np.repeat(corners.round(), 2, axis=0),  # corners twice
        4: corners.round() * [1, 0],  # a line
    }[kind]


@pytest.mark.parametrize("kind", range(5))
@pytest.mark.parametrize("num_parts", [1, 3])
def test_masks_are_those_of_pycocotools(kind: int, num_parts: int) -> None:
    rng = np.random.default_rng([kind, num_parts])
    for _ in range(150):
        height, width = (int(side) for side in rng.integers(1, 60, 2))
        polygons = [random_polygon(rng, kind, height, width) for _ in range(num_parts)]
        found = rasterize(polygons, height, width)
        assert found.to_coco()["counts"] == official_text(polygons, height, width), (height, width, polygons)


def test_a_rectangle_covers_its_pixels() -> None:
    mask = rasterize([np.array([[2.0, 1], [5, 1], [5, 3], [2, 3]])], 4, 6).to_mask()
    expected = np.zeros((4, 6), bool)
    expected[1:3, 2:5] = True
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize(
    "polygons", [[], [np.zeros((0, 2))], [np.array([[1.0, 1], [3, 3]])], [np.full((4, 2), 2.5)], [np.eye(3, 2) - 50]]
)
def test_what_encloses_nothing_covers_nothing(polygons: list[Any]) -> None:
    found = rasterize(polygons, 4, 6)
    assert (found.area, found.counts.tolist()) == (0, [24])


def test_outlines_of_every_form() -> None:
    square = np.array([[1.0, 1], [3, 1], [3, 3], [1, 3]])
    from_polygon = runs_of_outline([square], 4, 5)
    assert runs_of_outline(from_polygon.to_coco(), 4, 5) == from_polygon
    assert runs_of_outline({"size": [4, 5], "counts": from_polygon.counts.tolist()}, 4, 5) == from_polygon


@pytest.mark.parametrize(
    ("outline", "words"),
    [
        (None, "the object has no outline"),
        ({"size": [5, 4], "counts": [20]}, "the mask is of 4x5 pixels, but its image has 5x4; size is"),
        ({"size": [4, 5], "counts": [19]}, "counts of 4x5 pixels must add up to them, got 19"),
    ],
)
def test_what_is_no_mask_of_the_image_is_refused(outline: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        runs_of_outline(outline, 4, 5)
