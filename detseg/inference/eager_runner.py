"""Batches through a model one after the other, on any device: the plain way, which all others must agree with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from detseg.inference.base import PredictionTask
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.runner import Finished


class EagerRunner:
    """Places images or volumes on the CPU, as ``spec`` says, by default the task's, and runs ``model``, which is on
    ``device`` and takes ``dtype``, on them. See :class:`detseg.runtime.runner.Runner`."""

    max_in_flight = 1

    def __init__(
        self,
        model: nn.Module,
        task: PredictionTask,
        device: torch.device,
        dtype: torch.dtype,
        spec: InputSpec | VolumeSpec | None = None,
    ) -> None:
        self.spec = spec or task.spec
        self.kind = task.kind
        self._model = model
        self._task = task
        self._device = device
        self._dtype = dtype
        self.default_batch_size = 16 if device.type == "cuda" else 1

    @torch.inference_mode()
    def submit(self, images: Sequence[Any]) -> Finished:
        """All that there is to do for a batch of images ``[H, W, 3]`` uint8 RGB of any sizes that give inputs of one
        size, or for volumes.

        Raises:
            ValueError: an image is none, or their inputs differ in size.
            VolumeError: a volume would become too large.
        """
        placed = [self.spec.place(image) for image in images]
        arrays = torch.from_numpy(np.stack([array for array, _ in placed]))
        inputs = self._task.normalize(arrays.to(self._device).contiguous()).to(self._dtype)
        if self._device.type == "cuda":  # on the CPU models choose for themselves
            inputs = inputs.contiguous(memory_format=self._task.memory_format)
        outputs = self._task.infer(self._model, inputs)
        return Finished(self._task.results(outputs, [placement for _, placement in placed]))
