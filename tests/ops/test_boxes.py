from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from detseg.ops import boxes

XYXY = (1.0, 2.0, 5.0, 10.0)
CXCYWH = (3.0, 6.0, 4.0, 8.0)


@pytest.mark.parametrize(
    ("convert", "source", "expected"),
    [
        (boxes.xyxy_to_cxcywh, XYXY, CXCYWH),
        (boxes.cxcywh_to_xyxy, CXCYWH, XYXY),
    ],
)
def test_conversion(convert, source, expected):
    assert convert(torch.tensor(source)).tolist() == list(expected)
    stacked = convert(torch.tensor(source).expand(2, 3, 4))
    assert torch.equal(stacked, torch.tensor(expected).expand(2, 3, 4))
    assert convert(torch.zeros(0, 4)).shape == (0, 4)


def test_box_area():
    assert boxes.box_area(torch.tensor([[1.0, 2.0, 5.0, 10.0], [3.0, 3.0, 3.0, 9.0]])).tolist() == [32, 0]


# The aspect term of a 4x2 and a 2x4 box: v = 4/pi^2 (atan 2 - atan 1/2)^2, weighted by v / (1 - IoU + v).
_V = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2
# box, other, IoU, CIoU
OVERLAPS = {
    "same": ((0, 0, 2, 2), (0, 0, 2, 2), 1, 1),
    "half beside": ((0, 0, 2, 2), (1, 0, 3, 2), 1 / 3, 1 / 3 - 1 / 13),
    "touching sides": ((0, 0, 2, 2), (2, 0, 4, 2), 0, -4 / 20),
    "touching corners": ((0, 0, 1, 1), (1, 1, 2, 2), 0, -2 / 8),
    "apart": ((0, 0, 1, 1), (3, 0, 4, 1), 0, -9 / 17),
    "containing": ((0, 0, 4, 4), (1, 1, 2, 2), 1 / 16, 1 / 16 - 0.5 / 32),
    "crossing": ((0, 0, 4, 2), (1, -1, 3, 3), 1 / 3, 1 / 3 - _V**2 / (2 / 3 + _V)),
    "point inside": ((0, 0, 4, 4), (2, 2, 2, 2), 0, -(0.25**2) / 1.25),
    "line on the border": ((0, 0, 4, 4), (4, 0, 4, 4), 0, -4 / 32 - 0.25**2 / 1.25),
    "same point": ((1, 1, 1, 1), (1, 1, 1, 1), 0, 0),
}


@pytest.mark.parametrize("case", OVERLAPS.values(), ids=OVERLAPS.keys())
def test_overlap(case):
    box, other = torch.tensor([case[0]], dtype=torch.float64), torch.tensor([case[1]], dtype=torch.float64)
    for function, expected in zip((boxes.iou, boxes.ciou), case[2:], strict=True):
        assert function(box, other).item() == pytest.approx(expected, abs=1e-6), function.__name__
        assert function(other, box).item() == pytest.approx(expected, abs=1e-6), function.__name__
    assert boxes.box_iou(box, other).item() == pytest.approx(case[2], abs=1e-6)


def test_box_iou_compares_every_pair():
    several = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [8, 8, 9, 9]])
    others = torch.tensor([[0.0, 0, 2, 2], [0, 0, 3, 2]])
    expected = torch.tensor([[1, 2 / 3], [1 / 3, 2 / 3], [0, 0]])
    torch.testing.assert_close(boxes.box_iou(several, others), expected)
    torch.testing.assert_close(boxes.box_iou(several.expand(5, 3, 4), others), expected.expand(5, 3, 2))
    assert boxes.box_iou(several, torch.zeros(0, 4)).shape == (3, 0)


PAIR = (torch.tensor([[1.0, 2.0, 7.0, 5.0]]).double(), torch.tensor([[2.5, 1.0, 9.0, 4.5]]).double())
APART = (torch.tensor([[1.0, 2.0, 3.0, 5.0]]).double(), torch.tensor([[4.5, 6.0, 9.0, 9.5]]).double())


@pytest.mark.parametrize("pair", [PAIR, APART], ids=["overlapping", "apart"])
def test_gradient(pair):
    assert torch.autograd.gradcheck(boxes.iou, [box.clone().requires_grad_() for box in pair])


def _ciou_with_weight(box: Tensor, other: Tensor, weight: float) -> Tensor:
    """The definition once more, with the weight of the aspect term given."""
    enclosing = torch.cat((torch.minimum(box, other)[:, :2], torch.maximum(box, other)[:, 2:]), dim=1)
    center_x, center_y, width, height = boxes.xyxy_to_cxcywh(box).T
    other_x, other_y, other_width, other_height = boxes.xyxy_to_cxcywh(other).T
    _, _, diagonal_x, diagonal_y = boxes.xyxy_to_cxcywh(enclosing).T
    distance = ((center_x - other_x) ** 2 + (center_y - other_y) ** 2) / (diagonal_x**2 + diagonal_y**2)
    aspect = 4 / math.pi**2 * (torch.atan(width / height) - torch.atan(other_width / other_height)) ** 2
    return boxes.iou(box, other) - distance - weight * aspect


@pytest.mark.parametrize("pair", [PAIR, APART], ids=["overlapping", "apart"])
def test_ciou_gradient_leaves_the_aspect_weight_out(pair):
    box, other = pair[0].clone().requires_grad_(), pair[1]
    (gradient,) = torch.autograd.grad(boxes.ciou(box, other).sum(), box)
    without = _ciou_with_weight(pair[0], other, 0.0)
    with_one = _ciou_with_weight(pair[0], other, 1.0)
    aspect = (without - with_one).item()
    weight = aspect / (1 - boxes.iou(*pair).item() + aspect)
    assert boxes.ciou(*pair).item() == pytest.approx(without.item() - weight * aspect, abs=1e-6)

    step = 1e-6
    for side in range(4):
        shift = torch.zeros(1, 4, dtype=torch.float64)
        shift[0, side] = step
        rise = _ciou_with_weight(pair[0] + shift, other, weight) - _ciou_with_weight(pair[0] - shift, other, weight)
        assert gradient[0, side].item() == pytest.approx(rise.item() / (2 * step), abs=1e-6)


@pytest.mark.parametrize("function", [boxes.iou, boxes.ciou])
def test_boxes_without_area_have_finite_gradients(function):
    box = torch.tensor([[1.0, 1, 1, 1], [2, 2, 2, 6], [0, 0, 4, 4]], requires_grad=True)
    other = torch.tensor([[1.0, 1, 1, 1], [0, 0, 4, 4], [3, 3, 3, 3]])
    function(box, other).sum().backward()
    assert box.grad is not None
    assert torch.isfinite(box.grad).all()
