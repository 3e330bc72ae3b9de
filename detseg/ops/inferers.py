"""Sliding windows and averages over views of tensors; see :mod:`detseg.runtime.postprocess.inferers`, where they
are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detseg.runtime.postprocess.inferers import Inferer


class TensorInferer(Inferer[Tensor]):
    """In torch, on any device."""

    library = torch

    def to_float32(self, array: Tensor) -> Tensor:
        """``array`` as float32."""
        return array.float()

    def pad(self, images: Tensor, amounts: Sequence[tuple[int, int]]) -> Tensor:
        """``images`` with zeros around."""
        return F.pad(images, [amount for pair in reversed(amounts) for amount in pair])

    def add_product(self, total: Tensor, values: Tensor, weights: Tensor) -> None:
        """Add ``values * weights`` to ``total``, in place."""
        total.addcmul_(values, weights)

    def resize(self, maps: Tensor, height: int, width: int) -> Tensor:
        """``[B, C, h, w]`` -> ``[B, C, height, width]``."""
        if maps.shape[2:] == (height, width):
            return maps
        resized = F.interpolate(
            maps.float(), size=(height, width), mode="bilinear", align_corners=False, antialias=True
        )
        return resized.to(maps.dtype)

    def softmax(self, logits: Tensor) -> Tensor:
        """Class probabilities of ``logits`` ``[B, K, ...]``."""
        return logits.softmax(dim=1)

    def sigmoid(self, logits: Tensor) -> Tensor:
        """That of each logit by itself."""
        return logits.sigmoid()

    def largest(self, values: Tensor) -> Tensor:
        """The largest over the classes ``[B, K, ...]``."""
        return values.amax(dim=1)


_INFERER = TensorInferer()
sliding_window, average_over_tta, average_over_flips = (
    _INFERER.sliding_window,
    _INFERER.average_over_tta,
    _INFERER.average_over_flips,
)
probabilities_of = _INFERER.probabilities
