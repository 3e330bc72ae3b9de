from __future__ import annotations

import pytest

from detseg.config import load_config
from detseg.engine.settings import RunConfig
from detseg.engine.training.auto_batch import SHARE, choose_batch_size, fitting_batch
from detseg.shipped import find_config

GIB = 2**30


@pytest.mark.parametrize(
    ("fixed", "each", "free", "num_samples", "expected"),
    [
        (GIB, GIB, 16 * GIB, 1000, 8),  # 12 GiB may be taken, 1 is fixed: 11 images, in eights
        (GIB, GIB, 8 * GIB, 1000, 5),  # 6 GiB: 5 images
        (0, GIB // 4, 64 * GIB, 1000, 192),
        (0, GIB // 4, 64 * GIB, 100, 96),
        (0, GIB // 4, 64 * GIB, 5, 5),
        (0, 1, 64 * GIB, 10**6, 512),
        (GIB, 20 * GIB, 16 * GIB, 1000, 1),
    ],
)
def test_memory_grows_evenly(fixed: int, each: int, free: int, num_samples: int, expected: int) -> None:
    found = fitting_batch(lambda count: fixed + count * each, free, num_samples)
    assert found == expected
    assert found == 1 or fixed + found * each <= SHARE * free


def test_on_a_cpu_it_is_that_of_the_recipe() -> None:
    config = load_config(RunConfig, find_config("c2f_n"), ["data.path=shapes", "train.device=cpu"])
    assert choose_batch_size(config, 3, 1000) == (16, "batches of 16: on cpu larger ones are no faster")
    assert choose_batch_size(config, 3, 5)[0] == 5
