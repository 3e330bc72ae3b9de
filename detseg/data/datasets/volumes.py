"""A split of a data set of volumes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import ByteArray, DoubleArray, FloatArray
from detseg.data.datasets.packed import PackedStrings
from detseg.data.source import DatasetError
from detseg.runtime.inputs.volume_geometry import orientation
from detseg.runtime.volumes.nifti_header import VolumeError, VolumeHeader
from detseg.runtime.volumes.volume_cases import channel_files, read_case, read_case_header
from detseg.runtime.volumes.volume_files import read_label_values, read_volume_header, stored_files
from detseg.structures import IGNORE_INDEX, Target
from detseg.volumes import LabelVolume, Volume, grid_distance_mm, grid_tolerance_mm, spacing_of

MAX_CLASSES = IGNORE_INDEX
"""Positions of classes fit in 8 bits beside ``IGNORE_INDEX``."""
MAX_VALUE = 2**16 - 1
"""The largest value in a label file that can have a name."""
_NUM_SHOWN = 8
_VOXELS_FOR_STATISTICS = 10_000
"""Of each volume, so that large ones do not count more."""


class VolumeDataset:
    """One split: volumes in a fixed order with their labels, read from their files when they are asked for.

    ``images`` are numbered from 1 in their order; ``labels`` has a file for each, or is None for a split without
    labels. ``root`` is the folder that file names are relative to, ``home`` that of the whole data set, where nothing
    is ever written. ``class_names`` begin with the background; ``category_ids`` are the values of these classes in the
    files. ``trust_grid``: labels lie where their volume does whatever their affine says; the shape alone must be the
    same. ``channels``: the names of the channels, where there are several; ``images`` then has the file of the first,
    or of all. ``ignored``: the value of voxels that belong to no class. ``merged_values``: the values of classes that
    count as another, each with the value of that. ``regions``: of which class positions each class but the first
    consists, where they may lie in each other. Only paths are kept, packed as in ``PackedAnnotations``, so that workers
    share them.
    """

    target: Target = "volumes"
    num_dropped = 0
    needs_truth = False
    unit = "volumes"
    class_colors: tuple[tuple[int, int, int], ...] = ()
    """Red, green and blue of each class where the description of the data set says so, else nothing."""
    num_objects = None

    def __init__(
        self,
        *,
        root: Path,
        split: str,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        images: Sequence[Path],
        labels: Sequence[Path] | None,
        home: Path | None = None,
        trust_grid: bool = False,
        channels: Sequence[str] = (),
        ignored: int | None = None,
        merged_values: Mapping[int, int] | None = None,
        regions: Sequence[Sequence[int]] = (),
    ) -> None:
        assert len(category_ids) == len(class_names) <= MAX_CLASSES
        assert all(0 <= value <= MAX_VALUE for value in category_ids)
        assert labels is None or len(labels) == len(images)
        self.root = root
        self.home = home or root
        self.trust_grid = trust_grid
        self.channels = tuple(channels)
        self.ignored = ignored
        self.merged_values = dict(merged_values or {})
        self.regions = tuple(map(tuple, regions))
        self.split = split
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self._images = _pack(images, root)
        self._labels = None if labels is None else _pack(labels, root)

    @property
    def num_channels(self) -> int:
        """How many values each voxel has."""
        return max(1, len(self.channels))

    @property
    def has_labels(self) -> bool:
        """Whether the volumes of this split come with labels."""
        return self._labels is not None

    def __len__(self) -> int:
        return len(self._images)

    def image_id(self, index: int) -> int:
        """The number of volume ``index``, counted from 1."""
        self._require_index(index)
        return index + 1

    def path(self, index: int) -> str:
        """The file of volume ``index``."""
        self._require_index(index)
        return str(self.root / self._images[index])

    def label_path(self, index: int) -> str:
        """The file with the labels of volume ``index``. Raises DatasetError: this split has none."""
        self._require_index(index)
        if self._labels is None:
            raise DatasetError(
                f"{self.home}: the volumes of {self.split} have no labels, so they can be neither learned from nor "
                f"judged; name another split, or predict on {Path(self.path(index)).parent}"
            )
        return str(self.root / self._labels[index])

    def header(self, index: int) -> VolumeHeader:
        """What the header of volume ``index`` says. Raises VolumeError: it is missing or damaged."""
        return read_case_header(self.path(index), self.num_channels)

    def read(self, index: int) -> tuple[Volume, LabelVolume | None]:
        """Volume ``index`` on the grid of its file, with its labels where the split has them.

        Raises:
            VolumeError: a file is missing or damaged.
            DatasetError: the labels have another grid than the volume, or hold what is no class.
        """
        volume = read_case(self.path(index), self.num_channels)
        if not self.has_labels:
            return volume, None
        return volume, self._read_labels(index, volume.shape, volume.affine)

    def label_volume(self, index: int) -> LabelVolume:
        """The labels of volume ``index``, class positions on the grid of its file.

        Raises:
            VolumeError: a file is missing or damaged.
            DatasetError: the split has no labels, they have another grid than the volume, or hold what is no class.
        """
        self.label_path(index)
        header = self.header(index)
        return self._read_labels(index, header.shape, header.affine)

    def check_files(self, index: int, *, whole: bool = False) -> None:
        """Raise what ``read`` would for the headers of volume ``index`` and its labels; ``whole``: for all voxels too.

        Raises:
            VolumeError, DatasetError: a file cannot be used, or there are no labels.
        """
        self.label_path(index)
        if whole:
            self.read(index)
            return
        header = self.header(index)
        self._require_labels(index, header.shape, header.affine)

    def has_truth(self, index: int) -> bool:
        """Whether the labels of volume ``index`` hold anything but background.

        Raises:
            VolumeError, DatasetError: as ``label_volume``.
        """
        labels = self.label_volume(index).labels
        return bool(((labels != 0) & (labels != IGNORE_INDEX)).any())

    def spacings(self) -> DoubleArray:
        """Millimeters between voxels toward the patient's right, front and top, ``[N, 3]``, from the headers alone.

        Raises:
            VolumeError: a file is missing or damaged.
        """
        return np.array([spacing_toward_ras(self.header(index).affine) for index in range(len(self))]).reshape(-1, 3)

    def fingerprint(self, index: int) -> str:
        """A text that changes when what ``read`` gives may have changed. Raises VolumeError: a file is missing."""
        files = [*channel_files(self.path(index), self.num_channels)]
        files += [Path(self.label_path(index))] if self.has_labels else []
        more = [] if self.ignored is None else [f"ignored {self.ignored}"]
        more += [f"merged {self.merged_values}"] if self.merged_values else []
        stored = [one for file in files for one in stored_files(file)]
        return "|".join([*map(_describe_file, stored), str(self.category_ids), *more])

    def foreground_statistics(self) -> list[tuple[float, float, float, float]]:
        """Of each channel, where there are structures: percentiles 0.5 and 99.5, mean and standard deviation; from as
        many voxels of each volume, at random.

        Raises:
            VolumeError, DatasetError: a file is of no use, or there is no structure anywhere.
        """
        samples: list[list[FloatArray]] = [[] for _ in range(self.num_channels)]
        for index in range(len(self)):
            volume, labels = self.read(index)
            inside = np.zeros(0, np.int64)
            if labels is not None:
                inside = np.flatnonzero((labels.labels != 0) & (labels.labels != IGNORE_INDEX))
            chosen = np.random.default_rng(index).choice(inside, _VOXELS_FOR_STATISTICS) if len(inside) else inside
            for channel, voxels in zip(samples, volume.channels, strict=True):
                channel.append(voxels.reshape(-1)[chosen])
        statistics = []
        for parts in samples:
            values = np.concatenate(parts).astype(np.float64)
            if not len(values):
                raise DatasetError(f"{self.home}: {self.split} has no structure whose intensities could be measured")
            lower, upper = np.percentile(values, (0.5, 99.5)).tolist()
            # A structure of one intensity alone has no spread.
            spread = float(values.std()) or 1.0
            statistics.append((lower, upper if upper > lower else lower + 1.0, float(values.mean()), spread))
        return statistics

    def _read_labels(self, index: int, shape: tuple[int, ...], affine: DoubleArray) -> LabelVolume:
        path = self._require_labels(index, shape, affine)
        values, _ = read_label_values(path)
        values = merge_values(values, self.merged_values)
        return LabelVolume(to_positions(values, self.class_names, self.category_ids, path, self.ignored), affine)

    def _require_labels(self, index: int, shape: tuple[int, ...], affine: DoubleArray) -> str:
        """The file of the labels of volume ``index``, which is there and has this grid."""
        path, image = self.label_path(index), self.path(index)
        if not Path(path).exists():
            raise VolumeError(f"{path}: there is no such file; the labels of {image} were expected there")
        header = read_volume_header(path)
        label_affine = affine if self.trust_grid else header.affine
        require_same_grid(path, header.shape, label_affine, image, shape, affine)
        return path

    def _require_index(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"volume {index} of {len(self)}")


def merge_values(values: NDArray[Any], merged: Mapping[int, int]) -> NDArray[Any]:
    """The ``values`` of labels with those of ``merged`` replaced by what they count as."""
    if not merged:
        return values
    result = values.copy()
    for value, other in merged.items():
        result[values == value] = other
    return result


def to_positions(
    values: NDArray[np.integer],
    class_names: Sequence[str],
    category_ids: Sequence[int],
    path: Path | str,
    ignored: int | None = None,
) -> ByteArray:
    """The ``values`` ``[X, Y, Z]`` of the label file ``path`` as positions in ``category_ids``, uint8; ``IGNORE_INDEX``
    where they are ``ignored``.

    Raises:
        DatasetError: there are other values.
    """
    lowest, highest = min(category_ids) - 1, max(category_ids) + 1
    # The first and the last place are for all values beyond, which are no class either.
    position_of = np.full(highest - lowest + 1, IGNORE_INDEX, np.uint8)
    position_of[np.array(category_ids) - lowest] = np.arange(len(category_ids))
    labels: ByteArray = position_of[np.clip(values, lowest, highest) - lowest]
    unknown = labels == IGNORE_INDEX if ignored is None else (labels == IGNORE_INDEX) & (values != ignored)
    if unknown.any():
        raise DatasetError(_describe_unknown(values, unknown, class_names, category_ids, path))
    return labels


def require_same_grid(
    label_path: Path | str,
    label_shape: tuple[int, ...],
    label_affine: DoubleArray,
    image_path: Path | str,
    shape: tuple[int, ...],
    affine: DoubleArray,
) -> None:
    """Raises DatasetError where the labels have other voxels than their volume, or these lie at other places."""
    if _is_turned(label_affine, label_shape, affine, shape):
        raise DatasetError(
            f"{label_path}: it has the voxels of the volume {image_path}, but its axes run in another order or "
            f"direction, toward {_axes(label_affine)} instead of {_axes(affine)}: save the labels with the axes of the "
            "volume, by nibabel.orientations or a resampling with the nearest neighbor"
        )
    if label_shape != shape:
        raise DatasetError(
            f"{label_path}: {_by(label_shape)} voxels, but the volume {image_path} has {_by(shape)}; labels have one "
            "value for every voxel of their volume"
        )
    depth, height, width = shape
    grid = (depth, height, width)
    distance, allowed = grid_distance_mm(label_affine, affine, grid), grid_tolerance_mm(affine, grid)
    if distance > allowed:
        raise DatasetError(
            f"{label_path}: its affine puts voxels up to {distance:.4g} mm away from those of the volume {image_path}; "
            f"allowed are {allowed:.4g} mm, what rounding does to headers: correct the wrong header, resample the "
            "labels to the volume, or, where labels have lost their affine, write `trust_grid: true` in the data YAML"
        )


def _is_turned(affine: DoubleArray, shape: tuple[int, ...], other: DoubleArray, other_shape: tuple[int, ...]) -> bool:
    """Whether two grids have the same voxels, but count them along other axes or from other ends."""
    axes = np.rint((np.linalg.inv(other) @ affine)[:3, :3])
    lengths = np.abs(axes)
    if np.array_equal(axes, np.eye(3)) or (lengths.sum(axis=0) != 1).any() or (lengths.sum(axis=1) != 1).any():
        return False
    if not np.array_equal(lengths @ shape, other_shape):
        return False
    counted = np.eye(4)
    counted[:3, :3] = axes
    counted[:3, 3] = np.where(axes.sum(axis=1) < 0, np.array(other_shape) - 1, 0)
    grid = (shape[0], shape[1], shape[2])
    return grid_distance_mm(affine, other @ counted, grid) <= grid_tolerance_mm(affine, grid)


def _axes(affine: DoubleArray) -> str:
    """Toward where the axes of a file run, such as RAS: the patient's right, front and top."""
    axes, flips = orientation(affine)
    letters = [ends[flips[place]] for place, ends in enumerate(("RL", "AP", "SI"))]
    return "".join(letters[axes.index(axis)] for axis in range(3))


