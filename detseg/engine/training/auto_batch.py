"""``--batch auto``: as many images at a time as the memory of the device takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from detseg.engine.settings import RunConfig
from detseg.engine.training.trainer import AMP_TYPES
from detseg.tasks.model_file import default_device

SHARE = 0.75
"""Of the memory that a batch may take: assignment and losses come on top of what is measured."""
_LARGEST = 512


class DeviceMemory(Protocol):
    """What is asked of the memory of a device."""

    def free(self) -> int:
        """Bytes that nobody has."""

    def peak(self, work: Callable[[], object]) -> int:
        """The most bytes that this process has at a time during ``work``.

        Raises:
            torch.OutOfMemoryError: there are not so many.
        """


class CudaMemory:
    """That of a GPU, by torch's own count."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free(self) -> int:
        """See :class:`DeviceMemory`; what torch keeps for later counts as free."""
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self._device)[0]

    def peak(self, work: Callable[[], object]) -> int:
        """See :class:`DeviceMemory`."""
        torch.cuda.reset_peak_memory_stats(self._device)
        work()
        return torch.cuda.max_memory_allocated(self._device)


def choose_batch_size(config: RunConfig, num_classes: int, num_samples: int) -> tuple[int, str]:
    """How many images, or volumes, make a batch, and why. On a CPU that of the recipe: larger ones are no faster there.

    On a GPU a forward and a backward pass of one and of two images are measured; memory grows evenly from there.
    """
    device = default_device(config.train.device)
    usual = min(config.train.batch_size, num_samples)
    if device.type != "cuda":
        return usual, f"batches of {usual}: on {device.type} larger ones are no faster"
    return measured_batch_size(config, num_classes, num_samples, device, CudaMemory(device))


def measured_batch_size(
    config: RunConfig, num_classes: int, num_samples: int, device: torch.device, memory: DeviceMemory
) -> tuple[int, str]:
    """:func:`choose_batch_size` where ``memory``, that of ``device``, is what limits a batch."""
    free = memory.free()  # before the model, which is part of what is measured
    model = config.model.build(num_classes=num_classes).to(device).train()
    amp_type = AMP_TYPES.get(config.train.amp)
    channels = getattr(config.model, "in_channels", 3)

    def measure(count: int) -> int:
        images = torch.zeros(count, channels, *config.task.train_size, device=device)
        return memory.peak(lambda: pass_once(model, images, amp_type))

    found = fitting_batch(measure, free, num_samples)
    return found, f"batches of {found}: {SHARE:.0%} of the {free / 2**30:.1f} GiB that are free on {device}"


def pass_once(model: nn.Module, images: Tensor, amp_type: torch.dtype | None) -> None:
    """``images`` forward and backward through ``model``, whatever it gives; its gradients are let go."""
    with torch.autocast(images.device.type, dtype=amp_type, enabled=amp_type is not None):
        raw = model(images)
    parts = [part.float().sum() for part in pytree.tree_leaves(raw) if isinstance(part, Tensor)]
    torch.autograd.backward(torch.stack(parts).sum())
    model.zero_grad(set_to_none=True)


def fitting_batch(measure: Callable[[int], int], free: int, num_samples: int) -> int:
    """The largest batch whose memory, extrapolated from those of 1 and 2 images, stays below a share of ``free`` bytes;
    a multiple of 8 where it is more than 8, at least 1 and at most ``num_samples``. It is 1 where there is no memory
    for 2."""
    one = measure(1)
    try:
        two = measure(2)
    except torch.OutOfMemoryError:
        return 1
    each = max(1, two - one)
    count = int((SHARE * free - (one - each)) // each)
    count = max(1, min(count, _LARGEST, num_samples))
    return count - count % 8 if count > 8 else count
