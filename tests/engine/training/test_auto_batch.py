from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from detseg.config import load_config
from detseg.engine.settings import RunConfig
from detseg.engine.training import auto_batch
from detseg.engine.training.auto_batch import SHARE, choose_batch_size, fitting_batch, measured_batch_size
from detseg.shipped import find_config

GIB = 2**30
NARROW = ("model.backbone.width=0.125", "task.input.height=64", "task.input.width=64")


class CountedMemory:
    """A device whose network takes 1 GiB, and each image 2; the images that went through are counted."""

    def __init__(self, free: int) -> None:
        self._free = free
        self.counts: list[int] = []

    def free(self) -> int:
        return self._free

    def peak(self, work: Callable[[], object]) -> int:
        work()
        return GIB + 2 * GIB * self.counts[-1]


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


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("c2f_n", NARROW),
        ("c2f_n_seg", NARROW),  # boxes and prototypes, in a tuple with a list
        ("e2e_n", NARROW),
        ("yolox_nano", ("task.input.height=64", "task.input.width=64")),
        ("letnet", ("task.input.height=32", "task.input.width=64")),
        ("vnet", ("model.width=4", "model.num_convolutions=[1,1]", "task.patch=[16,16,16]")),
    ],
)
def test_whatever_a_network_gives_is_measured(
    name: str, settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU, with counted memory in place of a GPU's: 16 GiB take 12, of which 1 is fixed, so 5 images."""
    config = load_config(
        RunConfig, find_config(name), ["data.path=shapes" if name != "vnet" else "data.path=blobs", *settings]
    )
    memory = CountedMemory(16 * GIB)
    passes = auto_batch.pass_once

    def pass_once(model: nn.Module, images: Tensor, amp_type: torch.dtype | None) -> None:
        passes(model, images, amp_type)
        memory.counts.append(len(images))

    monkeypatch.setattr(auto_batch, "pass_once", pass_once)
    found, reason = measured_batch_size(config, 3, 1000, torch.device("cpu"), memory)
    assert found == 5
    assert memory.counts == [1, 2]
    assert reason == "batches of 5: 75% of the 16.0 GiB that are free on cpu"


def test_where_two_images_have_no_memory_there_is_one() -> None:
    def measure(count: int) -> int:
        if count > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return GIB

    assert fitting_batch(measure, 64 * GIB, 100) == 1
