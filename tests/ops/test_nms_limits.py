"""Limits and types of NMS that its other tests do not reach."""

from __future__ import annotations

import pytest
import torch

from detseg.ops.nms import nms
from detseg.ops.nms_torchvision import batched_nms_by_torchvision


def test_300_of_many_boxes_are_kept_unless_told_otherwise() -> None:
    corners = torch.arange(320.0)[:, None] * 10
    boxes_xyxy = torch.cat((corners, torch.zeros(320, 1), corners + 5, torch.full((320, 1), 5.0)), dim=1)
    scores = torch.linspace(1, 0, 320)
    assert nms(boxes_xyxy, scores, torch.zeros(320, dtype=torch.int64), 0.5).tolist() == [*range(300)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_torchvision_gives_float32_whatever_it_is_given(dtype: torch.dtype) -> None:
    boxes_xyxy = torch.tensor([[[0, 0, 8, 8], [0, 0, 8, 7], [9, 9, 12, 12]]], dtype=dtype)
    scores = torch.tensor([[[0.5], [0.75], [0.25]]], dtype=dtype)
    detections, counts, keep = batched_nms_by_torchvision(boxes_xyxy, scores, 0.1, 0.5, 3, False, False, 100)
    assert (detections.dtype, counts.tolist(), keep.tolist()) == (torch.float32, [2], [[1, 2, -1]])
    assert detections.tolist() == [[[0, 0, 8, 7, 0.75, 0], [9, 9, 12, 12, 0.25, 0], [0] * 6]]
