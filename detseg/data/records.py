"""What annotation files say, right or wrong, in one form for all formats; and small parsers that never raise."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from detseg.data.findings import Finding, MaskSummary, SplitSummary, Summary
from detseg.data.formats.coco import MAX_COORDINATE
from detseg.structures import Truth

XYXY = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class BoxRecord:
    """One annotated box; ``category`` is its class name, or None where it names no known class."""

    annotation_id: int | str
    category: str | None
    xyxy: XYXY
    crowd: bool = False


@dataclass(slots=True)
class ImageRecord:
    """One image as annotated in ``source``; ``recorded_size`` is (height, width) as the annotation claims, if it does.

    The boxes are in pixels, or in fractions of the image's sides where ``in_fractions``. Where the truth is a mask,
    ``source`` is its file, and ``num_pixels`` of every class and ``num_void_pixels`` are what it holds.
    """

    path: Path
    source: Path
    recorded_size: tuple[int, int] | None = None
    in_fractions: bool = False
    boxes: list[BoxRecord] = field(default_factory=list)
    num_pixels: Mapping[str, int] = field(default_factory=dict)
    num_void_pixels: int = 0

    def counts(self) -> Counter[str]:
        """The boxes or pixels of every class that is there; crowd regions are no objects."""
        objects = (box.category for box in self.boxes if box.category is not None and not box.crowd)
        return Counter(objects) + Counter(self.num_pixels)


@dataclass(slots=True)
class SplitRecords:
    """One split as its files say, and what is wrong with these files.

    ``class_names`` as far as the format lists them; ``image_folders`` hold nothing but images of the data set. A split
    that ``is_unlabeled`` can be predicted, not judged. Without ``has_names``, the values in masks are the names.
    """

    name: str
    class_names: tuple[str, ...] = ()
    images: list[ImageRecord] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    image_folders: tuple[Path, ...] = ()
    truth: Truth = "boxes"
    is_unlabeled: bool = False
    has_names: bool = True

    def report(self, code: str, file: Path, message: str, *annotation_ids: int | str) -> None:
        """Add a finding about this split."""
        self.findings.append(Finding(code, str(file), message, annotation_ids, self.name))


def summarize_splits(records: Sequence[SplitRecords]) -> dict[str, Summary]:
    """The histograms of splits, all over the same classes; crowd regions are no objects."""
    listed = dict.fromkeys(name for split in records for name in split.class_names)
    found = {box.category for split in records for image in split.images for box in image.boxes}
    names = [*listed, *sorted(name for name in found if name is not None and name not in listed)]
    return {split.name: _summarize_split(split, names) for split in records}


def _summarize_split(split: SplitRecords, names: Sequence[str]) -> Summary:
    units = Counter(dict.fromkeys(names, 0))
    with_class = Counter(dict.fromkeys(names, 0))
    for image in split.images:
        counts = image.counts()
        units.update(counts)
        with_class.update(counts.keys())
    if split.truth == "boxes":
        return SplitSummary(len(split.images), units.total(), dict(units), dict(with_class))
    num_void_pixels = sum(image.num_void_pixels for image in split.images)
    return MaskSummary(len(split.images), units.total(), num_void_pixels, dict(units), dict(with_class))


def is_integer(value: object) -> TypeGuard[int]:
    """Whether a value from JSON is an integer; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_coordinate(value: object) -> bool:
    """Whether a value is a number under ``MAX_COORDINATE``, which infinity and NaN are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_COORDINATE


def parse_number(text: str | None) -> float | None:
    """The finite number that ``text`` is, else None."""
    try:
        number = math.nan if text is None else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def parse_integer(text: str | None) -> int | str | None:
    """The integer that ``text`` is, else ``text`` itself, to be shown."""
    number = parse_number(text)
    return int(number) if number is not None and number == int(number) else text


def four_numbers(values: object) -> XYXY | None:
    """``values`` as four floats if it is a list of four numbers under ``MAX_COORDINATE``, else None."""
    if not isinstance(values, list) or len(values) != 4:
        return None
    if not all(map(is_coordinate, values)):
        return None
    first, second, third, fourth = (float(one) for one in values)
    return first, second, third, fourth


def show(value: object) -> str:
    """A value as it was received, shortened for a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def enumerate_some(values: Iterable[object]) -> str:
    """The first twenty values in words."""
    texts = [str(value) for value in values]
    return ", ".join(texts[:20]) + (f", ... ({len(texts)} in all)" if len(texts) > 20 else "") if texts else "none"
