"""``detseg check`` for volumes: every file is read in a few threads, and nothing is kept but counts."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition

import numpy as np

from detseg.arrays import ByteArray
from detseg.data.checks.leakage import find_leakage
from detseg.data.dataset import DatasetError, Source
from detseg.data.findings import Finding, VolumeSummary
from detseg.data.formats.nifti import ALL, find_pairs
from detseg.data.formats.nifti_names import read_class_names
from detseg.data.formats.nifti_pairs import IMAGES, LABELS, Pair, list_volumes
from detseg.data.volumes import VolumeDataset, require_same_grid, spacing_toward_ras, to_positions
from detseg.runtime.inputs.volume_geometry import VolumeSpec, placement_of
from detseg.runtime.media.nifti import read_label_values, read_volume, read_volume_header, volume_stem
from detseg.runtime.media.nifti_header import VolumeError, VolumeHeader
from detseg.volumes import LabelVolume, Shape3

_VOXELS_AT_ONCE = 2**26
"""How many voxels the threads hold together; while one is read and compared it takes up to 26 bytes, so 1.7 GB."""
_FOLD = re.compile(r"(fold\d+)-")


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


def check_volumes(
    source: Source, splits: Sequence[str], root: Path, is_whole: bool, num_threads: int | None = None
) -> VolumeCheck:
    """Look at every volume and label volume of ``splits``, which are all there are where ``is_whole``; what is wrong is
    a finding, never an exception. Messages name files as they lie in ``root``."""
    findings: list[Finding] = []
    pairs_of: dict[str, list[Pair]] = {}
    for split in splits:
        try:
            pairs_of[split] = find_pairs(source, split)
        except DatasetError as error:
            findings.append(Finding("D100", source.name, _message(error, source.name), (), split))
    pairs = list(dict.fromkeys(pair for members in pairs_of.values() for pair in members))
    name_of: Mapping[int, str] = {}
    try:
        name_of = read_class_names(source, [pair.label for pair in pairs if pair.label is not None])
    except DatasetError as error:
        findings.append(Finding("D307", source.name, _message(error, source.name)))
    except VolumeError:
        # No names, and the labels that would show the values cannot be read: the fault is found below.
        findings.append(Finding("D307", source.name, "the names of the classes are nowhere; write them in a YAML"))
    states = {state.pair: state for state in inspect_volumes(pairs, name_of, num_threads)}
    # A volume may be in several splits, as in the folds of a cross-validation; its faults are told once.
    for state in states.values():
        split = next(name for name, members in pairs_of.items() if state.pair in members)
        findings += [Finding(code, str(file), message, (), split) for code, file, message in state.faults]
    digests = {state.pair.image: state.digest for state in states.values()}
    findings += find_leakage(_divisions(pairs_of), digests, root)
    if is_whole and set(pairs_of) == set(splits):  # the files of what was not read would seem to be left over
        findings += _find_strays(root, pairs)
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
    budget = _Budget(_VOXELS_AT_ONCE)
    with ThreadPoolExecutor(num_threads or min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda pair: _inspect(pair, name_of, budget), pairs))


class _Budget:
    """Voxels that may be in memory at a time; what has more than all of them waits until it is alone."""

    def __init__(self, num_voxels: int) -> None:
        self.num_voxels = num_voxels
        self._num_free = num_voxels
        self._changed = Condition()

    @contextmanager
    def hold(self, shape: Shape3) -> Iterator[None]:
        """Wait until a volume of ``shape`` has room, and keep it until the end of the context."""
        share = min(math.prod(shape), self.num_voxels)
        with self._changed:
            self._changed.wait_for(lambda: self._num_free >= share)
            self._num_free -= share
        try:
            yield
        finally:
            with self._changed:
                self._num_free += share
                self._changed.notify_all()


def _inspect(pair: Pair, name_of: Mapping[int, str], budget: _Budget) -> VolumeState:
    state = VolumeState(pair)
    try:
        # The header alone first: it is what labels are compared with, even where voxels are damaged.
        state.header = read_volume_header(pair.image)
        with budget.hold(state.header.shape):
            state.digest = _digest(pair.image)
    except VolumeError as error:
        state.faults.append(("D401", pair.image, _message(error, pair.image)))
    if pair.label is not None:
        _inspect_labels(state, pair.label, name_of, budget)
    return state


def _inspect_labels(state: VolumeState, path: Path, name_of: Mapping[int, str], budget: _Budget) -> None:
    try:
        header = read_volume_header(path)
        if state.header is not None:
            grid = state.header.shape, state.header.affine
            try:
                require_same_grid(path, header.shape, header.affine, state.pair.image, *grid)
            except DatasetError as error:
                state.faults.append(("D403", path, _message(error, path)))
                if header.shape != state.header.shape:
                    return
        with budget.hold(header.shape):
            values, _ = read_label_values(path)
            if name_of:
                _count_voxels(state, to_positions(values, list(name_of.values()), list(name_of), path), name_of)
    except VolumeError as error:
        state.faults.append(("D402", path, _message(error, path)))
    except DatasetError as error:
        state.faults.append(("D404", path, _message(error, path)))


def _digest(path: Path) -> str:
    """The SHA-256 of the shape and the voxels, however they are stored."""
    voxels = read_volume(path).voxels
    digest = hashlib.sha256(repr(voxels.shape).encode())
    # The first axis runs fastest in files: seen this way, nothing is copied.
    digest.update(np.ascontiguousarray(voxels.T).reshape(-1).data)
    return digest.hexdigest()


def _message(error: ValueError, name: Path | str) -> str:
    """The message without the name of what it is about, which a finding names beside it."""
    return str(error).removeprefix(f"{name}: ")


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


def _divisions(pairs_of: Mapping[str, Iterable[Pair]]) -> list[dict[str, set[Path]]]:
    """The volumes of the splits that shall have none in common: of all, or of each fold of a cross-validation with what
    belongs to no fold. The split of all volumes is no part of a division."""
    members = {split: {pair.image for pair in pairs} for split, pairs in pairs_of.items()}
    if len(members) > 1:
        members.pop(ALL, None)
    fold_of = {split: match[1] for split in members if (match := _FOLD.match(split))}
    folds = list(dict.fromkeys(fold_of.values())) or [None]
    return [{split: paths for split, paths in members.items() if fold_of.get(split, fold) == fold} for fold in folds]


def _find_strays(root: Path, pairs: Sequence[Pair]) -> Iterator[Finding]:
    """Volumes that no split has, and labels for which there is no volume."""
    images, labels = (list_volumes(folder) if folder.is_dir() else [] for folder in (root / IMAGES, root / LABELS))
    used = {path.resolve() for pair in pairs for path in pair if path is not None}
    for path in images:
        if path.resolve() not in used:
            yield Finding("D105", str(path), f"in {IMAGES}, but no split lists it")
    # nnU-Net's volumes have the number of their channel behind the name of their labels.
    names = {volume_stem(path).removesuffix("_0000") for path in images}
    for path in labels:
        if path.resolve() not in used and volume_stem(path).removesuffix("_0000") not in names:
            yield Finding("D306", str(path), f"in {LABELS}, but there is no volume of this name in {IMAGES}")
