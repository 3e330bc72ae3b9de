from __future__ import annotations

import pytest
import torch

from detseg.models.heads.e2e import FIRST_DISTANCE, E2EHead, E2EHeadConfig

CHANNELS, STRIDES = (16, 32), (8, 16)


def features() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, size, 64 // s, 64 // s, generator=generator) for size, s in zip(CHANNELS, STRIDES, strict=True)
    ]


def build(**settings: object) -> E2EHead:
    torch.manual_seed(0)
    return E2EHeadConfig(**settings).build(CHANNELS, STRIDES, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(("reg_max", "num_channels"), [(1, 7), (8, 35)])
def test_training_gives_both_branches_and_evaluation_one(reg_max: int, num_channels: int) -> None:
    head, maps = build(reg_max=reg_max), features()
    both = head(maps)
    assert [tuple(level.shape) for level in both] == 2 * [(2, num_channels, 8, 8), (2, num_channels, 4, 4)]
    head.eval()
    assert head.many is not None
    assert head.one is not None
    with torch.no_grad():
        for level, own in zip(head(maps), head.one(maps), strict=True):
            assert torch.equal(level, own)
        head.one_to_one = False
        for level, own in zip(head(maps), head.many(maps), strict=True):
            assert torch.equal(level, own)


def test_both_branches_begin_alike_with_boxes_of_four_strides() -> None:
    head = build()
    ours = [module[-1].bias for branch in (head.many, head.one) for module in branch.boxes]
    assert all(bool((bias == FIRST_DISTANCE).all()) for bias in ours)
    assert head.many is not head.one
    assert head.many is not None
    assert head.one is not None
    for one, other in zip(head.many.parameters(), head.one.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one is not other


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_gradient_of_the_one_to_one_branch_reaches_the_neck(share: float) -> None:
    """Both branches begin alike, so that all of it is as large as that of the other branch."""
    head = build(gradient_share=share).train()
    many, one = [], []
    for branch, gradients in ((slice(0, 2), many), (slice(2, 4), one)):
        maps = [level.requires_grad_() for level in features()]
        sum(level.square().sum() for level in head(maps)[branch]).backward()
        gradients += [torch.zeros_like(level) if level.grad is None else level.grad for level in maps]
    assert all(bool(gradient.any()) for gradient in many)
    for own, other in zip(one, many, strict=True):
        torch.testing.assert_close(own, share * other)


def test_a_share_is_at_most_all() -> None:
    with pytest.raises(ValueError, match="gradient_share must lie between 0 and 1, got"):
        build(gradient_share=1.5)


@pytest.mark.parametrize(("branch", "dropped"), [("one_to_one", "many"), ("one_to_many", "one")])
def test_what_only_training_needs_is_dropped(branch: str, dropped: str) -> None:
    head = build(branch=branch).eval()
    with torch.no_grad():
        before = head(features())
        head.drop_training_branches()
        after = head(features())
    assert getattr(head, dropped) is None
    assert all(map(torch.equal, before, after))
    assert not any(name.startswith(f"{dropped}.") for name in head.state_dict())


def test_a_side_needs_a_number() -> None:
    with pytest.raises(ValueError, match="head reg_max must be positive, got 0"):
        E2EHeadConfig(reg_max=0)
