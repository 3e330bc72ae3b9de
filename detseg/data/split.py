"""``detseg split``: new splits of a data set, seeded and stratified, as lists and a YAML; no image is copied."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detseg.arrays import DoubleArray, IntArray
from detseg.data.checks.inspection import ImageState, inspect_images
from detseg.data.checks.locate import walk_split
from detseg.data.checks.mask_walks import ask_for_names
from detseg.data.dataset import DatasetError, Source, match_split
from detseg.data.findings import Summary, histogram_lines, require_outside
from detseg.data.formats.nifti import DivisionConfig
from detseg.data.open import find_format, find_source, load_format
from detseg.data.records import ImageRecord, SplitRecords, summarize_splits
from detseg.data.splits.split_files import WRITERS, YAML_NAME, Division, write_division
from detseg.data.splits.stratify import exact_sizes, parse_ratios, split_names, stratify
from detseg.data.splits.volumes import split_volumes
from detseg.structures import Truth

_REFUSALS = {
    "cityscapes": (
        "the splits of cityscapes are official: results compare on no others, and no city is in two of them, as it "
        "would be in splits by image; there is nothing to divide"
    ),
    "shapes": "shapes has its splits built in; there are no files to divide",
    "blobs": "blobs has its splits built in; there are no files to divide",
}
"""Why formats without a writer are not divided."""


@dataclass(frozen=True, slots=True)
class SplitResult:
    """What was written: ``open_dataset`` opens ``yaml_path``; ``num_copies`` images have the content of another."""

    yaml_path: Path
    splits: dict[str, Summary]
    num_copies: int

    def render(self) -> str:
        """The result as text: the histogram and where it is."""
        kept = f"{self.num_copies} copies kept with their originals\n" if self.num_copies else ""
        return "\n".join([*histogram_lines(self.splits), "", f"{kept}{self.yaml_path}"])


def split_dataset(
    path: Path | str,
    ratios: str | Sequence[float] | None,
    seed: int,
    output: Path | str,
    format: str | None = None,
    splits: Sequence[str] | None = None,
    folds: int | None = None,
) -> SplitResult:
    """Divide all images of the data set at ``path`` anew, into train and val or train, val and test; volumes also into
    ``folds`` for cross-validation, in place of ``ratios``.

    ``ratios`` as ``"6:2:2"`` or ``"8:2"``. Sizes are exact by largest remainder; every class is spread as its boxes
    (or pixels) and images allow (see ``stratify``); images of equal content stay together. The result depends on the
    seed and on the names and contents of the files, not on their order. Existing ``splits`` are put together before;
    by default all.

    ``output``, a new or empty folder outside of the data set, appears with everything in it or not at all:
    ``data.yaml`` and, per split, a COCO file with the original ids and fields, or a list of images (VOC, YOLO) and
    another of their masks or labels.

    Raises:
        ValueError: the ratios or the folder are not as described, there are too few images, or (DatasetError) the data
            set is absent or has errors that ``detseg check`` lists.
    """
    if (ratios is None) == (folds is None):
        raise ValueError(f"either ratios or folds are needed, got ratios {ratios!r} and folds {folds!r}")
    shares = () if ratios is None else parse_ratios(ratios)
    source = find_source(path)
    format_name = find_format(source, format)
    if format_name == "nifti":
        target = _checked_output(Path(output), source.data_root().resolve())
        division = DivisionConfig(None if ratios is None else shares, folds, seed)
        return SplitResult(target / YAML_NAME, split_volumes(source, division, target, splits), 0)
    if folds is not None:
        raise ValueError(f"folds are for volumes (format nifti); {source.name} is {format_name}: give ratios instead")
    if format_name not in WRITERS:
        raise DatasetError(f"{source.name}: {_REFUSALS[format_name]}")
    root = source.data_root().resolve()
    target = _checked_output(Path(output), root)
    available = load_format(format_name).splits(source)
    chosen = available if splits is None else tuple(match_split(name, available, source.name) for name in splits)
    records = [walk_split(source, format_name, name) for name in dict.fromkeys(chosen)]
    images = {image.path: image for split in records for image in split.images}
    states = inspect_images(images, decode=False)
    _refuse_errors(source, records, states)
    assignment = _assign(images, states, root, shares, seed, records[0].truth)
    names = split_names(len(shares))
    with_names = {image_path: names[position] for image_path, position in assignment.items()}
    write_division(target, format_name, Division(source, records, images, names, with_names))
    made = [SplitRecords(name, records[0].class_names, truth=records[0].truth) for name in names]
    for image_path, position in assignment.items():
        made[position].images.append(images[image_path])
    num_copies = len(images) - len({state.digest for state in states.values()})
    return SplitResult(target / YAML_NAME, summarize_splits(made), num_copies)


def _checked_output(output: Path, root: Path) -> Path:
    target = require_outside(output, root)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{output}: is there already and not an empty folder; name a new one")
    return target


def _refuse_errors(source: Source, records: Sequence[SplitRecords], states: Mapping[Path, ImageState]) -> None:
    found = [finding for split in records for finding in split.findings if finding.severity == "error"]
    found += ask_for_names(records, source)
    messages = [f"{finding.code} {finding.file}: {finding.message}" for finding in found]
    messages += [f"D102 {path}: {state.problem}" for path, state in states.items() if state.problem is not None]
    if messages:
        raise DatasetError(
            f"{source.name}: number of errors: {len(messages)}; the first is {messages[0]}\n  correct them before "
            f"splitting; `detseg check {source.name}` lists all"
        )


def _assign(
    images: Mapping[Path, ImageRecord],
    states: Mapping[Path, ImageState],
    root: Path,
    shares: Sequence[float],
    seed: int,
    truth: Truth,
) -> dict[Path, int]:
    """The position of the split of every image, in the order of their names."""
    keys = {path: Path(os.path.relpath(path.resolve(), root)).as_posix() for path in images}
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(images, key=keys.__getitem__):
        groups[str(states[path].digest)].append(path)

    def shuffled(members: Sequence[Path]) -> bytes:
        return hashlib.sha256(f"{seed}:{keys[members[0]]}".encode("utf-8", "surrogateescape")).digest()

    ordered = sorted(groups.values(), key=shuffled)
    counts_of = {path: image.counts() for path, image in images.items()}
    classes = sorted({name for counts in counts_of.values() for name in counts})
    column_of = {name: column for column, name in enumerate(classes)}
    amounts: IntArray | DoubleArray = np.zeros((len(ordered), len(classes)), np.int64)
    for row, members in enumerate(ordered):
        for path in members:
            for name, count in counts_of[path].items():
                amounts[row, column_of[name]] += count
    if truth == "masks":
        # In units of the pixels that an image with the class has on average: as boxes, they are then few enough not to
        # outweigh the number of images with the class.
        amounts = amounts * ((amounts > 0).sum(0) / amounts.sum(0))
    num_images = np.array([len(members) for members in ordered], np.int64)
    positions = stratify(amounts, num_images, exact_sizes(len(images), shares))
    assigned = {path: int(split) for split, members in zip(positions, ordered, strict=True) for path in members}
    return {path: assigned[path] for path in sorted(images, key=keys.__getitem__)}
