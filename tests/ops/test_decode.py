from __future__ import annotations

import math

import pytest
import torch

from detseg.ops.decode import boxes_from_distances, decode, decode_direct_boxes, distances_to_sides, expected_bin
from detseg.ops.exact_decode import decode_exactly
from detseg.runtime.postprocess.config import HeadMetadata
from detseg.runtime.postprocess.decode import decode_above

CERTAIN = 100.0


def _dfl_maps(num_classes: int = 2, reg_max: int = 16) -> list[torch.Tensor]:
    return [torch.zeros(1, 4 * reg_max + num_classes, size, size) for size in (2, 1)]


def test_dfl_boxes_are_the_mean_distances_in_strides():
    levels = _dfl_maps()
    for side, bin_number in enumerate((1, 2, 3, 4)):
        levels[0][0, 16 * side + bin_number, 1, 0] = CERTAIN
    levels[0][0, 64:, 1, 0] = torch.tensor([0.0, math.log(3)])
    boxes_xyxy, scores = decode("dfl", levels, (8, 16))

    assert boxes_xyxy.shape == (1, 5, 4)
    assert scores.shape == (1, 5, 2)
    # Row 1, column 0 of the level with stride 8 is point 2, at (4, 12).
    torch.testing.assert_close(boxes_xyxy[0, 2], torch.tensor([4.0 - 8, 12 - 16, 4 + 24, 12 + 32]))
    torch.testing.assert_close(scores[0, 2], torch.tensor([0.5, 0.75]))
    # Equal logits mean 7.5 strides to every side: here of 16 pixels, about (8, 8).
    torch.testing.assert_close(boxes_xyxy[0, 4], torch.tensor([8.0 - 120, 8 - 120, 8 + 120, 8 + 120]))


@pytest.mark.parametrize(
    ("logits", "mean"),
    [
        ([0, 0, CERTAIN, 0], 2),
        ([-CERTAIN, CERTAIN, CERTAIN, -CERTAIN], 1.5),
        ([0, 0, 0, 0], 1.5),
        ([math.log(6), math.log(2), 0, 0], 7 / 10),
    ],
)
def test_expected_bin(logits, mean):
    values = torch.tensor(logits, dtype=torch.float64)
    assert expected_bin(values).item() == pytest.approx(mean)
    torch.testing.assert_close(expected_bin(values[:, None].expand(4, 3), dim=0), torch.full((3,), mean).double())


def test_direct_boxes_are_offsets_from_the_cell_and_logarithms_of_the_size():
    levels = [torch.zeros(1, 7, 2, 2), torch.zeros(1, 7, 1, 1)]
    levels[0][0, :, 1, 0] = torch.tensor([0.25, 0.5, math.log(4), math.log(2), 0, 0, math.log(3)])
    boxes_xyxy, scores = decode("yolox", levels, (8, 16))

    # Center ((0 + 0.25) * 8, (1 + 0.5) * 8), size 32 x 16.
    torch.testing.assert_close(boxes_xyxy[0, 2], torch.tensor([2.0 - 16, 12 - 8, 2 + 16, 12 + 8]))
    torch.testing.assert_close(scores[0, 2], torch.tensor([0.25, 0.375]))
    torch.testing.assert_close(boxes_xyxy[0, 4], torch.tensor([-8.0, -8, 8, 8]))


def test_direct_boxes_at_selected_points():
    raw = torch.tensor([[0.5, -0.5, 0.0, 0.0]])
    decoded = decode_direct_boxes(raw, torch.tensor([[80.0, 48.0]]), torch.tensor([32.0]))
    assert decoded.tolist() == [[64 + 16 - 16, 32 - 16 - 16, 64 + 16 + 16, 32 - 16 + 16]]


def test_distances_are_inverted():
    points_xy = torch.tensor([[4.0, 12.0], [20.0, 4.0]])
    boxes_xyxy = torch.tensor([[0.0, 2.0, 10.0, 20.0], [21.0, 0.0, 30.0, 8.0]])
    distances_ltrb = distances_to_sides(points_xy, boxes_xyxy)
    assert distances_ltrb.tolist() == [[4, 10, 6, 8], [-1, 4, 10, 4]]
    assert torch.equal(boxes_from_distances(points_xy, distances_ltrb), boxes_xyxy)


@pytest.mark.parametrize(("kind", "channels"), [("dfl", 67), ("yolox", 8)])
def test_results_are_float32_under_autocast(kind, channels):
    levels = [torch.randn(2, channels, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = decode(kind, levels, (8,))
    for got, expected in zip(result, decode(kind, [levels[0].float()], (8,)), strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("kind", "channels", "reg_max", "message"),
    [
        ("anchors", 85, 16, "'anchors' is unknown; known are 'dfl', 'yolox' and 'ltrb'"),
        ("dfl", 64, 16, "needs more than 64 channels .* got maps with 64"),
        ("dfl", 33, 9, "needs more than 36 channels"),
        ("yolox", 5, 16, "needs more than 5 channels"),
        ("ltrb", 4, 16, "needs more than 4 channels"),
    ],
)
def test_maps_that_do_not_fit(kind, channels, reg_max, message):
    with pytest.raises(ValueError, match=message):
        decode(kind, [torch.zeros(1, channels, 2, 2)], (8,), reg_max)


def test_every_level_needs_its_stride():
    with pytest.raises(ValueError, match="2 feature levels for 3 strides"):
        decode("dfl", _dfl_maps(), (8, 16, 32))


def test_plain_distances_by_hand():
    levels = [torch.zeros(1, 5, 1, 2), torch.zeros(1, 5, 1, 1)]
    levels[0][0, :, 0, 1] = torch.tensor([1.0, 0.5, 2.0, 0.25, 0.0])
    boxes_xyxy, scores = decode("ltrb", levels, (8, 16))
    # The second place of stride 8 has its center at (12, 4).
    assert boxes_xyxy[0].tolist() == [[4, 4, 4, 4], [4, 0, 28, 6], [8, 8, 8, 8]]
    assert scores[0, :, 0].tolist() == [0.5] * 3


def test_no_side_comes_before_its_opposite():
    level = torch.zeros(1, 5, 1, 1)
    level[0, :4, 0, 0] = torch.tensor([-1.0, 0.25, 0.5, -0.5])
    boxes_xyxy, _ = decode("ltrb", [level], (8,))
    # The center is (4, 4). Without the two numbers below 0 the box ends there.
    assert boxes_xyxy[0].tolist() == [[4, 2, 8, 4]]
    assert torch.equal(decode_exactly("ltrb", [level], (8,), 1)[0], boxes_xyxy)
    head = HeadMetadata("ltrb", (8,))
    assert decode_above(level[0].flatten(1).numpy(), head, 8, 8, 0.1)[0].tolist() == [[4, 2, 8, 4]]
