from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detseg.losses.assigners import Assignment, simota_assign, task_aligned_assign
from detseg.ops.boxes import box_iou, ciou
from detseg.ops.decode import anchor_points

# One level of 4 x 4 cells of 8 pixels: point 4 * row + column at (8 * column + 4, 8 * row + 4).
POINTS, STRIDES = anchor_points([(4, 4)], (8,))
FAR = (-900.0, -900.0, -890.0, -890.0)


def _predicted(boxes_by_point: dict[int, tuple[float, ...]]) -> Tensor:
    return torch.tensor([boxes_by_point.get(point, FAR) for point in range(16)])[None]


def _logits(values_by_point: dict[int, tuple[float, ...]], num_classes: int = 2) -> Tensor:
    return torch.tensor([values_by_point.get(point, (0.0,) * num_classes) for point in range(16)])[None]


def _align(predicted: Tensor, boxes: list, labels: list, logits: Tensor | None = None, **settings) -> Assignment:
    boxes_xyxy = torch.tensor([boxes], dtype=torch.float32).reshape(1, -1, 4)
    logits = _logits({}) if logits is None else logits
    return task_aligned_assign(predicted, logits, POINTS, boxes_xyxy, torch.tensor([labels]).long(), **settings)


def _simota(predicted: Tensor, boxes: list, labels: list, logits: Tensor | None = None, **settings) -> Assignment:
    boxes_xyxy = torch.tensor([boxes], dtype=torch.float32).reshape(1, -1, 4)
    logits = _logits({}) if logits is None else logits
    labels_of_image = torch.tensor([labels]).long()
    return simota_assign(
        predicted, logits, torch.zeros(1, 16), POINTS, STRIDES, boxes_xyxy, labels_of_image, **settings
    )


def _owners(assignment: Assignment) -> dict[int, int]:
    """Point -> ground truth, after a check that the three tensors agree on the background."""
    background = ~assignment.foreground
    assert (assignment.index[background] == -1).all()
    assert (assignment.target_scores[background] == 0).all()
    return {int(point): int(assignment.index[0, point]) for point in assignment.foreground[0].nonzero()}


@pytest.mark.parametrize(
    ("box", "points"),
    [
        ((0, 0, 16, 16), {0, 1, 4, 5}),
        ((4, 4, 20.5, 20.5), {5, 6, 9, 10}),
        ((12, 12, 16, 16), {5, 6, 9, 10}),
        ((10, 10, 14, 14), {5}),
        ((14, 14, 14, 14), {5, 6, 9, 10}),
        ((-4, 3, 3, 30), {0, 4, 8, 12}),
        ((40, 40, 80, 80), set()),
        ((-30, 0, -9, 16), set()),
    ],
    ids=["inside", "on the border", "tiny", "tiny, one point", "zero size", "narrow", "outside", "left of it"],
)
def test_candidates_lie_strictly_inside_with_sides_of_16_pixels_at_least(box, points):
    assert _owners(_align(_predicted({}), [box], [0])) == dict.fromkeys(points, 0)


@pytest.mark.parametrize("assign", [_align, _simota])
@pytest.mark.parametrize(
    ("boxes", "labels"),
    [([], []), ([(0, 0, 16, 16)] * 2, [-1, -1]), ([(400, 400, 440, 440)], [0])],
    ids=["no ground truth", "padding only", "outside the image"],
)
def test_nothing_to_assign(assign, boxes, labels):
    assert _owners(assign(_predicted({0: (0, 0, 16, 16)}), boxes, labels)) == {}


@pytest.mark.parametrize("assign", [_align, _simota])
def test_index_counts_padding(assign):
    owners = _owners(assign(_predicted({}), [FAR, (0, 0, 16, 16), FAR], [-1, 1, -1]))
    assert owners
    assert set(owners.values()) == {1}


def test_best_aligned_points_are_claimed_and_scaled():
    box = (0, 0, 16, 16)
    predicted = _predicted({0: (0, 0, 16, 16), 1: (4, 0, 20, 16), 4: (8, 0, 24, 16)})
    # IoU 192/320 minus squared center distance 16 over the diagonal 20^2 + 16^2; 128/384 - 64/(24^2 + 16^2).
    second, third = 0.6 - 16 / 656, 1 / 3 - 64 / 832
    logits = _logits({0: (9, 0), 1: (9, math.log(3)), 4: (-9, 0)})

    assignment = _align(predicted, [box], [1], logits, top_k=3, alpha=1.0, beta=2.0)
    assert _owners(assignment) == {0: 0, 1: 0, 4: 0}
    # Alignments 0.5, 0.75 * second^2, 0.5 * third^2; the best of them is mapped to the best CIoU, which is 1.
    expected = [1, 0.75 * second**2 / 0.5, third**2]
    assert assignment.target_scores[0, [0, 1, 4]].tolist() == pytest.approx(expected)

    assert _owners(_align(predicted, [box], [1], logits, top_k=2, alpha=1.0, beta=2.0)) == {0: 0, 1: 0}
    assert _owners(_align(predicted, [box], [1], logits, top_k=1, alpha=1.0, beta=0.5)) == {1: 0}


