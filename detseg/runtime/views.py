"""Runners that look at an image more than once: in tiles, at several scales, mirrored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import numpy as np

from detseg.arrays import BoolArray, ByteArray
from detseg.runtime.inputs.geometry import InputSpec, tiled
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.media.large_images import let_go
from detseg.runtime.postprocess.config import PostprocessConfig
from detseg.runtime.postprocess.tiles import Tile, tiles_of
from detseg.runtime.runner import Finished, Runner, predict_frames
from detseg.runtime.sources.frames import Frame

Make = Callable[[Mapping[str, Any], tuple[int, int]], Runner]
"""The same network with other settings of postprocessing by their names, and for an input of this height and width."""

_LOWEST = 0.001
"""No view needs boxes below this confidence."""


def with_views(runner: Runner, make: Make, settings: Any, stride: int, *, fixed: bool = False) -> Runner:
    """``runner``, or where ``settings``, those of its postprocessing, name tiles, scales or mirror images, one that
    looks so, by it and others that ``make`` makes. Sides of inputs are multiples of ``stride``; ``fixed``:
    postprocessing is part of the network and cannot be changed.

    Raises:
        ValueError: a tile is smaller than the stride, or the network takes no input of such a scale.
    """
    views: PostprocessConfig | None = runner.kind.views(settings)
    if views is None:
        return runner
    if views.tiles is not None and min(views.tiles) < stride:
        raise ValueError(
            f"tiles must be no smaller than the network's stride, {stride} pixels, got "
            f"{views.tiles[0]}x{views.tiles[1]}"
        )
    if views.num_views > 1 or views.scales != (1.0,):
        # What all views together are sure of may lie below the confidence in each.
        lowest = max(views.confidence / views.num_views, min(views.confidence, _LOWEST))
        changed = {} if fixed else {"confidence": lowest}
        sizes = [_scaled(runner.spec, scale, stride) for scale in views.scales]
        runner = ViewRunner([make(changed, size) for size in sizes], runner.spec, views)
    return runner if views.tiles is None else TiledRunner(runner, views.tiles, views)


class ViewRunner:
    """Looks at each image with all ``runners``, which differ in the size of their input, and where ``views`` say so at
    its mirror image as well, and fuses what they find. ``spec`` is the network's own. See
    :class:`detseg.runtime.runner.Runner`; threads and forked children may share it where they may share ``runners``."""

    max_in_flight = 1

    def __init__(self, runners: Sequence[Runner], spec: Any, views: PostprocessConfig) -> None:
        self.spec = spec
        self.kind = runners[0].kind
        self.default_batch_size = runners[0].default_batch_size
        self._runners = tuple(runners)
        self._views = views

    def submit(self, images: Sequence[ByteArray], kept: BoolArray | None = None) -> Finished:
        """All that there is to do for these images ``[H, W, 3]`` uint8 RGB, view after view.

        Raises:
            ValueError: there are no images, or one is none.
        """
        found = [list(self._look(runner, images, kept)) for runner in self._runners]
        if self._views.flip:
            mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in images]
            for runner in self._runners:
                results = zip(self._look(runner, mirrored, kept), images, strict=True)
                found.append([self.kind.mirror(one, image.shape[1]) for one, image in results])
        return Finished([self.kind.fuse_views(views, self._views) for views in zip(*found, strict=True)])

    def _look(self, runner: Runner, images: Sequence[ByteArray], kept: BoolArray | None) -> Iterator[Any]:
        # Images whose inputs have one size may differ by a row at another scale.
        frames = predict_frames(runner, map(Frame, images), max(1, len(images)), kept)
        return (result for _, result in frames)


class TiledRunner:
    """Cuts each image into tiles of ``size`` (height, width), runs them through ``runner`` in batches as large as it
    likes best, and merges what is found. See :class:`detseg.runtime.runner.Runner`; threads and forked children may
    share it where they may share ``runner``."""

    max_in_flight = 1
    default_batch_size = 1

    def __init__(self, runner: Runner, size: tuple[int, int], views: PostprocessConfig) -> None:
        self.spec: InputSpec | VolumeSpec = tiled(cast(InputSpec, runner.spec))
        self.kind = runner.kind
        self._runner = runner
        self._size = size
        self._views = views

    def submit(self, images: Sequence[ByteArray], kept: BoolArray | None = None) -> Finished:
        """All that there is to do for these images ``[H, W, 3]`` uint8 RGB, tile after tile, across images.

        Raises:
            ValueError: there are no images, or one is none.
        """
        for image in images:
            cast(InputSpec, self.spec).input_shape(image)
        tiles = [tiles_of(len(image), image.shape[1], self._size, self._views.overlap) for image in images]
        frames = (Frame(_cut(image, tile)) for image, own in zip(images, tiles, strict=True) for tile in own)
        found = predict_frames(self._runner, frames, self._runner.default_batch_size, kept)
        return Finished([self._merged(image, own, found) for image, own in zip(images, tiles, strict=True)])

    def _merged(self, image: ByteArray, tiles: Sequence[Tile], found: Iterator[tuple[Frame, Any]]) -> Any:
        results = [result for _, result in islice(found, len(tiles))]
        if len(tiles) == 1:
            return results[0]
        height, width = image.shape[:2]
        return self.kind.merge_tiles(results, tiles, (height, width), self._views)


def _cut(image: ByteArray, tile: Tile) -> ByteArray:
    if tile.left == 0:  # a row of tiles is done; what it needed of a large image need not stay
        let_go(image)
    return np.ascontiguousarray(image[tile.top : tile.bottom, tile.left : tile.right])


def _scaled(spec: Any, scale: float, stride: int) -> tuple[int, int]:
    """Height and width of the input at this scale, to the nearest multiple of ``stride``."""
    height, width = (max(1, round(side * scale / stride)) * stride for side in (spec.height, spec.width))
    return height, width
