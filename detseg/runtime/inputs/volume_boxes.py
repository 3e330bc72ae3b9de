"""Parts of the input that a volume becomes, made when they are asked for: nothing is placed as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from detseg.arrays import FloatArray, IntArray
from detseg.runtime.inputs.volume_channels import normalization_of
from detseg.runtime.inputs.volume_geometry import (
    VolumeSpec,
    neighbors,
    require_channels,
    resample_axis,
    resampling_order,
    to_input_axes,
    transform_of,
)
from detseg.volumes import Shape3, Volume

Span = tuple[int, int]
Box = tuple[Span, Span, Span]
"""From where to where along depth, height and width."""


class VolumeBoxes:
    """``volume`` as ``place_volume`` places it, box by box; ``transform`` is the way back.

    Raises:
        VolumeError: as ``place_volume``.
    """

    def __init__(self, volume: Volume, spec: VolumeSpec) -> None:
        require_channels(volume, spec)
        self.transform = transform_of(volume.shape, volume.affine, spec)
        self._channels = [
            (to_input_axes(voxels, self.transform), normalization_of(voxels, channel))
            for voxels, channel in zip(volume.channels, spec.per_channel, strict=True)
        ]
        old, new = self.transform.oriented_shape, self.transform.input_shape
        self._order = resampling_order(old, new)
        self._tables = {axis: neighbors(old[axis], new[axis]) for axis in self._order}

    @property
    def shape(self) -> Shape3:
        """Depth, height and width of the whole input."""
        return self.transform.input_shape

    def read(self, box: Box) -> FloatArray:
        """The input ``[C, d, h, w]`` float32 in ``box``, which must lie within it: by no bit other than a part of the
        whole."""
        cuts: list[slice] = []
        tables: dict[int, tuple[IntArray, FloatArray]] = {}
        for axis, (first, end) in enumerate(box):
            if axis not in self._tables:
                cuts.append(slice(first, end))
                continue
            positions, weights = self._tables[axis]
            positions, weights = positions[:, first:end], weights[:, first:end]
            lowest, highest = int(positions.min()), int(positions.max())
            cuts.append(slice(lowest, highest + 1))
            tables[axis] = positions - lowest, weights
        return np.stack([self._read_channel(voxels[*cuts], normalize, tables) for voxels, normalize in self._channels])

    def _read_channel(
        self,
        voxels: FloatArray,
        normalize: Callable[[FloatArray], FloatArray],
        tables: Mapping[int, tuple[IntArray, FloatArray]],
    ) -> FloatArray:
        part = normalize(voxels)
        for axis in self._order:
            part = resample_axis(part, axis, *tables[axis])
        return part
