"""One large image looked at in tiles that overlap, and the objects that several tiles see, each once.

An object is *cut* where its box reaches an edge of its tile that is inside of the image, to within a margin, else it is
*whole*. Two tiles see the same object if, within the area that both see, they see it at the same place: boxes of one
class, clipped to that area, whose IoU is above one half. Pairs are joined best first, and not so that two objects of
one tile become one: the network has told these apart. But where a single tile has two boxes whose IoU is above one
half, one of them less than half as sure, and another tile sees one object there, it is one, and the surer box counts:
the network has found it twice, which NMS leaves where boxes overlap less than its limit. Where cut objects have found
no whole one, and more than half of one of them, as far as another tile sees it that sees none of them, lies in an
object there, they belong to that one: if it is whole, whatever their class, since networks often take a part for
something else.

Of objects that are one, the whole one that lies farthest from the edges of its tile counts, unchanged. Where none is
whole, their union does, with the best of their scores. So an object that a single tile sees is what that tile says, and
one that lies in an overlap is what the tile says that sees most around it.

Shape legend: N objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from detseg.arrays import BoolArray, DoubleArray, FloatArray, IntArray
from detseg.runtime.postprocess.fusion import Fused
from detseg.runtime.postprocess.inferers import window_starts

_SAME = 0.5
"""IoU, or share of a cut object, above which two tiles see the same."""
_UNSURE = 0.5
"""By how much less sure the second box of an object is than the first, at least: a factor."""
_MARGIN_SHARE, _LEAST_MARGIN = 0.005, 2.0
"""How near to an edge a box counts as cut: this share of the tile's longer side, and no less than so many pixels."""


class Tile(NamedTuple):
    """A part of an image, in pixels."""

    left: int
    top: int
    right: int
    bottom: int


class _Pairs(NamedTuple):
    """Objects of two tiles by their rows, and how well each pair agrees, as IoU or share."""

    first: IntArray
    second: IntArray
    value: DoubleArray


def tiles_of(height: int, width: int, size: tuple[int, int], overlap: float) -> list[Tile]:
    """The tiles of ``size`` (height, width) that cover an image, row by row; neighbors share at least ``overlap`` of a
    tile, those at the end lie inside, and along a side that is no longer than a tile there is one."""
    rows = [(top, min(top + size[0], height)) for top in window_starts(height, size[0], overlap)]
    columns = [(left, min(left + size[1], width)) for left in window_starts(width, size[1], overlap)]
    return [Tile(left, top, right, bottom) for top, bottom in rows for left, right in columns]


def merge_seen(
    boxes_xyxy: FloatArray,
    scores: FloatArray,
    labels: IntArray,
    counts: Sequence[int],
    tiles: Sequence[Tile],
    size: tuple[int, int],
    class_agnostic: bool = False,
) -> list[Fused]:
    """The objects of all ``tiles`` of an image of ``size`` (height, width), each once, best first. The ``boxes_xyxy``
    ``[N, 4]`` are in pixels of the image, tile after tile, ``counts`` of each; ``tiles`` as :func:`tiles_of` gives
    them."""
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    owners = np.repeat(np.arange(len(tiles)), counts)
    room = _room(boxes_xyxy, np.array(tiles, np.float64).reshape(-1, 4)[owners], size)
    longest = max((max(one.right - one.left, one.bottom - one.top) for one in tiles), default=0)
    margin = max(_LEAST_MARGIN, _MARGIN_SHARE * longest)
    is_cut = room < margin
    classes = np.zeros_like(labels) if class_agnostic else labels
    groups = _Groups(owners, is_cut, boxes_xyxy, scores)
    same, covered = _pairs(boxes_xyxy.astype(np.float64), classes, ends, tiles, margin, is_cut)
    for row in np.argsort(-same.value, kind="stable"):
        groups.join(int(same.first[row]), int(same.second[row]))
    for row in np.argsort(-covered.value, kind="stable"):
        groups.add_scraps(int(covered.first[row]), int(covered.second[row]))
    merged = [
        _one(_surest(rows, owners, scores), boxes_xyxy, scores, labels, is_cut, room) for rows in groups.members()
    ]
    return sorted(merged, key=lambda one: -one.score)


