from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from detseg.losses.assigners import Assignment, one_to_one_assign
from detseg.losses.detection import TALLoss, TALLossConfig, relative_distance
from detseg.losses.dual import DualLossConfig
from detseg.ops.decode import anchor_points

# One level of 4 x 4 cells of 8 pixels: point 4 * row + column at (8 * column + 4, 8 * row + 4).
POINTS, _ = anchor_points([(4, 4)], (8,))
FAR = (-900.0, -900.0, -890.0, -890.0)
LEFT = (0.0, 0.0, 16.0, 16.0)


def assign(predicted: dict[int, tuple[float, ...]], boxes: list[tuple[float, ...]], **settings: float) -> Assignment:
    boxes_by_point = torch.tensor([[predicted.get(point, FAR) for point in range(16)]])
    labels = torch.zeros(1, len(boxes), dtype=torch.long)
    return one_to_one_assign(boxes_by_point, torch.zeros(1, 16, 1), POINTS, torch.tensor([boxes]), labels, **settings)


def owners(assignment: Assignment) -> dict[int, int]:
    return {int(point): int(assignment.index[0, point]) for point in assignment.foreground[0].nonzero()}


def test_the_best_aligned_point_is_taken_and_its_target_is_the_overlap() -> None:
    found = assign({0: (4, 0, 20, 16), 1: (8, 0, 24, 16)}, [LEFT])
    assert owners(found) == {0: 0}
    # IoU 192/320 minus the squared distance of the centers over the squared diagonal of both.
    assert found.target_scores[0, 0].item() == pytest.approx(0.6 - 16 / 656)
    assert found.target_scores.count_nonzero() == 1


def test_who_loses_the_best_point_takes_the_next() -> None:
    # Point 0 predicts the first box to the pixel, and of the second more than point 1 does.
    found = assign({0: LEFT, 1: (8, 0, 24, 16)}, [LEFT, (2, 0, 18, 16)])
    assert owners(found) == {0: 0, 1: 1}


def test_one_that_is_aligned_worse_waits_even_where_it_comes_first() -> None:
    found = assign({0: LEFT, 1: (8, 0, 24, 16)}, [(2, 0, 18, 16), LEFT])
    assert owners(found) == {0: 1, 1: 0}


def test_objects_in_one_place_get_a_point_each_while_there_are_any() -> None:
    found = assign({0: LEFT}, [LEFT] * 6)
    # The box has four candidates, points 0, 1, 4 and 5.
    assert sorted(owners(found)) == [0, 1, 4, 5]
    assert sorted(owners(found).values()) == [0, 1, 2, 3]


def test_the_least_target() -> None:
    assert assign({}, [LEFT]).target_scores.abs().sum() == 0
    assert assign({}, [LEFT], min_target=0.3).target_scores.sum().item() == pytest.approx(0.3)


@pytest.mark.parametrize("seed", range(3))
def test_every_object_has_exactly_one_positive(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points, _ = anchor_points([(32, 32), (16, 16), (8, 8)], (8, 16, 32))
    num_images, num_boxes = 3, 120
    corner = torch.rand(num_images, num_boxes, 2, generator=generator) * 200
    boxes = torch.cat((corner, corner + 20 + 36 * torch.rand(num_images, num_boxes, 2, generator=generator)), dim=2)
    labels = torch.randint(-1, 4, (num_images, num_boxes), generator=generator)
    half = 8 + 30 * torch.rand(num_images, len(points), 2, generator=generator)
    predicted = torch.cat((points - half, points + half), dim=2)
    logits = torch.randn(num_images, len(points), 4, generator=generator)
    found = one_to_one_assign(predicted, logits, points, boxes, labels)
    for image in range(num_images):
        taken = found.index[image][found.foreground[image]]
        assert torch.equal(taken.sort().values, torch.nonzero(labels[image] >= 0)[:, 0])
    assert (found.target_scores[~found.foreground] == 0).all()


def test_no_objects() -> None:
    nothing = one_to_one_assign(
        torch.zeros(1, 16, 4), torch.zeros(1, 16, 1), POINTS, torch.zeros(1, 2, 4), torch.full((1, 2), -1)
    )
    assert not nothing.foreground.any()


def test_distance_of_sides_by_hand() -> None:
    # Off by 1 and 2 of a width of 8, by 0 and 1 of a height of 4.
    found = relative_distance(torch.tensor([4.0, 2.0, 2.0, 3.0]), torch.tensor([3.0, 2.0, 4.0, 2.0]))
    assert found.item() == pytest.approx((1 / 7 + 0 + 2 / 7 + 1 / 4) / 4)
    # A side of a box that has none counts as one unit.
    assert relative_distance(torch.ones(4), torch.zeros(4)).item() == 1


def one_point(distance: float = 1.0) -> Tensor:
    """The point (16, 16) of stride 32, ``distance`` strides to every side; class logits 0 and log 3."""
    level = torch.full((1, 4 + 2, 1, 1), distance)
    level[0, 4], level[0, 5] = 0.0, math.log(3)
    return level


WHOLE, LABEL = torch.tensor([[[0.0, 0, 32, 32]]]), torch.tensor([[1]])


def test_plain_distances_of_one_point_by_hand() -> None:
    # A box of one stride to every side of a box that has half a stride: IoU 1/4, sides off by 0.5 of 1.
    loss = TALLoss(2, (32,), 1, TALLossConfig())([one_point()], WHOLE, LABEL)
    assert loss.normalizer.item() == pytest.approx(0.25, rel=1e-4)
    assert {name: part.item() for name, part in loss.parts.items()} == pytest.approx(
        {
            "box": 7.5 * 0.25 * 0.75,
            "cls": 0.5 * (math.log(2) + math.log(4) - 0.25 * math.log(3)),
            "l1": 1.5 * 0.25 * 0.5,
        },
        rel=1e-4,
    )


def test_the_loss_of_a_batch_is_that_of_both_branches() -> None:
    torch.manual_seed(0)
    strides, reg_max, num_classes = (8, 16, 32), 1, 5
    many, one = (
        [torch.randn(2, 4 + num_classes, 64 // s, 96 // s).abs().requires_grad_() for s in strides] for _ in range(2)
    )
    boxes = torch.tensor([[[8.0, 8, 40, 50], [20, 4, 90, 60], [0, 0, 30, 30]]] * 2)
    labels = torch.tensor([[0, 4, 1], [2, -1, -1]])
    config = DualLossConfig(min_target=0.1)
    loss = config.build(num_classes, strides, reg_max)
    found = loss([*many, *one], boxes, labels)
    alone = TALLoss(num_classes, strides, reg_max, config)
    only = TALLoss(num_classes, strides, reg_max, config, one_to_one=True)
    expected = alone(many, boxes, labels).total() + only(one, boxes, labels).total()
    assert found.total().item() == pytest.approx(expected.item(), rel=1e-5)
    assert list(found.parts) == ["box", "cls", "l1", "o2o_box", "o2o_cls", "o2o_l1"]
    _, positives = only.with_positives(one, boxes, labels)
    assert sorted(zip(positives.image.tolist(), positives.slot.tolist(), strict=True)) == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
    ]
    found.total().backward()
    assert all(level.grad is not None and bool(level.grad.isfinite().all()) for level in [*many, *one])


def test_maps_of_one_branch_are_refused() -> None:
    loss = DualLossConfig().build(2, (32,), 1)
    with pytest.raises(ValueError, match="needs 2 maps, 1 of each, got 1; put the model into training mode"):
        loss([one_point()], WHOLE, LABEL)
