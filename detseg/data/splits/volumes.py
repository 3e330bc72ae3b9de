"""Dealing volumes out to new splits or folds, by their names alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from detseg.data.source import DatasetError, DataSource
from detseg.data.split_rule import ALL, SplitRule
from detseg.data.splits.groups import members_by_group
from detseg.runtime.volumes.volume_files import volume_stem


def deal_volumes(
    source: DataSource, paths: Sequence[Path], split_rule: SplitRule, group_of: Mapping[Path, str] | None = None
) -> dict[str, list[Path]]:
    """The volumes of each new split of ``source``; those of a group, where ``group_of`` names that of each, are
    together in every one.

    Raises:
        DatasetError: there are too few volumes or groups.
    """
    by_name = _by_name(paths, source.data_root())
    try:
        if group_of is None:
            members = {split: split_rule.members(split, by_name) for split in split_rule.split_names if split != ALL}
        else:
            members = members_by_group({name: group_of[path] for name, path in by_name.items()}, split_rule)
    except ValueError as error:
        raise DatasetError(f"{source.name}: {error}") from error
    return {split: [by_name[name] for name in names] for split, names in members.items()}


def refuse_copies(source: DataSource, digest_of: Mapping[Path, str | None]) -> None:
    """Raises DatasetError where several volumes have one content."""
    num_uses = Counter(digest_of.values())
    copies = [str(path) for path, digest in digest_of.items() if num_uses[digest] > 1]
    if copies:
        raise DatasetError(
            f"{source.name}: {len(copies)} volumes are copies of each other and could get into different splits: "
            f"{', '.join(copies[:5])}; keep one of each"
        )


def _by_name(paths: Sequence[Path], root: Path) -> dict[str, Path]:
    """The volumes by their names, or by their places in ``root`` where volumes of several folders share a name: a
    split does not depend on where the data set lies."""
    by_stem = {volume_stem(path): path for path in paths}
    if len(by_stem) == len(paths):
        return by_stem
    by_place = {Path(os.path.relpath(path, root)).as_posix(): path for path in paths}
    assert len(by_place) == len(paths), "a volume given twice has been refused as a copy"
    return by_place
