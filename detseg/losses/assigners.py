"""Which prediction answers for which ground truth: task-aligned assignment, one-to-one assignment and SimOTA.

Pure functions without gradient. Their results are deterministic: of equally good points a ground truth takes the first,
and of ground truths equally good for a point the first gets it. A prediction that is NaN counts as the best, so that it
becomes positive and the loss shows it.

Shapes: ``B`` images, ``M`` ground truths per image including padding (label -1), ``A`` anchor points, ``C`` classes;
``G`` ground truths without padding (of the whole batch, in SimOTA of one image); ``P`` pairs
of a ground truth and a point; ``K`` candidate points of one image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from detseg.losses.checks import on_host
from detseg.ops.boxes import box_iou, ciou

BACKGROUND = -1


@dataclass(frozen=True, slots=True)
class Assignment:
    """The ground truth of every anchor point.

    ``foreground`` ``[B, A]`` bool; ``index`` ``[B, A]`` int64, the position of the point's ground truth among the ``M``
    of its image, -1 for background; ``target_scores`` ``[B, A]`` float32, what the class score of the point should be,
    0 for background.
    """

    foreground: Tensor
    index: Tensor
    target_scores: Tensor

    @classmethod
    def all_background(cls, num_images: int, num_points: int, device: torch.device) -> Assignment:
        """No point has a ground truth."""
        shape = (num_images, num_points)
        return cls(
            torch.zeros(shape, dtype=torch.bool, device=device),
            torch.full(shape, BACKGROUND, device=device),
            torch.zeros(shape, device=device),
        )


@torch.no_grad()
def task_aligned_assign(
    predicted_xyxy: Tensor,
    class_logits: Tensor,
    points_xy: Tensor,
    boxes_xyxy: Tensor,
    labels: Tensor,
    *,
    top_k: int = 10,
    alpha: float = 0.5,
    beta: float = 6.0,
    min_side: float = 16.0,
    min_target: float = 0.0,
) -> Assignment:
    """Task-aligned assignment (TOOD, arXiv 2108.07755, section 3.2) with CIoU.

    A ground truth's candidates are the points strictly inside its box, where a side under ``min_side`` counts as that
    long. It claims its ``top_k`` candidates by alignment, ``score ** alpha * max(CIoU, 0) ** beta``. A point claimed
    more than once goes to the highest CIoU among all ground truths it is a candidate of, even one that did not claim
    it, as in YOLOv8. The target score is the alignment, scaled per ground truth such that the best equals the best
    CIoU, or ``min_target`` where that is more. Without such a minimum a ground truth that all its candidates miss has
    targets of next to zero, which weigh its losses too, so that it may never be learned.

    ``predicted_xyxy`` ``[B, A, 4]``, ``points_xy`` ``[A, 2]`` and ``boxes_xyxy`` ``[B, M, 4]`` in pixels;
    ``class_logits`` ``[B, A, C]``; ``labels`` ``[B, M]`` int64, -1 is padding.
    """
    num_images, num_points = predicted_xyxy.shape[:2]
    pairs = _aligned_pairs(predicted_xyxy, class_logits, points_xy, boxes_xyxy, labels, alpha, beta, min_side)
    if len(pairs.box) == 0:
        return Assignment.all_background(num_images, num_points, predicted_xyxy.device)

    box, slot, point, image, overlap, alignment, num_candidates = pairs
    flat_point, num_flat_points = image * num_points + point, num_images * num_points
    claimed = _best_of_each_box(box, alignment, num_candidates, top_k)
    num_claims = torch.zeros_like(flat_point[:1]).repeat(num_flat_points).scatter_add(0, flat_point, claimed.long())
    preferred = _best_of_each_point(flat_point, overlap, box, num_flat_points)
    positive = torch.where(num_claims[flat_point] > 1, preferred, claimed)

    # The others stay, as nothing: to leave them out the host would have to wait for their number.
    overlap, alignment = (x.where(positive, 0) for x in (overlap, alignment))
    best = torch.zeros(2, len(num_candidates), device=overlap.device)
    best_overlap, best_alignment = best.scatter_reduce(1, box.expand(2, -1), torch.stack((overlap, alignment)), "amax")
    target_scores = alignment * best_overlap[box] / (best_alignment[box] + 1e-9)
    if min_target > 0:
        relative = torch.where(best_alignment[box] > 0, alignment / best_alignment[box], 1.0)
        target_scores = torch.maximum(target_scores, min_target * relative)
    # A point has one positive pair at the most, so that these sums are its values, or 0.
    slots = torch.where(positive, slot + 1, 0)
    index = torch.zeros_like(num_claims).scatter_add(0, flat_point, slots).view(num_images, num_points) - 1
    scores = torch.zeros(num_flat_points, device=overlap.device)
    scores = scores.scatter_add(0, flat_point, target_scores.where(positive, 0)).view(num_images, num_points)
    return Assignment(index >= 0, index, scores)


@torch.no_grad()
def one_to_one_assign(
    predicted_xyxy: Tensor,
    class_logits: Tensor,
    points_xy: Tensor,
    boxes_xyxy: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.5,
    beta: float = 6.0,
    min_side: float = 16.0,
    min_target: float = 0.0,
) -> Assignment:
    """One point for each ground truth, by the alignment of :func:`task_aligned_assign`: the consistent matching metric
    of YOLOv10 (arXiv 2405.14458, section 3.1, equation 2), which there takes the best candidate of each.

    Where several ground truths have the same best candidate, it goes to the one it is aligned with best, and the others
    take the best that is left: pairs are taken from the best aligned down, each point and each ground truth once. So
    everyone has a point unless others took all of its candidates. The target score is the CIoU, or ``min_target`` where
    that is more. Arguments and shapes are those of :func:`task_aligned_assign`.
    """
    num_images, num_points = predicted_xyxy.shape[:2]
    assignment = Assignment.all_background(num_images, num_points, predicted_xyxy.device)
    pairs = _aligned_pairs(predicted_xyxy, class_logits, points_xy, boxes_xyxy, labels, alpha, beta, min_side)
    if len(pairs.box) == 0:
        return assignment
    flat_point, num_flat_points = pairs.image * num_points + pairs.point, num_images * num_points
    keys = _sort_keys(pairs.alignment) + torch.arange(len(pairs.box) - 1, -1, -1, device=pairs.box.device)
    taken, is_open = torch.zeros_like(pairs.box, dtype=torch.bool), torch.ones_like(pairs.box, dtype=torch.bool)
    # A pair that is the best one left of its ground truth and of its point is taken in any order; the best of all is
    # such a pair, so that this ends.
    while bool(is_open.any()):
        left = keys.where(is_open, -1)
        best_of_box = left.new_full((len(pairs.num_candidates),), -1).scatter_reduce(0, pairs.box, left, "amax")
        best_of_point = left.new_full((num_flat_points,), -1).scatter_reduce(0, flat_point, left, "amax")
        found = is_open & (left == best_of_box[pairs.box]) & (left == best_of_point[flat_point])
        taken |= found
        done_boxes = torch.zeros_like(best_of_box, dtype=torch.bool).index_fill(0, pairs.box[found], True)
        done_points = torch.zeros_like(best_of_point, dtype=torch.bool).index_fill(0, flat_point[found], True)
        is_open &= ~(done_boxes[pairs.box] | done_points[flat_point])
    image, point = pairs.image[taken], pairs.point[taken]
    assignment.foreground[image, point] = True
    assignment.index[image, point] = pairs.slot[taken]
    assignment.target_scores[image, point] = pairs.overlap[taken].clamp(min=min_target)
    return assignment


@torch.no_grad()
def simota_assign(
    predicted_xyxy: Tensor,
    class_logits: Tensor,
    objectness_logits: Tensor,
    points_xy: Tensor,
    stride_per_point: Tensor,
    boxes_xyxy: Tensor,
    labels: Tensor,
    *,
    radius: float = 1.5,
    num_candidates: int = 10,
    iou_weight: float = 3.0,
) -> Assignment:
    """SimOTA (YOLOX, arXiv 2107.08430, section 2.1).

    An image's candidates are the points within ``radius`` strides of any ground truth's center, on both axes. Each
    ground truth claims its cheapest k, where k is the sum of its ``num_candidates`` best IoUs, rounded down, at least
    1. A point claimed more than once goes to the ground truth of the image for which it is cheapest, even one that did
    not claim it, as in YOLOX. The cost is the classification loss plus ``iou_weight * -log(IoU)``, prohibitive outside
    the ground truth's own center region. The target score is the IoU.

    ``predicted_xyxy`` ``[B, A, 4]``, ``points_xy`` ``[A, 2]``, ``stride_per_point`` ``[A]`` and ``boxes_xyxy``
    ``[B, M, 4]`` in pixels; ``class_logits`` ``[B, A, C]``; ``objectness_logits`` ``[B, A]``; ``labels`` ``[B, M]``
    int64, -1 is padding.
    """
    num_images, num_points = predicted_xyxy.shape[:2]
    assignment = Assignment.all_background(num_images, num_points, predicted_xyxy.device)
    if not labels.numel():
        return assignment
    centers = (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / 2
    for image in range(num_images):
        if not on_host(labels):
            score = (class_logits[image].float().sigmoid() * objectness_logits[image, :, None].sigmoid()).sqrt()
            near = (points_xy - centers[image, :, None]).abs().amax(dim=-1) < radius * stride_per_point
            overlap = box_iou(boxes_xyxy[image], predicted_xyxy[image])
            cost = _one_hot_cross_entropy(score, labels[image].clamp(min=0)) - iou_weight * (overlap + 1e-8).log()
            found = _cheapest_of_all(cost + 1e6 * ~near, overlap, near, labels[image] >= 0, num_candidates)
            assignment.foreground[image], assignment.index[image], assignment.target_scores[image] = found
            continue
        (slot,) = torch.nonzero(labels[image] >= 0, as_tuple=True)
        offset = (points_xy - centers[image, slot, None]).abs().amax(dim=-1)
        near = offset < radius * stride_per_point
        (point,) = torch.nonzero(near.any(dim=0), as_tuple=True)
        if len(point) == 0:
            continue
        overlap = box_iou(boxes_xyxy[image, slot], predicted_xyxy[image, point])
        score = (class_logits[image, point].float().sigmoid() * objectness_logits[image, point, None].sigmoid()).sqrt()
        cost = _one_hot_cross_entropy(score, labels[image, slot]) - iou_weight * (overlap + 1e-8).log()
        cost = (cost + 1e6 * ~near[:, point]).nan_to_num(nan=0.0)
        box, candidate = _cheapest(cost, overlap, num_candidates)
        assignment.foreground[image, point[candidate]] = True
        assignment.index[image, point[candidate]] = slot[box]
        assignment.target_scores[image, point[candidate]] = overlap[box, candidate]
    return assignment


class _Pairs(NamedTuple):
    """Ground truths with their candidates, sorted by ground truth, then point: ``box``, the number of the ground truth
    among the ``G``; its ``slot`` in its image; ``point``; ``image``; ``overlap``, CIoU but at least 0; ``alignment``:
    all ``[P]``. ``num_candidates`` ``[G]``: how many each ground truth has."""

    box: Tensor
    slot: Tensor
    point: Tensor
    image: Tensor
    overlap: Tensor
    alignment: Tensor
    num_candidates: Tensor


def _aligned_pairs(
    predicted_xyxy: Tensor,
    class_logits: Tensor,
    points_xy: Tensor,
    boxes_xyxy: Tensor,
    labels: Tensor,
    alpha: float,
    beta: float,
    min_side: float,
) -> _Pairs:
    if on_host(labels):
        image_of_box, slot_of_box = torch.nonzero(labels >= 0, as_tuple=True)
        boxes_xyxy = boxes_xyxy[image_of_box, slot_of_box]
        inside = _points_inside(points_xy, _widen(boxes_xyxy, min_side))
    else:  # padding takes part, and has no points
        image_of_box, slot_of_box = _all_slots(labels)
        boxes_xyxy = boxes_xyxy.flatten(0, 1)
        inside = _points_inside(points_xy, _widen(boxes_xyxy, min_side)) & (labels.flatten() >= 0)[:, None]
    box, point = torch.nonzero(inside, as_tuple=True)
    image, label = image_of_box[box], labels[image_of_box, slot_of_box][box]
    overlap = ciou(predicted_xyxy[image, point], boxes_xyxy[box]).clamp(min=0).nan_to_num(nan=1.0)
    alignment = class_logits[image, point, label].float().sigmoid() ** alpha * overlap**beta
    return _Pairs(box, slot_of_box[box], point, image, overlap, alignment, inside.sum(dim=1))


def _all_slots(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Image and slot of every place of ``labels`` ``[B, M]``: ``[B * M]`` each."""
    place = torch.arange(labels.numel(), device=labels.device)
    return place // max(1, labels.shape[1]), place % max(1, labels.shape[1])


