"""Non-maximum suppression of a batch in five Triton kernels, with fixed shapes and without a word from the host.

``collect`` lists the candidates of every image, or ``collect_from_map`` those of each level of raw maps, ``limit`` cuts
a list that has become too long (rare), ``rank`` sorts tiles of it, ``merge`` joins the tiles, and ``greedy`` compares
chunks of candidates, best first, with the boxes that stay. The work of the last is candidates x ``max_detections``, and
nothing of the size candidates x candidates is ever stored.

Shape legend: B images, A anchors, C classes, K room for candidates, M the largest number of detections.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError

from detseg.ops.kernels.candidates import collect, key_score, limit
from detseg.ops.kernels.maps import KINDS, collect_from_map, scores_from_map
from detseg.ops.kernels.sorting import merge, rank
from detseg.runtime.postprocess.config import HeadKind, count_box_channels
from detseg.runtime.postprocess.nms import floor_to_float32, lowest_logit

Outputs = tuple[Tensor, Tensor, Tensor]

MAX_IMAGES = 65_535
"""Images of a launch: CUDA's grids end there on their second axis."""
_ROOM = 65_536
"""Candidates per image that there is room for at least, if there can be so many; beyond it ``limit`` has to work."""
_TILE = 1024
_BLOCK = 64
_PROGRAMS = 512
"""Programs that share the sorting of all images; each goes on to the next block when it has done one."""
_FEW = 16
"""Programs for an image of what is rarely needed: they begin and end in no time."""
_ROUNDING = {"enable_fp_fusion": False}
"""Every operation rounds, as in numpy: a fused multiply-add would change what is kept."""


@triton.jit
def suppresses(left, top, right, bottom, left_w, top_w, right_w, bottom_w, iou):
    """``[better, worse]``: whether the IoU of two boxes is above ``iou``. A box that is not finite has an area
    that is NaN or leads to one, which is above nothing."""
    area = (right - left) * (bottom - top)
    area_w = (right_w - left_w) * (bottom_w - top_w)
    width = tl.minimum(right[:, None], right_w[None, :]) - tl.maximum(left[:, None], left_w[None, :])
    height = tl.minimum(bottom[:, None], bottom_w[None, :]) - tl.maximum(top[:, None], top_w[None, :])
    overlap = tl.maximum(width, 0.0) * tl.maximum(height, 0.0)
    return tl.div_rn(overlap, area[:, None] + area_w[None, :] - overlap) > iou


@triton.jit
def load_box(corner, stride_xy, mask):
    """Left, top, right and bottom as float32."""
    left = tl.load(corner, mask=mask, other=0).to(tl.float32)
    top = tl.load(corner + stride_xy, mask=mask, other=0).to(tl.float32)
    right = tl.load(corner + 2 * stride_xy, mask=mask, other=0).to(tl.float32)
    bottom = tl.load(corner + 3 * stride_xy, mask=mask, other=0).to(tl.float32)
    return left, top, right, bottom


