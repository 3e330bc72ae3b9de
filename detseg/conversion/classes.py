"""The names and numbers of the classes of a converted model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from detseg.conversion.coco_names import COCO_CATEGORIES, COCO_NAMES
from detseg.conversion.report import ConversionError


def choose_names(given: Sequence[str] | None, found: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """The names ``given`` by the user, else those ``found`` in the file, else COCO's for 80 classes.

    Raises:
        ConversionError: there are none, or not one for each of ``num_classes``; an empty one, or one twice.
    """
    origin = "--names has" if given is not None else "the file has"
    names = given if given is not None else found
    if names is None:
        if num_classes != len(COCO_NAMES):
            raise ConversionError(
                f"the network tells {num_classes} classes apart and the file does not name them; give the names in "
                f"order: --names NAME,NAME,..."
            )
        return COCO_NAMES
    if len(names) != num_classes:
        raise ConversionError(
            f"{origin} {len(names)} class names ({', '.join(names)}), the network tells {num_classes} classes apart; "
            f"give one name for each: --names NAME,NAME,..."
        )
    wrong = sorted(name for name, count in Counter(names).items() if not name.strip() or count > 1)
    if wrong:
        raise ConversionError(
            f"{origin} a class name twice, or an empty one: {', '.join(map(repr, wrong))}; give a name of its own to "
            f"each class: --names NAME,NAME,..."
        )
    return tuple(names)


def numbers_of(names: Sequence[str], first: int) -> tuple[int, ...]:
    """The number of each class in annotation files: COCO's own for its classes, else counted from ``first``."""
    return tuple(COCO_CATEGORIES) if tuple(names) == COCO_NAMES else tuple(range(first, first + len(names)))
