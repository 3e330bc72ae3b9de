"""Batch norm with its activation, against PyTorch's own layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from detseg.layers.cpu import norm_act as module
from detseg.layers.cpu.library import library
from detseg.layers.cpu.norm_act import norm_act
from detseg.layers.cpu.switch import use_cpu_layers

pytestmark = pytest.mark.skipif(library() is None, reason="there is no C++ compiler")

ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "prelu": nn.PReLU,
    "identity": lambda _: nn.Identity(),
}


@pytest.fixture(autouse=True)
def _switched_on() -> Iterator[None]:
    use_cpu_layers(True)
    yield
    use_cpu_layers(True)


def make_layers(channels: int, activation: str, dtype: torch.dtype = torch.float32) -> tuple[nn.BatchNorm2d, nn.Module]:
    """A norm with weights and statistics of all kinds, and an activation with slopes of both signs."""
    torch.manual_seed(1)
    norm, act = nn.BatchNorm2d(channels, momentum=0.3), ACTIVATIONS[activation](channels)
    for parameter in (*norm.parameters(), *act.parameters()):
        nn.init.uniform_(parameter, -1.5, 1.5)
    assert norm.running_mean is not None
    nn.init.uniform_(norm.running_mean, -1, 1)
    return norm.to(dtype), act.to(dtype)


def make_input(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 7
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def is_fused(out: Tensor) -> bool:
    return type(out.grad_fn).__name__ == "_NormActBackward"


def run(norm: nn.BatchNorm2d, act: nn.Module, x: Tensor, fast: bool) -> dict[str, Tensor]:
    """What one step of the layers gives: output, gradients, statistics."""
    norm, act, x = copy.deepcopy(norm), copy.deepcopy(act), x.clone().requires_grad_()
    use_cpu_layers(fast)
    out = norm_act(norm, act, x)
    assert is_fused(out) == fast
    generator = torch.Generator().manual_seed(3)
    out.backward(torch.randn(out.shape, generator=generator).to(out.dtype))
    assert x.grad is not None
    found = {"out": out.detach(), "x": x.grad} | dict(norm.named_buffers())
    for name, parameter in (*norm.named_parameters(), *act.named_parameters(prefix="act")):
        assert parameter.grad is not None
        found[name] = parameter.grad
    return found


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(3, 32, 9, 7), (1, 19, 33, 40), (2, 3, 5, 5), (1, 5, 3, 1), (2, 16, 100, 100)])
def test_step_is_that_of_the_plain_layers(activation: str, shape: tuple[int, ...]) -> None:
    norm, act = make_layers(shape[1], activation)
    x = make_input(*shape)
    exact = run(norm.double(), act.double(), x.double(), fast=False)
    norm, act = norm.float(), act.float()
    for name, value in run(norm, act, x, fast=True).items():
        scale = float(exact[name].abs().max()) + 1e-3
        torch.testing.assert_close(value.double(), exact[name].double(), rtol=2e-5, atol=2e-5 * scale, msg=name)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_in_double(activation: str) -> None:
    norm, act = make_layers(3, activation, torch.float64)
    x = make_input(2, 3, 4, 5, dtype=torch.float64).requires_grad_()
    parameters = [*norm.parameters(), *act.parameters()]
    assert is_fused(norm_act(norm, act, x))
    assert torch.autograd.gradcheck(lambda *_: norm_act(norm, act, x), (x, *parameters))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bfloat16_is_rounded_once(activation: str) -> None:
    norm, act = make_layers(32, activation)
    x = make_input(2, 32, 13, 11, dtype=torch.bfloat16)
    exact = run(norm.double(), act.double(), x.double(), fast=False)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(norm.float(), act.float(), x, fast=True)
    assert found["out"].dtype == found["x"].dtype == torch.bfloat16
    assert found["weight"].dtype == torch.float32
    # Half a unit in the last of 8 bits, where nothing is rounded on the way to the output.
    torch.testing.assert_close(found["out"].double(), exact["out"], rtol=2**-8, atol=1e-4)
    torch.testing.assert_close(found["running_var"].double(), exact["running_var"], rtol=1e-5, atol=1e-5)
    for name in ("x", "weight", "bias"):  # the gradient that comes in is rounded too
        scale = float(exact[name].abs().max())
        torch.testing.assert_close(found[name].double(), exact[name], rtol=2**-7, atol=2**-7 * scale)


def test_bfloat16_that_is_no_number_stays_none() -> None:
    norm, act = make_layers(16, "prelu")
    x = make_input(2, 16, 3, 3, dtype=torch.bfloat16)
    x[0, 5, 1, 1] = float("nan")
    out = norm_act(norm, act, x)
    assert is_fused(out)
    assert out[:, 5].isnan().all()
    assert out.isfinite().sum() == out.numel() - out[:, 5].numel()


def test_large_mean_costs_no_accuracy() -> None:
    norm, act = make_layers(16, "identity")
    x = make_input(2, 16, 40, 40) + 4096.0
    deviations = norm_act(norm, act, x).detach() - norm.bias.view(-1, 1, 1)
    torch.testing.assert_close(deviations.std((0, 2, 3), correction=0), norm.weight.abs(), rtol=1e-4, atol=1e-4)


def test_threads_share_the_rows() -> None:
    norm, act = make_layers(16, "prelu")
    x = make_input(2, 16, 100, 100)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run(norm, act, x, fast=True)
        torch.set_num_threads(3)
        shared = run(norm, act, x, fast=True)
        again = run(norm, act, x, fast=True)
    finally:
        torch.set_num_threads(threads)
    for name, value in alone.items():
        assert torch.equal(shared[name], again[name]), name
        torch.testing.assert_close(shared[name], value, rtol=1e-5, atol=1e-5 * float(value.abs().max()), msg=name)


def test_volumes() -> None:
    torch.manual_seed(0)
    norm, act = nn.BatchNorm3d(16), nn.PReLU(16)
    x = torch.randn(2, 16, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d)
    out = norm_act(copy.deepcopy(norm), act, x)
    assert is_fused(out)
    torch.testing.assert_close(out, act(norm(x)), rtol=1e-5, atol=1e-5)
    assert out.stride() == x.stride()


def test_gradient_in_another_layout() -> None:
    norm, act = make_layers(8, "prelu")
    x = make_input(2, 8, 5, 6).requires_grad_()
    grad = torch.randn(2, 8, 5, 6)
    (fast,) = torch.autograd.grad(norm_act(norm, act, x), x, grad)
    (plain,) = torch.autograd.grad(act(norm(x)), x, grad)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


def test_plain_way_where_the_fast_one_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    norm, act = make_layers(8, "prelu")
    x = make_input(2, 8, 5, 6).requires_grad_()
    assert is_fused(norm_act(norm, act, x))
    assert not is_fused(norm_act(norm, act, x.contiguous()))
    assert not is_fused(norm_act(norm, nn.ReLU(), x))
    assert not is_fused(norm_act(norm, nn.PReLU(), x))
    assert not is_fused(norm_act(nn.GroupNorm(2, 8), act, x))
    assert not is_fused(norm_act(nn.BatchNorm2d(8, affine=False), act, x))
    assert not is_fused(norm_act(nn.BatchNorm2d(8, momentum=None), act, x))
    without_statistics = nn.BatchNorm2d(8, track_running_stats=False)
    torch.testing.assert_close(norm_act(without_statistics, act, x), act(without_statistics(x)), rtol=1e-5, atol=1e-5)
    seen: list[str] = []
    handle = act.register_forward_hook(lambda *_: seen.append("act"))
    assert not is_fused(norm_act(norm, act, x))
    assert seen == ["act"]
    handle.remove()
    monkeypatch.setattr(module, "library", lambda: None)
    assert not is_fused(norm_act(norm, act, x))
    monkeypatch.undo()
    norm.eval()
    assert not is_fused(norm_act(norm, act, x))
    assert torch.equal(norm_act(norm, act, x), act(norm(x)))


def test_one_value_to_a_channel_is_refused_as_before() -> None:
    norm, act = make_layers(8, "prelu")
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm_act(norm, act, make_input(1, 8, 1, 1))
