from __future__ import annotations

import pytest
import torch

from detseg.models.heads.dfl import DFLHeadConfig
from detseg.models.heads.dfl_masks import DFLMasksHeadConfig, Prototypes


@pytest.mark.parametrize(
    ("channels", "settings", "hidden", "prototype_hidden"),
    [
        ((64, 128, 256), {}, 32, 64),
        ((320, 640, 640), {}, 80, 320),
        ((16, 32, 64), {"prototypes": 8, "prototype_channels": 24}, 8, 24),
    ],
)
def test_widths(channels, settings, hidden, prototype_hidden) -> None:
    """Coefficients: a quarter of the finest level, at least one for each prototype. Prototypes: the finest level."""
    head = DFLMasksHeadConfig(**settings).build(channels, (8, 16, 32), 3)
    count = settings.get("prototypes", 32)
    assert [branch[2].in_channels for branch in head.coefficient_branches] == [hidden] * 3
    assert head.prototypes.conv1.conv.out_channels == prototype_hidden
    assert (head.num_prototypes, head.prototype_stride) == (count, 4)
    raw = head([torch.rand(2, size, 4, 5) for size in channels])
    assert [tuple(level.shape) for level in raw.levels] == [(2, 64 + 3 + count, 4, 5)] * 3
    assert tuple(raw.prototypes.shape) == (2, count, 8, 10)


def test_boxes_and_classes_come_first_as_without_masks() -> None:
    torch.manual_seed(0)
    head = DFLMasksHeadConfig().build((8, 8, 8), (8, 16, 32), 3).eval()
    plain = DFLHeadConfig().build((8, 8, 8), (8, 16, 32), 3).eval()
    plain.load_state_dict({name: value for name, value in head.state_dict().items() if name in plain.state_dict()})
    features = [torch.rand(1, 8, side, side) for side in (4, 2, 1)]
    for level, expected, feature, branch in zip(
        head(features).levels, plain(features), features, head.coefficient_branches, strict=True
    ):
        torch.testing.assert_close(level[:, :67], expected)
        torch.testing.assert_close(level[:, 67:], branch(feature))


def test_each_prototype_sees_the_finest_level_at_twice_its_resolution() -> None:
    prototypes = Prototypes(1, 2, 3, "identity").eval()
    for conv in (prototypes.conv1, prototypes.conv2, prototypes.conv3):
        conv.conv.weight.data.zero_()
    # Only the centers of the kernels: a cell of the level becomes four cells of its own weights.
    prototypes.conv1.conv.weight.data[0, 0, 1, 1] = 1
    prototypes.conv2.conv.weight.data[0, 0, 1, 1] = 1
    prototypes.conv3.conv.weight.data[:, 0, 0, 0] = torch.tensor([1.0, 2.0, -1.0])
    torch.nn.init.zeros_(prototypes.upsample.bias)
    prototypes.upsample.weight.data[0, 0] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    feature = torch.tensor([[[[1.0, 10.0]]]])
    expected = torch.tensor([[1.0, 2.0, 10.0, 20.0], [3.0, 4.0, 30.0, 40.0]])
    with torch.no_grad():
        made = prototypes(feature)[0]
    factor = (1 + 1e-3) ** -1.5  # three batch norms of mean 0 and variance 1
    for plane, weight in zip(made, (1, 2, -1), strict=True):
        torch.testing.assert_close(plane, weight * factor * expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reg_max": 1}, "head reg_max must be at least 2, got 1"),
        ({"prototypes": 0}, "head prototypes must be positive, got 0"),
        ({"prototype_channels": -4}, "head prototype_channels must be positive, got -4"),
    ],
)
def test_settings_that_make_no_head_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        DFLMasksHeadConfig(**settings)


def test_an_odd_stride_is_refused() -> None:
    with pytest.raises(ValueError, match="half the finest stride, which must be even, got 7"):
        DFLMasksHeadConfig().build((8, 8), (7, 14), 3)
