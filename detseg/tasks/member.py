"""A model in torch as a member of an ensemble."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from detseg.arrays import FloatArray
from detseg.runtime.inputs.volume_boxes import VolumeBoxes
from detseg.runtime.postprocess.streamed import Look
from detseg.tasks.base import Task


class TorchMember:
    """``model``, on ``device`` and in evaluation mode, with its ``task``, whose ``infer`` gives probabilities. See
    :class:`detseg.runtime.ensemble.Member`."""

    def __init__(self, model: nn.Module, task: Task, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.spec = task.spec
        self.kind = task.kind
        self._model = model
        self._task = task
        self._device = device
        self._dtype = dtype

    def look(self, image: Any) -> Look:
        """How the model looks at ``image``. See :class:`detseg.runtime.ensemble.Member`.

        Raises:
            VolumeError: a volume would become too large.
        """
        task: Any = self._task
        boxes = VolumeBoxes(image, task.spec)
        look: Look = task.look(self._model, boxes, self._device, self._dtype)
        return look

    @torch.inference_mode()
    def probabilities(self, image: Any) -> tuple[FloatArray, Any]:
        """Those of the classes ``[C, *spatial]`` everywhere at once in the grid of the input, and the way back.

        Raises:
            VolumeError: a volume would become too large.
        """
        array, transform = self.spec.place(image)
        inputs = self._task.normalize(torch.from_numpy(array[None]).to(self._device)).to(self._dtype)
        found: FloatArray = self._task.infer(self._model, inputs)[0].float().cpu().numpy()
        return found, transform

    def result_of(self, probabilities: FloatArray, transform: Any, *, keeps_probabilities: bool = False) -> Any:
        """See :class:`detseg.runtime.ensemble.Member`."""
        task: Any = self._task
        return task.result_of(probabilities, transform, keeps_probabilities=keeps_probabilities)
