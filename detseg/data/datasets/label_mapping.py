"""From the values in mask files to class positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detseg.arrays import BoolArray, ByteArray, IntArray
from detseg.data.datasets.mask_file import read_color_mask, read_index_mask
from detseg.data.source import DatasetError
from detseg.structures import IGNORE_INDEX

MAX_CLASSES = 254
"""Positions are bytes, of which one is ``IGNORE_INDEX`` and one stands for what is unknown."""

UNKNOWN = 254
"""In place of a position, where a value is neither a class nor ignored."""
_MAX_LISTED = 40


@dataclass(frozen=True)
class LabelMapping:
    """What stands for which class: ``values[position]`` is the value in the files, those in ``ignored`` mean no class.

    ``further`` are values of classes that have several, each with the position of its class. Values are numbers from 0
    to 255 or, where the masks are ``colored``, RGB colors as 24 bits (see ``pack_color``).

    Masks that were drawn or scaled with smoothing hold values in between. With a ``tolerance``, a color that is none of
    these counts as the nearest of them (by Euclid's distance, the first of several), if it differs by no more than that
    in any channel. With a ``threshold``, for two classes of numbers, values from it on are the second.
    """

    class_names: tuple[str, ...]
    values: tuple[int, ...]
    ignored: tuple[int, ...] = (IGNORE_INDEX,)
    colored: bool = False
    further: tuple[tuple[int, int], ...] = ()
    tolerance: int = 0
    threshold: int | None = None

    def __post_init__(self) -> None:
        assert len(self.class_names) == len(self.values) <= MAX_CLASSES
        used = (*self.name_of, *self.ignored)
        assert len(set(used)) == len(used), f"a value with two meanings among {used}"
        assert all(0 <= value < (2**24 if self.colored else 256) for value in used)
        assert self.colored or not self.tolerance
        assert self.threshold is None or (len(self.name_of) == 2 and not self.ignored and not self.colored)

    def read(self, path: Path | str, image: Path | str) -> ByteArray:
        """The mask of ``image`` in the file ``path``, ``[H, W]`` uint8 class positions or ``IGNORE_INDEX``.

        Raises:
            ImageError: the file is missing or damaged.
            DatasetError: it is of another kind, or holds a value that is neither a class nor ignored; the message gives
                file, value, first position, number of pixels, and what is allowed.
        """
        labels, values = self._decode(path, image)
        unknown = labels == UNKNOWN
        if unknown.any():
            raise DatasetError(f"{path}: {self._describe(values, unknown)}")
        return labels

    @property
    def name_of(self) -> dict[int, str]:
        """The class of each value that has one."""
        return {value: self.class_names[position] for value, position in self._positions}

    @property
    def _positions(self) -> list[tuple[int, int]]:
        return [*((value, position) for position, value in enumerate(self.values)), *self.further]

    def merge(self, names: Sequence[str], kept: Sequence[int], position_of: Sequence[int]) -> LabelMapping:
        """The same for the classes ``names``: those at ``kept`` keep their values, and old positions become
        ``position_of`` these."""
        values = tuple(self.values[position] for position in kept)
        further = [(value, position_of[position]) for value, position in self._positions if value not in values]
        return replace(self, class_names=tuple(names), values=values, further=tuple(further))

    def settings(self) -> dict[str, Any]:
        """The keys of a YAML with this meaning, see :mod:`detseg.data.formats.masks`."""
        assert not self.further, "a YAML merges classes with `classes:`"
        if not self.colored:
            names = dict(zip(self.values, self.class_names, strict=True))
            return {
                "names": names,
                **({"ignore_index": list(self.ignored)} if self.threshold is None else self._smoothing),
            }
        colors, ignored = ([list(unpack_color(value)) for value in some] for some in (self.values, self.ignored))
        return {"names": list(self.class_names), "colors": colors, "ignore_index": ignored, **self._smoothing}

    def show(self, value: int) -> str:
        """How messages write a value: as a number, or as a color."""
        return str(unpack_color(value)) if self.colored else str(value)

    def allowed(self) -> str:
        """All values that have a meaning, for messages."""
        named = [f"{self.show(value)} {name}" for value, name in self.name_of.items()]
        if len(named) > _MAX_LISTED:
            named = [*named[:_MAX_LISTED], f"{len(named) - _MAX_LISTED} more classes"]
        return ", ".join([*named, *(f"{self.show(value)} ignored" for value in self.ignored)])

    @property
    def smooths(self) -> bool:
        """Whether values in between have a meaning."""
        return self.tolerance > 0 or self.threshold is not None

    def positions(self, values: IntArray) -> ByteArray:
        """What the ``values`` stand for, in the same shape: positions of classes, ``IGNORE_INDEX``, or ``UNKNOWN``."""
        if not self.colored:
            return self._table[values]
        known, positions = self._sorted_colors
        place = np.minimum(np.searchsorted(known, values), len(known) - 1)
        labels = np.where(known[place] == values, positions[place], np.uint8(UNKNOWN))
        unknown = labels == UNKNOWN
        if self.tolerance and unknown.any():
            colors, inverse = np.unique(values[unknown], return_inverse=True)
            nearest, differences = self._nearest(colors)
            labels[unknown] = np.where(differences <= self.tolerance, nearest, np.uint8(UNKNOWN))[inverse]
        return labels

    def in_between(self, values: IntArray) -> BoolArray:
        """Which of the ``values`` are none of those that stand for a class or for ignored, but have a meaning as values
        in between; with a ``threshold``, all but 0 and 255."""
        if self.threshold is not None:
            return (values > 0) & (values < 255)
        exact = np.array([*self.name_of, *self.ignored], np.int64)
        between: BoolArray = (self.positions(values) != UNKNOWN) & ~np.isin(values, exact)
        return between

    def describe_in_between(self, num_between: int, num_pixels: int) -> str:
        """What to say of ``num_between`` pixels with such values."""
        share = f"{num_between:,} of {num_pixels:,} pixels ({num_between / max(1, num_pixels):.2%})"
        if self.threshold is not None:
            return f"{share} are neither 0 nor 255: from {self.threshold} on they count as {self.class_names[-1]}"
        return f"{share} have none of the colors and count as the nearest, at most {self.tolerance} away in a channel"

    def _decode(self, path: Path | str, image: Path | str) -> tuple[ByteArray, IntArray | ByteArray]:
        """Positions, ``IGNORE_INDEX`` or ``UNKNOWN``, and the values that they come from."""
        if not self.colored:
            values = read_index_mask(path, image)
            return np.asarray(cv2.LUT(values, self._table), np.uint8), values
        colors = pack_colors(read_color_mask(path, image))
        return self.positions(colors), colors

    def tolerance_for(self, colors: IntArray) -> int:
        """The tolerance with which all ``colors`` ``[N]`` count as one that is listed."""
        _, differences = self._nearest(colors)
        return int(differences.max(initial=0))

    def _nearest(self, colors: IntArray) -> tuple[ByteArray, IntArray]:
        """What the listed color nearest to each of ``colors`` ``[N]`` stands for, and how far it is in a channel."""
        channels = np.stack(unpack_color(colors), axis=-1)
        best = np.full(len(colors), np.iinfo(np.int64).max)
        labels, farthest = np.zeros(len(colors), np.uint8), np.zeros(len(colors), np.int64)
        for value, position in [*self._positions, *((value, IGNORE_INDEX) for value in self.ignored)]:
            differences = np.abs(channels - np.array(unpack_color(value)))
            distances = (differences**2).sum(axis=-1)
            closer = distances < best
            best[closer], labels[closer] = distances[closer], position
            farthest[closer] = differences[closer].max(axis=-1)
        return labels, farthest

    @property
    def _smoothing(self) -> dict[str, int]:
        if self.threshold is not None:
            return {"threshold": self.threshold}
        return {"tolerance": self.tolerance} if self.tolerance else {}

    @cached_property
    def _table(self) -> ByteArray:
        if self.threshold is not None:
            first, second = (position for _, position in sorted(self._positions))
            return np.where(np.arange(256) < self.threshold, first, second).astype(np.uint8)
        table = np.full(256, UNKNOWN, np.uint8)
        values, positions = zip(*self._positions, strict=True)
        table[list(values)] = positions
        table[list(self.ignored)] = IGNORE_INDEX
        return table

    @cached_property
    def _sorted_colors(self) -> tuple[IntArray, ByteArray]:
        pairs = [*self._positions, *((value, IGNORE_INDEX) for value in self.ignored)]
        known, positions = np.array(pairs, np.int64).T
        order = np.argsort(known)
        return known[order], positions[order].astype(np.uint8)

    def _describe(self, values: IntArray | ByteArray, unknown: BoolArray) -> str:
        y, x = np.unravel_index(int(unknown.argmax()), unknown.shape)
        value = int(values[y, x])
        others = sorted(set(np.unique(values[unknown]).tolist()) - {value})
        listed = ", ".join([*map(self.show, others[:10]), *(["..."] if len(others) > 10 else [])])
        more = f"; nor {'are' if len(others) > 1 else 'is'} {listed}" if others else ""
        return (
            f"{'color' if self.colored else 'value'} {self.show(value)}, first at x {x}, y {y}, "
            f"{int((values == value).sum()):,} pixels, is neither a class nor ignored{more}; allowed are "
            f"{self.allowed()}"
        )


def pack_color(color: Sequence[int]) -> int:
    """An RGB color as one number of 24 bits."""
    red, green, blue = color
    return red << 16 | green << 8 | blue


def unpack_color(value: Any) -> tuple[Any, Any, Any]:
    """The RGB color that ``pack_color`` makes ``value`` of; of an array, its channels."""
    return value >> 16, value >> 8 & 255, value & 255


def pack_colors(colors: ByteArray) -> IntArray:
    """RGB colors ``[..., 3]`` as numbers ``[...]``, as ``pack_color`` does."""
    wide = colors.astype(np.int64)
    packed: IntArray = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return packed
