"""Dividing a data set into parts at random: pure functions of a set of names and a seed.

The order comes from hashes, not from a random generator: a division is the same with every version of every library,
and whatever the order in which a folder lists its files. Names that are added later leave the order of the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from detseg.data.splits.stratify import exact_sizes, parse_ratios


def divide(names: Collection[str], ratios: str | Sequence[float], seed: int) -> list[list[str]]:
    """Deal ``names`` into parts with sizes in these ``ratios``, by largest remainder; each part is sorted.

    Raises:
        ValueError: there are not two or three positive ratios, a part would be empty, or a name is given twice.
    """
    shuffled = _shuffle(names, seed)
    sizes = exact_sizes(len(shuffled), parse_ratios(ratios))
    ends = [sum(sizes[: part + 1]) for part in range(len(sizes))]
    return [sorted(shuffled[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def folds(names: Collection[str], num_folds: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """The (train, val) names of every fold of a cross-validation, sorted; every name is in one val, whose sizes differ
    by one at most.

    Raises:
        ValueError: there are fewer than two folds or more than names, or a name is given twice.
    """
    if not 2 <= num_folds <= len(names):
        raise ValueError(f"the number of folds must be from 2 to that of the volumes, {len(names)}; got {num_folds}")
    shuffled = _shuffle(names, seed)
    held_out = [set(shuffled[fold::num_folds]) for fold in range(num_folds)]
    return [([name for name in sorted(shuffled) if name not in val], sorted(val)) for val in held_out]


def _shuffle(names: Collection[str], seed: int) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("names to be divided must differ from each other")

    def key(name: str) -> tuple[bytes, str]:
        return hashlib.sha256(f"{seed}|{name}".encode("utf-8", "surrogateescape")).digest(), name

    return sorted(names, key=key)
