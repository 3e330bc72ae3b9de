from __future__ import annotations

import numpy as np
import pytest

from detseg.runtime.postprocess.tiles import Tile, merge_seen, tiles_of

LEFT, RIGHT = Tile(0, 0, 100, 100), Tile(80, 0, 180, 100)
SIZE = (100, 180)
"""Of an image that these two tiles cover; both see columns 80 to 100."""
APART = [Tile(0, 0, 100, 100), Tile(100, 0, 200, 100)]


def merged(
    found: list[list[tuple[float, ...]]],
    tiles: list[Tile] | None = None,
    size: tuple[int, int] = SIZE,
    class_agnostic: bool = False,
) -> list[tuple[float, ...]]:
    """``found`` in each tile, as box in the image, score and label."""
    rows = np.array([row for one in found for row in one], np.float32).reshape(-1, 6)
    counts = [len(one) for one in found]
    labels = rows[:, 5].astype(np.int64)
    objects = merge_seen(rows[:, :4], rows[:, 4], labels, counts, tiles or [LEFT, RIGHT], size, class_agnostic)
    return [(*one.box_xyxy.tolist(), round(one.score, 4), one.label) for one in objects]


def test_tiles_cover_the_image_row_by_row_and_end_with_it() -> None:
    tiles = tiles_of(100, 180, (100, 100), 0.2)
    assert tiles == [LEFT, RIGHT]
    tiles = tiles_of(1000, 1700, (640, 512), 0.2)
    assert tiles[:4] == [(0, 0, 512, 640), (409, 0, 921, 640), (818, 0, 1330, 640), (1188, 0, 1700, 640)]
    assert {one.top for one in tiles} == {0, 360}
    covered = np.zeros((1000, 1700), np.bool_)
    for one in tiles:
        covered[one.top : one.bottom, one.left : one.right] = True
    assert covered.all()


def test_an_image_no_larger_than_a_tile_is_one() -> None:
    assert tiles_of(50, 640, (640, 640), 0.2) == [(0, 0, 640, 50)]


def test_what_one_tile_sees_stays_as_it_is() -> None:
    near, far = (10, 10, 30, 30, 0.5, 0), (120, 50, 160, 70, 0.75, 1)
    assert merged([[near], [far]]) == [far, near]


def test_of_two_whole_ones_the_one_with_more_around_it_counts() -> None:
    # 8 pixels from the right edge of the left tile, 4 from the left one of the right tile
    assert merged([[(84, 10, 92, 20, 0.5, 0)], [(84, 10, 92, 21, 0.9, 0)]]) == [(84, 10, 92, 20, 0.5, 0)]
    assert merged([[(86, 10, 96, 20, 0.5, 0)], [(86, 10, 96, 21, 0.25, 0)]]) == [(86, 10, 96, 21, 0.25, 0)]


def test_a_whole_one_counts_however_sure_a_tile_is_of_a_part() -> None:
    assert merged([[(90, 10, 100, 20, 0.9, 0)], [(90, 10, 140, 20, 0.5, 0)]]) == [(90, 10, 140, 20, 0.5, 0)]


def test_parts_of_what_no_tile_sees_as_a_whole_are_united() -> None:
    assert merged([[(60, 10, 100, 20, 0.5, 0)], [(80, 9, 120, 20, 0.75, 0)]]) == [(60, 9, 120, 20, 0.75, 0)]


def test_parts_that_do_not_look_the_same_in_the_overlap_stay_two() -> None:
    upper, lower = (60, 10, 100, 20, 0.5, 0), (80, 16, 120, 40, 0.75, 0)
    assert merged([[upper], [lower]]) == [lower, upper]


def test_classes_are_apart_unless_any_class_is_one_object() -> None:
    found = [[(84, 10, 92, 20, 0.5, 0)], [(84, 10, 92, 20, 0.75, 1)]]
    assert len(merged(found)) == 2
    assert merged(found, class_agnostic=True) == [(84, 10, 92, 20, 0.5, 0)]


def test_two_objects_of_one_tile_are_never_made_one() -> None:
    """Both tiles see both, and each overlaps either of the other tile enough."""
    one, other = (84, 10, 94, 30, 0.5, 0), (84, 14, 94, 34, 0.75, 0)
    assert merged([[one, other], [one, other]]) == [other, one]
    assert merged([[one], [one, other]]) == [other, one]


# A box of 10 x 20 and another 4 pixels below: they share 16 of 24 rows, 2 of 3.
FIRST, BELOW = (84, 10, 94, 30), (84, 14, 94, 34)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        # The right tile has the object twice, the left one once.
        ([[(*FIRST, 0.6, 0)], [(*FIRST, 0.8, 0), (*BELOW, 0.3, 0)]], 1),
        ([[(*BELOW, 0.6, 0)], [(*FIRST, 0.8, 0), (*BELOW, 0.3, 0)]], 1),
        # Nearly as sure, or far enough apart, or seen by both: two of them.
        ([[(*FIRST, 0.6, 0)], [(*FIRST, 0.8, 0), (*BELOW, 0.45, 0)]], 2),
        ([[(*FIRST, 0.6, 0)], [(*FIRST, 0.8, 0), (84, 17, 94, 37, 0.3, 0)]], 2),
        ([[(*FIRST, 0.6, 0), (*BELOW, 0.3, 0)], [(*FIRST, 0.8, 0), (*BELOW, 0.3, 0)]], 2),
        # Nobody else sees the place: what one tile says stays.
        ([[], [(120, 10, 130, 30, 0.8, 0), (120, 14, 130, 34, 0.3, 0)]], 2),
        ([[(*FIRST, 0.6, 0)], [(*FIRST, 0.8, 0), (*BELOW, 0.3, 1)]], 2),
    ],
)
def test_what_one_tile_has_twice_is_one_where_another_sees_one(
    found: list[list[tuple[float, ...]]], expected: int
) -> None:
    """Whichever pair agrees best, and the surer box of the tile with more around it is what stays."""
    objects = merged(found)
    assert len(objects) == expected
    if expected == 1:
        # Of two tiles the left one, 6 pixels from its edge, to the right one's 4.
        assert objects[0] == found[0][0]


