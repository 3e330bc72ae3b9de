"""Pieces of structures that are taken for mistakes: all but the largest, or those that are too small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detseg.arrays import BoolArray, ByteArray, IntArray
from detseg.volumes import LabelVolume


@dataclass(frozen=True, slots=True)
class CleanConfig:
    """What is left of the pieces of a class. A piece is all of its voxels that touch, if only at a corner."""

    name: str
    """The class."""
    largest: bool = False
    """Whether only the largest piece of each volume stays."""
    min_ml: float = 0.0
    """Milliliters of the smallest piece that stays."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a class to be cleaned has no name")
        if not 0 <= self.min_ml < float("inf"):
            raise ValueError(f"min_ml must be a number of milliliters from 0 on, got {self.min_ml}")


def clean_labels(result: LabelVolume, cleaned: Sequence[CleanConfig], class_names: Sequence[str]) -> LabelVolume:
    """``result`` with background in place of pieces that ``cleaned`` leaves out; classes that are not among
    ``class_names`` are passed over.

    Raises:
        ValueError: scipy is not installed.
    """
    labels = result.labels
    for one in cleaned:
        if one.name not in class_names or not (one.largest or one.min_ml):
            continue
        position = list(class_names).index(one.name)
        region = labels == position
        box = _box_of(region)
        pieces, sizes = find_pieces(region[box])
        if not len(sizes):
            continue
        gone = ~kept_pieces(sizes * result.voxel_milliliters, one)
        if gone.any():
            if labels is result.labels:
                labels = labels.copy()
            labels[box][np.concatenate([[False], gone])[pieces]] = 0
    return LabelVolume(labels, result.affine, result.probabilities)


def _box_of(region: BoolArray) -> tuple[slice, ...]:
    """The smallest box with all of ``region``: numbers of pieces take many times its memory."""
    axes = range(region.ndim)
    found = [np.flatnonzero(region.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    return tuple(slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0) for places in found)


def kept_pieces(milliliters: Any, config: CleanConfig) -> BoolArray:
    """Which of the pieces of a class in one volume stay, by their sizes; of equal ones the first is the largest."""
    kept: BoolArray = np.asarray(milliliters >= config.min_ml)
    if config.largest:
        kept = kept & (np.arange(len(kept)) == int(np.argmax(milliliters)))
    return kept


def find_pieces(region: BoolArray | ByteArray) -> tuple[IntArray, IntArray]:
    """The number of its piece for each voxel of ``region`` ``[X, Y, Z]``, from 1 on, 0 elsewhere, and the voxels of
    each piece.

    Raises:
        ValueError: scipy is not installed.
    """
    try:
        from scipy import ndimage
    except ModuleNotFoundError as error:
        raise ValueError("pieces of structures need the extra `medical`: pip install 'detseg[medical]'") from error
    pieces, count = ndimage.label(region, structure=np.ones((3, 3, 3), bool))
    sizes: IntArray = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    return pieces, sizes
