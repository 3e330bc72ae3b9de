from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detseg.augment import compose
from detseg.augment.compose import Fill, Tile, mosaic_tiles, single_tile
from detseg.augment.geometry import BoxFilter, RandomView, project, translation
from detseg.augment.picture import Planned
from detseg.structures import LetterboxTransform, Sample

KEEP_ALL = BoxFilter(min_area_ratio=0, min_box_side=0, max_box_aspect=1e9)
KEEP_MOST = BoxFilter(min_area_ratio=0.1, min_box_side=2, max_box_aspect=100)
FILL = Fill(pad_value=114, mask_fill=255)
MakeSample = Callable[..., Sample]


def draw(*arguments: Any) -> Sample:
    return compose.plan(*arguments).draw()


def mixup(first: Sample, second: Sample, rng: np.random.Generator) -> Sample:
    return compose.mixup(Planned.of(first), Planned.of(second), rng).draw()


def test_a_single_image_is_letterboxed(make_sample: MakeSample) -> None:
    sample = make_sample(height=96, width=128, boxes=((8, 10, 50, 40),))
    drawn = draw(single_tile(sample, (64, 64)), translation(32, 32), (64, 64), KEEP_ALL, FILL)
    # 128x96 becomes 64x48, with 8 rows above and below.
    np.testing.assert_allclose(drawn.boxes_xyxy, [[4, 13, 25, 28]])
    assert drawn.mask is not None
    assert (drawn.mask[:8] == 255).all()
    assert (drawn.mask[56:] == 255).all()
    assert (drawn.image[:8] == 114).all()
    np.testing.assert_array_equal(drawn.image[8:56], sample.image[::2, ::2])
    np.testing.assert_array_equal(drawn.mask[8:56], sample.mask[::2, ::2])
    assert drawn.transform == LetterboxTransform.identity(64, 64)
    assert (drawn.image_id, drawn.path) == (sample.image_id, sample.path)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_image_is_fitted_after_the_turn(make_sample: MakeSample, turns: int) -> None:
    sample = make_sample(height=96, width=128)
    size = (128, 96) if turns % 2 else (96, 128)
    view = translation(size[1] / 2, size[0] / 2)
    drawn = draw(single_tile(sample, size, turns), view, size, KEEP_ALL, FILL)
    np.testing.assert_array_equal(drawn.image, np.rot90(sample.image, turns))
    np.testing.assert_array_equal(drawn.mask, np.rot90(sample.mask, turns))
    for box, label in zip(drawn.boxes_xyxy.astype(int), drawn.labels, strict=True):
        left, top, right, bottom = box
        assert (drawn.mask[top:bottom, left:right] == label).all()
        assert (drawn.mask == label).sum() == (right - left) * (bottom - top)


def test_the_tiles_of_a_mosaic_meet_in_one_point(make_sample: MakeSample) -> None:
    samples = [make_sample(i, height=96, width=128) for i in range(4)]
    tiles = mosaic_tiles(samples, [0, 1, 2, 3], (64, 64), np.random.default_rng(0))
    outlines = []
    for tile in tiles:
        corners = project(np.array([[0, 0], [128, 0], [128, 96], [0, 96]]), tile.to_canvas)
        outlines.append((*corners.min(axis=0), *corners.max(axis=0)))
    center = outlines[0][2:]
    assert max(map(abs, center)) <= 32
    expected = [
        (center[0] - 64, center[1] - 48, *center),
        (center[0], center[1] - 64, center[0] + 48, center[1]),
        (center[0] - 64, center[1], center[0], center[1] + 48),
        (*center, center[0] + 48, center[1] + 64),
    ]
    np.testing.assert_allclose(outlines, expected)


