from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from detseg.ops import nms as module
from detseg.ops.nms import BatchedDetections, batched_nms, nms
from detseg.runtime.postprocess import nms as runtime_nms

Images = Callable[..., tuple[Tensor, Tensor]]
Mismatches = Callable[..., list[str]]

SETTINGS = [
    {"confidence": confidence, "iou": iou, "multi_label": multi_label, "class_agnostic": class_agnostic}
    for iou, confidence, multi_label, class_agnostic in itertools.product(
        (0.45, 0.6, 0.7), (0.001, 0.25), (False, True), (False, True)
    )
]
FINITE = ("random", "clustered", "tied", "integer", "degenerate", "duplicates", "far")
USUAL = {"confidence": 0.25, "iou": 0.5}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("settings", SETTINGS)
def test_equals_the_oracle(
    settings: dict[str, Any], dtype: torch.dtype, images: Images, mismatches: Mismatches
) -> None:
    for seed, (num_anchors, max_detections, max_candidates) in enumerate([(200, 300, 30_000), (150, 20, 60)]):
        boxes_xyxy, scores = (tensor.to(dtype) for tensor in images(num_anchors, 3, seed))
        options = {**settings, "max_detections": max_detections, "max_candidates": max_candidates}
        assert mismatches(batched_nms(boxes_xyxy, scores, **options), boxes_xyxy, scores, **options) == []


@pytest.mark.parametrize("settings", SETTINGS)
def test_torchvision_gives_the_same(settings: dict[str, Any], images: Images, mismatches: Mismatches) -> None:
    """On boxes that are finite."""
    boxes_xyxy, scores = images(150, 3, 5, FINITE)
    for max_detections, max_candidates in ((300, 30_000), (20, 60)):
        options = {**settings, "max_detections": max_detections, "max_candidates": max_candidates}
        found = batched_nms(boxes_xyxy, scores, **options, backend="torchvision")
        assert mismatches(found, boxes_xyxy, scores, **options) == []


@pytest.mark.parametrize("backend", ["detseg", "torchvision"])
@pytest.mark.parametrize("shape", [(0, 5, 2), (2, 0, 2), (2, 5, 0)])
def test_nothing_to_suppress(shape: tuple[int, int, int], backend: str) -> None:
    boxes_xyxy, scores = torch.rand(*shape[:2], 4), torch.rand(shape)
    for multi_label in (False, True):
        found = batched_nms(boxes_xyxy, scores, **USUAL, multi_label=multi_label, backend=backend)
        assert found.counts.tolist() == [0] * shape[0]
        assert torch.equal(found.detections, torch.zeros(shape[0], 300, 6))
        assert torch.equal(found.keep, torch.full((shape[0], 300), -1))


def test_any_strides(images: Images) -> None:
    boxes_xyxy, scores = images(90, 4, 6)
    expected = batched_nms(boxes_xyxy, scores, **USUAL)
    rows = torch.cat([boxes_xyxy, scores], dim=2)
    columns = rows.transpose(1, 2).contiguous()
    for predictions in (rows, columns.transpose(1, 2)):
        found = batched_nms(predictions[..., :4], predictions[..., 4:], **USUAL)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_double_precision_and_gradients() -> None:
    boxes_xyxy = torch.tensor([[[0, 0, 8, 8], [0, 0, 8, 7], [9, 9, 12, 12]]], dtype=torch.float64, requires_grad=True)
    scores = torch.tensor([[[0.5], [0.75], [0.25 + 1e-12]]], dtype=torch.float64, requires_grad=True)
    found = batched_nms(boxes_xyxy, scores, **USUAL)
    assert found.detections.dtype == torch.float32
    assert found.keep[0, :2].tolist() == [1, -1]  # 0.25 + 1e-12 is 0.25 in float32
    with pytest.raises(RuntimeError, match="no autograd formula"):
        found.detections.sum().backward()


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_boxes_with_one_label_each(class_agnostic: bool, images: Images, mismatches: Mismatches) -> None:
    """Whatever the score, if it is a number."""
    boxes_xyxy, scores = images(180, 1, 7)
    scores -= 0.5
    labels = torch.arange(180) % 3
    for image, (boxes, values) in enumerate(zip(boxes_xyxy, scores[..., 0], strict=True)):
        keep = nms(boxes, values, labels, 0.6, class_agnostic=class_agnostic)
        assert keep.dtype == torch.int64
        padded = torch.nn.functional.pad(keep, (0, 300 - len(keep)), value=-1)
        detections = torch.zeros(1, 300, 6)
        detections[0, : len(keep)] = torch.cat([boxes[keep], values[keep, None], labels[keep, None].float()], dim=1)
        found = (detections, torch.tensor([len(keep)]), padded[None])
        options = {"confidence": 0.0, "iou": 0.6, "class_agnostic": class_agnostic}
        assert mismatches(found, boxes[None], values[None, :, None], labels[None], **options) == [], f"image {image}"


@pytest.mark.parametrize("iou", [0.3, 0.6, 0.7])
def test_equals_torchvision_where_all_boxes_are_of_one_class(iou: float, images: Images) -> None:
    """And where scores are unequal, as torchvision does not say which of equal ones is first."""
    for boxes_xyxy, scores in zip(*images(400, 1, 8, ["random", "clustered", "far"] * 3), strict=True):
        keep = nms(boxes_xyxy, scores[:, 0], torch.zeros(400, dtype=torch.int64), iou, max_detections=400)
        assert keep.tolist() == torchvision.ops.nms(boxes_xyxy, scores[:, 0], iou).tolist()


