"""A split of a data set of volumes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import ByteArray, DoubleArray
from detseg.data.datasets.packed import PackedStrings
from detseg.data.source import DatasetError
from detseg.runtime.inputs.volume_geometry import orientation
from detseg.runtime.media.nifti import read_label_values, read_volume, read_volume_header
from detseg.runtime.media.nifti_header import VolumeError, VolumeHeader
from detseg.structures import VOID, Truth
from detseg.volumes import LabelVolume, Shape3, Volume, spacing_of

MAX_CLASSES = VOID
"""Positions of classes fit in 8 bits beside ``VOID``."""
MAX_VALUE = 2**16 - 1
"""The largest value in a label file that can have a name."""
AFFINE_TOLERANCE = 0.01
"""How far apart the corners of a volume and of its labels may lie, as a share of a voxel's shortest side: headers hold
float32, and quaternions and text are rounded further."""

_NUM_SHOWN = 8


class VolumeDataset:
    """One split: volumes in a fixed order with their labels, read from NIfTI files when they are asked for.

    ``images`` are numbered from 1 in their order; ``labels`` has a file for each, or is None for a split without
    labels. ``root`` is the folder that file names are relative to, ``home`` that of the whole data set, where nothing
    is ever written. ``class_names`` begin with the background; ``category_ids`` are the values of these classes in the
    files. ``trust_grid``: labels lie where their volume does whatever their affine says; the shape alone must be the
    same. Only paths are kept, packed as in ``PackedAnnotations``, so that workers share them.
    """

    truth: Truth = "volumes"
    num_dropped = 0
    needs_truth = False
    unit = "volumes"
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
    ) -> None:
        assert len(category_ids) == len(class_names) <= MAX_CLASSES
        assert all(0 <= value <= MAX_VALUE for value in category_ids)
        assert labels is None or len(labels) == len(images)
        self.root = root
        self.home = home or root
        self.trust_grid = trust_grid
        self.split = split
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self._images = _pack(images, root)
        self._labels = None if labels is None else _pack(labels, root)

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
        return read_volume_header(self.path(index))

    def read(self, index: int) -> tuple[Volume, LabelVolume | None]:
        """Volume ``index`` on the grid of its file, with its labels where the split has them.

        Raises:
            VolumeError: a file is missing or damaged.
            DatasetError: the labels have another grid than the volume, or hold what is no class.
        """
        volume = read_volume(self.path(index))
        if not self.has_labels:
            return volume, None
        return volume, self._read_labels(index, volume.voxels.shape, volume.affine)

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
        return bool(((labels != 0) & (labels != VOID)).any())

    def spacings(self) -> DoubleArray:
        """Millimeters between voxels toward the patient's right, front and top, ``[N, 3]``, from the headers alone.

        Raises:
            VolumeError: a file is missing or damaged.
        """
        return np.array([spacing_toward_ras(self.header(index).affine) for index in range(len(self))]).reshape(-1, 3)

    def fingerprint(self, index: int) -> str:
        """A text that changes when what ``read`` gives may have changed. Raises VolumeError: a file is missing."""
        files = [self.path(index), *([self.label_path(index)] if self.has_labels else [])]
        return "|".join([*map(_describe_file, files), str(self.category_ids)])

    def _read_labels(self, index: int, shape: tuple[int, ...], affine: DoubleArray) -> LabelVolume:
        path = self._require_labels(index, shape, affine)
        values, _ = read_label_values(path)
        return LabelVolume(to_positions(values, self.class_names, self.category_ids, path), affine)

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


def to_positions(
    values: NDArray[np.integer], class_names: Sequence[str], category_ids: Sequence[int], path: Path | str
) -> ByteArray:
    """The ``values`` ``[X, Y, Z]`` of the label file ``path`` as positions in ``category_ids``, uint8.

    Raises:
        DatasetError: there are other values.
    """
    lowest, highest = min(category_ids) - 1, max(category_ids) + 1
    # The first and the last place are for all values beyond, which are no class either.
    position_of = np.full(highest - lowest + 1, VOID, np.uint8)
    position_of[np.array(category_ids) - lowest] = np.arange(len(category_ids))
    labels: ByteArray = position_of[np.clip(values, lowest, highest) - lowest]
    unknown = labels == VOID
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
    if label_shape != shape:
        raise DatasetError(
            f"{label_path}: {_by(label_shape)} voxels, but the volume {image_path} has {_by(shape)}; labels have one "
            "value for every voxel of their volume"
        )
    depth, height, width = shape
    distance = grid_distance_mm(label_affine, affine, (depth, height, width))
    allowed = AFFINE_TOLERANCE * min(spacing_of(affine))
    if distance > allowed:
        raise DatasetError(
            f"{label_path}: its affine puts voxels up to {distance:.4g} mm away from those of the volume {image_path}; "
            f"allowed are {allowed:.4g} mm, {AFFINE_TOLERANCE:.0%} of a voxel: correct the wrong header, resample the "
            "labels to the volume, or, where labels have lost their affine, write `trust_grid: true` in the data YAML"
        )


def grid_distance_mm(first_affine: DoubleArray, second_affine: DoubleArray, shape: Shape3) -> float:
    """The largest distance in millimeters between where two affines put the same voxel of a volume of this shape."""
    # A difference of affine maps is largest at a corner.
    corners = np.stack(np.meshgrid(*((0, length - 1) for length in shape), [1.0], indexing="ij"), -1).reshape(-1, 4)
    offsets = corners @ (first_affine - second_affine).T
    return float(np.linalg.norm(offsets[:, :3], axis=1).max())


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


def _describe_file(path: str) -> str:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read: {error.strerror}") from error
    return f"{Path(path).absolute()}|{status.st_mtime_ns}|{status.st_size}"


def _pack(paths: Sequence[Path], root: Path) -> PackedStrings:
    return PackedStrings.pack(str(path.relative_to(root) if path.is_relative_to(root) else path) for path in paths)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
