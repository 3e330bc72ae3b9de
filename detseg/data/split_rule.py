"""Dividing a data set into parts at random: pure functions of a set of names and a seed.

The order comes from hashes, not from a random generator: a split is the same with every version of every library,
and whatever the order in which a folder lists its files. Names that are added later leave the order of the others.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

ALL = "all"
"""The split with all volumes that a split deals out."""

_FOLD = re.compile(r"(fold\d+)-")
_SPLIT_NAMES: dict[int, tuple[str, ...]] = {2: ("train", "val"), 3: ("train", "val", "test")}


@dataclass(frozen=True)
class SplitRule:
    """How volumes are divided: in ``ratios`` into train, val and, where there are three, test; or into ``folds`` for
    cross-validation, whose splits are called fold0-train, fold0-val, fold1-train, ...; at random by ``seed``.

    Raises:
        ValueError: a value is outside its range, or both are given.
    """

    ratios: tuple[float, ...] | str | None = None
    folds: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.ratios is not None and self.folds is not None:
            raise ValueError("either ratios or folds can be given, not both")
        if self.folds is not None and self.folds < 2:
            raise ValueError(f"folds must be at least 2, got {self.folds}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        parse_ratios(self.shares)

    @property
    def shares(self) -> tuple[float, ...] | str:
        """The ratios, 8:2 where nothing else is said."""
        return (8, 2) if self.ratios is None else self.ratios

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits that are made, and that of all volumes."""
        if self.folds is None:
            return (*split_names(len(parse_ratios(self.shares))), ALL)
        return (*(f"fold{fold}-{part}" for fold in range(self.folds) for part in ("train", "val")), ALL)

    def members(self, split: str, names: Collection[str]) -> list[str]:
        """Those of ``names`` that are in ``split``, sorted. Raises ValueError: there are too few to be divided."""
        if split == ALL:
            return sorted(names)
        if self.folds is None:
            parts = divide(names, self.shares, self.seed)
        else:
            parts = [part for fold in folds(names, self.folds, self.seed) for part in fold]
        return parts[self.split_names.index(split)]


def parse_ratios(ratios: str | Sequence[float]) -> tuple[float, ...]:
    """``"6:2:2"``, ``"8:2"`` or numbers -> shares that sum to 1.

    Raises ValueError unless there are two or three positive, finite numbers.
    """
    parts = ratios.split(":") if isinstance(ratios, str) else list(ratios)
    advice = f"ratios must be two or three positive numbers, such as 8:2 or 6:2:2; got {ratios!r}"
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError) as error:
        raise ValueError(advice) from error
    if len(numbers) not in _SPLIT_NAMES or not all(math.isfinite(n) and n > 0 for n in numbers):
        raise ValueError(advice)
    total = sum(numbers)
    return tuple(number / total for number in numbers)


def split_names(num_splits: int) -> tuple[str, ...]:
    """The names for two splits (train, val) or three (train, val, test)."""
    return _SPLIT_NAMES[num_splits]


def exact_sizes(num_images: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers nearest to the shares that sum to ``num_images``, by largest remainder (ties: the earlier split).

    Raises ValueError where a split would get no image.
    """
    quotas = [num_images * share for share in shares]
    sizes = [math.floor(quota + 1e-9) for quota in quotas]
    by_remainder = sorted(range(len(shares)), key=lambda split: (-round(quotas[split] - sizes[split], 9), split))
    for split in by_remainder[: num_images - sum(sizes)]:
        sizes[split] += 1
    if min(sizes) == 0:
        raise ValueError(
            f"{num_images} images cannot be divided into {len(shares)} splits of sizes {sizes}: every split needs an "
            f"image; use fewer splits or other ratios"
        )
    return tuple(sizes)


def divide(names: Collection[str], ratios: str | Sequence[float], seed: int) -> list[list[str]]:
    """Deal ``names`` into parts with sizes in these ``ratios``, by largest remainder; each part is sorted.

    Raises:
        ValueError: there are not two or three positive ratios, a part would be empty, or a name is given twice.
    """
    in_order = shuffled(names, seed)
    sizes = exact_sizes(len(in_order), parse_ratios(ratios))
    ends = [sum(sizes[: part + 1]) for part in range(len(sizes))]
    return [sorted(in_order[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def folds(names: Collection[str], num_folds: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """The (train, val) names of every fold of a cross-validation, sorted; every name is in one val, whose sizes differ
    by one at most.

    Raises:
        ValueError: there are fewer than two folds or more than names, or a name is given twice.
    """
    if not 2 <= num_folds <= len(names):
        raise ValueError(f"the number of folds must be from 2 to that of the volumes, {len(names)}; got {num_folds}")
    in_order = shuffled(names, seed)
    held_out = [set(in_order[fold::num_folds]) for fold in range(num_folds)]
    return [([name for name in sorted(in_order) if name not in val], sorted(val)) for val in held_out]


def disjoint_groups(splits: Collection[str]) -> list[list[str]]:
    """Which of ``splits`` shall have nothing in common: all, or those of each fold of a cross-validation with what
    belongs to no fold. The split of all volumes is no part of a split_rule."""
    names = [name for name in splits if name != ALL] or list(splits)
    fold_of = {name: match[1] for name in names if (match := _FOLD.match(name))}
    folds_found = list(dict.fromkeys(fold_of.values())) or [None]
    return [[name for name in names if fold_of.get(name, fold) == fold] for fold in folds_found]


def shuffled(names: Collection[str], seed: int) -> list[str]:
    """``names`` in an order that follows from them and the seed alone.

    Raises:
        ValueError: a name is given twice.
    """
    if len(set(names)) < len(names):
        raise ValueError("names to be divided must differ from each other")

    def key(name: str) -> tuple[bytes, str]:
        return hashlib.sha256(f"{seed}|{name}".encode("utf-8", "surrogateescape")).digest(), name

    return sorted(names, key=key)