def test_mosaic_centers_spread_over_the_middle_half_of_the_canvas(make_sample: MakeSample) -> None:
    samples = [make_sample(height=64, width=64)] * 4
    rng = np.random.default_rng(0)
    tiles = [mosaic_tiles(samples, [0] * 4, (64, 96), rng)[3] for _ in range(300)]
    centers = np.array([tile.to_canvas[:2, 2] for tile in tiles])
    assert (np.abs(centers).max(axis=0) <= (48, 32)).all()
    assert (np.abs(centers).max(axis=0) > (46, 30)).all()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"flip_horizontal": 1.0, "flip_vertical": 1.0},
        {"degrees": 40.0},
        {"degrees": 180.0, "shear": 15.0, "perspective": 0.1, "flip_vertical": 0.5},
        {"scale": (0.2, 0.4)},
        {"scale": (1.5, 2.5), "translate": 0.5},
    ],
    ids=["default", "flipped", "turned", "everything", "small", "large"],
)
@pytest.mark.parametrize("layout", ["single", "mosaic"])
@pytest.mark.parametrize("seed", range(5))
def test_image_mask_and_boxes_stay_aligned(
    make_sample: MakeSample,
    assert_aligned: Callable[..., None],
    settings: dict[str, Any],
    layout: str,
    seed: int,
) -> None:
    view = RandomView(**{"translate": 0.1, "scale": (0.5, 1.5), "flip_horizontal": 0.5, **settings})
    rng = np.random.default_rng(seed)
    size = (96, 112)
    samples = [make_sample(i, height=80 + 30 * i, width=150 - 20 * i, boxes=((8, 10, 50, 40),)) for i in range(4)]
    if layout == "single":
        tiles = single_tile(samples[seed % 4], size, turns=seed)
    else:
        tiles = mosaic_tiles(samples, rng.integers(0, 4, 4).tolist(), size, rng)
    drawn = draw(tiles, view.matrix(size, rng), size, KEEP_ALL, FILL)
    assert drawn.image.shape == (*size, 3)
    assert_aligned(drawn)


def test_labels_and_crowd_flags_follow_their_boxes(make_sample: MakeSample) -> None:
    sample = make_sample(height=64, width=64, boxes=((0, 0, 8, 8), (20, 20, 40, 40), (30, 0, 31, 5)))
    sample = replace(sample, crowd=np.array([False, True, True]), labels=np.array([4, 5, 6]))
    drawn = draw([Tile(sample, translation(-8, 0))], np.eye(3), (64, 64), KEEP_MOST, FILL)
    # The first box is out of the image, the third one under two pixels wide.
    np.testing.assert_allclose(drawn.boxes_xyxy, [[12, 20, 32, 40]])
    assert drawn.labels.tolist() == [5]
    assert drawn.crowd.tolist() == [True]


def test_no_boxes_and_no_mask(make_sample: MakeSample) -> None:
    sample = make_sample(boxes=(), with_mask=False)
    drawn = draw(single_tile(sample, (32, 32)), translation(16, 16), (32, 32), KEEP_MOST, FILL)
    assert drawn.boxes_xyxy.shape == (0, 4)
    assert drawn.mask is None


def test_what_no_image_covers_is_filled(make_sample: MakeSample) -> None:
    tiles = single_tile(make_sample(height=32, width=64), (64, 64))
    drawn = draw(tiles, translation(32, 32), (64, 64), KEEP_ALL, Fill(pad_value=3, mask_fill=11))
    assert (drawn.image[:16] == 3).all()
    assert drawn.mask is not None
    assert (drawn.mask[:16] == 11).all()


def test_mixup_blends_and_keeps_the_objects_of_both(make_sample: MakeSample) -> None:
    first, second = make_sample(0), make_sample(1)
    shares = []
    for seed in range(20):
        mixed = mixup(first, second, np.random.default_rng(seed))
        share = np.random.default_rng(seed).beta(32, 32)
        expected = first.image * share + second.image * (1 - share)
        assert np.abs(mixed.image - expected).max() <= 1
        np.testing.assert_array_equal(mixed.boxes_xyxy, np.concatenate([first.boxes_xyxy, second.boxes_xyxy]))
        np.testing.assert_array_equal(mixed.labels, [*first.labels, *second.labels])
        np.testing.assert_array_equal(mixed.crowd, [*first.crowd, *second.crowd])
        np.testing.assert_array_equal(mixed.mask, first.mask if share >= 0.5 else second.mask)
        shares.append(share)
    assert 0.3 < min(shares) < 0.5 < max(shares) < 0.7


def test_masks_are_for_all_or_none(make_sample: MakeSample) -> None:
    with_mask, without = make_sample(0), make_sample(1, with_mask=False)
    with pytest.raises(ValueError, match=r"1\.png has no label mask"):
        mixup(with_mask, without, np.random.default_rng(0))
    tiles = mosaic_tiles([with_mask, without, with_mask, with_mask], [0] * 4, (32, 32), np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"1\.png has no label mask"):
        draw(tiles, translation(16, 16), (32, 32), KEEP_MOST, FILL)
