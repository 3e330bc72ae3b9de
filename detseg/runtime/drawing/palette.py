"""Colors of classes: those that a known data set gives them, those of the user, or ones that every eye can tell
apart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import cv2
import numpy as np

from detseg.arrays import ByteArray, FloatArray
from detseg.runtime.drawing.known_colors import BACKGROUNDS, KNOWN, VOID_COLOR, Color
from detseg.structures import IGNORE_INDEX

# After Okabe and Ito, "Color Universal Design" (2008), without black, in an order in which neighbors differ most.
_FIRST: tuple[Color, ...] = (
    (213, 94, 0),
    (86, 180, 233),
    (240, 228, 66),
    (0, 114, 178),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
)
# What is left of linear red, green and blue where one kind of cones is missing (Viénot, Brettel and Mollon, "Digital
# video colourmaps for checking the legibility of displays by dichromats", 1999): protanopia and deuteranopia.
_SEEN_BY = (
    np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]]),
    np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]]),
)
_NUM_COLORS, _NUM_FOR_ALL = 256, 24


@dataclass(frozen=True)
class Palette:
    """A color for each class position. ``has_background``: class 0 is what is around all others, and left as it is on
    images. ``name`` says where the colors are from."""

    colors: tuple[Color, ...]
    has_background: bool = False
    name: str = "default"

    def __getitem__(self, label: int) -> Color:
        return self.colors[label] if label < len(self.colors) else color_of(label)

    def table(self) -> ByteArray:
        """The colors of all values that a mask may have, ``[256, 3]`` uint8 RGB."""
        colors = [self[label] for label in range(_NUM_COLORS)]
        colors[IGNORE_INDEX] = VOID_COLOR
        return np.array(colors, np.uint8)


@lru_cache(maxsize=64)
def _palette_of(class_names: tuple[str, ...]) -> Palette:
    wanted = [_plain(name) for name in class_names]
    has_background = bool(wanted) and wanted[0] in BACKGROUNDS and len(wanted) > 1
    for name, known in KNOWN.items():
        if all(one in known or one in BACKGROUNDS for one in wanted) and any(one in known for one in wanted):
            colors = tuple(known.get(one, (0, 0, 0)) for one in wanted)
            if len(set(colors)) == len(colors):
                return Palette(colors, has_background, name)
    shift = 1 if has_background else 0
    colors = tuple(color_of(label - shift) if label >= shift else (0, 0, 0) for label in range(len(wanted)))
    return Palette(colors, has_background)


def palette_of(class_names: Sequence[str]) -> Palette:
    """The colors of these classes: of the data set that knows all of them (Cityscapes, CamVid, VOC, COCO), or the
    default ones. The same names have the same colors in every image."""
    return _palette_of(tuple(class_names))


def user_palette(given: Any, class_names: Sequence[str], where: str) -> Palette:
    """The colors that a user gives: a list of ``[red, green, blue]`` or ``#rrggbb`` for all classes in their order, or
    a mapping from names to such; classes that a mapping leaves out keep the color they have without it.

    Raises:
        ValueError: there are too few or too many, a name is unknown, or something is no color; ``where`` is named.
    """
    usual = palette_of(class_names)
    if isinstance(given, Mapping):
        unknown = [str(name) for name in given if name not in class_names]
        if unknown:
            raise ValueError(
                f"{where}: colors: no class is called {', '.join(unknown[:5])}; there are {', '.join(class_names[:20])}"
            )
        chosen = [given.get(name, usual[label]) for label, name in enumerate(class_names)]
    elif isinstance(given, (list, tuple)) and len(given) == len(class_names):
        chosen = list(given)
    else:
        raise ValueError(
            f"{where}: colors: expected one color for each of {len(class_names)} classes, or a mapping from their "
            f"names, got {f'{len(given)} colors' if isinstance(given, (list, tuple)) else repr(given)}"
        )
    return replace(usual, colors=tuple(parse_color(one, where) for one in chosen), name=where)


def stored_palette(colors: Sequence[Color], class_names: Sequence[str]) -> Palette | None:
    """The ``colors`` that a model file or a data set has for all classes; None where it has none."""
    if not colors:
        return None
    return replace(palette_of(class_names), colors=tuple(colors), name="stored with the classes")


def parse_color(value: Any, where: str) -> Color:
    """``[red, green, blue]``, each from 0 to 255, or ``#rrggbb``.

    Raises:
        ValueError: it is no color.
    """
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)
    if (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(type(one) is int and 0 <= one <= 255 for one in value)
    ):
        return value[0], value[1], value[2]
    raise ValueError(f"{where}: a color is [red, green, blue] from 0 to 255, or '#rrggbb' in quotes; got {value!r}")


def color_of(label: int) -> Color:
    """The RGB color of number ``label`` where nothing is known of it; the same in every image. After 256 the colors
    repeat."""
    return _default_colors()[label % _NUM_COLORS]


@cache
def _default_colors() -> tuple[Color, ...]:
    """256 colors: after ``_FIRST``, each as far from all before it as a fine grid allows, in CIE Lab: the first 24 for
    who sees least of the difference, all eyes or those without the cones for red or for green, which leave room for no
    more; the others for most eyes.

    Candidates are neither so dark nor so light that they pass for no color at all.
    """
    steps = np.linspace(0, 255, 16, dtype=np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness = _seen(grid)[0][:, 0]
    grid = grid[(lightness > 30) & (lightness < 90)]
    seen, colors = _seen(grid), list(_FIRST)
    while len(colors) < _NUM_COLORS:
        views = seen if len(colors) < _NUM_FOR_ALL else seen[:1]
        if len(colors) in (len(_FIRST), _NUM_FOR_ALL):
            others = _seen(np.array(colors, np.uint8))
            distances = _difference(views, others)
        farthest = int(distances.argmax())
        red, green, blue = grid[farthest].tolist()
        colors.append((red, green, blue))
        distances = np.minimum(distances, _difference(views, [lab[farthest : farthest + 1] for lab in seen]))
    return tuple(colors)


def _difference(views: Sequence[FloatArray], others: Sequence[FloatArray]) -> FloatArray:
    """``[N]``: how far each color is from the nearest of the others, for who sees least of it."""
    each = [np.linalg.norm(lab[:, None] - other, axis=2).min(axis=1) for lab, other in zip(views, others, strict=False)]
    least: FloatArray = np.minimum.reduce(each).astype(np.float32)
    return least


def _seen(colors: ByteArray) -> list[FloatArray]:
    """RGB colors ``[N, 3]`` in CIE Lab ``[N, 3]``, as usual eyes see them, then those without one kind of cones."""
    linear = (colors / 255) ** 2.2
    views = [colors / 255, *((np.clip(linear @ matrix.T, 0, 1)) ** (1 / 2.2) for matrix in _SEEN_BY)]
    return [cv2.cvtColor(view[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0].astype(np.float32) for view in views]


def _plain(name: str) -> str:
    return re.sub(r"[\s_/-]+", "", name.casefold())
