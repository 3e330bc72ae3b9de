"""Non-maximum suppression for torch tensors.

Tensors of any device and floating type are accepted; the work is done on the CPU, by the operator of the torch-free
runtime, so that training, evaluation and deployment agree to the last bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detseg.arrays import FloatArray
from detseg.runtime import nms as numpy_nms
from detseg.runtime.nms import Candidates


def nms(
    boxes_xyxy: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_threshold: float,
    max_det: int,
    class_agnostic: bool = False,
) -> Tensor:
    """The indices (int64, on the device of ``boxes_xyxy``) of the boxes that survive, best score first.

    ``boxes_xyxy`` ``[N, 4]``, ``scores`` and ``labels`` ``[N]``; rules and errors of :func:`detseg.runtime.nms.nms`.
    """
    keep = numpy_nms.nms(
        _to_numpy(boxes_xyxy),
        _to_numpy(scores),
        labels.detach().cpu().numpy(),
        iou_threshold=iou_threshold,
        max_det=max_det,
        class_agnostic=class_agnostic,
    )
    return torch.from_numpy(keep).to(boxes_xyxy.device)


def select_detections(
    boxes_xyxy: Tensor,
    scores: Tensor,
    conf: float,
    iou: float,
    max_det: int,
    multi_label: bool,
    class_agnostic: bool,
    max_candidates: int = 30_000,
) -> Candidates:
    """The final boxes of one image, best first, as numpy arrays ``(boxes_xyxy, scores, labels)`` in input pixels.

    ``boxes_xyxy`` ``[A, 4]`` and ``scores`` ``[A, C]`` are dense predictions; rules and errors of
    :func:`detseg.runtime.nms.select_detections`.
    """
    return numpy_nms.select_detections(
        _to_numpy(boxes_xyxy), _to_numpy(scores), conf, iou, max_det, multi_label, class_agnostic, max_candidates
    )


def _to_numpy(tensor: Tensor) -> FloatArray:
    return tensor.detach().to("cpu", torch.float32).numpy()
