"""Checks that evaluators share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from detseg.arrays import ByteArray
from detseg.structures import IGNORE_INDEX


def require_unique(what: str, values: Sequence[Hashable]) -> None:
    """Raise ValueError, naming ``what`` occurs more than once among ``values``."""
    repeated = [str(value) for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise ValueError(f"every {what} must be unique, but these occur more than once: {', '.join(repeated)}")


def require_labels(labels: ByteArray, num_classes: int, image_id: int, name: str) -> None:
    """Raise ValueError if ``labels``, the ``name`` of this image, hold anything but class positions and
    ``IGNORE_INDEX``."""
    # In 8 bits IGNORE_INDEX + 1 is 0, so that one pass over the labels suffices.
    highest = int((labels + np.uint8(1)).max(initial=0))
    if highest > num_classes:
        raise ValueError(
            f"image {image_id}: label {highest - 1} in the {name}, allowed 0 to {num_classes - 1} and {IGNORE_INDEX}"
        )


def category_ids_of(class_names: Sequence[str], category_ids: Sequence[int] | None) -> tuple[int, ...]:
    """One id for each class: those given, else the positions of the classes.

    Raises:
        ValueError: names are not unique, or there is another number of ids.
    """
    require_unique("class name", class_names)
    if category_ids is None:
        return tuple(range(len(class_names)))
    if len(category_ids) != len(class_names):
        raise ValueError(f"got {len(class_names)} class names and {len(category_ids)} category ids; give one for each")
    return tuple(map(int, category_ids))
