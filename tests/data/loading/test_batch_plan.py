from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detseg.data.loading.batch_plan import PlannedBatch, TrainPlan, epoch_order, eval_batches


def plan(**settings: Any) -> TrainPlan:
    return TrainPlan(**{"num_samples": 22, "batch_size": 4, "seed": 0, "size": (64, 96), **settings})


def test_an_epoch_is_a_permutation_of_seed_and_epoch() -> None:
    orders = {(seed, epoch): epoch_order(50, seed, epoch) for seed in range(3) for epoch in range(3)}
    for (seed, epoch), order in orders.items():
        assert sorted(order) == list(range(50))
        np.testing.assert_array_equal(order, epoch_order(50, seed, epoch))
    assert len({tuple(order) for order in orders.values()}) == 9


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "sizes"),
    [
        (24, 4, [4] * 6),
        (22, 4, [3, 4, 4, 3, 4, 4]),
        (17, 16, [8, 9]),
        (5, 4, [2, 3]),
        (4, 4, [4]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_every_sample_is_used_and_batches_are_almost_of_one_size(
    num_samples: int, batch_size: int, sizes: list[int]
) -> None:
    made = plan(num_samples=num_samples, batch_size=batch_size)
    batches = list(made.epoch(0))
    assert len(batches) == made.batches_per_epoch == len(sizes)
    assert sum(len(batch.indices) for batch in batches) == num_samples
    assert sorted(index for batch in batches for index in batch.indices) == list(range(num_samples))
    counts = [len(batch.indices) for batch in batches]
    assert max(counts) == made.largest_batch <= batch_size
    assert max(counts) - min(counts) <= 1
    assert counts == sizes
    assert [batch.size for batch in batches] == [(64, 96)] * len(sizes)


@pytest.mark.parametrize("start_batch", [0, 1, 4, 5])
def test_an_epoch_goes_on_where_it_stopped(start_batch: int) -> None:
    settings = {"multi_scale": (0.5, 1.5)}
    assert list(plan(**settings).epoch(3, start_batch)) == list(plan(**settings).epoch(3))[start_batch:]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_together_see_what_one_process_sees(world_size: int) -> None:
    settings = {"batch_size": 8, "multi_scale": (0.5, 1.5)}
    whole = list(plan(**settings).epoch(1))
    ranks = [list(plan(**settings, rank=rank, world_size=world_size).epoch(1)) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        assert tuple(index for rank in ranks for index in rank[step].indices) == batch.indices
        assert {rank[step].size for rank in ranks} == {batch.size}
    assert {len(rank) for rank in ranks} == {len(whole)}


def test_sizes_are_multiples_of_the_stride_within_the_range() -> None:
    multi = plan(size=(320, 640), multi_scale=(0.5, 1.5))
    sizes = [multi.size_of(epoch, batch) for epoch in range(40) for batch in range(5)]
    assert all(height % 32 == width % 32 == 0 for height, width in sizes)
    assert {height for height, _ in sizes} == set(range(160, 481, 32))
    assert all(abs(width - 2 * height) <= 32 for height, width in sizes)
    assert multi.size_of(2, 3) == plan(size=(320, 640), multi_scale=(0.5, 1.5)).size_of(2, 3)
    assert plan(size=(32, 32), multi_scale=(0.1, 0.2)).size_of(0, 0) == (32, 32)


def test_the_last_epochs_are_marked() -> None:
    closed = plan(close_mosaic_from=3)
    assert [next(closed.epoch(epoch)).close_mosaic for epoch in range(5)] == [False, False, False, True, True]
    assert not next(plan().epoch(1000)).close_mosaic


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_samples": 3},
            "the training set has 3 images, which does not fill a single batch of 4; set batch_size to 3",
        ),
        (
            {"num_samples": 9, "batch_size": 8, "world_size": 8},
            "9 images in 2 batches give some of 8 processes none; set a larger batch_size",
        ),
        ({"batch_size": 0}, "batch_size .* positive multiple"),
        ({"world_size": 3}, "positive multiple of their number, 3; got 4"),
        ({"rank": 2, "world_size": 2}, "rank must be from 0 to world_size - 1, got rank 2 of 2"),
        ({"seed": -1}, "seed must be from 0"),
        ({"seed": 2**32}, "seed must be from 0"),
        ({"size": (64, 100)}, "multiples of the stride, 32; got 64x100"),
        ({"size": (0, 64)}, "positive multiples"),
        ({"multi_scale": (1.5, 0.5)}, "multi_scale must be two factors"),
    ],
)
def test_impossible_plans_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(**settings)


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "world_size", "expected"),
    [
        (5, 2, 1, [[(0, 1), (2, 3), (4,)]]),
        (5, 2, 2, [[(0, 1)], [(2, 3), (4,)]]),
        (2, 4, 3, [[], [(0,)], [(1,)]]),
        (0, 4, 2, [[], []]),
        (4, 4, 1, [[(0, 1, 2, 3)]]),
    ],
)
def test_evaluation_sees_every_sample_once_in_order(
    num_samples: int, batch_size: int, world_size: int, expected: list[list[tuple[int, ...]]]
) -> None:
    ranks = [eval_batches(num_samples, batch_size, rank, world_size) for rank in range(world_size)]
    assert ranks == [[PlannedBatch(0, indices) for indices in rank] for rank in expected]


def test_impossible_evaluation_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        eval_batches(4, 0)
    with pytest.raises(ValueError, match="rank must be"):
        eval_batches(4, 1, rank=1)


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "neighborhood", "sizes"),
    [
        (64, 16, 16, {16}),
        (64, 32, 16, {16}),
        (100, 16, 16, {14, 15}),
        # Batches of 4: as many of them as make 16.
        (64, 4, 16, {16}),
        (90, 4, 16, {18}),
        (9, 4, 16, {9}),
        (22, 4, None, {0}),
    ],
)
def test_partners_are_of_one_neighborhood(
    num_samples: int, batch_size: int, neighborhood: int | None, sizes: set[int]
) -> None:
    made = plan(num_samples=num_samples, batch_size=batch_size, neighborhood=neighborhood)
    partners_of = {}
    for batch in made.epoch(2):
        partners = batch.partners or [()] * len(batch.indices)
        partners_of |= dict(zip(batch.indices, partners, strict=True))
    assert {len(partners) for partners in partners_of.values()} == sizes
    if neighborhood is None:
        return
    runs = set(partners_of.values())
    assert sorted(index for run in runs for index in run) == list(range(num_samples))
    assert all(index in partners for index, partners in partners_of.items())
    for batch in made.epoch(2) if batch_size >= neighborhood else ():
        assert {index for run in batch.partners for index in run} == set(batch.indices), "nothing else is loaded"


@pytest.mark.parametrize("world_size", [2, 4])
def test_partners_do_not_depend_on_the_rank_nor_on_where_an_epoch_goes_on(world_size: int) -> None:
    settings = {"num_samples": 200, "batch_size": 32, "neighborhood": 16}
    whole = list(plan(**settings).epoch(1))
    ranks = [list(plan(**settings, rank=rank, world_size=world_size).epoch(1)) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        assert tuple(one for rank in ranks for one in rank[step].partners) == batch.partners
    assert list(plan(**settings).epoch(1, 3)) == whole[3:]
    closed = plan(**settings, close_mosaic_from=1)
    assert [batch.partners for batch in closed.epoch(1)] == [()] * len(whole)