def spacing_toward_ras(affine: DoubleArray) -> tuple[float, float, float]:
    """Millimeters between voxels toward the patient's right, front and top, in this order."""
    spacing = spacing_of(affine)
    right, front, top = (spacing[axis] for axis in orientation(affine)[0])
    return right, front, top


def _describe_unknown(
    values: NDArray[np.integer],
    unknown: NDArray[np.bool_],
    class_names: Sequence[str],
    category_ids: Sequence[int],
    path: Path | str,
) -> str:
    first = tuple(map(int, np.unravel_index(int(np.argmax(unknown)), unknown.shape)))
    value = int(values[first])
    count = int(np.count_nonzero(values == value))
    others = np.unique(values[unknown & (values != value)])
    also = f" (others: {_first_of(map(str, others))})" if len(others) else ""
    allowed = _first_of(f"{number} {name}" for number, name in zip(category_ids, class_names, strict=True))
    return (
        f"{path}: the value {value} in {count:,} voxels, the first at {first}, is no class{also}; allowed are "
        f"{allowed}: correct the labels, or give the value a name"
    )


def _first_of(texts: Iterable[str]) -> str:
    shown = list(texts)
    return ", ".join(shown[:_NUM_SHOWN]) + (", ..." if len(shown) > _NUM_SHOWN else "")


def _describe_file(path: Path) -> str:
    try:
        status = path.stat()
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read: {error.strerror}") from error
    return f"{path.absolute()}|{status.st_mtime_ns}|{status.st_size}"


def _pack(paths: Sequence[Path], root: Path) -> PackedStrings:
    return PackedStrings.pack(str(path.relative_to(root) if path.is_relative_to(root) else path) for path in paths)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
