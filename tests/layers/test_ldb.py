from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detseg.layers.channel_layout import layout_after_shuffle
from detseg.layers.conv import ConvNormAct, fuse
from detseg.layers.ldb import LDB, ChannelShuffle, LDBStage


def settle(module: nn.Module, *inputs: Tensor) -> nn.Module:
    """The module in evaluation, with weights and statistics that are not those of a new one."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            nn.init.uniform_(child.weight, -1.5, 1.5)
            nn.init.normal_(child.bias)
        elif isinstance(child, nn.PReLU):
            nn.init.uniform_(child.weight, -0.5, 0.5)
    module.train()(*inputs)
    return module.eval()


def test_shuffle() -> None:
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert ChannelShuffle(6)(x).flatten().tolist() == [0, 2, 4, 1, 3, 5]
    assert ChannelShuffle(6).state_dict() == {}


def test_block_as_the_paper_draws_it() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 9, 11)
    block = settle(LDB(8, dilation=4), x)
    assert isinstance(block, LDB)
    hidden = block.dense(block.squeeze(block.pre(x)))
    near, far = block.near(hidden), block.far(hidden)
    weighted = hidden + near * block.near_weights(near) + far * block.far_weights(far)
    out = x + block.unsqueeze(block.post(weighted))
    torch.testing.assert_close(block(x), out[:, [0, 2, 4, 6, 1, 3, 5, 7]])


def test_kernels_and_dilations() -> None:
    block = LDB(8, dilation=4)
    convs = [module.conv for module in block.modules() if isinstance(module, ConvNormAct)]
    assert [(conv.kernel_size, conv.dilation, conv.groups) for conv in convs] == [
        ((3, 1), (1, 1), 1),
        ((1, 3), (1, 1), 1),
        ((3, 1), (1, 1), 4),
        ((1, 3), (1, 1), 4),
        ((3, 1), (4, 4), 4),
        ((1, 3), (4, 4), 4),
    ]


@pytest.mark.parametrize("start", [[0, 1, 2, 3, 4, 5, 6, 7], [3, 1, 7, 0, 2, 6, 5, 4]])
def test_folded_shuffles_move_no_channel_and_change_no_value(start: list[int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 9, 11)
    stage = settle(LDBStage(8, (1, 2, 4)), x)
    assert isinstance(stage, LDBStage)
    expected = stage(x)
    layout = torch.tensor(start)
    fuse(stage)
    after = stage.fold_shuffles(layout)
    assert not any(isinstance(module, ChannelShuffle) for module in stage.modules())
    by_hand = layout_after_shuffle(layout_after_shuffle(layout_after_shuffle(layout)))
    assert torch.equal(after, by_hand)
    torch.testing.assert_close(stage(x[:, layout]), expected[:, after], rtol=1e-5, atol=1e-5)
