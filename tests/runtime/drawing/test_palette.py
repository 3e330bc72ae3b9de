from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from detseg.runtime.drawing.known_colors import KNOWN
from detseg.runtime.drawing.legend import draw_legend, with_legend
from detseg.runtime.drawing.palette import _seen, color_of, palette_of, parse_color, user_palette

CAMVID = ["sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car", "pedestrian"]


@pytest.mark.parametrize(
    ("names", "known", "expected"),
    [
        (CAMVID, "CamVid", {"sky": (128, 128, 128), "road": (128, 64, 128), "tree": (128, 128, 0)}),
        (["road", "sidewalk", "traffic light", "sky"], "Cityscapes", {"sky": (70, 130, 180), "road": (128, 64, 128)}),
        (["Road", "Side-walk", "Sky"], "Cityscapes", {"Side-walk": (244, 35, 232)}),
        (["background", "aeroplane", "tvmonitor"], "VOC", {"aeroplane": (128, 0, 0), "tvmonitor": (0, 64, 128)}),
        (["person", "bicycle", "hair drier"], "COCO", {"person": (220, 20, 60), "hair drier": (246, 0, 122)}),
        (["left", "right"], "default", {"left": color_of(0), "right": color_of(1)}),
        (["background", "left"], "default", {"left": color_of(0)}),
        # One that is unknown, and names that share a color.
        (["road", "unicorn"], "default", {"road": color_of(0)}),
        (["sidewalk", "pavement", "tree"], "default", {"tree": color_of(2)}),
        (["background"], "default", {"background": color_of(0)}),
    ],
)
def test_colors_of_data_sets(names: list[str], known: str, expected: dict[str, Any]) -> None:
    palette = palette_of(names)
    assert palette.name == known
    assert {name: palette[names.index(name)] for name in expected} == expected
    assert palette.has_background == (names[0] == "background" and len(names) > 1)


def test_known_data_sets_are_whole() -> None:
    counts = {name: len(colors) for name, colors in KNOWN.items()}
    # Of CamVid 31 classes, for ignored is none, and two of them by the short names that most use, and pavement.
    assert counts == {"Cityscapes": 19, "CamVid": 34, "VOC": 20, "COCO": 80}
    for name in ("Cityscapes", "VOC", "COCO"):
        assert len(set(KNOWN[name].values())) == counts[name]


def test_default_colors_can_be_told_apart_by_every_eye() -> None:
    colors = np.array([color_of(label) for label in range(20)], np.uint8)
    for view in _seen(colors):
        differences = [np.linalg.norm(view[one] - view[other]) for one, other in itertools.combinations(range(20), 2)]
        # Some 2.3 is what can just be noticed.
        assert min(differences) > 15
    assert len({color_of(label) for label in range(256)}) == 256
    assert color_of(256) == color_of(0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([[1, 2, 3], "#ff8000"], ((1, 2, 3), (255, 128, 0))),
        ({"b": [9, 8, 7]}, (color_of(0), (9, 8, 7))),
        ({}, (color_of(0), color_of(1))),
    ],
)
def test_colors_of_the_user(given: Any, expected: Any) -> None:
    palette = user_palette(given, ["a", "b"], "my.yaml")
    assert (palette[0], palette[1], palette.name) == (*expected, "my.yaml")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[1, 2, 3]], "my.yaml: colors: expected one color for each of 2 classes, .*, got 1 colors"),
        ({"c": [1, 2, 3]}, "my.yaml: colors: no class is called c; there are a, b"),
        ("red", "got 'red'"),
        (
            {"a": [1, 2, 300]},
            r"a color is \[red, green, blue\] from 0 to 255, .* got \[1, 2, 300\]",
        ),
        ({"a": [1.5, 2, 3]}, "got .1.5, 2, 3."),
        ({"a": "#12345"}, "got '#12345'"),
    ],
)
def test_impossible_colors(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        user_palette(given, ["a", "b"], "my.yaml")
    assert parse_color((1, 2, 3), "") == (1, 2, 3)


@pytest.mark.parametrize("size", [(40, 30), (480, 640), (1080, 1920)])
@pytest.mark.parametrize("num_classes", [1, 11, 100])
def test_legends_fit_below_any_image(size: tuple[int, int], num_classes: int) -> None:
    names = [f"class number {label}" for label in range(num_classes)]
    image = np.zeros((*size, 3), np.uint8)
    drawn = with_legend(image, palette_of(names), names)
    assert drawn.shape[1] == size[1]
    assert (drawn.shape[0] - size[0]) % 2 == 0
    assert np.array_equal(drawn[: size[0]], image)
    strip = drawn[size[0] :].reshape(-1, 3)
    for label in range(min(num_classes, 60)):
        assert (strip == palette_of(names)[label]).all(axis=1).any()


def test_legends_leave_out_what_is_not_drawn() -> None:
    names = ["background", "left", "right"]
    strip = draw_legend(palette_of(names), names, 400).reshape(-1, 3)
    found = {tuple(color) for color in np.unique(strip, axis=0).tolist()}
    assert {color_of(0), color_of(1)} <= found
    assert (0, 0, 0) not in found
