"""Masks of objects from prototypes and coefficients, as tensors: on the CPU by the numpy code of the torch-free
runtime, elsewhere by the same rules on the device, from which only the ends of runs are fetched.

Shape legend: N objects, K prototypes of h x w cells, H x W pixels of the original image.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from detseg.run_lengths import RunLengths
from detseg.runtime.postprocess import masks as numpy_masks
from detseg.runtime.postprocess.masks import Taps, taps
from detseg.structures import Detections, Instances, LetterboxTransform

MAX_PIXELS = 2**25
"""Pixels of masks that are made at a time; each takes some 12 bytes meanwhile."""


def with_masks(
    found: Detections, coefficients: Tensor, prototypes: Tensor, transform: LetterboxTransform, stride: int
) -> Instances:
    """As :func:`detseg.runtime.postprocess.masks.with_masks`, of tensors ``[N, K]`` and ``[K, h, w]``.

    On a device the logits of cells may be summed up in another order, so that a pixel whose logit is 0 but for rounding
    may differ.
    """
    if prototypes.device.type == "cpu":
        weights, maps = (one.detach().float().numpy() for one in (coefficients, prototypes))
        return numpy_masks.with_masks(found, weights, maps, transform, stride)
    masks = masks_on_device(found, coefficients, prototypes, transform, stride)
    return Instances(found.boxes_xyxy, found.scores, found.labels, found.track_ids, masks)


def masks_on_device(
    found: Detections,
    coefficients: Tensor,
    prototypes: Tensor,
    transform: LetterboxTransform,
    stride: int,
    max_pixels: int = MAX_PIXELS,
) -> tuple[RunLengths, ...]:
    """The masks of ``found``, made where the tensors are: as many objects at a time as have ``max_pixels`` together, at
    least one."""
    height, width = transform.original_height, transform.original_width
    _, num_rows, num_columns = prototypes.shape
    device = prototypes.device
    x = taps(0, width, width, transform.scale_x, transform.offset_x, stride, num_columns)
    y = taps(0, height, height, transform.scale_y, transform.offset_y, stride, num_rows)
    inside = np.array([_inside(box, height, width) for box in found.boxes_xyxy.tolist()], np.int64).reshape(-1, 4)
    masks: list[RunLengths] = []
    step = max(1, max_pixels // (height * width))
    for first in range(0, len(found), step):
        rows = slice(first, first + step)
        logits = torch.einsum("nk,khw->nhw", coefficients[rows].float(), prototypes.float())
        above = _between(_between(logits, x, 2), y, 1) > 0
        left, top, right, bottom = torch.from_numpy(inside[rows]).to(device)[:, :, None].unbind(dim=1)
        columns, lines = (torch.arange(side, device=device) for side in (width, height))
        above &= ((columns >= left) & (columns < right))[:, None]
        above &= ((lines >= top) & (lines < bottom))[:, :, None]
        masks += _runs(above)
    return tuple(masks)


def _inside(box_xyxy: list[float], height: int, width: int) -> tuple[int, int, int, int]:
    """The pixels whose centers lie in a box: first column, first row, and those behind the last."""
    left, top, right, bottom = box_xyxy
    x, y = (taps(*sides, size, 1.0, 0.0, 1, 1) for sides, size in (((left, right), width), ((top, bottom), height)))
    return x.start, y.start, x.stop, y.stop


def _between(values: Tensor, where: Taps, dim: int) -> Tensor:
    """``values`` interpolated (linear) along the dimension ``dim``, which gets a place for each pixel."""
    low, high = (torch.from_numpy(one).to(values.device) for one in (where.low, where.high))
    weight = torch.from_numpy(where.weight).to(values.device)
    lows, highs = values.index_select(dim, low), values.index_select(dim, high)
    return lows + (highs - lows) * weight.view(-1, *[1] * (values.ndim - 1 - dim))


def _runs(masks: Tensor) -> list[RunLengths]:
    """The runs of masks ``[N, H, W]`` bool."""
    count, height, width = masks.shape
    flat = masks.transpose(1, 2).reshape(count, -1)
    owner, ends = torch.nonzero(flat[:, 1:] != flat[:, :-1], as_tuple=True)
    first = flat[:, 0].cpu().numpy()
    ends_of = np.split((ends + 1).cpu().numpy(), np.cumsum(torch.bincount(owner, minlength=count).cpu().numpy())[:-1])
    made = []
    for begins_inside, own in zip(first, ends_of, strict=True):
        bounds = np.concatenate([[0] * (1 + bool(begins_inside)), own, [height * width]])
        made.append(RunLengths(height, width, np.diff(bounds)))
    return made
