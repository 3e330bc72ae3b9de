"""Dealing images out to new splits, those of equal content together."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from detseg.arrays import DoubleArray, IntArray
from detseg.data.split_rule import exact_sizes
from detseg.data.splits.groups import joined, require_groups
from detseg.data.splits.stratify import stratify
from detseg.structures import Target


def deal_images(
    counts_of: Mapping[Path, Mapping[str, int]],
    digest_of: Mapping[Path, str | None],
    root: Path,
    shares: Sequence[float],
    seed: int,
    target: Target,
    group_of: Mapping[Path, str] | None = None,
) -> list[list[Path]]:
    """The images of each new split, in the order of their names in ``root``.

    ``counts_of`` the boxes or pixels of every class in each image. Sizes are exact by largest remainder, and as near to
    that as whole groups allow where ``group_of`` names the group of each image.

    Raises:
        ValueError: there are too few images or groups.
    """
    keys = {path: Path(os.path.relpath(path.resolve(), root)).as_posix() for path in counts_of}
    in_order = sorted(counts_of, key=keys.__getitem__)
    digests = {path: str(digest_of[path]) for path in in_order}
    first_of = joined(digests, *(() if group_of is None else (group_of,)))
    groups: dict[Path, list[Path]] = defaultdict(list)
    for path in in_order:
        groups[first_of[path]].append(path)
    if group_of is not None:
        require_groups(len(groups), len(shares))

    def shuffled(members: Sequence[Path]) -> bytes:
        return hashlib.sha256(f"{seed}:{keys[members[0]]}".encode("utf-8", "surrogateescape")).digest()

    ordered = sorted(groups.values(), key=shuffled)
    classes = sorted({name for counts in counts_of.values() for name in counts})
    column_of = {name: column for column, name in enumerate(classes)}
    amounts: IntArray | DoubleArray = np.zeros((len(ordered), len(classes)), np.int64)
    for row, members in enumerate(ordered):
        for path in members:
            for name, count in counts_of[path].items():
                amounts[row, column_of[name]] += count
    if target == "masks":
        # In units of the pixels that an image with the class has on average: as boxes, they are then few enough not to
        # outweigh the number of images with the class.
        amounts = amounts * ((amounts > 0).sum(0) / amounts.sum(0))
    num_images = np.array([len(members) for members in ordered], np.int64)
    positions = stratify(amounts, num_images, exact_sizes(len(counts_of), shares))
    split_of = {path: int(split) for split, members in zip(positions, ordered, strict=True) for path in members}
    return [[path for path in in_order if split_of[path] == split] for split in range(len(shares))]
