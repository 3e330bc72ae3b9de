from __future__ import annotations

import pytest
import torch
from torchvision.models import VisionTransformer

from detseg.config import from_dict
from detseg.models.backbones.vit import ViTPyramid
from detseg.models.detector import DetectorConfig


@pytest.fixture
def small_transformer() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(64, 16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64)


def test_pyramid_of_any_size(small_transformer: VisionTransformer) -> None:
    backbone = ViTPyramid(small_transformer)
    levels = backbone(torch.rand(2, 3, 96, 160))
    assert backbone.channels == (16, 32, 32)
    assert [tuple(level.shape) for level in levels] == [(2, 16, 12, 20), (2, 32, 6, 10), (2, 32, 3, 5)]
    sum((level**2).mean() for level in levels).backward()
    assert [name for name, value in backbone.named_parameters() if value.grad is None] == []


def test_patches_equal_the_classifier_s_at_its_own_size(small_transformer: VisionTransformer) -> None:
    """The tokens that the classification network itself computes, laid out row by row."""
    images = torch.rand(1, 3, 64, 64)
    small_transformer.eval()
    with torch.no_grad():
        tokens = small_transformer._process_input(images)
        tokens = small_transformer.encoder(torch.cat((small_transformer.class_token, tokens), dim=1))
        features = ViTPyramid(small_transformer).eval()(images)[1]
    torch.testing.assert_close(features[0, :, 1, 2], tokens[0, 1 + 1 * 4 + 2], rtol=1e-5, atol=1e-6)


def test_positions_keep_their_orientation(small_transformer: VisionTransformer) -> None:
    """An embedding that grows with the row must still do so on a larger grid, and not with the column."""
    backbone = ViTPyramid(small_transformer)
    rows = torch.arange(4.0).repeat_interleave(4)[None, :, None].expand(1, 16, 32)
    with torch.no_grad():
        backbone.encoder.pos_embedding[:, 1:] = rows
        grid = backbone._positions(8, 6)[0, 1:, 0].reshape(8, 6)
    assert bool((grid[1:] > grid[:-1]).all())
    torch.testing.assert_close(grid, grid[:, :1].expand(8, 6))


def test_vit_b_16_builds_by_name() -> None:
    settings = {"backbone": "vit_b_16", "neck": {"name": "pan", "channels": [16, 32, 48]}}
    with torch.device("meta"):
        model = from_dict(DetectorConfig, settings, "test").build(2)
        shapes = [tuple(level.shape) for level in model(torch.zeros(1, 3, 64, 96))]
    assert shapes == [(1, 66, 8, 12), (1, 66, 4, 6), (1, 66, 2, 3)]
