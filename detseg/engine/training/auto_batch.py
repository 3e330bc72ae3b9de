"""``--batch auto``: as many images at a time as the memory of the device takes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from detseg.engine.settings import RunConfig
from detseg.engine.training.trainer import AMP_TYPES
from detseg.tasks.model_file import default_device

SHARE = 0.75
"""Of the memory that a batch may take: assignment and losses come on top of what is measured."""
_LARGEST = 512


def choose_batch_size(config: RunConfig, num_classes: int, num_samples: int) -> tuple[int, str]:
    """How many images, or volumes, make a batch, and why. On a CPU that of the recipe: larger ones are no faster there.

    On a GPU a forward and a backward pass of one and of two images are measured; memory grows evenly from there.
    """
    device = default_device(config.train.device)
    usual = min(config.train.batch_size, num_samples)
    if device.type != "cuda":
        return usual, f"batches of {usual}: on {device.type} larger ones are no faster"
    model = config.model.build(num_classes=num_classes).to(device).train()
    amp_type = AMP_TYPES.get(config.train.amp)

    def measure(count: int) -> int:
        torch.cuda.reset_peak_memory_stats(device)
        channels = getattr(config.model, "in_channels", 3)
        images = torch.zeros(count, channels, *config.task.train_size, device=device)
        with torch.autocast("cuda", dtype=amp_type, enabled=amp_type is not None):
            raw = model(images)
        sum(level.float().sum() for level in (raw if isinstance(raw, list | tuple) else [raw])).backward()
        model.zero_grad(set_to_none=True)
        return torch.cuda.max_memory_allocated(device)

    free, _ = torch.cuda.mem_get_info(device)
    found = fitting_batch(measure, free, num_samples)
    return found, f"batches of {found}: {SHARE:.0%} of the {free / 2**30:.1f} GiB that are free on {device}"


def fitting_batch(measure: Callable[[int], int], free: int, num_samples: int) -> int:
    """The largest batch whose memory, extrapolated from those of 1 and 2 images, stays below a share of ``free`` bytes;
    a multiple of 8 where it is more than 8, at least 1 and at most ``num_samples``."""
    one, two = measure(1), measure(2)
    each = max(1, two - one)
    count = int((SHARE * free - (one - each)) // each)
    count = max(1, min(count, _LARGEST, num_samples))
    return count - count % 8 if count > 8 else count
