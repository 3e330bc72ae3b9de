"""Masks of objects as the lengths of their runs, COCO's form of them: small enough to keep hundreds of a large image.

Runs go down the columns, from the left one to the right one; the first is outside of the object, then inside and
outside follow in turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import BoolArray, DoubleArray, IntArray, require, require_array

_OFFSET = 48
"""Code of the character that stands for five bits that are 0."""
_AT_ONCE = 2048
"""Masks that are made texts of at a time."""
_MAX_GROUPS = 12
"""Groups of five bits in a number; more would not fit into 64 bits."""


@dataclass(frozen=True, slots=True, eq=False)
class RunLengths:
    """The mask of one object in an image of ``height`` x ``width`` pixels.

    ``counts`` ``[R]`` int64: the lengths of runs outside and inside of the object in turn, down the columns. The first
    may be 0, no other; together they are ``height * width``.
    """

    height: int
    width: int
    counts: IntArray

    def __post_init__(self) -> None:
        require(self.height >= 0 and self.width >= 0, f"the size must not be negative, got {self.height}x{self.width}")
        require_array(self.counts, "counts", np.int64, (None,))
        total = int(self.counts.sum())
        size = f"{self.height}x{self.width} pixels"
        require(total == self.height * self.width, f"the runs of {size} must add up to them, got {total}")
        require(bool((self.counts[:1] >= 0).all() and (self.counts[1:] > 0).all()), "a run must have a length over 0")

    @classmethod
    def from_mask(cls, mask: BoolArray) -> RunLengths:
        """The runs of a ``mask`` ``[H, W]``."""
        return cls.from_crop(mask, 0, 0, mask.shape[0], mask.shape[1])

    @classmethod
    def from_crop(cls, crop: BoolArray, left: int, top: int, height: int, width: int) -> RunLengths:
        """The runs of a mask of ``height`` x ``width`` pixels that is nowhere but in ``crop`` ``[h, w]``, whose first
        pixel is at column ``left`` and row ``top``; the whole mask is never made.

        Raises:
            ValueError: the crop is no array of booleans, or does not lie inside.
        """
        require_array(crop, "crop", np.bool_, (None, None))
        inside = left >= 0 and left + crop.shape[1] <= width and top >= 0 and top + crop.shape[0] <= height
        require(inside, f"a crop of {crop.shape} at {top}, {left} does not lie in a mask of {height}x{width} pixels")
        columns = np.zeros((crop.shape[1], crop.shape[0] + 2), np.bool_)
        columns[:, 1:-1] = crop.T
        # In every column, inside begins and ends in turn.
        column, row = np.divmod(np.flatnonzero(columns[:, 1:] != columns[:, :-1]), crop.shape[0] + 1)
        edges = (column + left) * height + row + top
        # What ends where it begins again, at the foot of one column and the head of the next, goes on.
        goes_on = np.flatnonzero(edges[1:-1:2] == edges[2::2])
        return cls._from_edges(height, width, np.delete(edges, np.concatenate([2 * goes_on + 1, 2 * goes_on + 2])))

    @classmethod
    def from_intervals(cls, height: int, width: int, starts: IntArray, ends: IntArray) -> RunLengths:
        """The mask of the pixels from ``starts`` ``[K]`` up to ``ends`` ``[K]``, counted down the columns; intervals
        may touch or overlap, in any order."""
        edges = np.concatenate([starts, ends])
        steps = np.concatenate([np.ones(len(starts), np.int64), np.full(len(ends), -1, np.int64)])
        # Of edges at one place those that begin come first, so that what touches becomes one run.
        order = np.lexsort((-steps, edges))
        depth = np.cumsum(steps[order])
        return cls._from_edges(height, width, edges[order][(depth == 0) | ((depth == 1) & (steps[order] == 1))])

    @classmethod
    def _from_edges(cls, height: int, width: int, edges: IntArray) -> RunLengths:
        """The mask that begins and ends in turn at ``edges``, which grow."""
        counts = np.diff(np.concatenate([[0], edges, [height * width]]))
        return cls(height, width, counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts)

    @classmethod
    def union(cls, masks: Sequence[RunLengths]) -> RunLengths:
        """What any of ``masks``, of one size and at least one, covers."""
        height, width = masks[0].height, masks[0].width
        require(all((one.height, one.width) == (height, width) for one in masks), "masks must have one size")
        starts, ends = zip(*(one.intervals() for one in masks), strict=True)
        return cls.from_intervals(height, width, np.concatenate(starts), np.concatenate(ends))

    @classmethod
    def from_coco(cls, value: Mapping[str, Any]) -> RunLengths:
        """The mask that ``{"size": [height, width], "counts": ...}`` stands for; ``counts`` is a list of lengths, or
        the text that pycocotools makes of it.

        Raises:
            ValueError: it stands for no mask.
        """
        size, counts = value.get("size"), value.get("counts")
        if not isinstance(size, list | tuple) or [type(side) is int and side >= 0 for side in size] != [True, True]:
            raise ValueError(f"size must be [height, width], got {size!r}")
        if isinstance(counts, str | bytes):
            lengths = _decode(counts.encode("latin-1", "replace") if isinstance(counts, str) else counts)
        else:
            is_list = isinstance(counts, list | tuple) and all(type(one) is int and 0 <= one < 2**62 for one in counts)
            require(is_list, f"counts must be a text or lengths of runs, got {str(counts)[:60]!r}")
            lengths = np.array(counts, np.int64)
        require(bool((lengths >= 0).all()), "counts must not hold a length below 0")
        height, width = size
        total = sum(lengths.tolist())  # of Python's integers, which never overflow
        require(total == height * width, f"counts of {height}x{width} pixels must add up to them, got {total}")
        ends = np.cumsum(lengths)
        lasts = ends[1::2]
        starts = ends[: 2 * len(lasts) : 2]
        filled = lasts > starts
        return cls.from_intervals(height, width, starts[filled], lasts[filled])

    def to_coco(self) -> dict[str, Any]:
        """``{"size": [height, width], "counts": text}``, as pycocotools writes it.

        Lengths from the fourth on are written as the difference to the one two before; numbers are in groups of five
        bits, low ones first, each a printable character: 48 plus the bits, plus 32 if more groups follow; the last
        one's highest bit is the sign.
        """
        return encode([self])[0]

    def to_mask(self) -> BoolArray:
        """The mask ``[height, width]``."""
        inside = np.arange(len(self.counts)) % 2 == 1
        return np.ascontiguousarray(np.repeat(inside, self.counts).reshape(self.width, self.height).T)

    def to_crop(self) -> tuple[BoolArray, int, int]:
        """The part of the mask in the smallest box around it ``[h, w]``, with the column and the row of its first
        pixel; the whole mask is never made. An empty mask has none ``[0, 0]``."""
        left, top, width, height = (int(side) for side in self.box_xywh)
        if not width:
            return np.zeros((0, 0), np.bool_), 0, 0
        edges = np.stack(self.intervals(), axis=1).ravel() - left * self.height
        counts = np.diff(np.concatenate([[0], edges, [width * self.height]]))
        columns = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, self.height)
        return np.ascontiguousarray(columns[:, top : top + height].T), left, top

    def intervals(self) -> tuple[IntArray, IntArray]:
        """The positions, down the columns, where runs inside of the object start, and where they have ended."""
        ends = np.cumsum(self.counts)
        lasts = ends[1::2]
        return ends[: 2 * len(lasts) : 2], lasts

    @property
    def area(self) -> int:
        """The number of pixels."""
        return int(self.counts[1::2].sum())

    @property
    def box_xywh(self) -> DoubleArray:
        """The smallest box around the mask ``[4]``; zeros if it is empty."""
        starts, ends = self.intervals()
        if not len(starts):
            return np.zeros(4)
        first, last = starts // self.height, (ends - 1) // self.height
        if (first < last).any():
            top, bottom = 0, self.height - 1
        else:
            top, bottom = int((starts % self.height).min()), int(((ends - 1) % self.height).max())
        left, right = int(first[0]), int(last[-1])
        return np.array([left, top, right - left + 1, bottom - top + 1], np.float64)

    def intersection(self, other: RunLengths) -> int:
        """The number of pixels that both masks, of one size, cover."""
        require((self.height, self.width) == (other.height, other.width), "masks must have one size")
        starts, ends = self.intervals()
        before = np.concatenate([[0], np.cumsum(ends - starts)])

        def covered_up_to(positions: IntArray) -> IntArray:
            begun = np.searchsorted(starts, positions)
            beyond = np.where(begun > 0, ends[begun - 1] - positions, 0) if len(ends) else np.zeros_like(positions)
            covered: IntArray = before[begun] - np.maximum(beyond, 0)
            return covered

        other_starts, other_ends = other.intervals()
        return int((covered_up_to(other_ends) - covered_up_to(other_starts)).sum())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RunLengths):
            return NotImplemented
        return (self.height, self.width) == (other.height, other.width) and np.array_equal(self.counts, other.counts)

    def __hash__(self) -> int:
        return hash((self.height, self.width, self.counts.tobytes()))


@dataclass(frozen=True, slots=True)
class MaskStack:
    """The masks ``[N, height, width]`` of an image as ``runs``, of which each is made when it is asked for: what may be
    indexed, iterated and made an array of like that array, but hundreds of a large image never exist at once."""

    runs: tuple[RunLengths, ...]
    height: int
    width: int

    def __post_init__(self) -> None:
        sizes = {(one.height, one.width) for one in self.runs} - {(self.height, self.width)}
        require(not sizes, f"masks must be of {self.height}x{self.width} pixels, got {sorted(sizes)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(N, height, width)``."""
        return len(self.runs), self.height, self.width

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[BoolArray]:
        return (one.to_mask() for one in self.runs)

    def __getitem__(self, index: Any) -> BoolArray:
        """One mask ``[height, width]`` for an integer, else those that ``index`` chooses ``[K, height, width]``."""
        chosen = np.arange(len(self.runs))[index]
        return self.runs[chosen].to_mask() if np.ndim(chosen) == 0 else np.asarray(self.select(index))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        masks = np.zeros(self.shape, np.bool_)
        for mask, one in zip(masks, self.runs, strict=True):
            crop, left, top = one.to_crop()
            mask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        return masks if dtype is None else masks.astype(dtype)

    def select(self, index: NDArray[Any]) -> MaskStack:
        """The masks that ``index`` (integers or a boolean mask) names, in its order."""
        runs = tuple(self.runs[row] for row in np.arange(len(self.runs))[index])
        return MaskStack(runs, self.height, self.width)


