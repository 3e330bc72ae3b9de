from __future__ import annotations

import pytest
import torch

from detseg.models.heads.dfl import DFLHeadConfig


@pytest.mark.parametrize(
    ("channels", "num_classes", "reg_max", "box_hidden", "class_hidden"),
    [
        ((64, 128, 256), 80, 16, 64, 80),
        ((64, 128, 256), 3, 16, 64, 64),
        ((320, 640, 640), 200, 16, 80, 320),
        ((16, 32, 64), 365, 4, 16, 100),
    ],
)
def test_widths(channels: tuple[int, ...], num_classes: int, reg_max: int, box_hidden: int, class_hidden: int) -> None:
    """Boxes: a quarter of the finest level, at least 16 and 4 bins. Classes: the finest level or up to 100 classes."""
    head = DFLHeadConfig(reg_max=reg_max).build(channels, (8, 16, 32), num_classes)
    assert [branch[2].in_channels for branch in head.box_branches] == [box_hidden] * 3
    assert [branch[2].in_channels for branch in head.class_branches] == [class_hidden] * 3
    levels = head([torch.rand(2, count, 4, 5) for count in channels])
    assert [tuple(level.shape) for level in levels] == [(2, 4 * reg_max + num_classes, 4, 5)] * 3


def test_boxes_come_before_classes() -> None:
    head = DFLHeadConfig().build((8, 8, 8), (8, 16, 32), 3).eval()
    feature = torch.rand(1, 8, 4, 4)
    level = head([feature] * 3)[1]
    torch.testing.assert_close(level[:, :64], head.box_branches[1](feature))
    torch.testing.assert_close(level[:, 64:], head.class_branches[1](feature))


def test_biases_start_from_the_prior() -> None:
    """Five objects of 80 classes in 80 x 80 cells at stride 8: a probability of 5 / 80 / 6400."""
    head = DFLHeadConfig().build((8, 8, 8), (8, 16, 32), 80)
    probabilities = [branch[2].bias.sigmoid()[0].item() for branch in head.class_branches]
    assert probabilities == pytest.approx([5 / 80 / 6400, 5 / 80 / 1600, 5 / 80 / 400], rel=1e-3)
    assert all(bool((branch[2].bias == 1).all()) for branch in head.box_branches)


def test_projection_is_frozen() -> None:
    projection = DFLHeadConfig(reg_max=4).build((8, 8, 8), (8, 16, 32), 3).projection
    assert projection.flatten().tolist() == [0, 1, 2, 3]
    assert not projection.requires_grad


def test_one_bin_is_refused() -> None:
    with pytest.raises(ValueError, match="head reg_max must be at least 2, got 1"):
        DFLHeadConfig(reg_max=1)
