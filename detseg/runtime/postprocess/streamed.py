"""Labels of volumes that are too large for the probabilities of all classes at once.

Sums over windows are held of a strip, or a part; as soon as no more windows reach a plane, its probabilities are made,
resampled to the grid of the file, and the best class is kept. No sum, and no label, is another than if everything were
held: windows are added up in the same order, and only those at the borders of parts are looked at more than once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from typing import Any

import numpy as np

from detseg.arrays import FloatArray
from detseg.runtime.inputs.volume_boxes import Box, Span, VolumeBoxes
from detseg.runtime.inputs.volume_geometry import to_input_axes
from detseg.runtime.postprocess.config import WindowsConfig
from detseg.runtime.postprocess.inferers import ARRAY_INFERER, Inferer
from detseg.runtime.postprocess.strips import OutputGrid, Part, divide, meets, origins
from detseg.volumes import LabelVolume, Shape3

_PLANES = 8
"""So many planes of a strip are worked on at a time, once its sums are whole."""
_PRODUCT_VALUES = 2**22
"""So many weighted values of a window are made at a time, 16 MiB: enough to keep a GPU busy."""


@dataclass(frozen=True)
class Look:
    """How a network looks at a volume: ``predict`` maps windows ``[n, I, *window]`` of ``boxes``, moved to ``device``
    by ``to_device``, to logits of ``num_classes``; ``finish`` is what is done to its labels at last. Arrays of its
    library are worked on ``within`` what it needs for that, such as a thread."""

    inferer: Inferer[Any]
    predict: Callable[[Any], Any]
    boxes: VolumeBoxes
    num_classes: int
    settings: WindowsConfig
    window: Shape3
    nested: bool
    finish: Callable[[LabelVolume], LabelVolume]
    to_device: Callable[[FloatArray], Any] = lambda array: array
    device: Any = None
    within: Callable[[Callable[[], Any]], Any] = lambda work: work()

    @property
    def views(self) -> list[tuple[int, ...]]:
        """The axes that are mirrored in each view."""
        axes = self.settings.flip_axes if self.settings.flip else ()
        chosen = product((False, True), repeat=len(axes))
        return [tuple(axis for axis, is_chosen in zip(axes, one, strict=True) if is_chosen) for one in chosen]


def label_volume(
    looks: Sequence[Look], orders: Sequence[Any] | None = None, *, keeps_probabilities: bool = False
) -> LabelVolume:
    """The best class of every voxel by the mean probabilities of ``looks`` at one volume, whose inputs have one shape.
    ``orders``: where the classes of the first are among those of each, None where they are at the same places. By the
    settings of the first it is decided whether classes are nested, and what is left of pieces."""
    if len(looks) == 1:
        found: LabelVolume = looks[0].within(lambda: _label_volume(looks, orders, keeps_probabilities))
        return found
    return _label_volume(looks, orders, keeps_probabilities)


def _label_volume(looks: Sequence[Look], orders: Sequence[Any] | None, keeps_probabilities: bool) -> LabelVolume:
    first = looks[0]
    assert all(look.boxes.shape == first.boxes.shape for look in looks)
    transform = first.boxes.transform
    grid = OutputGrid.of(transform)
    labels = np.zeros(transform.original_shape, np.uint8)
    kept = np.empty((first.num_classes, *transform.original_shape), np.float32) if keeps_probabilities else None
    is_single = len(looks) == 1 and len(first.views) == 1
    inferer = first.inferer if len(looks) == 1 else ARRAY_INFERER
    device = first.device if len(looks) == 1 else None
    sums = 2 * first.num_classes + 1 + first.num_classes * (len(looks) > 1)
    bytes_each = 4 * (first.num_classes + 1 if is_single else sums)
    allowed = min(look.inferer.sums_bytes(look.device) for look in looks)
    parts = divide(grid, first.window, first.settings.overlap, bytes_each, allowed, along_depth=not is_single)
    for part in parts:
        sink = _Sink(inferer, device, grid, part, first.nested)
        strips = _strips(first, part.of) if is_single else iter([_mean(looks, orders, part.of)])
        for rows, found, values in sink.labels_of(strips):
            place = slice(*rows), slice(*part.into[1]), slice(*part.into[2])
            to_input_axes(labels, transform)[place] = found
            if kept is not None:
                for label, plane in values:
                    to_input_axes(kept[label], transform)[place] = plane
    return first.finish(LabelVolume(labels, transform.affine, kept))


def _strips(look: Look, region: Box) -> Iterator[Any]:
    """The probabilities ``[C, d, h, w]`` of the input in ``region``, which has the whole depth, a few planes after the
    others, before the next are asked for."""
    depth = look.window[0]
    length = look.boxes.shape[0]
    starts = origins(length, depth, look.settings.overlap, is_mirrored=False)
    sums = _Sums(look, (), ((starts[0], starts[0] + depth), *region[1:]))
    for place, end in zip(starts, [*starts[1:], length], strict=True):
        sums.move_to(place)
        sums.add_windows([place])
        for first in range(max(0, place), end, _PLANES):
            yield sums.probabilities((first, min(end, first + _PLANES)))


def _mean(looks: Sequence[Look], orders: Sequence[Any] | None, region: Box) -> Any:
    """The mean probabilities of the input in ``region`` over all views of all ``looks``."""
    if len(looks) == 1:
        return _mean_of_views(looks[0], region)
    total: Any = None
    for number, look in enumerate(looks):
        values = look.within(partial(_mean_on_host, look, region))
        order = None if orders is None else orders[number]
        values = values if order is None else values[order]
        if total is None:
            total = values
        else:
            total += values
    total /= len(looks)
    return total


def _mean_on_host(look: Look, region: Box) -> FloatArray:
    values: FloatArray = look.inferer.to_host(_mean_of_views(look, region))
    return values


def _mean_of_views(look: Look, region: Box) -> Any:
    total: Any = None
    for mirrored in look.views:
        sums = _Sums(look, mirrored, region)
        is_mirrored = 0 in mirrored
        depth = look.window[0]
        starts = origins(look.boxes.shape[0], depth, look.settings.overlap, is_mirrored)
        sums.add_windows([place for place in starts if meets(place, depth, region[0])])
        first, end = region[0]
        for begin in range(first, end, _PLANES):
            planes = begin, min(end, begin + _PLANES)
            sums.put(planes, sums.probabilities(planes))
        if total is None:
            total = sums.total
        else:
            total += sums.total
    total /= len(look.views)
    return total


class _Sums:
    """Weighted sums ``total`` ``[C, d, h, w]`` of the windows of one view over the box ``region`` of the input, and how
    much weight each position has."""

    def __init__(self, look: Look, mirrored: tuple[int, ...], region: Box) -> None:
        self._look = look
        self._mirrored = mirrored
        self._region = list(region)
        lengths = [end - first for first, end in region]
        self.total = look.inferer.zeros((look.num_classes, *lengths), look.device)
        self._covered = look.inferer.zeros(lengths, look.device)
        self._weights = look.inferer.window_weights(look.window, look.settings.weighting, look.device)
        shape, overlap = look.boxes.shape, look.settings.overlap
        self._across = [
            [
                place
                for place in origins(shape[axis], look.window[axis], overlap, axis in mirrored)
                if meets(place, look.window[axis], region[axis])
            ]
            for axis in (1, 2)
        ]

    def move_to(self, place: int) -> None:
        """Let the first of the planes be that at ``place``: those before are forgotten, new ones are empty."""
        first, end = self._region[0]
        by = place - first
        if by == 0:
            return
        self._region[0] = place, end + by
        for planes in (*self.total, self._covered):
            planes[: end - first - by] = planes[by:] + 0
            planes[end - first - by :] = 0

    def add_windows(self, places: Sequence[int]) -> None:
        """Add what the network makes of all windows that begin at ``places`` along the depth."""
        for place in places:
            corners = product([place], *self._across)
            hull = tuple(
                _within(min(starts), max(starts) + side, length)
                for starts, side, length in zip(
                    ([place], *self._across), self._look.window, self._look.boxes.shape, strict=True
                )
            )
            box = hull[0], hull[1], hull[2]
            strip = self._look.to_device(self._look.boxes.read(box))
            while chunk := list(islice(corners, self._look.settings.batch_size)):
                self._add(chunk, strip, box)

    def _add(self, corners: Sequence[tuple[int, ...]], strip: Any, box: Box) -> None:
        look, inferer = self._look, self._look.inferer
        flips = tuple(2 + axis for axis in self._mirrored)
        windows = inferer.library.stack([_cut(inferer, strip, box, corner, look.window) for corner in corners])
        logits = look.predict(inferer.flipped(windows, flips))
        logits = inferer.flipped(inferer.to_float32(logits), flips)
        for corner, values in zip(corners, logits, strict=True):
            inside, where = [], []
            for place, side, (first, end) in zip(corner, look.window, self._region, strict=True):
                low, high = max(place, first), min(place + side, end)
                inside.append(slice(low - place, high - place))
                where.append(slice(low - first, high - first))
            weights = self._weights[*inside]
            # Some classes at a time: a product of all would take as much as what the network made of the window.
            step = max(1, _PRODUCT_VALUES // math.prod(weights.shape))
            for label in range(0, look.num_classes, step):
                some = slice(label, label + step)
                inferer.add_product(self.total[some, *where], values[some, *inside], weights)
            self._covered[*where] += weights

    def probabilities(self, planes: Span) -> Any:
        """Those of some ``planes`` of which all windows are added, ``[C, d, h, w]``."""
        at = self._at(planes)
        means = self.total[:, at]
        means /= self._covered[at]
        return self._look.inferer.probabilities(means[None], nested=self._look.nested)[0]

    def put(self, planes: Span, values: Any) -> None:
        """Let ``values`` take the place of the sums of some ``planes``."""
        self.total[:, self._at(planes)] = values

    def _at(self, planes: Span) -> slice:
        first = self._region[0][0]
        return slice(planes[0] - first, planes[1] - first)


class _Sink:
    """Makes labels of the planes of the input in ``part``, on the grid of the file."""

    def __init__(self, inferer: Inferer[Any], device: Any, grid: OutputGrid, part: Part, nested: bool) -> None:
        self._inferer = inferer
        self._device = device
        self._grid = grid
        self._part = part
        self._nested = nested

    def labels_of(self, strips: Iterator[Any]) -> Iterator[tuple[Span, Any, Iterator[tuple[int, Any]]]]:
        """Of ``strips``, the probabilities of successive planes: which rows of the file are made, their labels, and
        their probabilities, class by class."""
        first = self._part.of[0][0]
        row, last = self._part.into[0]
        held: Any = None
        for planes in strips:
            known = planes if held is None else self._inferer.library.concatenate([held, planes], 1)
            end = self._last_row(row, last, first + known.shape[1])
            if end > row:
                found = self._labels((row, end), known, first)
                yield (row, end), self._inferer.to_host(found), self._values((row, end), known, first)
                row = end
            if row == last:
                return
            # What the next row needs may lie beyond these planes.
            needed = min(self._grid.needed(0, (row, row + 1))[0], first + known.shape[1])
            held = known[:, needed - first :] + 0
            first = needed

    def _last_row(self, row: int, last: int, num_known: int) -> int:
        """The end of the rows for which the planes before ``num_known`` are enough."""
        if 0 not in self._grid.tables:
            return min(last, num_known)
        upper = self._grid.tables[0][0][1]
        return max(row, min(last, int(np.searchsorted(upper, num_known))))

    def _values(self, rows: Span, planes: Any, first: int) -> Iterator[tuple[int, Any]]:
        for label in range(len(planes)):
            yield label, self._inferer.to_host(self._resampled(rows, planes[label], first))

    def _resampled(self, rows: Span, plane: Any, first: int) -> Any:
        spans = rows, *self._part.into[1:]
        firsts = first, self._part.of[1][0], self._part.of[2][0]
        if 0 not in self._grid.tables:
            plane = plane[rows[0] - first : rows[1] - first]
        for axis in self._grid.order:
            plane = self._inferer.resample_axis(plane, axis, *self._grid.table(axis, spans[axis], firsts[axis]))
        return plane

    def _labels(self, rows: Span, planes: Any, first: int) -> Any:
        library = self._inferer.library
        best = self._resampled(rows, planes[0], first) + 0
        labels = library.zeros(tuple(best.shape), dtype=library.uint8, device=self._device)
        for label in range(1, len(planes)):
            values = self._resampled(rows, planes[label], first)
            labels[values > (0.5 if self._nested else best)] = label
            best = library.maximum(best, values)
        return labels


def _within(first: int, end: int, length: int) -> Span:
    return max(0, first), min(length, end)


def _cut(inferer: Inferer[Any], strip: Any, box: Box, corner: Sequence[int], window: Shape3) -> Any:
    """The window at ``corner`` out of ``strip``, which has ``box`` of the input; zeros where it reaches beyond."""
    where, missing = [], []
    for place, side, (first, end) in zip(corner, window, box, strict=True):
        low, high = max(place, first), min(place + side, end)
        where.append(slice(low - first, high - first))
        missing.append((low - place, place + side - high))
    cut = strip[:, *where]
    return inferer.pad(cut[None], missing)[0] if any(map(any, missing)) else cut
