"""``blobs``: a synthetic set of volumes that needs no download: bright and dark ellipsoids in a noisy gray body.

Every volume is a pure function of the configuration, the split and the index. Ellipsoids are laid out in millimeters:
they keep their form although every volume has other voxels, anisotropic, with axes in any order and direction, some
tilted a little. Brightness drifts through a volume as in MRI, and every volume has its own scale of intensities.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detseg.arrays import ByteArray, DoubleArray, FloatArray
from detseg.config import from_dict
from detseg.data.datasets.volumes import VolumeDataset
from detseg.data.format import DatasetFormat
from detseg.data.records import GeneratedRecords
from detseg.data.source import DatasetError, DataSource
from detseg.files import write_text
from detseg.runtime.volumes.nifti import write_label_volume, write_volume
from detseg.runtime.volumes.nifti_header import VolumeHeader
from detseg.structures import Target
from detseg.volumes import LabelVolume, Shape3, Volume

CLASS_NAMES = ("background", "bright", "dark")
_INTENSITIES = (100.0, 170.0, 40.0)
_NOISE = 12.0
_DRIFT = 0.12
"""The logarithm of how much brighter or darker than in the middle the body is at its borders."""
_EDGE_MM = 1.0
_SPLITS = ("train", "val", "test")
_PLACEMENT_ATTEMPTS = 200
MAX_VOLUMES = 100_000
"""Of a split: each is made when it is asked for, but counted and checked one by one."""
_MAX_TILT = np.radians(8)


@dataclass(frozen=True)
class BlobsConfig:
    """Settings of ``blobs``. ``min_side`` and ``max_side`` bound the sides of volumes in voxels, ``min_radius`` and
    ``max_radius`` the half axes of ellipsoids in millimeters; the classes take turns among ``min_objects`` to
    ``max_objects``."""

    num_train: int = 48
    num_val: int = 12
    num_test: int = 12
    min_side: int = 28
    max_side: int = 36
    min_objects: int = 3
    max_objects: int = 6
    min_radius: float = 3.5
    max_radius: float = 7.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_train", "num_val", "num_test"):
            _require(0 <= getattr(self, name) <= MAX_VOLUMES, name, f"0 to {MAX_VOLUMES:,}", getattr(self, name))
        _require(self.seed >= 0, "seed", "0 or more", self.seed)
        sides, objects, radii = (
            f"{getattr(self, f'min_{what}')} and {getattr(self, f'max_{what}')}"
            for what in ("side", "objects", "radius")
        )
        _require(8 <= self.min_side <= self.max_side <= 128, "min_side, max_side", "8 to 128, in order", sides)
        in_order = 0 <= self.min_objects <= self.max_objects <= 100
        _require(in_order, "min_objects, max_objects", "0 to 100, in order", objects)
        # The smallest volume is 0.9 mm per voxel wide.
        largest = 0.4 * self.min_side
        in_order = 0.5 <= self.min_radius <= self.max_radius <= largest
        _require(in_order, "min_radius, max_radius", f"0.5 to {largest:g} (0.4 min_side), in order", radii)

    def num_volumes(self, split: str) -> int:
        """The number of volumes of ``split``."""
        return {"train": self.num_train, "val": self.num_val, "test": self.num_test}[split]


@dataclass(frozen=True, slots=True)
class _Ellipsoid:
    """``center`` in millimeters from the middle of the volume; ``radii`` along the columns of ``rotation``."""

    label: int
    center: DoubleArray
    radii: DoubleArray
    rotation: DoubleArray


@dataclass(frozen=True, slots=True)
class _Grid:
    """The voxels of a volume: ``shape`` and ``affine`` as in a file, and the ``middle`` of it in millimeters. The body
    reaches ``half_extent`` millimeters from there along the columns of ``tilt``."""

    shape: Shape3
    affine: DoubleArray
    middle: DoubleArray
    half_extent: DoubleArray
    tilt: DoubleArray

    def positions(self) -> DoubleArray:
        """Where the voxels are along the axes of the body, in millimeters from its middle: ``[X, Y, Z, 3]``."""
        voxels = np.stack(np.meshgrid(*(np.arange(length) for length in self.shape), indexing="ij"), axis=-1)
        millimeters = voxels @ self.affine[:3, :3].T + self.affine[:3, 3]
        positions: DoubleArray = (millimeters - self.middle) @ self.tilt
        return positions


class BlobsFormat(DatasetFormat):
    """The word ``blobs``, or a YAML with ``format: blobs`` and the keys of :class:`BlobsConfig`."""

    targets = ("volumes",)
    indivisible = "blobs has its splits built in; there are no files to divide"
    layouts = ("the word `blobs`, or a YAML with `format: blobs`, `num_train:`, `min_side:`, ...",)

    def splits(self, source: DataSource) -> tuple[str, ...]:
        if source.settings.get("format") != "blobs":
            return ()
        config = _config(source)
        return tuple(split for split in _SPLITS if config.num_volumes(split))

    def records(self, source: DataSource, split: str, target: Target) -> GeneratedRecords:
        return GeneratedRecords(BlobsDataset(split, _config(source)))


class BlobsDataset(VolumeDataset):
    """One split of ``blobs``; its paths name no files."""

    def __init__(self, split: str, config: BlobsConfig | None = None) -> None:
        self.config = config or BlobsConfig()
        root = Path("blobs", split)
        names = [root / f"{index:04d}.nii.gz" for index in range(self.config.num_volumes(split))]
        super().__init__(
            root=root,
            split=split,
            class_names=CLASS_NAMES,
            category_ids=range(len(CLASS_NAMES)),
            images=names,
            labels=names,
        )

    def header(self, index: int) -> VolumeHeader:
        self._require_index(index)
        grid = _lay_out_grid(self.config, self.split, index)
        return VolumeHeader(shape=grid.shape, affine=grid.affine, dtype="float32")

    def read(self, index: int) -> tuple[Volume, LabelVolume]:
        self._require_index(index)
        return make_volume(self.config, self.split, index)

    def label_volume(self, index: int) -> LabelVolume:
        return self.read(index)[1]

    def check_files(self, index: int, *, whole: bool = False) -> None:
        """Nothing: there are no files."""

    def fingerprint(self, index: int) -> str:
        self._require_index(index)
        return f"{self.config}|{self.split}|{index}"


def make_volume(config: BlobsConfig, split: str, index: int) -> tuple[Volume, LabelVolume]:
    """A scan and the classes of its voxels, positions in ``CLASS_NAMES``."""
    grid = _lay_out_grid(config, split, index)
    rng = _generator(config, split, index, purpose=1)
    positions = grid.positions()
    labels: ByteArray = np.zeros(grid.shape, np.uint8)
    voxels = np.full(grid.shape, _INTENSITIES[0])
    for ellipsoid in _lay_out_ellipsoids(config, grid, rng):
        level = np.linalg.norm((positions - ellipsoid.center) @ ellipsoid.rotation / ellipsoid.radii, axis=-1)
        labels[level <= 1] = ellipsoid.label
        # A voxel at the border holds a little of both sides.
        share = np.clip(0.5 + (1 - level) * ellipsoid.radii.mean() / _EDGE_MM, 0, 1)
        voxels += share * (_INTENSITIES[ellipsoid.label] - voxels)
    voxels *= np.exp(_DRIFT * _smooth_field(positions / grid.half_extent, rng))
    voxels += _NOISE * rng.standard_normal(grid.shape)
    scan: FloatArray = (rng.uniform(0.5, 4) * voxels).astype(np.float32)
    return Volume(scan, grid.affine), LabelVolume(labels, grid.affine)


def write_blobs(folder: Path, num_volumes: int, split: str = "train", config: BlobsConfig | None = None) -> None:
    """Write the first volumes of ``split`` as a NIfTI data set in the layout of the Medical Segmentation Decathlon.

    Raises:
        ValueError: the split has fewer volumes, or nibabel is not installed.
        SaveError: a file cannot be written.
    """
    dataset = BlobsDataset(split, config)
    _require(0 < num_volumes <= len(dataset), "num_volumes", f"1 to {len(dataset)}, the size of {split}", num_volumes)
    training = []
    for index in range(num_volumes):
        volume, labels = dataset.read(index)
        name = f"blobs_{index:04d}.nii.gz"
        write_volume(folder / "imagesTr" / name, volume)
        write_label_volume(folder / "labelsTr" / name, labels)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    description = {
        "name": "blobs",
        "tensorImageSize": "3D",
        "modality": {"0": "synthetic"},
        "labels": {str(value): name for value, name in enumerate(CLASS_NAMES)},
        "numTraining": num_volumes,
        "training": training,
    }
    write_text(folder / "dataset.json", json.dumps(description, indent=2) + "\n")


def _lay_out_grid(config: BlobsConfig, split: str, index: int) -> _Grid:
    rng = _generator(config, split, index, purpose=0)
    lengths = rng.integers(config.min_side, config.max_side + 1, size=3)
    spacing = rng.uniform(0.9, 1.2, size=3)
    # One axis is that of the slices, which scanners set farther apart.
    spacing[rng.integers(3)] = rng.uniform(1.2, 2.0)
    order = rng.permutation(3)
    signs = rng.choice([-1, 1], size=3)
    tilt = _rotation(rng.uniform(-_MAX_TILT, _MAX_TILT, size=3) * rng.integers(2))
    middle = rng.uniform(-40, 40, size=3)
    x, y, z = lengths[order].tolist()
    affine = np.eye(4)
    affine[:3, :3] = tilt[:, order] * signs * spacing[order]
    affine[:3, 3] = middle - affine[:3, :3] @ ((lengths[order] - 1) / 2)
    return _Grid((x, y, z), affine, middle, lengths * spacing / 2, tilt)


def _lay_out_ellipsoids(config: BlobsConfig, grid: _Grid, rng: np.random.Generator) -> list[_Ellipsoid]:
    """Ellipsoids whose surrounding spheres do not touch; one that finds no room after many attempts is left out."""
    placed: list[_Ellipsoid] = []
    for number in range(int(rng.integers(config.min_objects, config.max_objects + 1))):
        for _ in range(_PLACEMENT_ATTEMPTS):
            radii = rng.uniform(config.min_radius, config.max_radius, size=3)
            room = np.maximum(grid.half_extent - radii.max() - _EDGE_MM, 0)
            center = rng.uniform(-room, room)
            gaps = [np.linalg.norm(center - other.center) - other.radii.max() - radii.max() for other in placed]
            if min(gaps, default=np.inf) > _EDGE_MM:
                label = 1 + number % (len(CLASS_NAMES) - 1)
                placed.append(_Ellipsoid(label, center, radii, _rotation(rng.uniform(0, 2 * np.pi, size=3))))
                break
    return placed


def _smooth_field(positions: DoubleArray, rng: np.random.Generator) -> DoubleArray:
    """A polynomial of second degree over ``positions`` ``[..., 3]`` in [-1, 1], with values of about that range."""
    slope = rng.normal(size=3)
    curvature = rng.normal(size=3)
    field: DoubleArray = positions @ (slope / np.linalg.norm(slope)) + positions**2 @ (curvature / 3)
    return np.clip(field, -1.5, 1.5)


def _rotation(angles: DoubleArray) -> DoubleArray:
    """The matrix that turns by ``angles`` around the first, then the second, then the third axis."""
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        plane = np.ix_([(axis + 1) % 3, (axis + 2) % 3], [(axis + 1) % 3, (axis + 2) % 3])
        turn[plane] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        rotation = turn @ rotation
    return rotation


def _generator(config: BlobsConfig, split: str, index: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, _SPLITS.index(split), index, purpose])


def _config(source: DataSource) -> BlobsConfig:
    settings: Mapping[str, object] = {key: value for key, value in source.settings.items() if key != "format"}
    return from_dict(BlobsConfig, settings, source.name)


def _require(condition: bool, name: str, allowed: str, received: object) -> None:
    if not condition:
        raise DatasetError(f"blobs: {name}: allowed are {allowed}, got {received}")
