from __future__ import annotations

import pytest
import torch

from detseg.models.heads.yolox import YOLOXHeadConfig


@pytest.mark.parametrize(("settings", "hidden"), [({}, 8), ({"channels": 12}, 12), ({"depthwise": True}, 8)])
def test_widths_and_shapes(settings: dict[str, int], hidden: int) -> None:
    head = YOLOXHeadConfig(**settings).build((8, 16, 32), (8, 16, 32), 3)
    assert [stem.conv.out_channels for stem in head.stems] == [hidden] * 3
    levels = head([torch.rand(2, count, 4, 5) for count in (8, 16, 32)])
    assert [tuple(level.shape) for level in levels] == [(2, 4 + 1 + 3, 4, 5)] * 3


def test_order_of_the_channels() -> None:
    """x, y, w, h; objectness; classes: seen by the bias alone."""
    head = YOLOXHeadConfig().build((8, 8, 8), (8, 16, 32), 2).eval()
    for predictors, start in ((head.box_preds, 0), (head.objectness_preds, 4), (head.class_preds, 5)):
        for predictor in predictors:
            torch.nn.init.zeros_(predictor.weight)
            predictor.bias.data = start + torch.arange(float(len(predictor.bias)))
    level = head([torch.rand(1, 8, 1, 1)] * 3)[2]
    assert level.flatten().tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_biases_start_from_the_prior() -> None:
    head = YOLOXHeadConfig().build((8, 8, 8), (8, 16, 32), 2)
    for predictor in (*head.objectness_preds, *head.class_preds):
        assert predictor.bias.sigmoid().tolist() == pytest.approx([0.01] * len(predictor.bias), rel=1e-5)


def test_no_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="head channels must be positive, got 0"):
        YOLOXHeadConfig(channels=0)
