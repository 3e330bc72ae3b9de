"""Short runs by the ways of this floor and by PyTorch's own: the same losses within rounding."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.layers.cpu.library import library
from detseg.layers.cpu.switch import use_cpu_layers
from detseg.layers.ldb import LDB
from detseg.models.letnet import LETNetConfig

NUM_CLASSES = 4


@pytest.fixture(autouse=True)
def _switched_on() -> Iterator[None]:
    use_cpu_layers(True)
    yield
    use_cpu_layers(True)


def losses(fast: bool, num_steps: int, dtype: torch.dtype = torch.float32) -> list[float]:
    """Of LETNet, from the same weights, over the same images."""
    torch.manual_seed(0)
    use_cpu_layers(fast)
    model = LETNetConfig().build(NUM_CLASSES).train().to(dtype=dtype, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    images = torch.rand(2, 3, 32, 64, dtype=dtype).contiguous(memory_format=torch.channels_last)
    labels = (images.mean(1) * NUM_CLASSES).long().clamp(0, NUM_CLASSES - 1)
    found = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.slow
def test_a_short_run_has_the_same_losses() -> None:
    # In float64, because 300 norms of few pixels amplify float32's rounding a thousandfold with every step.
    assert losses(True, 3, torch.float64) == pytest.approx(losses(False, 3, torch.float64), rel=1e-6)


def test_the_first_loss_is_the_same() -> None:
    assert losses(True, 1) == pytest.approx(losses(False, 1), rel=1e-4)


def step(block: nn.Module, x: Tensor, fast: bool) -> list[Tensor]:
    use_cpu_layers(fast)
    x = x.clone().requires_grad_()
    block.zero_grad()
    out = block(x)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype))
    assert x.grad is not None
    return [out.detach(), x.grad, *(p.grad for p in block.parameters() if p.grad is not None)]


@pytest.mark.skipif(library() is None, reason="there is no C++ compiler")
def test_step_of_a_block_is_that_of_the_plain_layers() -> None:
    torch.manual_seed(0)
    block = LDB(32, 2).double().train()
    x = torch.randn(2, 32, 12, 10, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    fast, plain = step(block, x, True), step(block, x, False)
    assert len(fast) == len(plain) == 2 + len(list(block.parameters()))
    for found, value in zip(fast, plain, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-10)
    assert fast[0].is_contiguous(memory_format=torch.channels_last)
    assert not plain[0].is_contiguous(memory_format=torch.channels_last)
