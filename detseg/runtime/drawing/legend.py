"""Legends: which color is which class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detseg.arrays import ByteArray
from detseg.runtime.drawing.lettering import Lettering
from detseg.runtime.drawing.palette import Palette

_MOST_ENTRIES = 60
"""Classes that a legend names; more would take more room than the image."""


def with_legend(image: ByteArray, palette: Palette, class_names: Sequence[str]) -> ByteArray:
    """``image`` ``[H, W, 3]`` above the names of all classes, so that all images of one size stay so. An even
    height is added, for videos."""
    strip = draw_legend(palette, class_names, image.shape[1], max(0.4, max(image.shape[:2]) / 1600))
    if len(strip) % 2:
        strip = np.concatenate([strip, strip[-1:]])
    return np.concatenate([image, strip])


def draw_legend(palette: Palette, class_names: Sequence[str], width: int, scale: float = 0.6) -> ByteArray:
    """The colors and the names of all classes in as many lines as it takes, ``[H, width, 3]``; the background, which is
    not drawn, is left out."""
    lettering = Lettering(scale)
    labels = list(range(1 if palette.has_background else 0, len(class_names)))
    entries = [(palette[label], class_names[label]) for label in labels[:_MOST_ENTRIES]]
    if len(labels) > _MOST_ENTRIES:
        entries.append((lettering.paper, f"and {len(labels) - _MOST_ENTRIES} more"))
    # Names that are wider than the image are written smaller, all of them.
    room = width - 2 * lettering.line
    longest = max((text for _, text in entries), key=lettering.width, default="")
    return lettering.fitted(longest, max(room, 8)).legend(entries, width)