def _surest(rows: Sequence[int], owners: IntArray, scores: FloatArray) -> IntArray:
    """Of ``rows`` the surest of each tile, in their order."""
    best: dict[int, int] = {}
    for row in rows:
        other = best.get(owners[row])
        if other is None or scores[row] > scores[other]:
            best[owners[row]] = row
    return np.array(sorted(best.values()))


def _one(
    rows: IntArray, boxes_xyxy: FloatArray, scores: FloatArray, labels: IntArray, is_cut: BoolArray, room: DoubleArray
) -> Fused:
    whole = rows[~is_cut[rows]]
    if len(whole):
        rows = whole[np.lexsort((-scores[whole], -room[whole]))[:1]]
    boxes, best = boxes_xyxy[rows], rows[scores[rows].argmax()]
    box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    return Fused(rows, box, float(scores[best]), int(labels[best]))


def _room(boxes_xyxy: FloatArray, tiles: DoubleArray, size: tuple[int, int]) -> DoubleArray:
    """How far each box is from the nearest edge of its tile ``[N, 4]`` that is inside of the image."""
    border = np.array([0, 0, size[1], size[0]], np.float64)
    distances = (boxes_xyxy - tiles) * np.array([1, 1, -1, -1])
    found: DoubleArray = np.where(tiles == border, np.inf, distances).min(axis=1, initial=np.inf)
    return found


def _pairs(
    boxes: DoubleArray, classes: IntArray, ends: IntArray, tiles: Sequence[Tile], margin: float, is_cut: BoolArray
) -> tuple[_Pairs, _Pairs]:
    """Objects that two tiles see at the same place, and cut ones that lie in another one, with these as the first."""
    same: list[_Pairs] = []
    covered: list[_Pairs] = []
    for i, j, area in _neighbors(tiles):
        first, second = (_seen_in(boxes, ends[one], ends[one + 1], area, margin) for one in (i, j))
        if not (len(first) and len(second)):
            continue
        shared, a, b = _shares(boxes[first], boxes[second], area)
        of_one_class = classes[first][:, None] == classes[second]
        cut_first, cut_second = is_cut[first][:, None], is_cut[second]
        with np.errstate(invalid="ignore", divide="ignore"):
            iou = shared / (a[:, None] + b - shared)
            of_first, of_second = shared / a[:, None], shared / b
        same.append(_above(np.where(of_one_class, iou, 0), first, second))
        may_lie_in_second, may_lie_in_first = (
            cut_first & (of_one_class | ~cut_second),
            cut_second & (of_one_class | ~cut_first),
        )
        covered.append(_above(np.where(may_lie_in_second, of_first, 0), first, second))
        covered.append(_above(np.where(may_lie_in_first, of_second, 0).T, second, first))
    return _joined(same), _joined(covered)


