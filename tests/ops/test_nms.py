from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision

from detseg.ops.nms import nms, select_detections
from detseg.runtime import nms as numpy_nms


def random_boxes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 200
    size = torch.rand(count, 2, generator=generator) * 80 + 1
    scores = torch.rand(count, generator=generator)
    return torch.cat([corner, corner + size], 1), scores, torch.randint(0, 4, (count,), generator=generator)


@pytest.mark.parametrize("iou", [0.3, 0.6, 0.7])
def test_equals_torchvision_where_all_boxes_are_of_one_class(iou: float) -> None:
    for seed in range(10):
        boxes_xyxy, scores, labels = random_boxes(400, seed)
        keep = nms(boxes_xyxy, scores, torch.zeros_like(labels), iou, max_det=400)
        assert keep.tolist() == torchvision.ops.nms(boxes_xyxy, scores, iou).tolist()
        agnostic = nms(boxes_xyxy, scores, labels, iou, max_det=400, class_agnostic=True)
        assert agnostic.tolist() == keep.tolist()


def test_classes_are_separate_and_max_det_counts_them_together() -> None:
    boxes_xyxy, scores, labels = random_boxes(300, 3)
    per_class = [
        rows[torchvision.ops.nms(boxes_xyxy[rows], scores[rows], 0.4)]
        for rows in (torch.nonzero(labels == label)[:, 0] for label in range(4))
    ]
    expected = torch.cat(per_class)
    expected = expected[scores[expected].argsort(descending=True)]
    assert nms(boxes_xyxy, scores, labels, 0.4, max_det=300).tolist() == expected.tolist()
    assert nms(boxes_xyxy, scores, labels, 0.4, max_det=20).tolist() == expected[:20].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_type_and_tensors_with_gradients(dtype: torch.dtype) -> None:
    boxes_xyxy = torch.tensor([[0, 0, 8, 8], [0, 0, 8, 7], [9, 9, 12, 12]], dtype=dtype, requires_grad=True)
    scores = torch.tensor([0.5, 0.75, 0.25], dtype=dtype, requires_grad=True)
    keep = nms(boxes_xyxy, scores, torch.zeros(3, dtype=torch.int64), 0.5, max_det=10)
    assert keep.dtype == torch.int64
    assert keep.tolist() == [1, 2]
    found = select_detections(boxes_xyxy, scores[:, None], 0.3, 0.5, 10, multi_label=True, class_agnostic=False)
    assert found.scores.tolist() == [0.75]
    assert [array.dtype for array in found] == [np.float32, np.float32, np.int64]


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_same_bits_as_without_torch(multi_label: bool) -> None:
    boxes_xyxy = random_boxes(500, 5)[0]
    scores = torch.rand(500, 7, generator=torch.Generator().manual_seed(0))
    settings = (0.2, 0.6, 100, multi_label, False, 900)
    found = select_detections(boxes_xyxy, scores, *settings)
    expected = numpy_nms.select_detections(boxes_xyxy.numpy(), scores.numpy(), *settings)
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)


def test_errors_come_through() -> None:
    with pytest.raises(ValueError, match="boxes must be Ax4"):
        select_detections(torch.zeros(3, 5), torch.zeros(3, 2), 0.2, 0.5, 10, multi_label=True, class_agnostic=False)