def pack_masks(masks: Iterable[BoolArray]) -> tuple[RunLengths, ...]:
    """The runs of each of ``masks``, ``[N, H, W]`` or one after the other."""
    return tuple(RunLengths.from_mask(mask) for mask in masks)


def encode(masks: Sequence[RunLengths]) -> list[dict[str, Any]]:
    """:meth:`RunLengths.to_coco` of each of ``masks``, many at a time, which takes a fraction of the time."""
    found: list[dict[str, Any]] = []
    for first in range(0, len(masks), _AT_ONCE):
        some = masks[first : first + _AT_ONCE]
        texts = _texts([mask.counts for mask in some])
        found += [{"size": [mask.height, mask.width], "counts": text} for mask, text in zip(some, texts, strict=True)]
    return found


def _texts(counts: Sequence[IntArray]) -> list[str]:
    """The texts that stand for lengths of runs."""
    lengths = np.array([len(one) for one in counts])
    ends = np.cumsum(lengths)
    joined = np.concatenate(counts)
    rank = np.arange(len(joined)) - np.repeat(ends - lengths, lengths)
    later = np.flatnonzero(rank >= 3)
    left = joined.copy()
    left[later] -= joined[later - 2]
    groups: list[IntArray] = []
    used: list[BoolArray] = []
    waiting = np.ones(len(left), np.bool_)
    while waiting.any():
        bits = left & 0x1F
        left >>= 5
        more: BoolArray = waiting & (left != np.where(bits & 0x10, -1, 0))
        groups.append(_OFFSET + bits + 32 * more)
        used.append(waiting)
        waiting = more
    is_used = np.stack(used, axis=1)
    text = np.stack(groups, axis=1)[is_used].astype(np.uint8).tobytes().decode("ascii")
    bounds = [0, *np.cumsum(is_used.sum(axis=1))[ends - 1].tolist()]
    return [text[start:end] for start, end in pairwise(bounds)]


def _decode(text: bytes) -> IntArray:
    """The lengths that a text of :meth:`RunLengths.to_coco` stands for. Raises ValueError: it is no such text."""
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - _OFFSET
    if not len(codes):
        return codes
    require(bool(((codes >= 0) & (codes < 64)).all()), "counts holds a character that stands for no bits")
    is_last = codes < 32
    require(bool(is_last[-1]), "counts ends in the middle of a number")
    number = np.concatenate([[0], np.cumsum(is_last)[:-1]])
    firsts = np.concatenate([[0], np.flatnonzero(is_last)[:-1] + 1])
    group = np.arange(len(codes)) - firsts[number]
    require(bool((group < _MAX_GROUPS).all()), "counts holds a number of more than 64 bits")
    values = np.zeros(int(is_last.sum()), np.int64)
    np.add.at(values, number, (codes & 0x1F) << (5 * group))
    lasts = np.flatnonzero(is_last)
    sign = np.where(codes[lasts] & 0x10, np.int64(-1) << np.minimum(5 * (group[lasts] + 1), 63), 0)
    values |= sign
    # Numbers 3, 5, ... and 4, 6, ... are differences; 0 is neither's, 1 and 2 begin the two rows.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