def _neighbors(tiles: Sequence[Tile]) -> Iterator[tuple[int, int, Tile]]:
    """Pairs of tiles that overlap, or touch along an edge, with what both see; the one comes before the other in the
    order of :func:`tiles_of`."""
    num_columns = sum(one.top == tiles[0].top for one in tiles)
    for i, one in enumerate(tiles):
        row, column = divmod(i, num_columns)
        for below in range(row, len(tiles) // num_columns):
            if tiles[below * num_columns].top > one.bottom:
                break
            # On both sides, as far as tiles reach.
            for step in (1, -1):
                start = column + 1 if step == 1 else column - (below == row)
                for other in range(start, num_columns if step == 1 else -1, step):
                    j = below * num_columns + other
                    area = Tile(
                        max(one.left, tiles[j].left),
                        max(one.top, tiles[j].top),
                        min(one.right, tiles[j].right),
                        min(one.bottom, tiles[j].bottom),
                    )
                    if area.left > area.right:
                        break
                    if j > i and (area.left < area.right or area.top < area.bottom):
                        yield i, j, area


def _seen_in(boxes: DoubleArray, start: int, end: int, area: Tile, margin: float) -> IntArray:
    """The rows from ``start`` to ``end`` whose boxes reach into ``area``, or where that is a line, up to it."""
    part = boxes[start:end]
    x, y = (margin if area.left == area.right else 0.0), (margin if area.top == area.bottom else 0.0)
    inside = (part[:, 0] < area.right + x) & (part[:, 2] > area.left - x)
    inside &= (part[:, 1] < area.bottom + y) & (part[:, 3] > area.top - y)
    return start + np.flatnonzero(inside)


def _shares(first: DoubleArray, second: DoubleArray, area: Tile) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
    """What each pair of boxes has in common within ``area``, and how much of it each box has: of pixels, or where the
    area is a line, of that."""
    shared: Any = 1.0
    own_first: Any = 1.0
    own_second: Any = 1.0
    for low, high in ((0, 2), (1, 3)):
        if area[low] == area[high]:
            continue
        a, b = (np.clip(boxes[:, (low, high)], area[low], area[high]) for boxes in (first, second))
        overlap = np.minimum(a[:, None, 1], b[:, 1]) - np.maximum(a[:, None, 0], b[:, 0])
        shared = shared * np.maximum(overlap, 0)
        own_first, own_second = own_first * (a[:, 1] - a[:, 0]), own_second * (b[:, 1] - b[:, 0])
    return np.asarray(shared), np.asarray(own_first), np.asarray(own_second)


def _above(values: DoubleArray, first: IntArray, second: IntArray) -> _Pairs:
    rows, columns = np.nonzero(values > _SAME)
    return _Pairs(first[rows], second[columns], values[rows, columns])


def _joined(parts: Sequence[_Pairs]) -> _Pairs:
    none = _Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return _Pairs(*(np.concatenate(arrays) for arrays in zip(none, *parts, strict=True)))


def _iou(first: DoubleArray, second: DoubleArray) -> float:
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    shared = float(np.maximum(sides, 0).prod())
    union = float((first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod()) - shared
    return shared / union if union > 0 else 0.0


class _Groups:
    """Objects that are one. ``owners`` ``[N]`` are the tiles that they were seen in, ``boxes`` ``[N, 4]`` where, and
    ``scores`` ``[N]`` how surely."""

    def __init__(self, owners: IntArray, is_cut: BoolArray, boxes: FloatArray, scores: FloatArray) -> None:
        self._scores = scores
        self._boxes = boxes.astype(np.float64)
        self._group = list(range(len(owners)))
        self._rows = [[row] for row in self._group]
        self._owners = owners.tolist()
        self._tiles = [{tile} for tile in self._owners]
        self._is_cut = is_cut.tolist()

    def join(self, first: int, second: int) -> None:
        """Make the groups of two objects one, unless a tile has objects in both; of one tile they may be boxes of one
        object."""
        one, other = sorted((self._group[first], self._group[second]))
        if one != other and self._are_one(one, other):
            self._add(one, other)

    def _are_one(self, one: int, other: int) -> bool:
        both = self._tiles[one] & self._tiles[other]
        if len(both) != 1:
            return not both
        # No further tile may have seen both.
        if min(len(self._tiles[one]), len(self._tiles[other])) > 1:
            return False
        rows, others = ([row for row in self._rows[group] if self._owners[row] in both] for group in (one, other))
        return all(self._are_twins(row, other) for row in rows for other in others)

    def _are_twins(self, row: int, other: int) -> bool:
        """Whether two boxes of a tile may be around one object."""
        less_sure, surer = sorted((self._scores[row], self._scores[other]))
        return bool(less_sure < _UNSURE * surer) and _iou(self._boxes[row], self._boxes[other]) > _SAME

    def add_scraps(self, scrap: int, row: int) -> None:
        """Add the group of ``scrap`` to that of ``row``, if all in it are cut, and none is of the tile of ``row``."""
        one, other = self._group[row], self._group[scrap]
        seen = self._owners[row] in self._tiles[other]
        if one != other and not seen and all(self._is_cut[part] for part in self._rows[other]):
            self._add(one, other)

    def _add(self, one: int, other: int) -> None:
        for row in self._rows[other]:
            self._group[row] = one
        self._rows[one] += self._rows[other]
        self._tiles[one] |= self._tiles[other]
        self._rows[other] = []

    def members(self) -> Iterator[list[int]]:
        """The rows of each group."""
        return (sorted(rows) for rows in self._rows if rows)
