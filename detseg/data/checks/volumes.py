"""``detseg check`` for volumes: every file is read in a few threads, and nothing is kept but counts."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Condition

import numpy as np

from detseg.arrays import ByteArray, IntArray
from detseg.data.checks.inspection import Inspection
from detseg.data.checks.report import VolumeSummary
from detseg.data.datasets.volumes import merge_values, require_same_grid, spacing_toward_ras, to_positions
from detseg.data.findings import Finding
from detseg.data.source import DatasetError
from detseg.data.volume_records import VolumePair, VolumeRecords, list_volumes
from detseg.runtime.inputs.volume_geometry import VolumeSpec, lost_classes, place_labels, transform_of
from detseg.runtime.volumes.nifti_header import VolumeError, VolumeHeader
from detseg.runtime.volumes.volume_cases import case_of, read_case, read_case_header
from detseg.runtime.volumes.volume_files import read_label_values, read_volume_header, volume_stem
from detseg.volumes import Spacing, VolumeTransform

_VOXELS_AT_ONCE = 2**26
"""How many voxels the threads hold together; while one is read and compared it takes up to 26 bytes, so 1.7 GB."""
_STRANGE_RATIO = 30
"""By how much the size of voxels may differ from the usual one in a set; slices of 0.5 to 5 mm differ by 10."""


@dataclass(slots=True)
class VolumeState:
    """What was found in a volume and its labels: the code and message of each fault, the ``digest`` of the voxels (None
    where they cannot be read), and the voxels of each class, the background included."""

    pair: VolumePair
    faults: list[tuple[str, Path, str]] = field(default_factory=list)
    header: VolumeHeader | None = None
    digest: str | None = None
    num_voxels: dict[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """The voxels of the classes that are there."""
        return {name: number for name, number in list(self.num_voxels.items())[1:] if number}


def inspect_volumes(splits: Sequence[VolumeRecords], num_threads: int | None = None) -> Inspection:
    """Read every volume of ``splits`` with its labels; where their values have no names, these are only looked at as
    files."""
    pairs = list(dict.fromkeys(pair for split in splits for pair in split.pairs))
    named = next((split for split in splits if split.name_of), splits[0])
    name_of = named.name_of
    budget = _Budget(_VOXELS_AT_ONCE)
    with ThreadPoolExecutor(num_threads or min(8, os.cpu_count() or 1)) as pool:
        spec = _spec_of_training(splits, pool)
        first = splits[0]
        num_channels = max(1, len(first.channels))
        rules = _Rules(name_of, named.merged_values, spec, first.trust_grid, num_channels, first.ignored, budget)
        states = dict(zip(pairs, pool.map(partial(_inspect, rules=rules), pairs), strict=True))
    for state in states.values():
        _find_strange_spacing(state, spec.spacing)
    findings: list[Finding] = []
    # A volume may be in several splits, as in the folds of a cross-validation; its faults are told once.
    for pair, state in states.items():
        split = next(one.name for one in splits if pair in one.pairs)
        findings += [Finding(code, str(file), message, (), split) for code, file, message in state.faults]
    class_names = list(name_of.values())[1:]
    return Inspection(
        findings,
        {pair.image: state.digest for pair, state in states.items()},
        {split.name: [states[pair] for pair in split.pairs] for split in splits},
        lambda some: summarize_volumes(some, class_names),
        list(_find_strays(splits[0], pairs)),
    )


class _Budget:
    """Voxels that may be in memory at a time; what has more than all of them waits until it is alone."""

    def __init__(self, num_voxels: int) -> None:
        self.num_voxels = num_voxels
        self._num_free = num_voxels
        self._changed = Condition()

    @contextmanager
    def hold(self, shape: tuple[int, ...]) -> Iterator[None]:
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


@dataclass(frozen=True, slots=True)
class _Rules:
    """What volumes are looked at with: the names of values, values that count as others, the grid of the network that
    would be trained, whether the affine of labels counts, how many channels there are, the value of no class, and the
    memory for all threads."""

    name_of: Mapping[int, str]
    merged_values: Mapping[int, int]
    spec: VolumeSpec
    trust_grid: bool
    num_channels: int
    ignored: int | None
    budget: _Budget


def _spec_of_training(splits: Sequence[VolumeRecords], pool: ThreadPoolExecutor) -> VolumeSpec:
    """What training takes if it is told nothing: the median spacing of the split train, else of the first."""
    records = next((one for one in splits if one.name == "train"), splits[0])
    num_channels = max(1, len(records.channels))
    found = pool.map(partial(_spacing, num_channels=num_channels), [pair.image for pair in records.pairs])
    spacings = [one for one in found if one is not None]
    return VolumeSpec().completed(np.array(spacings)) if spacings else VolumeSpec()


def _spacing(path: Path, num_channels: int) -> Spacing | None:
    try:
        return spacing_toward_ras(read_case_header(path, num_channels).affine)
    except VolumeError:
        # Told when its turn comes.
        return None


def _find_strange_spacing(state: VolumeState, usual: Spacing | None) -> None:
    """A volume whose voxels have another size than those of the others by a factor that no scanner explains."""
    if state.header is None or usual is None:
        return
    spacing = spacing_toward_ras(state.header.affine)
    ratio = math.prod(spacing) / math.prod(usual)
    if max(ratio, 1 / ratio) > _STRANGE_RATIO:
        message = (
            f"its voxels are {_millimeters(spacing)} mm toward right, front and top, those of the others mostly "
            f"{_millimeters(usual)}, {max(ratio, 1 / ratio):.3g} times {'smaller' if ratio > 1 else 'larger'}: correct "
            "the spacing in its header, which may be in another unit"
        )
        state.faults.append(("D406", state.pair.image, message))


def _millimeters(spacing: Spacing) -> str:
    return "x".join(f"{step:.4g}" for step in spacing)


def _inspect(pair: VolumePair, rules: _Rules) -> VolumeState:
    state = VolumeState(pair)
    try:
        # The header alone first: it is what labels are compared with, even where voxels are damaged.
        state.header = read_case_header(pair.image, rules.num_channels)
        state.faults += [("D406", pair.image, doubt) for doubt in state.header.doubts]
        with rules.budget.hold((*state.header.shape, rules.num_channels)):
            state.digest = _digest(pair.image, rules.num_channels)
    except VolumeError as error:
        state.faults.append(("D401", pair.image, _message(error, pair.image)))
    if pair.label is not None:
        _inspect_labels(state, pair.label, rules)
    return state


def _inspect_labels(state: VolumeState, path: Path, rules: _Rules) -> None:
    try:
        header = read_volume_header(path)
        if state.header is not None:
            grid = state.header.shape, state.header.affine
            affine = state.header.affine if rules.trust_grid else header.affine
            try:
                require_same_grid(path, header.shape, affine, state.pair.image, *grid)
            except DatasetError as error:
                state.faults.append(("D403", path, _message(error, path)))
                if header.shape != state.header.shape:
                    return
        affine = header.affine if state.header is None else state.header.affine
        transform = transform_of(header.shape, affine, rules.spec)
        with rules.budget.hold(max(header.shape, transform.input_shape, key=math.prod)):
            values, _ = read_label_values(path)
            values = merge_values(values, rules.merged_values)
            if rules.name_of:
                _count_voxels(state, path, values, rules.name_of)
                names = list(rules.name_of.values())
                positions = to_positions(values, names, list(rules.name_of), path, rules.ignored)
                _find_lost(state, path, positions, names, transform)
    except VolumeError as error:
        state.faults.append(("D402", path, _message(error, path)))
    except DatasetError as error:
        state.faults.append(("D404", path, _message(error, path)))


def _find_lost(
    state: VolumeState, path: Path, labels: ByteArray, names: Sequence[str], transform: VolumeTransform
) -> None:
    """Structures that are too thin for the grid on which a network would learn them."""
    if transform.input_shape == transform.oriented_shape:
        return
    lost = [names[label] for label in lost_classes(labels, place_labels(labels, transform))]
    if lost:
        message = (
            f"nothing is left of {', '.join(lost)} at {_millimeters(transform.input_spacing)} mm, the median "
            "spacing, which training takes unless it is told another"
        )
        state.faults.append(("D407", path, message))


def _digest(path: Path, num_channels: int) -> str:
    """The SHA-256 of the shape and the voxels, however they are stored."""
    voxels = read_case(path, num_channels, quiet=True).voxels
    digest = hashlib.sha256(repr(voxels.shape).encode())
    # The first axis runs fastest in files: seen this way, nothing is copied.
    digest.update(np.ascontiguousarray(voxels.T).reshape(-1).data)
    return digest.hexdigest()


def _message(error: ValueError, name: Path | str) -> str:
    """The message without the name of what it is about, which a finding names beside it."""
    return str(error).removeprefix(f"{name}: ")


def _count_voxels(state: VolumeState, path: Path, values: IntArray, name_of: Mapping[int, str]) -> None:
    """Count the voxels of every class, whatever other values there are."""
    found, counts = np.unique(values, return_counts=True)
    number_of = dict(zip(found.tolist(), counts.tolist(), strict=True))
    state.num_voxels = {name: number_of.get(value, 0) for value, name in name_of.items()}
    if found.tolist() == [next(iter(name_of))]:
        state.faults.append(("D405", path, "all voxels are background"))


def summarize_volumes(states: Sequence[VolumeState], class_names: Sequence[str]) -> VolumeSummary:
    """The histogram of some volumes; ``class_names`` without the background."""
    headers = [(state, state.header) for state in states if state.header is not None]
    milliliters: dict[str, list[float]] = {name: [] for name in class_names}
    for state, header in headers:
        size = abs(np.linalg.det(header.affine[:3, :3])) / 1000
        for name in class_names if state.num_voxels else ():
            milliliters[name].append(state.num_voxels[name] * size)
    spacings = np.array([spacing_toward_ras(header.affine) for _, header in headers]).reshape(-1, 3)
    shapes = np.array([transform_of(header.shape, header.affine, VolumeSpec()).oriented_shape for _, header in headers])
    return VolumeSummary(
        len(states),
        {name: float(np.mean(values)) if values else 0.0 for name, values in milliliters.items()},
        {name: sum(state.num_voxels.get(name, 0) > 0 for state in states) for name in class_names},
        tuple(np.median(spacings, axis=0).tolist()) if headers else (),
        (tuple(shapes.min(0).tolist()), tuple(shapes.max(0).tolist())) if headers else ((), ()),
    )


def _find_strays(records: VolumeRecords, pairs: Sequence[VolumePair]) -> Iterator[Finding]:
    """Volumes that no split has, and labels for which there is no volume."""
    folders = (records.image_folder, records.label_folder)
    images, labels = (list_volumes(folder) if folder and folder.is_dir() else [] for folder in folders)
    used = {path.resolve() for pair in pairs for path in pair if path is not None}
    if records.channels:
        firsts = {case[0] for pair in pairs if (case := case_of(pair.image)) is not None}
        used |= {path.resolve() for path in images if (case_of(path) or ("", 0))[0] in firsts}
    for path in images:
        if path.resolve() not in used:
            yield Finding("D105", str(path), f"in {path.parent.name}, but no split lists it")
    # nnU-Net's volumes have the number of their channel behind the name of their labels.
    names = {volume_stem(path).removesuffix("_0000") for path in images}
    for path in labels:
        if path.resolve() not in used and volume_stem(path).removesuffix("_0000") not in names:
            yield Finding("D306", str(path), f"in {path.parent.name}, but there is no volume of this name")