def test_a_scrap_that_lies_in_what_another_tile_sees_belongs_to_it() -> None:
    scrap, whole = (92, 12, 100, 18, 0.9, 0), (82, 10, 140, 60, 0.5, 0)
    assert merged([[scrap], [whole]]) == [whole]
    elsewhere = (92, 70, 100, 80, 0.9, 0)
    assert merged([[elsewhere], [whole]]) == [elsewhere, whole]


def test_what_is_whole_is_no_scrap() -> None:
    small, large = (88, 20, 94, 26, 0.9, 0), (70, 10, 90, 60, 0.5, 0)
    around = (82, 10, 140, 60, 0.5, 0)
    assert merged([[small], [around]]) == [small, around]
    assert merged([[small, large], [around]])[0] == small


def test_without_overlap_parts_meet_at_the_seam() -> None:
    size = (100, 200)
    assert merged([[(60, 10, 100, 20, 0.5, 0)], [(101, 10, 130, 21, 0.25, 0)]], APART, size) == [
        (60, 10, 130, 21, 0.5, 0)
    ]
    far = [[(60, 10, 95, 20, 0.5, 0)], [(105, 10, 130, 21, 0.25, 0)]]
    assert merged(far, APART, size) == [far[0][0], far[1][0]]


def test_an_object_across_four_tiles_is_one() -> None:
    tiles = tiles_of(180, 180, (100, 100), 0.2)
    parts = [(60, 60, 100, 100), (80, 60, 130, 100), (60, 80, 100, 130), (80, 80, 130, 130)]
    found = [[(*part, 0.25 * (1 + number), 0)] for number, part in enumerate(parts)]
    assert merged(found, tiles, (180, 180)) == [(60, 60, 130, 130, 1.0, 0)]


def test_an_object_longer_than_tiles_is_one() -> None:
    tiles = tiles_of(100, 420, (100, 100), 0.2)
    found = [[(one.left + 10 * (one.left == 0), 40, one.right, 60, 0.5, 0)] for one in tiles]
    assert merged(found, tiles, (100, 420)) == [(10, 40, 420, 60, 0.5, 0)]


def test_tiles_that_overlap_over_several_neighbors_agree() -> None:
    tiles = tiles_of(100, 300, (100, 100), 0.8)
    box = (120, 40, 140, 60)
    found = [[(*box, 0.5, 0)] if one.left <= 120 and one.right >= 140 else [] for one in tiles]
    assert sum(map(len, found)) == 4
    assert merged(found, tiles, (100, 300)) == [(*box, 0.5, 0)]


def test_nothing_is_found_in_nothing() -> None:
    assert merged([[], []]) == []


@pytest.mark.parametrize("edge", [99.0, 98.5])
def test_near_to_an_edge_is_cut(edge: float) -> None:
    """Networks do not place the end of a part to the pixel."""
    assert merged([[(60, 10, edge, 20, 0.5, 0)], [(81, 10, 120, 20, 0.75, 0)]]) == [(60, 10, 120, 20, 0.75, 0)]


def test_scraps_in_several_tiles_belong_to_what_another_one_sees() -> None:
    """The arm of a cross, which two tiles see alike and the third as a part of all."""
    tiles = tiles_of(180, 180, (100, 100), 0.2)
    arm, cross = (90, 88, 100, 90, 0.9, 0), (82, 85, 140, 140, 0.5, 0)
    assert merged([[arm], [], [arm], [cross]], tiles, (180, 180)) == [cross]


def test_parts_that_agree_are_no_scraps_of_another_object_in_either_tile() -> None:
    long, other = [(60, 10, 100, 20, 0.5, 0), (80, 10, 120, 20, 0.5, 0)], (82, 0, 140, 60, 0.25, 0)
    assert merged([[long[0]], [long[1], other]]) == [(60, 10, 120, 20, 0.5, 0), other]


def test_a_scrap_of_another_class_belongs_to_what_is_whole_only() -> None:
    scrap, whole, part = (92, 12, 100, 18, 0.9, 1), (82, 10, 140, 60, 0.5, 0), (80, 10, 140, 60, 0.5, 0)
    assert merged([[scrap], [whole]]) == [whole]
    assert merged([[scrap], [part]]) == [scrap, part]
    # the other tile sees it, too
    assert merged([[scrap], [(92, 12, 102, 18, 0.25, 1), whole]]) == [whole, (92, 12, 102, 18, 0.25, 1)]