@triton.jit(do_not_specialize=["capacity", "max_candidates", "max_detections", "iou"])
def greedy(
    boxes, labels, keys, num_found, detections, counts, keep,
    stride_b, stride_a, stride_xy, stride_label_b, stride_label_a, capacity, max_candidates, max_detections, iou,
    NUM_CLASSES: tl.constexpr, CLASS_AGNOSTIC: tl.constexpr, LABELED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sorted keys ``[B, K]`` -> detections ``[B, M, 6]``, counts ``[B]`` and anchors ``[B, M]``, one program an image.

    Chunks of ``BLOCK`` candidates are compared with the boxes that are kept, then among themselves: those stay that are
    not suppressed by one that stays, again and again until nothing changes. As a box depends on better ones only, the
    i-th is settled after i rounds, and the end is what a loop over single boxes would give; usually a few rounds do.
    """
    image = tl.program_id(0).to(tl.int64)
    boxes += image * stride_b
    labels += image * stride_label_b
    keys += image * capacity
    detections += image * max_detections * 6
    keep += image * max_detections
    lanes = tl.arange(0, BLOCK)
    num_candidates = tl.minimum(tl.minimum(tl.load(num_found + image), capacity), max_candidates)
    num_kept = tl.zeros([], tl.int32)
    start = 0
    while (start < num_candidates) & (num_kept < max_detections):
        alive = start + lanes < num_candidates
        key = tl.load(keys + start + lanes, mask=alive, other=0xFFFFFFFF)
        place = (0xFFFFFFFF - (key & 0xFFFFFFFF)).to(tl.int32)
        anchor = (place // NUM_CLASSES).to(tl.int64)
        if LABELED:
            label = tl.load(labels + anchor * stride_label_a, mask=alive, other=0)
        else:
            label = place % NUM_CLASSES
        left, top, right, bottom = load_box(boxes + anchor * stride_a, stride_xy, alive)
        # Before the loop below: Triton 3.6 cannot compile it after.
        within = suppresses(left, top, right, bottom, left, top, right, bottom, iou)
        within = within & (lanes[:, None] < lanes[None, :])
        if not CLASS_AGNOSTIC:
            within = within & (label[:, None] == label[None, :])
        first = 0
        while first < num_kept:
            rows = first + lanes
            kept = rows < num_kept
            left_k, top_k, right_k, bottom_k = load_box(detections + rows * 6, 1, kept)
            beats = suppresses(left_k, top_k, right_k, bottom_k, left, top, right, bottom, iou)
            if not CLASS_AGNOSTIC:
                if LABELED:  # a label may be too large to be exact in a row of float32
                    anchor_k = tl.load(keep + rows, mask=kept, other=0)
                    label_k = tl.load(labels + anchor_k * stride_label_a, mask=kept, other=0)
                else:
                    label_k = tl.load(detections + rows * 6 + 5, mask=kept, other=0).to(tl.int32)
                beats = beats & (label_k[:, None] == label[None, :])
            alive = alive & (tl.max((beats & kept[:, None]).to(tl.int32), axis=0) == 0)
            first += BLOCK
        stays = alive.to(tl.int32)
        num_changed = 1
        while num_changed > 0:
            beaten = tl.max(within.to(tl.int32) & stays[:, None], axis=0)
            settled = alive.to(tl.int32) & (1 - beaten)
            num_changed = tl.sum(settled ^ stays)
            stays = settled
        row = num_kept + tl.cumsum(stays, 0) - 1
        written = (stays != 0) & (row < max_detections)
        corner = detections + row * 6
        tl.store(corner, left, mask=written)
        tl.store(corner + 1, top, mask=written)
        tl.store(corner + 2, right, mask=written)
        tl.store(corner + 3, bottom, mask=written)
        tl.store(corner + 4, key_score(key), mask=written)
        tl.store(corner + 5, label.to(tl.float32), mask=written)
        tl.store(keep + row, anchor, mask=written)
        num_kept = tl.minimum(num_kept + tl.sum(stays), max_detections)
        start += BLOCK
        tl.debug_barrier()  # the next chunk is compared with the rows that other threads have just written
    first = num_kept
    while first < max_detections:
        rows = first + lanes
        tl.store(keep + rows, tl.full([BLOCK], -1, tl.int64), mask=rows < max_detections)
        for column in range(6):
            tl.store(detections + rows * 6 + column, tl.zeros([BLOCK], tl.float32), mask=rows < max_detections)
        first += BLOCK
    tl.store(counts + image, num_kept.to(tl.int64))


def launch_nms(
    boxes_xyxy: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    confidence: float,
    iou: float,
    max_detections: int,
    multi_label: bool,
    class_agnostic: bool,
    max_candidates: int,
    out: Outputs,
) -> Outputs:
    """Run the kernels on the current stream of the tensors' device; arguments and results of
    ``detseg::batched_nms_topk``, written to ``out``: every place of it, whatever it holds before.

    Raises:
        ValueError: there are 2^31 scores or more in an image.
        RuntimeError: Triton cannot compile or run the kernels on this GPU.
    """
    num_images, num_anchors, num_classes = scores.shape
    if num_anchors * num_classes >= 2**31:
        raise ValueError(f"an image has {num_anchors} x {num_classes} scores, NMS takes fewer than 2^31")
    boxes_xyxy, scores = (x.float() if x.dtype == torch.float64 else x for x in (boxes_xyxy, scores))
    detections, counts, keep = out
    if num_images == 0:
        return out
    if num_images > MAX_IMAGES:
        for first in range(0, num_images, MAX_IMAGES):
            part = slice(first, first + MAX_IMAGES)
            given_labels = None if labels is None else labels[part]
            launch_nms(
                boxes_xyxy[part], scores[part], given_labels, confidence, iou, max_detections, multi_label,
                class_agnostic, max_candidates, (detections[part], counts[part], keep[part]),
            )  # fmt: skip
        return out
    if labels is not None:
        multi_label, max_candidates = False, num_anchors
    num_places = num_anchors * num_classes if multi_label else num_anchors
    lists = _Lists(scores, num_images, max(num_anchors, min(num_places, max(_ROOM, max_candidates))))
    block_a, block_c = _block(num_classes)
    source = (*scores.stride(), num_anchors)
    confidence = float(floor_to_float32(confidence))
    given = boxes_xyxy if labels is None else labels
    with _compiled_on(scores):
        collect[(triton.cdiv(num_anchors, block_a), num_images)](
            scores, lists.keys, lists.num_found, *source, lists.capacity, confidence,
            num_classes, multi_label, labels is not None, block_a, block_c, num_warps=8, **_ROUNDING,
        )  # fmt: skip
        if lists.capacity < num_places:
            limit[(num_images,)](
                scores, lists.keys, lists.num_found, *source, lists.capacity, max_candidates, confidence,
                num_classes, block_a, block_c, num_warps=8, **_ROUNDING,
            )  # fmt: skip
        _keep_best(boxes_xyxy, given, lists, num_classes, class_agnostic, labels is not None, max_candidates, iou, out)
    return out


def launch_nms_of_maps(
    levels: Sequence[Tensor],
    kept: Tensor | None,
    kind: str,
    strides: Sequence[int],
    reg_max: int,
    confidence: float,
    iou: float,
    max_detections: int,
    multi_label: bool,
    class_agnostic: bool,
    max_candidates: int,
    out: Outputs,
) -> Outputs:
    """The same for raw maps ``[B, channels, H, W]``, see ``detseg::nms_of_maps``.

    Raises:
        ValueError, RuntimeError: as for :func:`launch_nms`.
    """
    num_images, num_channels = levels[0].shape[:2]
    num_anchors = sum(level.shape[2] * level.shape[3] for level in levels)
    num_classes = num_channels - count_box_channels(cast(HeadKind, kind), reg_max)
    if num_anchors * num_classes >= 2**31:
        raise ValueError(f"an image has {num_anchors} x {num_classes} scores, NMS takes fewer than 2^31")
    if num_images == 0:
        return out
    if num_images > MAX_IMAGES:
        for first in range(0, num_images, MAX_IMAGES):
            part = slice(first, first + MAX_IMAGES)
            launch_nms_of_maps(
                [level[part] for level in levels], kept, kind, strides, reg_max, confidence, iou, max_detections,
                multi_label, class_agnostic, max_candidates, (out[0][part], out[1][part], out[2][part]),
            )  # fmt: skip
        return out
    num_places = num_anchors * num_classes if multi_label else num_anchors
    lists = _Lists(levels[0], num_images, max(num_anchors, min(num_places, max(_ROOM, max_candidates))))
    boxes_xyxy = levels[0].new_empty((num_images, num_anchors, 4), dtype=torch.float32)
    block_a, block_c = _block(num_classes)
    limits = float(floor_to_float32(confidence)), lowest_logit(confidence)
    head = KINDS[kind], reg_max, num_classes
    chosen = levels[0] if kept is None else kept
    with _compiled_on(levels[0]):
        first_anchor = 0
        for level, stride in zip(levels, strides, strict=True):
            cells = level.flatten(2)
            num_cells = cells.shape[2]
            collect_from_map[(triton.cdiv(num_cells, block_a), num_images)](
                cells, chosen, boxes_xyxy, lists.keys, lists.num_found, *cells.stride(), num_cells, level.shape[3],
                float(stride), first_anchor, num_anchors, lists.capacity, *limits,
                *head, multi_label, kept is not None, block_a, block_c, num_warps=8, **_ROUNDING,
            )  # fmt: skip
            first_anchor += num_cells
        if lists.capacity < num_places:
            scores = levels[0].new_empty((num_images, num_anchors, num_classes), dtype=torch.float32)
            first_anchor = 0
            for level in levels:
                cells = level.flatten(2)
                num_cells = cells.shape[2]
                scores_from_map[(min(_FEW, triton.cdiv(num_cells, block_a)), num_images)](
                    cells, chosen, scores, lists.num_found, *cells.stride(), num_cells, first_anchor, num_anchors,
                    lists.capacity, *head, kept is not None, block_a, block_c, num_warps=8, **_ROUNDING,
                )  # fmt: skip
                first_anchor += num_cells
            limit[(num_images,)](
                scores, lists.keys, lists.num_found, *scores.stride(), num_anchors, lists.capacity, max_candidates,
                limits[0], num_classes, block_a, block_c, num_warps=8, **_ROUNDING,
            )  # fmt: skip
        _keep_best(boxes_xyxy, boxes_xyxy, lists, num_classes, class_agnostic, False, max_candidates, iou, out)
    return out


class _Lists:
    """Memory beside ``like`` for the candidates of so many images, ``capacity`` each, and how many there are."""

    def __init__(self, like: Tensor, num_images: int, capacity: int) -> None:
        # Every anchor has room, so that only several classes of an anchor can be too many.
        self.capacity = max(1, capacity)
        self.keys, self.ranked = like.new_empty((2, num_images, self.capacity), dtype=torch.int64)
        self.num_found = like.new_zeros(num_images, dtype=torch.int32)


def _block(num_classes: int) -> tuple[int, int]:
    """How many anchors and classes a program reads at a time."""
    block_c = min(128, triton.next_power_of_2(max(num_classes, 1)))
    return max(32, min(1024, 4096 // block_c)), block_c


def _keep_best(
    boxes_xyxy: Tensor, given: Tensor, lists: _Lists, num_classes: int, class_agnostic: bool, labeled: bool,
    max_candidates: int, iou: float, out: Outputs,
) -> None:  # fmt: skip
    """Sort the lists, and write what the greedy pass keeps."""
    num_images, capacity = len(boxes_xyxy), lists.capacity
    keys, ranked, num_found = lists.keys, lists.ranked, lists.num_found
    detections, counts, keep = out
    grid = (max(1, min(triton.cdiv(capacity, _BLOCK), _PROGRAMS // num_images)), num_images)
    rank[grid](keys, ranked, num_found, capacity, _TILE, _BLOCK, num_warps=4, **_ROUNDING)
    steps = _TILE.bit_length()
    merge[grid](ranked, keys, num_found, capacity, _TILE, steps, _BLOCK, num_warps=4, **_ROUNDING)
    greedy[(num_images,)](
        boxes_xyxy, given, keys, num_found, detections, counts, keep,
        *boxes_xyxy.stride(), *given.stride()[:2], capacity, max_candidates, detections.shape[1],
        float(floor_to_float32(iou)),
        num_classes, class_agnostic, labeled, _BLOCK, num_warps=8, **_ROUNDING,
    )  # fmt: skip


@contextmanager
def _compiled_on(tensor: Tensor) -> Iterator[None]:
    """On the GPU of ``tensor``; what Triton cannot compile or run is a RuntimeError that says what to do."""
    try:
        with torch.cuda.device_of(tensor):
            yield
    except TritonError as error:
        raise RuntimeError(
            f"Triton could not compile or run the NMS kernels on {tensor.device}: {error}; the torchvision backend "
            "does without them (task.postprocess.nms_backend=torchvision)"
        ) from error
