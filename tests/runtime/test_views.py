"""Tiles and views around runners that see nothing but what is there, so that their results must be exactly those of the
whole image; around real networks in torch and ONNX Runtime; and by the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pytest

from detseg.run_lengths import RunLengths
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.kinds import load_kind
from detseg.runtime.model import Model
from detseg.runtime.postprocess.config import PostprocessConfig
from detseg.runtime.runner import Finished, Runner
from detseg.runtime.views import TiledRunner, ViewRunner, with_views
from detseg.structures import Detections, Instances

SIDE = 96
TILES = (SIDE, SIDE)


class ColorRunner:
    """Finds every connected piece of one color, of the class that its red says and as sure as its green says."""

    max_in_flight = 1

    def __init__(self, kind: str = "boxes", default_batch_size: int = 1) -> None:
        self.spec: Any = InputSpec(SIDE, SIDE)
        self.kind = load_kind(kind)
        self.default_batch_size = default_batch_size
        self.sizes: list[list[tuple[int, int]]] = []

    def submit(self, images: Sequence[np.ndarray], kept: Any = None) -> Finished:
        assert all(image.flags.c_contiguous for image in images)
        self.sizes.append([image.shape[:2] for image in images])
        found = [self._find(image) for image in images]
        return Finished(found if kept is None else [self.kind.keep(one, kept) for one in found])

    def _find(self, image: np.ndarray) -> Detections:
        packed = image.astype(np.int64) @ (65536, 256, 1)
        rows: list[tuple[float, ...]] = []
        masks: list[RunLengths] = []
        for color in np.unique(packed[packed > 0]):
            count, pieces, stats, _ = cv2.connectedComponentsWithStats(
                (packed == color).astype(np.uint8), connectivity=4
            )
            for piece in range(1, count):
                left, top, width, height = stats[piece, :4]
                score = np.float32((color >> 8 & 255) / 255)
                rows.append((left, top, left + width, top + height, score, color >> 16))
                masks.append(RunLengths.from_mask(pieces == piece))
        table = np.array(rows, np.float32).reshape(-1, 6)
        order = np.argsort(-table[:, 4], kind="stable")
        table = table[order]
        found = table[:, :4].copy(), table[:, 4].copy(), table[:, 5].astype(np.int64)
        if self.kind.name == "boxes":
            return Detections(*found)
        return Instances(*found, None, tuple(masks[row] for row in order))


def scene(height: int, width: int, count: int, seed: int, largest: int = 40) -> np.ndarray:
    """Ellipses and crosses that keep a pixel apart from each other, of three classes, each with a score of its own."""
    random = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.uint8)
    made = 0
    while made < count:
        size = random.integers(5, largest, 2)
        left, top = (int(random.integers(0, side - length)) for side, length in zip((width, height), size, strict=True))
        part = image[max(0, top - 1) : top + size[1] + 1, max(0, left - 1) : left + size[0] + 1]
        if part.any():
            continue
        color = (int(random.integers(0, 3)), 50 + made % 200, 1 + made // 200)
        x, y = (size // 2).tolist()
        shape = np.zeros((size[1], size[0]), np.uint8)
        if made % 2:
            cv2.ellipse(shape, (x, y), (x - 1, y - 1), 0, 0, 360, 1, -1)
        else:
            shape[y], shape[:, x] = 1, 1
        image[top : top + size[1], left : left + size[0]][shape > 0] = color
        made += 1
    return image


def ordered(result: Detections) -> list[tuple[Any, ...]]:
    masks = getattr(result, "masks", (None,) * len(result))
    rows = zip(result.boxes_xyxy.tolist(), result.scores.tolist(), result.labels.tolist(), masks, strict=True)
    return sorted(((*box, score, label, mask) for box, score, label, mask in rows), key=lambda row: row[:6])


def tiled(runner: Runner, overlap: float = 0.2, **settings: Any) -> Any:
    views = PostprocessConfig(tiles=TILES, overlap=overlap, **settings)
    return with_views(runner, lambda changed, size: runner, views, 32)


def only(runner: Runner, image: np.ndarray) -> Any:
    (found,) = runner.submit([image]).results()
    return found


@pytest.mark.parametrize("kind", ["boxes", "instances"])
@pytest.mark.parametrize("overlap", [0.45, 0.6])
@pytest.mark.parametrize("size", [(210, 300), (96, 500), (70, 330)])
def test_objects_no_larger_than_the_overlap_are_exactly_those_of_the_whole_image(
    kind: str, overlap: float, size: tuple[int, int]
) -> None:
    runner = ColorRunner(kind)
    image = scene(*size, 20, seed=size[0], largest=min(40, int(SIDE * overlap) - 1))
    found, expected = only(tiled(runner, overlap), image), only(ColorRunner(kind), image)
    assert len(expected) >= 20
    assert ordered(found) == ordered(expected)
    assert (np.diff(found.scores) <= 0).all()
    assert max(max(one) for one in runner.sizes[0]) <= SIDE


@pytest.mark.parametrize("kind", ["boxes", "instances"])
@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.2])
def test_objects_that_no_tile_sees_as_a_whole_are_exact_too_where_their_parts_hang_together(
    kind: str, overlap: float
) -> None:
    """Bars, longer than the overlap and some longer than a tile, which no seam cuts into two parts on one side."""
    image = np.zeros((400, 400, 3), np.uint8)
    places = [(10, 10, 390, 20), (10, 40, 20, 390), (60, 60, 130, 130), (200, 200, 330, 215), (150, 90, 180, 300)]
    for number, (left, top, right, bottom) in enumerate(places):
        image[top:bottom, left:right] = (number % 2, 200, number)
    found, expected = only(tiled(ColorRunner(kind), overlap), image), only(ColorRunner(kind), image)
    assert len(expected) == len(places)
    assert ordered(found) == ordered(expected)


def test_an_image_no_larger_than_a_tile_is_looked_at_as_without_tiles() -> None:
    runner = ColorRunner()
    image = scene(90, 80, 6, seed=0, largest=20)
    assert ordered(only(tiled(runner), image)) == ordered(only(runner, image))
    assert runner.sizes == [[(90, 80)], [(90, 80)]]


def test_tiles_of_several_images_go_through_in_batches() -> None:
    runner = ColorRunner(default_batch_size=4)
    images = [scene(SIDE, 172, 5, seed) for seed in range(3)]
    found = tiled(runner).submit(images).results()
    assert [len(one) for one in runner.sizes] == [4, 2], "two tiles each"
    for one, image in zip(found, images, strict=True):
        assert ordered(one) == ordered(only(ColorRunner(), image))


def test_classes_that_are_not_kept_are_left_out_in_the_tiles() -> None:
    image = scene(200, 200, 20, seed=1)
    kept = np.array([True, False, False])
    (found,) = tiled(ColorRunner()).submit([image], kept).results()
    assert 0 < len(found) < 20
    assert not found.labels.any()


@pytest.mark.parametrize("kind", ["boxes", "instances"])
def test_views_of_what_looks_the_same_in_all_are_the_image_itself(kind: str) -> None:
    image = scene(120, 161, 20, seed=2)
    settings = PostprocessConfig(confidence=0.1, flip=True, scales=(0.5, 1.0))
    made: list[Any] = []

    def make(changed: Any, size: Any) -> ColorRunner:
        made.append((changed, size))
        return ColorRunner(kind)

    runner = with_views(ColorRunner(kind), make, settings, 32)
    assert made == [({"confidence": 0.025}, (64, 64)), ({"confidence": 0.025}, (96, 96))]
    found, expected = ordered(only(runner, image)), ordered(only(ColorRunner(kind), image))
    assert len(found) == len(expected) == 20
    for one, other in zip(found, expected, strict=True):
        assert one[:6] == pytest.approx(other[:6], abs=1e-4)
        assert one[6] == other[6]


def test_tiles_of_views_are_both() -> None:
    image = scene(200, 300, 30, seed=3)
    runner = ColorRunner()
    settings = PostprocessConfig(tiles=TILES, overlap=0.5, flip=True)
    both = with_views(runner, lambda changed, size: runner, settings, 32)
    assert isinstance(both, TiledRunner)
    found, expected = ordered(only(both, image)), ordered(only(ColorRunner(), image))
    assert len(found) == len(expected)
    np.testing.assert_allclose([one[:6] for one in found], [one[:6] for one in expected], atol=1e-3)


def test_settings_without_views_leave_the_runner_as_it_is() -> None:
    runner = ColorRunner()
    assert with_views(runner, lambda changed, size: runner, PostprocessConfig(), 32) is runner
    masks: Any = ColorRunner("masks")
    assert with_views(masks, lambda changed, size: masks, object(), 32) is masks


def test_a_fixed_confidence_is_left_alone() -> None:
    made: list[Any] = []

    def make(changed: Any, size: Any) -> ColorRunner:
        made.append((dict(changed), size))
        return ColorRunner()

    runner = with_views(ColorRunner(), make, PostprocessConfig(flip=True), 32, fixed=True)
    assert isinstance(runner, ViewRunner)
    assert made == [({}, TILES)]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tiles": (0, 5)}, "tiles must be a positive height and width, got (0, 5)"),
        ({"tiles": TILES, "overlap": 0.95}, "overlap of tiles must lie in [0, 0.9], got 0.95"),
        ({"tiles": TILES, "overlap": -0.1}, "overlap of tiles must lie in [0, 0.9], got -0.1"),
        ({"overlap": 0.5}, "got 0.5 and no tiles; set tiles"),
        ({"scales": ()}, "scales must be positive numbers, at least one, got ()"),
        ({"scales": (1.0, float("inf"))}, "scales must be positive numbers"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        PostprocessConfig(**settings)


def test_tiles_below_the_stride_are_refused() -> None:
    views = PostprocessConfig(tiles=(16, 64))
    with pytest.raises(ValueError, match="no smaller than the network's stride, 32 pixels, got 16x64"):
        with_views(ColorRunner(), lambda changed, size: ColorRunner(), views, 32)


def test_what_is_no_image_is_refused_before_it_is_cut() -> None:
    with pytest.raises(ValueError, match="image must be HxWx3 uint8"):
        tiled(ColorRunner()).submit([np.zeros((50, 50), np.uint8)])


def test_tracks_go_on_across_seams() -> None:
    """An object that moves through three tiles keeps its number."""
    frames = []
    for step in range(30):
        image = np.zeros((SIDE, 300, 3), np.uint8)
        image[30:50, 10 + 8 * step : 40 + 8 * step] = (0, 255, 1)
        frames.append(image)
    runner = tiled(ColorRunner())

    def remake(settings: Any, tracker: Any) -> Runner:
        assert not settings
        return runner

    model = Model(runner, "detection", ("a", "b", "c"), (1, 2, 3), remake)
    numbers = [prediction.track_ids for prediction in model.predict(frames, track=True)]
    assert all(one is not None and one.tolist() == [1] for one in numbers)
