"""``detseg check`` for volumes: every file is read in a few threads, and nothing is kept but counts."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from detseg.arrays import ByteArray
from detseg.data.dataset import DatasetError, Source
from detseg.data.findings import Finding, VolumeSummary
from detseg.data.nifti import find_pairs
from detseg.data.nifti_names import read_class_names
from detseg.data.nifti_pairs import LABELS, Pair, list_volumes
from detseg.data.volumes import VolumeDataset, require_same_grid, spacing_toward_ras, to_positions
from detseg.runtime.nifti import read_label_values, read_volume, read_volume_header
from detseg.runtime.nifti_header import VolumeError, VolumeHeader
from detseg.runtime.volume_geometry import VolumeSpec, placement_of
from detseg.volumes import LabelVolume


@dataclass(slots=True)
class VolumeState:
    """What was found in a volume and its labels: the code and message of each fault, the ``digest`` of the voxels (None
    where they cannot be read), and the voxels of each class."""

    pair: Pair
    faults: list[tuple[str, Path, str]] = field(default_factory=list)
    header: VolumeHeader | None = None
    digest: str | None = None
    num_voxels: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VolumeCheck:
    """What a check of volumes found, and the histograms of its splits."""

    findings: tuple[Finding, ...]
    splits: dict[str, VolumeSummary]


def check_volumes(source: Source, splits: Sequence[str], num_threads: int | None = None) -> VolumeCheck:
    """Look at every volume and label volume of ``splits``; what is wrong is a finding, never an exception."""
    findings: list[Finding] = []
    pairs_of: dict[str, list[Pair]] = {}
    for split in splits:
        try:
            pairs_of[split] = find_pairs(source, split)
        except DatasetError as error:
            findings.append(Finding("D100", source.name, str(error), (), split))
    pairs = list(dict.fromkeys(pair for members in pairs_of.values() for pair in members))
    name_of: Mapping[int, str] = {}
    try:
        name_of = read_class_names(source, [pair.label for pair in pairs if pair.label is not None])
    except DatasetError as error:
        findings.append(Finding("D307", source.name, str(error)))
    except VolumeError:
        # No names, and the labels that would show the values cannot be read: the fault is found below.
        findings.append(Finding("D307", source.name, "the names of the classes are nowhere; write them in a YAML"))
    states = {state.pair: state for state in inspect_volumes(pairs, name_of, num_threads)}
    # A volume may be in several splits, as in the folds of a cross-validation; its faults are told once.
    for state in states.values():
        split = next(name for name, members in pairs_of.items() if state.pair in members)
        findings += [Finding(code, str(file), message, (), split) for code, file, message in state.faults]
    findings += _find_leakage(pairs_of, states)
    if set(pairs_of) == set(splits):  # of what was not read, all labels would seem to be left over
        findings += _find_strays(source, pairs)
    class_names = list(name_of.values())[1:]
    summaries = {
        split: summarize_volumes([states[pair] for pair in members], class_names) for split, members in pairs_of.items()
    }
    for split, members in pairs_of.items():
        unit, missing = summaries[split].missing_classes()
        if missing and any(pair.label is not None for pair in members):
            findings.append(Finding("D202", source.name, f"{split} has no {unit} of {', '.join(missing)}", (), split))
        elif members and all(pair.label is None for pair in members):
            findings.append(Finding("D308", str(members[0].image.parent), f"{len(members)} volumes", (), split))
    return VolumeCheck(tuple(findings), summaries)


def inspect_volumes(
    pairs: Sequence[Pair], name_of: Mapping[int, str], num_threads: int | None = None
) -> list[VolumeState]:
    """Read every volume with its labels. ``name_of`` names the values of the background and the classes; without it
    labels are only looked at as files."""
    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(lambda pair: _inspect(pair, name_of), pairs))


def _inspect(pair: Pair, name_of: Mapping[int, str]) -> VolumeState:
    state = VolumeState(pair)
    try:
        # The header alone first: it is what labels are compared with, even where voxels are damaged.
        state.header = read_volume_header(pair.image)
        voxels = read_volume(pair.image).voxels
        state.digest = hashlib.sha256(repr(voxels.shape).encode() + voxels.tobytes()).hexdigest()
    except VolumeError as error:
        state.faults.append(("D401", pair.image, str(error)))
    if pair.label is None:
        return state
    try:
        header = read_volume_header(pair.label)
        if state.header is not None:
            require_same_grid(
                pair.label, header.shape, header.affine, pair.image, state.header.shape, state.header.affine
            )
    except VolumeError as error:
        state.faults.append(("D402", pair.label, str(error)))
        return state
    except DatasetError as error:
        state.faults.append(("D403", pair.label, str(error)))
    try:
        values, _ = read_label_values(pair.label)
        if name_of:
            _count_voxels(state, to_positions(values, list(name_of.values()), list(name_of), pair.label), name_of)
    except VolumeError as error:
        state.faults.append(("D402", pair.label, str(error)))
    except DatasetError as error:
        state.faults.append(("D404", pair.label, str(error)))
    return state


def _count_voxels(state: VolumeState, labels: ByteArray, name_of: Mapping[int, str]) -> None:
    counts = np.bincount(labels.ravel(), minlength=len(name_of)).tolist()
    state.num_voxels = dict(zip(name_of.values(), counts, strict=True))
    if not sum(counts[1:]):
        assert state.pair.label is not None
        state.faults.append(("D405", state.pair.label, "all voxels are background"))


def summarize_volumes(states: Sequence[VolumeState], class_names: Sequence[str]) -> VolumeSummary:
    """The histogram of some volumes; ``class_names`` without the background."""
    headers = [(state, state.header) for state in states if state.header is not None]
    milliliters: dict[str, list[float]] = {name: [] for name in class_names}
    for state, header in headers:
        size = abs(np.linalg.det(header.affine[:3, :3])) / 1000
        for name in class_names if state.num_voxels else ():
            milliliters[name].append(state.num_voxels[name] * size)
    spacings = np.array([spacing_toward_ras(header.affine) for _, header in headers]).reshape(-1, 3)
    shapes = np.array([placement_of(header.shape, header.affine, VolumeSpec()).oriented_shape for _, header in headers])
    return VolumeSummary(
        len(states),
        {name: float(np.mean(values)) if values else 0.0 for name, values in milliliters.items()},
        {name: sum(state.num_voxels.get(name, 0) > 0 for state in states) for name in class_names},
        tuple(np.median(spacings, axis=0).tolist()) if headers else (),
        (tuple(shapes.min(0).tolist()), tuple(shapes.max(0).tolist())) if headers else ((), ()),
    )


def summarize_generated(dataset: VolumeDataset) -> VolumeSummary:
    """The histogram of a data set that is computed, not stored."""
    states = []
    for index in range(len(dataset)):
        labels: LabelVolume = dataset.label_volume(index)
        counts = np.bincount(labels.labels.ravel(), minlength=len(dataset.class_names)).tolist()
        pair = Pair(Path(dataset.path(index)), None)
        states.append(
            VolumeState(pair, [], dataset.header(index), None, dict(zip(dataset.class_names, counts, strict=True)))
        )
    return summarize_volumes(states, dataset.class_names[1:])


def _find_leakage(pairs_of: Mapping[str, Sequence[Pair]], states: Mapping[Pair, VolumeState]) -> Iterator[Finding]:
    """The same content in two splits, or twice in one. Splits that share most of their volumes are no parts of one
    division, as the training parts of two folds, or all volumes and any part of them."""
    copies: dict[str, list[Path]] = defaultdict(list)
    for pair, state in states.items():
        if state.digest is not None:
            copies[state.digest].append(pair.image)
    members = {split: {pair.image for pair in pairs} for split, pairs in pairs_of.items()}
    apart = [
        (one, other)
        for one, other in combinations(members, 2)
        if len(members[one] & members[other]) < min(len(members[one]), len(members[other])) / 2
        and not (one.startswith("fold") and other.startswith("fold") and one.split("-")[0] != other.split("-")[0])
    ]
    for paths in copies.values():
        leaks = [(one, other) for one, other in apart if members[one] & set(paths) and members[other] & set(paths)]
        listing = ", ".join(map(str, paths))
        if leaks:
            one, other = leaks[0]
            yield Finding("D201", str(paths[0]), f"the same content in {one} and in {other}: {listing}")
        elif len(paths) > 1:
            yield Finding("D203", str(paths[0]), f"the same content {len(paths)} times: {listing}")


def _find_strays(source: Source, pairs: Sequence[Pair]) -> Iterator[Finding]:
    """Labels that belong to no volume."""
    try:
        folder = source.data_root() / LABELS
    except DatasetError:
        return
    if folder.is_dir():
        used = {pair.label.resolve() for pair in pairs if pair.label is not None}
        for path in list_volumes(folder):
            if path.resolve() not in used:
                yield Finding("D306", str(path), f"in {LABELS}, but there is no volume of this name")
