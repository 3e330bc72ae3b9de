"""``detseg split`` for volumes: new splits or folds, seeded, as lists of files and a YAML."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from detseg.data.checks.volumes import inspect_volumes, summarize_volumes
from detseg.data.dataset import DatasetError, Source, match_split
from detseg.data.findings import Summary
from detseg.data.formats.nifti import ALL, DivisionConfig, NiftiFormat, find_pairs
from detseg.data.formats.nifti_names import read_class_names
from detseg.data.formats.nifti_pairs import Pair
from detseg.data.splits.split_files import write_split_folder
from detseg.runtime.media.nifti import volume_stem


def split_volumes(
    source: Source, division: DivisionConfig, output: Path, splits: Sequence[str] | None = None
) -> dict[str, Summary]:
    """Divide all volumes of ``source`` that have labels, or those of some ``splits``, and describe the result in
    ``output``, an absent or empty folder; returns the histogram of each new split.

    The result depends on the seed and the names of the files alone.

    Raises:
        DatasetError: the volumes have errors that ``detseg check`` lists, several have one content, or there are too
            few.
    """
    pairs = _labeled_pairs(source, splits)
    name_of = read_class_names(source, [pair.label for pair in pairs if pair.label is not None])
    states = {state.pair: state for state in inspect_volumes(pairs, name_of)}
    faults = [fault for state in states.values() for fault in state.faults if fault[0] != "D405"]
    if faults:
        code, file, message = faults[0]
        raise DatasetError(
            f"{source.name}: number of errors: {len(faults)}; the first is {code} {file}: {message}\n  correct them "
            f"before splitting; `detseg check {source.name}` lists all"
        )
    digests = Counter(state.digest for state in states.values())
    copies = [str(pair.image) for pair, state in states.items() if digests[state.digest] > 1]
    if copies:
        raise DatasetError(
            f"{source.name}: {len(copies)} volumes are copies of each other and could get into different splits: "
            f"{', '.join(copies[:5])}; keep one of each"
        )
    by_name = _by_name(pairs, source.data_root())
    try:
        divided = {split: division.members(split, by_name) for split in division.split_names if split != ALL}
    except ValueError as error:
        raise DatasetError(f"{source.name}: {error}") from error
    contents: dict[str, str] = {}
    settings: dict[str, dict[str, str]] = {}
    for split, names in divided.items():
        members = [by_name[name] for name in names]
        contents[f"{split}_images.txt"] = "".join(f"{pair.image}\n" for pair in members)
        contents[f"{split}_labels.txt"] = "".join(f"{pair.label}\n" for pair in members)
        settings[split] = {kind: str(output / f"{split}_{kind}.txt") for kind in ("images", "labels")}
    described = {"format": "nifti", "path": str(source.data_root().resolve()), "names": dict(name_of)}
    write_split_folder(output, contents, {**described, **settings})
    class_names = list(name_of.values())[1:]
    return {
        split: summarize_volumes([states[by_name[name]] for name in names], class_names)
        for split, names in divided.items()
    }


def _labeled_pairs(source: Source, splits: Sequence[str] | None) -> list[Pair]:
    available = NiftiFormat().splits(source)
    if splits is not None:
        chosen = tuple(match_split(name, available, source.name) for name in splits)
    else:
        # Of a folder that is divided by rule, ``all`` holds what the other splits are parts of.
        chosen = (ALL,) if ALL in available else available
    found = dict.fromkeys(pair for split in chosen for pair in find_pairs(source, split) if pair.label is not None)
    if not found:
        raise DatasetError(f"{source.name}: no volume of {', '.join(chosen)} has labels; there is nothing to divide")
    return list(found)


def _by_name(pairs: Sequence[Pair], root: Path) -> dict[str, Pair]:
    """The volumes by their names, or by their places in ``root`` where volumes of several folders share a name: a
    division does not depend on where the data set lies."""
    by_stem = {volume_stem(pair.image): pair for pair in pairs}
    if len(by_stem) == len(pairs):
        return by_stem
    by_place = {Path(os.path.relpath(pair.image, root)).as_posix(): pair for pair in pairs}
    assert len(by_place) == len(pairs), "a volume given twice has been refused as a copy"
    return by_place
