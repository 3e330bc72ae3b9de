"""Many processes as one: ``torchrun`` starts them, tensor collectives join them. No pickled objects cross a process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from detseg.engine.meeting import meet
from detseg.tasks.model_file import default_device


@dataclass(frozen=True)
class Group:
    """This process among its peers; a group of one needs no ``torchrun``."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of ``values`` over all processes."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def barrier(self) -> None:
        """Wait for every process."""
        if self.world_size > 1:
            dist.barrier()

    def broadcast(self, values: Tensor) -> Tensor:
        """The ``values`` of the main process, on every process."""
        if self.world_size > 1:
            values = values.clone()
            dist.broadcast(values, src=0)
        return values

    def gather(self, array: NDArray[Any], device: torch.device) -> list[NDArray[Any]]:
        """The arrays of all processes, in order of rank; their first dimensions may differ and may be zero."""
        if self.world_size == 1:
            return [array]
        length = torch.tensor([len(array)], device=device)
        lengths = [torch.zeros_like(length) for _ in range(self.world_size)]
        dist.all_gather(lengths, length)
        longest = max(int(value) for value in lengths)
        padded = np.zeros((longest, *array.shape[1:]), array.dtype)
        padded[: len(array)] = array
        local = torch.from_numpy(padded).to(device)
        everyone = [torch.empty_like(local) for _ in range(self.world_size)]
        dist.all_gather(everyone, local)
        return [part[: int(size)].cpu().numpy() for part, size in zip(everyone, lengths, strict=True)]

    def gather_json(self, value: Any, device: torch.device) -> list[Any]:
        """The plain data of all processes, in order of rank; it travels as JSON in arrays of bytes."""
        if self.world_size == 1:
            return [value]
        sent = np.frombuffer(json.dumps(value).encode("utf-8"), np.uint8).copy()
        return [json.loads(part.tobytes()) for part in self.gather(sent, device)]

    def on_main(self, action: Callable[[], None], device: torch.device) -> None:
        """Let the main process do ``action``; what it raises, all processes do.

        Raises:
            ValueError, OSError: ``action`` did; on other processes ValueError with its message.
        """
        error: ValueError | OSError | None = None
        if self.is_main:
            try:
                action()
            except (ValueError, OSError) as caught:
                error = caught
        refused = self.gather_json(None if error is None else str(error), device)[0]
        if error is not None:
            raise error
        if refused is not None:
            raise ValueError(f"the main process stopped: {refused}")


def join_group(device: str) -> tuple[Group, torch.device]:
    """Join the processes that ``torchrun`` started, and choose this one's device.

    ``device``: ``auto`` is this process's CUDA device where there is one, else the CPU.

    Raises:
        ValueError: there is no such device, or all processes would share one.
        detseg.engine.meeting.PeerError: not all of them have come in time.
    """
    group = Group(
        int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    )
    chosen = default_device(device)
    if group.world_size > 1 and chosen.index is not None:
        raise ValueError(
            f"device {device} would be that of all {group.world_size} processes; say cuda or auto, and each takes its "
            "own"
        )
    if chosen.type == "cuda":
        chosen = torch.device("cuda", group.local_rank if chosen.index is None else chosen.index)
        torch.cuda.set_device(chosen)
    if group.world_size > 1:
        store = meet(group.rank, group.world_size)
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=group.rank, world_size=group.world_size)
    return group, chosen


def leave_group() -> None:
    """Undo :func:`join_group`."""
    if dist.is_initialized():
        dist.destroy_process_group()
