"""What must stay together in a division: files of one group, such as the frames of a video or the scans of a patient,
and files of equal content."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from detseg.data.split_rule import SplitRule, exact_sizes, parse_ratios, shuffled, split_names
from detseg.data.splits.stratify import stratify

T = TypeVar("T")


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """``pattern`` as a regular expression. Raises ValueError: it is none."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--group-by {pattern!r} is no regular expression: {error}") from error


def group_names(paths: Iterable[Path], root: Path, pattern: re.Pattern[str]) -> dict[Path, str]:
    """The group of each file: what the groups of ``pattern`` match in its name, or all that ``pattern`` matches where
    it has none. A pattern with a slash is searched in the file's place below ``root`` instead.

    Raises:
        ValueError: ``pattern`` matches nothing of a file.
    """
    names = {}
    for path in paths:
        place = Path(os.path.relpath(path, root)).as_posix() if "/" in pattern.pattern else path.name
        match = pattern.search(place)
        if match is None:
            raise ValueError(
                f"--group-by {pattern.pattern!r} matches nothing of {place}; every file must belong to a group: name "
                "what the members of one have in common, such as '^([^_]+)_' for what comes before the first underscore"
            )
        names[path] = "/".join(part or "" for part in match.groups()) if match.groups() else match.group()
    return names


def joined(*keys: Mapping[T, str]) -> dict[T, T]:
    """Each file's first companion: files that agree in any of the ``keys``, directly or by way of others, have the
    same; first in the order of the first of the ``keys``."""
    leader: dict[T, T] = {file: file for file in keys[0]}

    def find(file: T) -> T:
        while leader[file] != file:
            leader[file] = leader[leader[file]]
            file = leader[file]
        return file

    rank = {file: number for number, file in enumerate(keys[0])}
    for key in keys:
        first_of: dict[str, T] = {}
        for file in keys[0]:
            one, other = find(first_of.setdefault(key[file], file)), find(file)
            if rank[one] > rank[other]:
                one, other = other, one
            leader[other] = one
    return {file: find(file) for file in keys[0]}


def members_by_group(group_of: Mapping[str, str], split_rule: SplitRule) -> dict[str, list[str]]:
    """The names of every split that ``split_rule`` makes, sorted, but that of all: whole groups, in sizes as near to
    the shares as these allow; in a cross-validation each group is held out once.

    Raises:
        ValueError: there are fewer groups than parts.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(group_of):
        groups[group_of[name]].append(name)
    ordered = [groups[group] for group in shuffled(groups, split_rule.seed)]
    num_folds = split_rule.folds
    shares = parse_ratios(split_rule.shares) if num_folds is None else (1 / num_folds,) * num_folds
    require_groups(len(ordered), len(shares))
    sizes = np.array([len(members) for members in ordered], np.int64)
    no_classes = np.zeros((len(sizes), 0), np.int64)
    positions = stratify(no_classes, sizes, exact_sizes(len(group_of), shares))
    parts: list[list[str]] = [[] for _ in shares]
    for position, members in zip(positions, ordered, strict=True):
        parts[position] += members
    parts = [sorted(part) for part in parts]
    if num_folds is None:
        return dict(zip(split_names(len(parts)), parts, strict=True))
    found = {}
    for fold, held_out in enumerate(parts):
        found[f"fold{fold}-train"] = sorted(set(group_of) - set(held_out))
        found[f"fold{fold}-val"] = held_out
    return found


def require_groups(num_groups: int, num_parts: int) -> None:
    """Raise ValueError where there are fewer groups than parts."""
    if num_groups < num_parts:
        raise ValueError(
            f"--group-by makes {num_groups} group{'' if num_groups == 1 else 's'}, those with files of equal content "
            f"taken as one, which cannot be divided into {num_parts} parts; name smaller groups, or fewer parts"
        )