def test_best_target_score_is_the_best_overlap():
    predicted = _predicted({1: (4, 0, 20, 16), 4: (8, 0, 24, 16)})
    assignment = _align(predicted, [(0, 0, 16, 16)], [1])
    assert assignment.target_scores.max().item() == pytest.approx(0.6 - 16 / 656)


def test_a_box_that_all_its_candidates_miss_has_targets_all_the_same():
    none_hits = _predicted({})
    assert _align(none_hits, [(0, 0, 16, 16)], [1]).target_scores.abs().max() == 0
    targets = _align(none_hits, [(0, 0, 16, 16)], [1], min_target=0.1).target_scores[0]
    assert targets[[0, 1, 4, 5]].tolist() == pytest.approx([0.1] * 4)
    assert targets.sum().item() == pytest.approx(0.4)


def test_the_least_target_is_that_of_the_best_candidate():
    predicted = _predicted({1: (4, 0, 20, 16), 4: (8, 0, 24, 16)})
    second, third = 0.6 - 16 / 656, 1 / 3 - 64 / 832
    for min_target, best in ((0.9, 0.9), (0.5, second)):
        targets = _align(predicted, [(0, 0, 16, 16)], [1], top_k=2, min_target=min_target).target_scores[0]
        assert targets[[1, 4]].tolist() == pytest.approx([best, best * (third / second) ** 6])


def test_of_equal_points_the_first_are_claimed():
    same = _predicted(dict.fromkeys(range(16), (0.0, 0.0, 32.0, 32.0)))
    assert _owners(_align(same, [(0, 0, 32, 32)], [0], top_k=5)) == dict.fromkeys(range(5), 0)


def test_point_claimed_twice_goes_to_the_higher_overlap():
    predicted = _predicted({0: (0, 0, 16, 20)})
    assert _owners(_align(predicted, [(0, 0, 20, 16), (0, 0, 16, 20)], [0, 0], top_k=1)) == {0: 1}
    assert _owners(_align(predicted, [(0, 0, 16, 20), (0, 0, 16, 20)], [0, 0], top_k=1)) == {0: 0}


def test_point_claimed_twice_may_go_to_a_third():
    # Ground truth 2 fits points 0 and 5 alike and claims 5 for its class; 0 is claimed by the other two.
    box = (0.0, 0.0, 16.0, 16.0)
    predicted, logits = _predicted({0: box, 5: box}), _logits({0: (2, 0), 5: (0, 2)})
    one = _align(predicted, [(0, 0, 16, 20), FAR, box], [0, -1, 1], logits, top_k=1)
    assert _owners(one) == {0: 0, 5: 2}
    two = _align(predicted, [(0, 0, 16, 20), (0, 0, 20, 16), box], [0, 0, 1], logits, top_k=1)
    assert _owners(two) == {0: 2, 5: 2}


def test_simota_takes_as_many_points_as_the_overlaps_add_up_to():
    box = (4.0, 4.0, 20.0, 20.0)
    # IoUs 1, 0.6, 0.6 about the center (12, 12): k = floor(2.2); of the two equally cheap points the first.
    overlapping = {5: box, 4: (8.0, 4.0, 24.0, 20.0), 6: (0.0, 4.0, 16.0, 20.0)}
    assignment = _simota(_predicted(overlapping), [box], [1])
    assert _owners(assignment) == {5: 0, 4: 0}
    assert assignment.target_scores[0, [4, 5]].tolist() == pytest.approx([0.6, 1])
    assert _owners(_simota(_predicted(overlapping), [box], [1], num_candidates=2)) == {5: 0}

    nothing_overlaps = _simota(_predicted({}), [box], [1], _logits({9: (0, 1), 15: (0, 9)}))
    assert _owners(nothing_overlaps) == {9: 0}
    assert nothing_overlaps.target_scores[0, 9] == 0


@pytest.mark.parametrize(
    ("radius", "points"),
    [(0.51, {5}), (1.0, {5}), (1.01, {1, 4, 5, 6, 9, 0, 2, 8, 10})],
    ids=["half", "on the border is outside", "just over one"],
)
def test_simota_candidates_lie_within_the_radius(radius, points):
    box = (4.0, 4.0, 20.0, 20.0)
    everywhere = _predicted(dict.fromkeys(range(16), box))
    assert set(_owners(_simota(everywhere, [box], [0], radius=radius, num_candidates=16))) == points


def test_simota_point_claimed_twice_goes_to_the_cheapest():
    first, second = (4.0, 4.0, 20.0, 20.0), (4.0, 5.0, 20.0, 19.0)
    predicted = _predicted({5: second})
    assert _owners(_simota(predicted, [first, second], [0, 0])) == {5: 1}
    # The class outweighs the overlap of 14/16: 3 * log(16/14) = 0.4.
    sure_of_the_first = _logits({5: (2, -2)})
    assert _owners(_simota(predicted, [first, second], [0, 1], sure_of_the_first)) == {5: 0}


