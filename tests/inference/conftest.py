"""A detector without training and its task; and a GPU's stream without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detseg.ops.nms import batched_nms
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.kinds import load_kind
from detseg.structures import Detections, LetterboxTransform
from detseg.tasks.detection import DetectionTaskConfig


class BrightSpots(nn.Module):
    """Every cell of 8 x 8 pixels is a box, its score the brightness of its green."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(8)
        self.noise = nn.Dropout(0.9)
        self.batch_sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batch_sizes.append(len(images))
        scores: Tensor = self.noise(self.pool(images)[:, 1])
        return scores


class SpotTask:
    """Turns the brightness of cells into detections, with the real NMS and the real way back to the image."""

    spec = InputSpec(64, 64, pad_value=0)
    stride = 8
    config = DetectionTaskConfig(input=spec)
    memory_format = torch.channels_last
    kind = load_kind("boxes")

    def normalize(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        assert images.is_contiguous()
        return images.float() / 255

    def infer(self, model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        scores = model(images)
        rows, columns = scores.shape[1:]
        top, left = torch.meshgrid(torch.arange(rows) * 8.0, torch.arange(columns) * 8.0, indexing="ij")
        boxes_xyxy = torch.stack([left, top, left + 8, top + 8], dim=-1).reshape(1, -1, 4)
        boxes_xyxy = boxes_xyxy.to(images.device).expand(len(images), -1, -1)
        found = batched_nms(boxes_xyxy, scores.flatten(1)[..., None], confidence=0.8, iou=0.5, max_detections=50)
        return found.detections, found.counts

    def results(self, outputs: tuple[Tensor, Tensor], transforms: Sequence[LetterboxTransform]) -> list[Detections]:
        detections, counts = (output.cpu().numpy() for output in outputs)
        results = []
        for rows, count, transform in zip(detections, counts, transforms, strict=True):
            found = rows[:count]
            boxes_in_original = transform.to_original(found[:, :4])
            results.append(Detections(boxes_in_original, found[:, 4].copy(), found[:, 5].astype(np.int64)))
        return results


class DeferredStream:
    """Does everything as late as the host can notice: what a GPU that is far behind would do."""

    num_captures = 0

    def __init__(self, device: torch.device) -> None:
        assert device.type == "cpu"
        self.waiting: list[Callable[[], object]] = []

    def put(self, work: Callable[[], object]) -> None:
        self.waiting.append(work)

    def finish(self, work: Callable[[], Any]) -> Any:
        waiting, self.waiting = self.waiting, []
        for earlier in waiting:
            earlier()
        return work()

    def capture(self, program: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        assert not self.waiting
        type(self).num_captures += 1
        outputs = program()

        def replay() -> None:
            for there, new in zip(as_tuple(outputs), as_tuple(program()), strict=True):
                there.copy_(new)

        return replay, outputs


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


@pytest.fixture
def spot_model() -> BrightSpots:
    return BrightSpots()


@pytest.fixture
def spot_task() -> SpotTask:
    return SpotTask()


@pytest.fixture
def deferred_stream() -> type[DeferredStream]:
    """A class that counts its captures from 0."""
    return type("CountingStream", (DeferredStream,), {"num_captures": 0})
