"""The model as the training loop calls it: compiled, and joined with its copies in other processes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detseg.engine.settings import TrainConfig
from detseg.tasks.base import Batch


class Learner:
    """``model`` as ``config`` compiles it, one of ``world_size``.

    With CUDA graphs (``reduce-overhead``) the gradients of a micro-batch lie in memory that the next replay overwrites;
    where several make a step, they are added up in memory of their own.

    Raises:
        ValueError: CUDA graphs are asked for in several processes.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, world_size: int) -> None:
        if config.compile == "reduce-overhead" and world_size > 1:
            raise ValueError(
                "train.compile is reduce-overhead, whose CUDA graphs hold no exchange between processes, and there are "
                f"{world_size} of them; take train.compile=default"
            )
        is_compiled = config.compile != "none"
        self.module = cast(nn.Module, torch.compile(model, mode=config.compile)) if is_compiled else model
        self._has_graphs = config.compile == "reduce-overhead"
        self._keeps_gradients = self._has_graphs and config.accumulate > 1
        self._parameters = list(model.parameters())
        self._world_size = world_size
        self._joined: DistributedDataParallel | None = None
        self._joined_for: list[bool] = []

    def joined(self) -> nn.Module:
        """What is called: one and the same object as long as the same parameters learn.

        Norms have the same statistics in all processes, so nothing but gradients is exchanged.
        """
        if self._world_size == 1:
            return self.module
        learned = [parameter.requires_grad for parameter in self._parameters]
        if self._joined is None or learned != self._joined_for:
            self._joined = None  # its hooks go first
            self._joined = DistributedDataParallel(self.module, gradient_as_bucket_view=True, broadcast_buffers=False)
            self._joined_for = learned
        return self._joined

    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """Begin with an optimizer step: no gradients yet."""
        if not self._keeps_gradients:
            optimizer.zero_grad(set_to_none=True)
            return
        for parameter in self._parameters:
            if not parameter.requires_grad:
                parameter.grad = None
            elif parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            else:
                parameter.grad.zero_()

    def micro_batch(self, model: nn.Module, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """In which ``model``, what :meth:`joined` gave, learns from a micro-batch; with the last one of a step the
        processes add up their gradients."""
        if self._has_graphs:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        if not is_last and isinstance(model, DistributedDataParallel):
            return model.no_sync()
        return contextlib.nullcontext()


class Copies:
    """Copies of batches to ``device`` in a stream of their own, so that one is copied while the GPU works on the batch
    before."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def copied(self, batch: Batch) -> Batch:
        """``batch`` on the device, for what is put into the current stream after this."""
        if self._stream is None:
            return batch.to(self._device)
        with torch.cuda.stream(self._stream):
            there = batch.to(self._device)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        tensors: Sequence[torch.Tensor] = (there.images, *there.targets.values())
        for tensor in tensors:  # whose memory is not used again before the current stream is done with it
            tensor.record_stream(current)
        return there
