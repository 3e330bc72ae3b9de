from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detseg.layers.efficient_transformer import EfficientTransformer, SplitAttention


def plain_attention(layer: SplitAttention, x: Tensor) -> Tensor:
    """One token after the other, as the formula says: eight heads, groups of N // 4, scores over sqrt(dim / 8)."""
    num_tokens, dim = x.shape
    size, head_width = num_tokens // 4, dim // 2 // 8
    q, k, v = layer.qkv(layer.reduce(x)).split(dim // 2, dim=1)
    out = torch.zeros(num_tokens, dim // 2)
    for head in range(8):
        part = slice(head * head_width, (head + 1) * head_width)
        for token in range(num_tokens):
            start = token // size * size
            group = slice(start, min(start + size, num_tokens))
            scores = k[group, part] @ q[token, part] / (dim / 8) ** 0.5
            out[token, part] = torch.softmax(scores, dim=0) @ v[group, part]
    return layer.proj(out)


@pytest.mark.parametrize("num_tokens", [4, 5, 6, 7, 8, 9, 11, 12, 14, 23])
def test_split_attention_also_with_tokens_left_over(num_tokens: int) -> None:
    torch.manual_seed(0)
    layer = SplitAttention(32)
    for linear in (layer.reduce, layer.qkv):
        nn.init.normal_(linear.weight)  # scores far from uniform
    x = torch.randn(2, num_tokens, 32)
    with torch.no_grad():
        expected = torch.stack([plain_attention(layer, image) for image in x])
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_tokens", [4, 7])
def test_gradients_are_finite(num_tokens: int) -> None:
    x = torch.randn(1, num_tokens, 32, requires_grad=True)
    SplitAttention(32)(x).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_patches_overlap_and_are_summed_up() -> None:
    """With both branches silent every pixel comes back once per patch that holds it: 9, fewer at the border."""
    layer = EfficientTransformer(16)
    for last in (layer.attention.proj, layer.mlp[2]):
        nn.init.zeros_(last.weight)  # type: ignore[arg-type]
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    x = torch.rand(1, 16, 3, 4)
    counts = torch.tensor([[4.0, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]])
    torch.testing.assert_close(layer(x), x * counts)
