"""How a volume is placed in the input of a network, for training, evaluation, prediction and export: orientation,
resampling and intensities, in numpy alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import ByteArray, DoubleArray, FloatArray, IntArray
from detseg.runtime.inputs.volume_channels import ChannelSpec, Intensity, normalize_channel
from detseg.runtime.volumes.nifti import require_memory
from detseg.runtime.volumes.nifti_header import MAX_VOXELS, VolumeError
from detseg.runtime.volumes.volume_cases import read_case, read_case_header
from detseg.runtime.volumes.volume_files import VOLUME_SUFFIXES
from detseg.structures import IGNORE_INDEX
from detseg.volumes import Shape3, Spacing, Volume, VolumeTransform, spacing_of

SUMS_BYTES = 2**28
"""What sums over windows of a volume may take: of larger ones, a part after the other is looked at, and the windows at
its borders more than once."""
_STRIP_BYTES = 2**28
"""What a strip of an input takes at most, or nearly so."""


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """What a network expects of its input volume."""

    suffixes: ClassVar[tuple[str, ...]] = VOLUME_SUFFIXES
    """How the names of files end that can be read."""
    one_size: ClassVar[bool] = False
    """Whether all inputs have one size; volumes keep theirs."""
    max_ahead: ClassVar[int | None] = None
    """As of an :class:`detseg.runtime.inputs.geometry.InputSpec`."""

    spacing: Spacing | None = None
    """Millimeters between voxels toward the patient's right, front and top; null: not decided yet, the median of the
    training set will be taken."""
    intensity: Intensity = "zscore"
    """``zscore`` gives each volume mean 0 and standard deviation 1; ``window`` clips to ``window`` and maps it to [-1,
    1]; ``ct`` clips to ``window``, subtracts ``mean`` and divides by ``deviation``, those of the training set where
    they are null."""
    window: tuple[float, float] | None = None
    """Lower and upper intensity where ``intensity`` is ``window`` or ``ct``, such as Hounsfield units of CT."""
    mean: float | None = None
    """What ``ct`` subtracts, of the training set."""
    deviation: float | None = None
    """What ``ct`` divides by, of the training set."""
    channels: tuple[ChannelSpec, ...] = ()
    """The same for each channel of volumes of several; where it is empty, those of the training set are taken, each
    normalized as said before (a channel called CT as ``ct``)."""

    def __post_init__(self) -> None:
        if self.spacing is not None and (len(self.spacing) != 3 or not all(0 < step < np.inf for step in self.spacing)):
            raise ValueError(f"spacing must be three positive numbers of millimeters, got {self.spacing}")
        ChannelSpec("", self.intensity, self.window, self.mean, self.deviation)

    @property
    def num_channels(self) -> int:
        """How many values each voxel has."""
        return max(1, len(self.channels))

    @property
    def num_files(self) -> int:
        """In how many files an input may lie."""
        return self.num_channels

    @property
    def per_channel(self) -> tuple[ChannelSpec, ...]:
        """How each channel is normalized."""
        return self.channels or (ChannelSpec("", self.intensity, self.window, self.mean, self.deviation),)

    def for_channels(self, names: Sequence[str]) -> Self:
        """This specification for volumes with channels of these ``names``, one or none where there is one channel.

        Raises:
            ValueError: it has other channels.
        """
        if self.channels:
            if len(self.channels) != max(1, len(names)):
                raise ValueError(
                    f"task.input.channels has {len(self.channels)} channels, the training set {max(1, len(names))}; "
                    "name as many, or leave it out"
                )
            return self
        if len(names) < 2:
            return self
        like = self.per_channel[0]
        is_default = like == ChannelSpec()
        channels = (
            ChannelSpec(name, "ct") if is_default and name.upper() == "CT" else replace(like, name=name)
            for name in names
        )
        return replace(self, channels=tuple(channels))

    def with_statistics(self, statistics: Sequence[tuple[float, float, float, float]]) -> Self:
        """This specification with what is missing for ``ct``: of each channel the lower and the upper end of its
        window, mean and deviation."""
        filled = []
        for channel, (lower, upper, mean, deviation) in zip(self.per_channel, statistics, strict=True):
            if channel.is_complete:
                filled.append(channel)
                continue
            window = (lower, upper) if channel.window is None else channel.window
            own_mean = mean if channel.mean is None else channel.mean
            own_deviation = deviation if channel.deviation is None else channel.deviation
            filled.append(replace(channel, window=window, mean=own_mean, deviation=own_deviation))
        if self.channels:
            return replace(self, channels=tuple(filled))
        return replace(self, window=filled[0].window, mean=filled[0].mean, deviation=filled[0].deviation)

    def completed(self, spacings: DoubleArray) -> Self:
        """This specification with the median of ``spacings`` ``[N, 3]`` as its spacing, unless it has one."""
        if self.spacing is not None:
            return self
        right, front, top = np.median(spacings, axis=0).round(4).tolist()
        return replace(self, spacing=(right, front, top))

    def read(self, path: Path | str, num_classes: int = 1, num_kept: int = 0) -> Volume:
        """The volume in the file ``path``, of which probabilities for ``num_classes`` will be made and ``num_kept`` of
        them be kept.

        Raises:
            VolumeError: it cannot be read, or would become too large when it is placed, or would take more memory on
                its way to a result than there is for a volume; all but the first is known before it is read.
        """
        header = read_case_header(path, self.num_channels)
        try:
            transform = transform_of(header.shape, header.affine, self)
        except VolumeError as error:
            raise VolumeError(f"{path}: {error}") from error
        require_memory(path, _memory_needed(transform, num_classes, self.num_channels, num_kept), header.shape)
        return self.shown(read_case(path, self.num_channels))

    def shown(self, volume: Volume) -> Volume:
        """``volume`` with the window of its first channel, where there is one, as what is shown of it."""
        window = self.per_channel[0].window
        return volume if window is None else replace(volume, display=window)

    def place(self, volume: Volume) -> tuple[FloatArray, VolumeTransform]:
        """``volume`` as the network takes it, ``[C, D, H, W]``, and the way back. See :func:`place_volume`."""
        placed, transform = place_volume(volume, self)
        return placed if placed.ndim == 4 else placed[None], transform

    def imitate_channels(self, volume: Volume) -> Volume:
        """``volume`` of one channel with as many as the network takes, each moved by a voxel against the one before."""
        if self.num_channels == 1:
            return volume
        moved = [np.roll(volume.voxels, channel, axis=0) for channel in range(self.num_channels)]
        return Volume(np.stack(moved), volume.affine, volume.forms)

    def input_shape(self, volume: Volume) -> Shape3:
        """Depth, height and width of the input for ``volume``. Raises VolumeError: it would become too large."""
        return transform_of(volume.shape, volume.affine, self).input_shape


def _memory_needed(transform: VolumeTransform, num_classes: int, num_channels: int = 1, num_kept: int = 0) -> int:
    """The bytes that a volume takes where it takes most on its way, with its float32 voxels kept throughout: while it
    is looked at in strips, its labels are written, or pictures are made of it."""
    stored, placed = math.prod(transform.original_shape), math.prod(transform.input_shape)
    kept = 4 * stored * (num_channels + num_kept)
    sums = min(SUMS_BYTES, 4 * placed * (2 * num_classes + 1)) + min(_STRIP_BYTES, 2 * 4 * placed * num_channels)
    return kept + stored + max(sums, 4 * stored)


def orientation(affine: DoubleArray) -> tuple[Shape3, tuple[bool, bool, bool]]:
    """Which axis of a file with this ``affine`` ``[4, 4]`` runs most nearly along the right-left, the front-back and
    the top-bottom axis of the patient, and whether it runs the other way, toward the left, the back or the bottom.

    Judged by the rotation that is nearest to the affine (its polar decomposition): the axes of the file choose their
    best match, the one with the clearest match first; of equal ones the first counts, in the file and in the patient.
    """
    directions = affine[:3, :3] / np.array(spacing_of(affine))
    left, _, right = np.linalg.svd(directions)
    rotation = left @ right
    closeness = np.abs(rotation)
    axes, flips = [0, 0, 0], [False, False, False]
    for file_axis in np.argsort(-closeness.max(axis=0), kind="stable").tolist():
        patient_axis = int(closeness[:, file_axis].argmax())
        axes[patient_axis] = file_axis
        flips[patient_axis] = bool(rotation[patient_axis, file_axis] < 0)
        # Taken: below every match that is left.
        closeness[patient_axis] = -1
    return (axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2])


def transform_of(shape: Shape3, affine: DoubleArray, spec: VolumeSpec) -> VolumeTransform:
    """Where a volume of this ``shape`` and ``affine`` lies in the input that ``spec`` describes, at its own spacing
    where that of ``spec`` is None.

    Raises:
        VolumeError: the input would have more than ``MAX_VOXELS`` voxels. The message names no path, as none is known.
    """
    axes, flips = orientation(affine)
    spacing = spacing_of(affine)
    wanted = spec.spacing or tuple(spacing[axis] for axis in axes)
    depth, height, width = (
        max(1, round(shape[axis] * spacing[axis] / step)) for axis, step in zip(axes, wanted, strict=True)
    )
    if depth * height * width > MAX_VOXELS:
        raise VolumeError(
            f"{'x'.join(map(str, shape))} voxels of {'x'.join(f'{step:g}' for step in spacing)} mm would become "
            f"{depth}x{height}x{width} of {'x'.join(f'{step:g}' for step in wanted)} mm in the input of the network, "
            f"allowed are {MAX_VOXELS:,}; set a larger spacing, or correct that of the file"
        )
    return VolumeTransform(axes, flips, (depth, height, width), shape, affine)


def place_volume(volume: Volume, spec: VolumeSpec) -> tuple[FloatArray, VolumeTransform]:
    """``volume`` as a network sees it, ``[D, H, W]`` float32, of several channels ``[C, D, H, W]``, and the way back:
    axes toward right, front and top, intensities normalized, then resampled to the spacing of ``spec`` (its own where
    that is None).

    Intensities are normalized on the grid of the file, so that they do not depend on the spacing.
    Raises VolumeError like :func:`transform_of`, and where the volume has not the channels of ``spec``.
    """
    require_channels(volume, spec)
    transform = transform_of(volume.shape, volume.affine, spec)
    placed = [
        resample(to_input_axes(normalize_channel(voxels, channel), transform), transform.input_shape)
        for voxels, channel in zip(volume.channels, spec.per_channel, strict=True)
    ]
    return np.ascontiguousarray(placed[0]) if len(placed) == 1 else np.stack(placed), transform


def require_channels(volume: Volume, spec: VolumeSpec) -> None:
    """Raise VolumeError where ``volume`` has not the channels of ``spec``."""
    if volume.num_channels != spec.num_channels:
        names = ", ".join(channel.name for channel in spec.channels if channel.name)
        raise VolumeError(
            f"the volume has {volume.num_channels} channels, the model takes {spec.num_channels}"
            + (f" ({names})" if names else "")
        )


def place_labels(labels: ByteArray, transform: VolumeTransform) -> ByteArray:
    """Class positions ``[X, Y, Z]`` of a file in the grid of a network input, ``[D, H, W]``.

    Where the grids differ, each class's region is resampled like an image and the largest value wins, the lower class
    if two are equal. ``IGNORE_INDEX`` counts as a class of its own.
    """
    oriented = to_input_axes(labels, transform)
    if transform.input_shape == transform.oriented_shape:
        return np.ascontiguousarray(oriented)
    best = np.zeros(transform.input_shape, np.float32)
    winners = np.zeros(transform.input_shape, np.uint8)
    for label in np.flatnonzero(np.bincount(labels.ravel(order="K"), minlength=256)):
        share = resample((oriented == label).astype(np.float32), transform.input_shape)
        np.copyto(winners, label, where=share > best, casting="unsafe")
        np.maximum(best, share, out=best)
    return winners


def lost_classes(labels: ByteArray, placed: ByteArray) -> list[int]:
    """The classes in ``labels`` ``[X, Y, Z]`` of a file of which nothing is left in ``placed``, what
    :func:`place_labels` makes of them: structures too thin for the grid of the network."""
    before, after = (np.bincount(array.ravel(order="K"), minlength=256) for array in (labels, placed))
    return [label for label in np.flatnonzero((before > 0) & (after == 0)).tolist() if label != IGNORE_INDEX]


def to_input_axes(array: NDArray[Any], transform: VolumeTransform) -> NDArray[Any]:
    """A view of ``array`` ``[X, Y, Z]`` with the axes of the network input; its voxels stay what they are."""
    reversals = tuple(slice(None, None, -1 if flip else None) for flip in transform.flips)
    return array.transpose(transform.axes)[reversals]


def to_file_axes(array: NDArray[Any], transform: VolumeTransform) -> NDArray[Any]:
    """A view of ``array``, of ``transform.oriented_shape``, with the axes of the file: :func:`to_input_axes` undone."""
    reversals = tuple(slice(None, None, -1 if flip else None) for flip in transform.flips)
    return array[reversals].transpose(np.argsort(transform.axes))


def normalize_intensity(voxels: FloatArray, spec: VolumeSpec) -> FloatArray:
    """``voxels`` of a whole volume of one channel as ``spec`` wants their intensities, float32. A constant volume
    becomes zeros."""
    return normalize_channel(voxels, spec.per_channel[0])


def resample(array: NDArray[Any], shape: Shape3, *, smooth: bool = True) -> FloatArray:
    """``array`` ``[D, H, W]`` float32 on a grid of another ``shape`` that covers the same space, edge to edge.

    Linear along each axis in turn, between the centers of voxels, borders repeated. Where an axis is shortened, each
    new voxel is a weighted mean (a triangle as wide as two new voxels), so that nothing is skipped; unless it is to be
    ``smooth``, the two nearest voxels count alone. What is already of this shape is returned as it is.

    It is PyTorch's ``interpolate``, with ``antialias`` and without.
    """
    resampled = np.asarray(array, np.float32)
    depth, height, width = array.shape
    for axis in resampling_order((depth, height, width), shape):
        table = neighbors if smooth else nearest_two
        resampled = resample_axis(resampled, axis, *table(array.shape[axis], shape[axis]))
    return resampled


def resampling_order(shape: Shape3, new_shape: Shape3) -> list[int]:
    """The axes that change, in the order in which they do: those that shrink most first, as less is left to do for the
    others then."""
    changing = [axis for axis in range(3) if new_shape[axis] != shape[axis]]
    return sorted(changing, key=lambda axis: new_shape[axis] / shape[axis])


def resample_axis(array: FloatArray, axis: int, positions: IntArray, weights: FloatArray) -> FloatArray:
    """The sums over ``k`` of what ``array`` has at ``positions[k]`` along an axis, times ``weights[k]``."""
    along_axis = [-1 if other == axis else 1 for other in range(array.ndim)]
    total: FloatArray = array.take(positions[0], axis) * weights[0].reshape(along_axis)
    for position, weight in zip(positions[1:], weights[1:], strict=True):
        part = array.take(position, axis)
        part *= weight.reshape(along_axis)
        total += part
    return total


@lru_cache(maxsize=64)
def neighbors(length: int, new_length: int) -> tuple[IntArray, FloatArray]:
    """Which old voxels along an axis contribute to each new one, and how much: ``positions`` and ``weights``
    ``[K, new_length]``; the weights of a new voxel sum to 1. All callers get the same arrays, which cannot be written
    to."""
    ratio = length / new_length
    reach = max(1.0, ratio)
    centers = (np.arange(new_length) + 0.5) * ratio - 0.5
    positions = np.floor(centers - reach).astype(np.int64) + 1 + np.arange(math.ceil(2 * reach))[:, None]
    weights = np.maximum(0, 1 - np.abs(positions - centers) / reach)
    # Where the row ends, the voxels that are there share the whole weight.
    weights[(positions < 0) | (positions >= length)] = 0
    shared = positions.clip(0, length - 1), (weights / weights.sum(axis=0)).astype(np.float32)
    for array in shared:
        array.flags.writeable = False
    return shared


def nearest_two(length: int, new_length: int) -> tuple[IntArray, FloatArray]:
    """The two old voxels about each new one, as of :func:`neighbors`, in the arithmetic of PyTorch: all float32."""
    centers = (np.arange(new_length, dtype=np.float32) + np.float32(0.5)) * np.float32(length / new_length)
    places = np.maximum(centers - np.float32(0.5), 0)
    lower = places.astype(np.int64)
    share = (places - lower).astype(np.float32)
    return np.stack([lower, np.minimum(lower + 1, length - 1)]), np.stack([np.float32(1) - share, share])
