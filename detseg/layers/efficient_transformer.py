"""The efficient transformer of LETNet (arXiv 2302.10484; the split attention is ESRT's, arXiv 2108.11084).

Shapes: B batch, H, W pixels, N tokens (one per pixel).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 3
NUM_HEADS = 8
NUM_GROUPS = 4


class SplitAttention(nn.Module):
    """Self-attention on half as many values, each token looking only at its own group of consecutive tokens.

    A group holds ``N // 4`` tokens; the up to three that this leaves over form a group of their own, or more than one
    where a group is smaller than that. As published, the scores are scaled for heads of the full width,
    ``(dim / 8) ** -0.5``, though the heads have half of it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(dim, dim // 2, bias=False)
        self.qkv = nn.Linear(dim // 2, dim // 2 * 3, bias=False)
        self.proj = nn.Linear(dim // 2, dim)
        self.scale = (dim // NUM_HEADS) ** -0.5

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, N, dim]``, N at least 4 -> the same shape."""
        batch, num_tokens, _ = tokens.shape
        qkv = self.qkv(self.reduce(tokens)).view(batch, num_tokens, 3, NUM_HEADS, -1).permute(2, 0, 3, 1, 4)
        group = num_tokens // NUM_GROUPS
        num_grouped = NUM_GROUPS * group
        # Groups beside the heads, as if there were more of them: the fast kernels know no fifth dimension.
        q, k, v = qkv[..., :num_grouped, :].reshape(3, batch, NUM_HEADS * NUM_GROUPS, group, -1).unbind(0)
        grouped = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        grouped = grouped.reshape(batch, NUM_HEADS, num_grouped, -1)
        # What is left over, always computed for the last three tokens: so no shape depends on how many it is.
        q, k, v = qkv[..., -(NUM_GROUPS - 1) :, :].unbind(0)
        number = torch.arange(num_tokens - (NUM_GROUPS - 1), num_tokens, device=tokens.device) // group
        seen = number == number[:, None]
        rest = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=self.scale)
        rest = rest[..., num_grouped - num_tokens + (NUM_GROUPS - 1) :, :]
        out: Tensor = self.proj(torch.cat((grouped, rest), dim=2).transpose(1, 2).flatten(2))
        return out


class EfficientTransformer(nn.Module):
    """Attention and a narrow perceptron on the overlapping 3x3 patches around every pixel, summed up again."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        dim = channels * PATCH**2
        self.norm1 = nn.LayerNorm(dim)
        self.attention = SplitAttention(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, dim // 4), nn.ReLU(), nn.Linear(dim // 4, dim))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, H, W]``, H * W at least 4 -> the same shape."""
        size = x.shape[-2:]
        tokens = F.unfold(x, PATCH, padding=PATCH // 2).transpose(1, 2)
        tokens = tokens + self.attention(self.norm1(tokens))
        tokens = tokens + self.mlp(self.norm2(tokens))
        return F.fold(tokens.transpose(1, 2), size, PATCH, padding=PATCH // 2)