@pytest.mark.parametrize("labeled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_operator_is_what_it_says_it_is(labeled: bool, dtype: torch.dtype, images: Images) -> None:
    """Schema, fake implementation (also with shapes that are not known) and registration for gradients."""
    boxes_xyxy, scores = (tensor.to(dtype) for tensor in images(20, 1 if labeled else 3, 9, FINITE))
    labels = torch.zeros(len(FINITE), 20, dtype=torch.int64) if labeled else None
    arguments = (boxes_xyxy, scores, labels, 0.25, 0.5, 30, not labeled, False, 1000)
    outcome = torch.library.opcheck(torch.ops.detseg.batched_nms_topk.default, arguments)
    assert set(outcome.values()) == {"SUCCESS"}


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_into_one_graph(dynamic: bool, images: Images) -> None:
    def halve(boxes_xyxy: Tensor, scores: Tensor) -> BatchedDetections:
        return batched_nms(boxes_xyxy / 2, scores / 2, **USUAL)

    compiled = torch.compile(halve, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for num_anchors in (30, 50):
        boxes_xyxy, scores = images(num_anchors, 3, num_anchors, FINITE)
        for one, other in zip(compiled(boxes_xyxy, scores), halve(boxes_xyxy, scores), strict=True):
            assert torch.equal(one, other)


BOXES, SCORES = torch.zeros(2, 3, 4), torch.zeros(2, 3, 5)


@pytest.mark.parametrize("backend", ["detseg", "torchvision"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes_xyxy": torch.zeros(2, 3, 5)}, r"BxAx4 and scores BxAxC, got \(2, 3, 5\) and \(2, 3, 5\)"),
        ({"boxes_xyxy": torch.zeros(1, 3, 4)}, r"got \(1, 3, 4\) and \(2, 3, 5\)"),
        ({"scores": torch.zeros(2, 3)}, r"got \(2, 3, 4\) and \(2, 3\)"),
        ({"boxes_xyxy": BOXES.long()}, "floating point, got torch.int64 and torch.float32"),
        ({"confidence": 1.5}, "confidence must be from 0 to 1, got 1.5"),
        ({"iou": float("nan")}, "iou must be from 0 to 1, got nan"),
        ({"iou": -0.1}, "iou must be from 0 to 1, got -0.1"),
        ({"max_detections": 0}, "max_detections must be at least 1, got 0"),
        ({"max_candidates": 0}, "max_candidates must be at least 1, got 0"),
    ],
)
def test_impossible_requests_are_refused(changes: dict[str, Any], message: str, backend: str) -> None:
    with pytest.raises(ValueError, match=message):
        batched_nms(**{"boxes_xyxy": BOXES, "scores": SCORES, "backend": backend, **USUAL, **changes})


def test_other_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="must be auto, detseg or torchvision, got 'tensorrt'"):
        batched_nms(BOXES, SCORES, **USUAL, backend="tensorrt")
    with pytest.raises(ValueError, match=r"got \(3, 4\), \(3,\), \(2,\)"):
        nms(BOXES[0], SCORES[0, :, 0], torch.zeros(2), 0.5)
    with pytest.raises(ValueError, match=r"scores are BxAx1, got \(2, 3\) and \(2, 3, 5\)"):
        torch.ops.detseg.batched_nms_topk(BOXES, SCORES, torch.zeros(2, 3), 0.1, 0.5, 10, False, False, 10)


def test_without_triton_a_gpu_gets_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is called for tensors on a GPU, called for tensors on the CPU."""
    for name in [name for name in sys.modules if name.startswith("detseg.ops.kernels.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(RuntimeError, match="needs Triton, which is not installed: pip install triton"):
        module._on_cuda(BOXES, SCORES, None, 0.1, 0.5, 10, False, False, 10)


@pytest.mark.parametrize("backend", ["detseg", "torchvision"])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_classes_are_chosen_as_in_the_runtime(
    backend: Any, multi_label: bool, class_agnostic: bool, images: Images
) -> None:
    boxes_xyxy, scores = images(200, 4, seed=7)
    kept = torch.tensor([False, True, False, True])
    limits = {"confidence": 0.05, "iou": 0.5, "max_detections": 12}
    settings: dict[str, Any] = {**limits, "multi_label": multi_label, "class_agnostic": class_agnostic}
    found = batched_nms(boxes_xyxy, scores, **settings, backend=backend, kept=kept)
    everything = batched_nms(boxes_xyxy, scores, **settings, backend=backend)
    assert not torch.equal(found.keep, everything.keep)
    for image, count in enumerate(found.counts.tolist()):
        arrays = boxes_xyxy[image].numpy(), scores[image].numpy()
        expected = runtime_nms.select_detections(*arrays, **settings, kept=kept.numpy())
        assert found.keep[image, :count].tolist() == expected.anchors.tolist()
        assert found.detections[image, :count, 5].tolist() == expected.labels.tolist()
        assert np.isin(expected.labels, [1, 3]).all()
    assert found.counts.max() == 12
    assert torch.equal(scores.nan_to_num(), images(200, 4, seed=7)[1].nan_to_num()), "the scores are left as they are"