def _widen(boxes_xyxy: Tensor, min_side: float) -> Tensor:
    """Boxes ``[G, 4]`` with every side at least ``min_side``, about the same center."""
    missing = (min_side - (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2])).clamp(min=0) / 2
    return boxes_xyxy + torch.cat((-missing, missing), dim=1)


def _points_inside(points_xy: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Whether points ``[A, 2]`` lie strictly inside boxes ``[G, 4]``: bool ``[G, A]``."""
    x, y = points_xy.unbind(dim=1)
    left, top, right, bottom = boxes_xyxy[:, :, None].unbind(dim=1)
    return (x > left) & (x < right) & (y > top) & (y < bottom)


def _best_of_each_box(box: Tensor, alignment: Tensor, num_candidates: Tensor, top_k: int) -> Tensor:
    """Whether each of the pairs ``[P]``, sorted by ``box``, is among the ``top_k`` of its box: bool ``[P]``.

    ``num_candidates`` ``[G]`` counts the pairs of each box.
    """
    first = num_candidates.cumsum(dim=0) - num_candidates
    rank = torch.arange(len(box), device=box.device) - first[box]
    if not on_host(box):  # by alignment within the box, where equal the first
        order = alignment.contiguous().view(torch.int32).argsort(descending=True, stable=True)
        order = order[box[order].argsort(stable=True)]
        # Sorted by box again, so that the places of a box are where they were.
        return torch.zeros_like(box, dtype=torch.bool).scatter(0, order, rank < top_k)
    longest = int(num_candidates.max())
    keys = _sort_keys(alignment) + (longest - 1 - rank)
    table = torch.full((len(num_candidates), longest), -1, device=box.device)
    table[box, rank] = keys
    lowest_taken = table.topk(min(top_k, longest), dim=1).values[:, -1]
    return keys >= lowest_taken[box]


def _best_of_each_point(flat_point: Tensor, overlap: Tensor, box: Tensor, num_flat_points: int) -> Tensor:
    """Whether each of the pairs ``[P]`` has its point's highest overlap, the first box where equal: bool ``[P]``."""
    highest = overlap.new_zeros(num_flat_points).scatter_reduce(0, flat_point, overlap, "amax")
    contender = overlap == highest[flat_point]
    no_box = int(torch.iinfo(box.dtype).max)
    first = box.new_full((num_flat_points,), no_box).scatter_reduce(0, flat_point, box.where(contender, no_box), "amin")
    return box == first[flat_point]


def _sort_keys(values: Tensor) -> Tensor:
    """int64 that sort like the ``values``, float32 and not negative, with the lower 32 bits free to break ties.

    It is the order of their bits (IEEE 754). ``topk`` leaves open which of equal values it returns; keys are unique.
    """
    return values.contiguous().view(torch.int32).long() << 32


def _one_hot_cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy, summed over classes, of ``scores`` ``[K, C]`` against ``labels`` ``[G]``: ``[G, K]``.

    The sum over the other classes is shared by all ground truths, which keeps ``[G, K, C]`` out of memory.
    """
    log_score, log_rest = scores.log().clamp(min=-100), (-scores).log1p().clamp(min=-100)
    return -(log_rest.sum(dim=1) + (log_score - log_rest)[:, labels].T)


def _cheapest(cost: Tensor, overlap: Tensor, num_candidates: int) -> tuple[Tensor, Tensor]:
    """The positive pairs of ground truths and candidates, from cost and overlap ``[G, K]``."""
    num_best = min(num_candidates, cost.shape[1])
    num_taken = overlap.topk(num_best, dim=1).values.sum(dim=1).int().clamp(1, num_best)
    keys = _sort_keys(cost.clamp(min=0)) + torch.arange(cost.shape[1], device=cost.device)
    cheapest = keys.topk(num_best, dim=1, largest=False).indices
    taken = torch.arange(num_best, device=cost.device) < num_taken[:, None]
    claimed = torch.zeros_like(cost, dtype=torch.bool).scatter(1, cheapest, taken)
    num_claims = claimed.sum(dim=0)
    owner = torch.where(num_claims > 1, cost.argmin(dim=0), claimed.int().argmax(dim=0))
    (candidate,) = torch.nonzero(num_claims, as_tuple=True)
    return owner[candidate], candidate


def _cheapest_of_all(
    cost: Tensor, overlap: Tensor, near: Tensor, is_object: Tensor, num_candidates: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for all points and slots of an image, ``[M, A]``, of which only those ``near`` an object are candidates
    and ``is_object`` ``[M]`` tells which slots count: foreground, index and target score of each point, ``[A]``.

    Nothing has a shape that depends on values, so the host waits for nothing.
    """
    is_candidate = (near & is_object[:, None]).any(dim=0)
    num_best = min(num_candidates, cost.shape[1])
    best = overlap.where(is_candidate, 0).topk(num_best, dim=1).values
    most = is_candidate.sum().clamp(max=num_best)
    num_taken = torch.minimum(best.sum(dim=1).int().clamp(min=1), most)
    cost = cost.nan_to_num(nan=0.0).clamp(min=0).where(is_candidate & is_object[:, None], math.inf)
    keys = _sort_keys(cost) + torch.arange(cost.shape[1], device=cost.device)
    cheapest = keys.topk(num_best, dim=1, largest=False).indices
    taken = (torch.arange(num_best, device=cost.device) < num_taken[:, None]) & is_object[:, None]
    claimed = torch.zeros_like(near).scatter(1, cheapest, taken)
    num_claims = claimed.sum(dim=0)
    owner = torch.where(num_claims > 1, cost.argmin(dim=0), claimed.int().argmax(dim=0))
    foreground = num_claims > 0
    score = overlap.gather(0, owner[None])[0]
    return foreground, owner.where(foreground, BACKGROUND), score.where(foreground, 0)
