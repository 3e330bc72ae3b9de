"""Checks that the losses of pixels and of voxels share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from detseg.structures import IGNORE_INDEX


def require_class_weights(weights: Sequence[float], num_classes: int | None = None) -> None:
    """Raise ValueError unless ``weights`` are finite, at least 0 and not all 0, one for each class."""
    if num_classes is not None and len(weights) != num_classes:
        raise ValueError(f"got {len(weights)} class weights for {num_classes} classes; give one for each class")
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise ValueError(f"class_weights must be finite, at least 0, and not all 0, got {list(weights)}")


def require_logits_with_labels(
    logits: Tensor, labels: Tensor, num_classes: int, dimensions: Sequence[str], name: str
) -> None:
    """Raise ValueError unless ``logits`` are ``[B, C, *dimensions]`` and ``labels`` ``[B, *dimensions]`` uint8 class
    positions with ``IGNORE_INDEX``. Messages call the dimensions so, and the labels a ``name``."""
    if logits.ndim != 2 + len(dimensions) or logits.shape[1] != num_classes:
        raise ValueError(
            f"a loss for {num_classes} classes needs logits [B, {num_classes}, {', '.join(dimensions)}], "
            f"got {list(logits.shape)}"
        )
    wanted = [len(logits), *logits.shape[2:]]
    if list(labels.shape) != wanted or labels.dtype != torch.uint8:
        raise ValueError(
            f"logits {list(logits.shape)} need a {name} {wanted} of uint8, got {list(labels.shape)} of {labels.dtype}"
        )
    if on_host(labels):
        require_labels(labels, num_classes, name)


def on_host(tensor: Tensor) -> bool:
    """Whether to look at the values of ``tensor`` costs nothing. On a GPU the host waits for all work before it: there
    nothing may depend on values, and workers check labels as they collate them."""
    return tensor.device.type == "cpu"


def require_labels(labels: Tensor, num_classes: int, name: str) -> None:
    """Raise ValueError unless ``labels``, uint8, are class positions or ``IGNORE_INDEX``."""
    # In 8 bits IGNORE_INDEX + 1 is 0, so that one pass over the labels suffices.
    if labels.numel() and int((labels + 1).max()) > num_classes:
        label = int(labels[labels != IGNORE_INDEX].max())
        raise ValueError(f"label {label} in the {name}, allowed 0 to {num_classes - 1} and {IGNORE_INDEX}")


def require_positions(labels: Tensor, num_classes: int) -> None:
    """Raise ValueError unless ``labels`` of objects are class positions, or -1 for padding."""
    if labels.numel() and not -1 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"labels must lie in 0 to {num_classes - 1}, or be -1 for padding, "
            f"got {int(labels.min())} to {int(labels.max())}"
        )
