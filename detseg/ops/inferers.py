"""Sliding windows and averages over views of tensors; see :mod:`detseg.runtime.postprocess.inferers`, where they
are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from detseg.arrays import FloatArray, IntArray
from detseg.runtime.inputs.volume_geometry import SUMS_BYTES
from detseg.runtime.postprocess.inferers import Inferer

_SHARE_OF_GPU = 4


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
        # In two steps: whether the sum of a product is rounded once or twice would depend on where a value lies.
        total += values * weights

    def resize(self, maps: Tensor, height: int, width: int) -> Tensor:
        """``[B, C, h, w]`` -> ``[B, C, height, width]``."""
        if maps.shape[2:] == (height, width):
            return maps
        resized = F.interpolate(
            maps.float(), size=(height, width), mode="bilinear", align_corners=False, antialias=True
        )
        return resized.to(maps.dtype)

    def resample_axis(self, array: Tensor, axis: int, positions: IntArray, weights: FloatArray) -> Tensor:
        """The sums over ``k`` of ``array`` at ``positions[k]`` along an axis, times ``weights[k]``."""
        along_axis = [-1 if other == axis else 1 for other in range(array.ndim)]
        total: Tensor | None = None
        for position, weight in zip(positions, weights, strict=True):
            index, share = (torch.as_tensor(np.array(one), device=array.device) for one in (position, weight))
            part = array.index_select(axis, index) * share.reshape(along_axis)
            total = part if total is None else total + part
        assert total is not None
        return total

    def to_host(self, array: Tensor) -> NDArray[Any]:
        """As an array of numpy."""
        values: NDArray[Any] = array.cpu().numpy()
        return values

    def sums_bytes(self, device: Any) -> int:
        """How much memory sums over windows may take there."""
        if device.type != "cuda":
            return SUMS_BYTES
        return max(SUMS_BYTES, torch.cuda.mem_get_info(device)[0] // _SHARE_OF_GPU)

    def softmax(self, logits: Tensor) -> Tensor:
        """Class probabilities of ``logits`` ``[B, K, ...]``."""
        return logits.softmax(dim=1)

    def sigmoid(self, logits: Tensor) -> Tensor:
        """That of each logit by itself."""
        return logits.sigmoid()

    def largest(self, values: Tensor) -> Tensor:
        """The largest over the classes ``[B, K, ...]``."""
        return values.amax(dim=1)


TENSOR_INFERER = TensorInferer()
sliding_window, average_over_tta, average_over_flips = (
    TENSOR_INFERER.sliding_window,
    TENSOR_INFERER.average_over_tta,
    TENSOR_INFERER.average_over_flips,
)
probabilities_of = TENSOR_INFERER.probabilities
