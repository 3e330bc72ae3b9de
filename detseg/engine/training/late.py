"""Numbers of a training step that the host reads when the next step is on its way, so that a GPU never waits for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class LateValues:
    """The ``values`` ``[N]`` of a device, on their way to the host; :meth:`read` waits for them."""

    def __init__(self, values: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._values = torch.empty_like(values, device="cpu", pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._values = values

    def read(self) -> list[float]:
        """The values, once all work of the device before them is done."""
        if self._event is not None:
            self._event.synchronize()
        numbers: list[float] = self._values.tolist()
        return numbers


@dataclass(frozen=True)
class StepRecord:
    """What is known of optimizer step ``step`` once ``values`` are there: first the number of processes that were told
    to stop, then that of losses that are not finite, the length of the gradient, the normalizer of each micro-batch,
    and the parts of the loss, whose ``names`` are given, each summed over micro-batches and processes. ``paths`` are
    the images of this process."""

    step: int
    paths: tuple[str, ...]
    num_batches: int
    names: tuple[str, ...]
    values: LateValues


@dataclass(frozen=True)
class StepOutcome:
    """A :class:`StepRecord`, read. ``parts`` are the loss, not yet divided by the ``normalizer``, at least 1."""

    was_stopped: bool
    num_failures: int
    gradient_norm: float
    normalizer: float
    parts: dict[str, float]

    @classmethod
    def of(cls, record: StepRecord) -> StepOutcome:
        """Wait for it."""
        stops, failures, norm, *others = record.values.read()
        normalizers, parts = others[: record.num_batches], others[record.num_batches :]
        named = dict(zip(record.names, parts, strict=True))
        return cls(stops > 0, int(failures), norm, max(1.0, sum(normalizers)), named)