def _scene(seed: int, num_images: int = 3, num_boxes: int = 14, num_classes: int = 3) -> tuple[Tensor, ...]:
    """Crowded random images of 64 x 64 with predictions near the points; coordinates without ties."""
    generator = torch.Generator().manual_seed(seed)
    points_xy, stride = anchor_points([(8, 8), (4, 4)], (8, 16))
    sides = torch.rand(num_images, len(points_xy), 4, generator=generator) * 30
    predicted = torch.cat((points_xy - sides[..., :2], points_xy + sides[..., 2:]), dim=-1)
    centers = torch.rand(num_images, num_boxes, 2, generator=generator) * 64
    sizes = torch.rand(num_images, num_boxes, 2, generator=generator) * 40
    boxes_xyxy = torch.cat((centers - sizes / 2, centers + sizes / 2), dim=-1)
    labels = torch.randint(-1, num_classes, (num_images, num_boxes), generator=generator)
    logits = torch.randn(num_images, len(points_xy), num_classes + 1, generator=generator)
    return predicted, logits, points_xy, stride, boxes_xyxy, labels


@pytest.mark.parametrize("seed", range(4))
def test_task_aligned_assignment_equals_its_definition_one_by_one(seed):
    predicted, logits, points_xy, _, boxes_xyxy, labels = _scene(seed)
    got = task_aligned_assign(predicted, logits, points_xy, boxes_xyxy, labels, top_k=4)
    for image in range(len(labels)):
        overlap, alignment = {}, {}
        for box in labels[image].ge(0).nonzero()[:, 0].tolist():
            for point, (x, y) in enumerate(points_xy.tolist()):
                left, top, right, bottom = boxes_xyxy[image, box].tolist()
                half_width, half_height = max(right - left, 16) / 2, max(bottom - top, 16) / 2
                if abs(x - (left + right) / 2) < half_width and abs(y - (top + bottom) / 2) < half_height:
                    fit = max(ciou(predicted[image, point], boxes_xyxy[image, box]).item(), 0)
                    score = logits[image, point, labels[image, box]].sigmoid().item()
                    overlap[box, point], alignment[box, point] = fit, score**0.5 * fit**6
        claims = []
        for box in range(labels.shape[1]):
            pairs = [pair for pair in alignment if pair[0] == box]
            claims += sorted(pairs, key=lambda pair: (-alignment[pair], pair[1]))[:4]
        owners = {}
        for point in {point for _, point in claims}:
            claimers = [box for box, claimed in claims if claimed == point]
            contenders = claimers if len(claimers) == 1 else [box for box, other in overlap if other == point]
            owners[point] = max(contenders, key=lambda box: (overlap[box, point], -box))
        expected = torch.full((len(points_xy),), -1)
        scores = torch.zeros(len(points_xy))
        for point, box in owners.items():
            own = [(box, other) for other, owner in owners.items() if owner == box]
            best_overlap, best_alignment = max(overlap[pair] for pair in own), max(alignment[pair] for pair in own)
            expected[point] = box
            scores[point] = alignment[box, point] * best_overlap / (best_alignment + 1e-9)
        assert torch.equal(got.index[image], expected)
        assert torch.equal(got.foreground[image], expected >= 0)
        torch.testing.assert_close(got.target_scores[image], scores)


@pytest.mark.parametrize("seed", range(4))
def test_simota_equals_its_definition_one_by_one(seed):
    predicted, logits, points_xy, stride, boxes_xyxy, labels = _scene(seed)
    classes, objectness = logits[..., :-1], logits[..., -1]
    got = simota_assign(predicted, classes, objectness, points_xy, stride, boxes_xyxy, labels)
    for image in range(len(labels)):
        slots = labels[image].ge(0).nonzero()[:, 0]
        centers = (boxes_xyxy[image, slots, :2] + boxes_xyxy[image, slots, 2:]) / 2
        near = ((points_xy - centers[:, None]).abs() < 1.5 * stride[:, None]).all(dim=-1)
        overlap = box_iou(boxes_xyxy[image, slots], predicted[image])
        scores = (classes[image].sigmoid() * objectness[image, :, None].sigmoid()).sqrt()
        cost = -3 * (overlap + 1e-8).log() + 1e6 * ~near
        for row, slot in enumerate(slots):
            target = F.one_hot(labels[image, slot], classes.shape[-1]).float().expand_as(scores)
            cost[row] += F.binary_cross_entropy(scores, target, reduction="none").sum(dim=-1)
        allowed = near.any(dim=0)
        claims = torch.zeros_like(near)
        for row in range(len(slots)):
            count = max(1, int(overlap[row, allowed].sort(descending=True).values[:10].sum()))
            claims[row, cost[row].masked_fill(~allowed, torch.inf).argsort()[:count]] = True
        for point in range(len(points_xy)):
            claimers = claims[:, point].nonzero()[:, 0]
            if len(claimers) == 0:
                assert got.index[image, point] == -1
                continue
            row = claimers[0] if len(claimers) == 1 else cost[:, point].argmin()
            assert got.index[image, point] == slots[row]
            assert got.target_scores[image, point].item() == pytest.approx(overlap[row, point].item())
