"""Soft Dice and its cross-entropy by hand, and equal to MONAI's where both mean the same."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss as MonaiDiceCELoss
from monai.losses import DiceLoss as MonaiDiceLoss
from torch import Tensor

from detseg.config import from_dict
from detseg.losses.dice import DiceLoss, DiceLossConfig
from detseg.structures import IGNORE_INDEX

NUM_CLASSES = 4
ONLY_DICE: dict[str, Any] = {"cross_entropy": 0.0}


def random_case(seed: int = 0, num_samples: int = 3, ignored: bool = False) -> tuple[Tensor, Tensor]:
    """Logits ``[B, 4, 4, 5, 6]`` float64 and labels, of which the first sample lacks class 2."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_samples, 4, 5, 6)
    logits = 2 * torch.randn(num_samples, NUM_CLASSES, *shape[1:], generator=generator, dtype=torch.float64)
    labels = torch.randint(0, NUM_CLASSES, shape, generator=generator).to(torch.uint8)
    labels[0][labels[0] == 2] = 0
    if ignored:
        labels[torch.rand(shape, generator=generator) < 0.2] = IGNORE_INDEX
    return logits.float(), labels


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits)[0]


MEANT_THE_SAME = [
    # our settings, MONAI's
    ({}, {}),
    ({"squared": True}, {"squared_pred": True}),
    ({"batch": True}, {"batch": True}),
    ({"include_background": True}, {"include_background": True}),
    ({"smooth_numerator": 0.0, "smooth_denominator": 1.5}, {"smooth_nr": 0.0, "smooth_dr": 1.5}),
    (
        {"squared": True, "batch": True, "include_background": True, "smooth_numerator": 3.0},
        {"squared_pred": True, "batch": True, "include_background": True, "smooth_nr": 3.0},
    ),
]


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize(("settings", "monai_settings"), MEANT_THE_SAME)
def test_dice_equals_monai(settings: dict[str, Any], monai_settings: dict[str, Any], ignored: bool) -> None:
    logits, labels = random_case(ignored=ignored)
    logits.requires_grad_()
    given: dict[str, Any] = {"include_background": False, "softmax": True, "to_onehot_y": True, **monai_settings}
    expected = MonaiDiceLoss(**given, ignore_index=IGNORE_INDEX if ignored else None)(logits, labels[:, None])
    loss = DiceLossConfig(**ONLY_DICE, **settings).build(NUM_CLASSES)(logits, labels)
    assert set(loss.parts) == {"dice"}
    assert loss.total().item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradient(loss.total(), logits), gradient(expected, logits), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("settings", "monai_settings"), MEANT_THE_SAME)
def test_dice_with_cross_entropy_equals_monai(settings: dict[str, Any], monai_settings: dict[str, Any]) -> None:
    logits, labels = random_case(1)
    logits.requires_grad_()
    given: dict[str, Any] = {"include_background": False, "softmax": True, "to_onehot_y": True, **monai_settings}
    expected = MonaiDiceCELoss(**given, lambda_dice=0.7, lambda_ce=1.9)(logits, labels[:, None])
    loss = DiceLossConfig(dice=0.7, cross_entropy=1.9, **settings).build(NUM_CLASSES)(logits, labels)
    assert loss.total().item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradient(loss.total(), logits), gradient(expected, logits), rtol=1e-4, atol=1e-8)


def test_cross_entropy_is_the_weighted_mean_of_each_sample() -> None:
    logits, labels = random_case(2, ignored=True)
    weights = (0.5, 1.0, 2.0, 4.0)
    expected = sum(
        F.cross_entropy(x[None], y[None].long(), torch.tensor(weights), ignore_index=IGNORE_INDEX)
        for x, y in zip(logits, labels, strict=True)
    )
    config = DiceLossConfig(dice=0.0, cross_entropy=3.0, class_weights=weights)
    loss = config.build(NUM_CLASSES)(logits, labels)
    assert set(loss.parts) == {"cross_entropy"}
    assert loss.sum().item() == pytest.approx(3 * float(expected), rel=1e-5)
    assert loss.normalizer == 3


def test_class_weights_leave_dice_as_it_is() -> None:
    logits, labels = random_case()
    plain = DiceLossConfig().build(NUM_CLASSES)(logits, labels)
    weighted = DiceLossConfig(class_weights=(1.0, 2.0, 3.0, 4.0)).build(NUM_CLASSES)(logits, labels)
    assert weighted.parts["dice"] == plain.parts["dice"]
    assert weighted.parts["cross_entropy"] != plain.parts["cross_entropy"]


def test_a_sample_whose_voxels_all_weigh_nothing_adds_no_cross_entropy() -> None:
    logits = torch.zeros(1, 2, 1, 1, 2, requires_grad=True)
    loss = DiceLossConfig(dice=0.0, class_weights=(0.0, 1.0)).build(2)(logits, torch.zeros(1, 1, 1, 2).byte())
    assert loss.sum() == 0
    assert not gradient(loss.sum(), logits).any()


def certain(predicted: list[int], num_classes: int) -> Tensor:
    """Logits ``[1, C, 1, 1, W]`` whose softmax is 1 for these classes, to float32."""
    return 200 * F.one_hot(torch.tensor(predicted), num_classes).T.float()[None, :, None, None]


def by_hand(labels: list[int], predicted: list[int], **settings: Any) -> float:
    config = DiceLossConfig(**ONLY_DICE, **{"smooth_numerator": 0.0, "smooth_denominator": 1e-30, **settings})
    return config.build(3)(certain(predicted, 3), torch.tensor([[[labels]]]).byte()).sum().item()


BY_HAND = [
    # labels, predicted, coefficients of classes 1 and 2
    ([0, 1, 1, 2], [0, 1, 1, 2], (1, 1)),
    ([0, 1, 1, 2], [0, 1, 2, 2], (2 / 3, 2 / 3)),
    ([0, 1, 1, 2], [1, 1, 1, 0], (4 / 5, 0)),
    ([0, 1, IGNORE_INDEX, IGNORE_INDEX], [0, 1, 1, 2], (1, 0)),
]


@pytest.mark.parametrize(("labels", "predicted", "coefficients"), BY_HAND)
@pytest.mark.parametrize("squared", [False, True])
def test_by_hand(labels: list[int], predicted: list[int], coefficients: tuple[float, ...], squared: bool) -> None:
    """With probabilities of 0 and 1 squares change nothing."""
    assert by_hand(labels, predicted, squared=squared) == pytest.approx(1 - sum(coefficients) / 2, abs=1e-6)


def test_squares_by_hand() -> None:
    """p = 1/2 in both voxels of one class 1: (2 / 2) / (1 + 1) without squares, (2 / 2) / (1 / 2 + 1) with them."""
    labels = torch.tensor([[[[0, 1]]]]).byte()
    for squared, coefficient in ((False, 1 / 2), (True, 2 / 3)):
        loss = DiceLossConfig(**ONLY_DICE, squared=squared).build(2)(torch.zeros(1, 2, 1, 1, 2), labels)
        assert loss.sum().item() == pytest.approx(1 - coefficient, abs=1e-4)


def test_the_smooth_terms_decide_about_classes_that_are_absent() -> None:
    """Class 2 is neither true nor predicted: its coefficient is that of the smooth terms."""
    labels = predicted = [0, 1, 1, 0]
    assert by_hand(labels, predicted, smooth_numerator=1.0, smooth_denominator=4.0) == pytest.approx(
        1 - ((4 + 1) / (4 + 4) + 1 / 4) / 2
    )
    assert by_hand(labels, predicted, smooth_numerator=1e-5, smooth_denominator=1e-5) == pytest.approx(0, abs=1e-6)
    # once predicted, it is lost
    assert by_hand(labels, [0, 1, 1, 2], smooth_numerator=1e-5, smooth_denominator=1e-5) == pytest.approx(
        1 / 2, abs=1e-4
    )


def test_small_batches_add_up_to_a_large_one() -> None:
    logits, labels = random_case(3, ignored=True)
    loss = DiceLossConfig(class_weights=(1.0, 2.0, 3.0, 4.0)).build(NUM_CLASSES)
    parts = [loss(logits[i : i + 1], labels[i : i + 1]) for i in range(3)]
    together = sum(part.sum() for part in parts) / sum(part.normalizer for part in parts)
    assert together.item() == pytest.approx(loss(logits, labels).total().item(), rel=1e-6)


@pytest.mark.parametrize("batch", [False, True])
def test_a_sample_of_ignored_only_does_not_count(batch: bool) -> None:
    logits, labels = random_case(4)
    labels[1] = IGNORE_INDEX
    loss = DiceLossConfig(batch=batch, smooth_numerator=1.0, smooth_denominator=2.0).build(NUM_CLASSES)
    logits.requires_grad_()
    result = loss(logits, labels)
    expected = loss(logits[[0, 2]], labels[[0, 2]])
    assert result.normalizer == 2
    for name, part in expected.parts.items():
        assert result.parts[name].item() == pytest.approx(part.item(), rel=1e-6)
    assert not gradient(result.sum(), logits)[1].any()


def test_ignored_only_is_zero_with_a_gradient_of_zero() -> None:
    logits = torch.randn(2, 3, 2, 2, 2, requires_grad=True)
    result = DiceLossConfig().build(3)(logits, torch.full((2, 2, 2, 2), IGNORE_INDEX, dtype=torch.uint8))
    assert result.total() == 0
    assert result.normalizer == 0
    assert not gradient(result.total(), logits).any()


def test_ignored_voxels_count_nowhere() -> None:
    logits, labels = random_case(5, ignored=True)
    loss = DiceLossConfig(squared=True).build(NUM_CLASSES)
    logits.requires_grad_()
    result = loss(logits, labels)
    ignored = (labels == IGNORE_INDEX)[:, None].expand_as(logits)
    assert not gradient(result.sum(), logits)[ignored].any()
    changed = torch.where(ignored, logits + 5 * torch.randn_like(logits), logits)
    assert loss(changed, labels).sum().item() == pytest.approx(result.sum().item(), rel=1e-6)


def test_deep_supervision_weighs_coarser_levels_half_as_much() -> None:
    logits, labels = random_case(6)
    # Voxel i of the coarser grids has its center in this voxel of the finer.
    at_half = labels[:, 1::2][:, :, [0, 2, 4]][:, :, :, 1::2]
    at_single = labels[:, 2:3, 2:3, 3:4]
    coarse = torch.randn(3, NUM_CLASSES, 2, 3, 3)
    coarsest = torch.randn(3, NUM_CLASSES, 1, 1, 1)
    loss = DiceLossConfig().build(NUM_CLASSES)
    result = loss((logits, coarse, coarsest), labels)
    levels = [loss(logits, labels), loss(coarse, at_half), loss(coarsest, at_single)]
    for name in ("dice", "cross_entropy"):
        expected = sum(w * level.parts[name].item() for w, level in zip((4 / 7, 2 / 7, 1 / 7), levels, strict=True))
        assert result.parts[name].item() == pytest.approx(expected, rel=1e-6)
    assert result.normalizer == 3
    assert loss((logits,), labels).total() == loss(logits, labels).total()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_is_computed_in_float32_also_under_autocast(dtype: torch.dtype) -> None:
    """16 bits would overflow in the sums: 65504 is the largest float16."""
    labels = torch.zeros(1, 48, 48, 48, dtype=torch.uint8)
    labels[:, :24] = 1
    logits = torch.randn(1, 2, 48, 48, 48, generator=torch.Generator().manual_seed(0)).to(dtype)
    loss = DiceLossConfig().build(2)
    expected = loss(logits.float(), labels)
    logits.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = loss(logits, labels)
    assert result.total().dtype == torch.float32
    assert result.total().item() == pytest.approx(expected.total().item(), rel=1e-6)
    assert gradient(result.total(), logits).dtype == dtype


def test_layout_in_memory_does_not_matter() -> None:
    logits, labels = random_case(7)
    loss = DiceLossConfig().build(NUM_CLASSES)
    last = logits.contiguous(memory_format=torch.channels_last_3d)
    assert loss(last, labels).total().item() == pytest.approx(loss(logits, labels).total().item(), rel=1e-6)


LABELS = torch.zeros(2, 4, 4, 4).byte()
LOGITS = torch.zeros(2, 3, 4, 4, 4)
DOES_NOT_FIT: list[tuple[Any, Tensor, str]] = [
    (LOGITS[:, :2], LABELS, r"a loss for 3 classes needs logits \[B, 3, D, H, W\], got \[2, 2, 4, 4, 4\]"),
    (LOGITS[0], LABELS, r"got \[3, 4, 4, 4\]"),
    (LOGITS, LABELS[:1], r"need a label volume \[2, 4, 4, 4\] of uint8, got \[1, 4, 4, 4\] of torch.uint8"),
    (LOGITS, LABELS.long(), r"got \[2, 4, 4, 4\] of torch.int64"),
    (LOGITS, LABELS + 3, "label 3 in the label volume, allowed 0 to 2 and 255"),
    ((), LABELS, "got an empty sequence of logits"),
    (
        (LOGITS, LOGITS[:1]),
        LABELS,
        r"deep supervision needs logits \[2, 3, D, H, W\] no larger .* \[1, 3, 4, 4, 4\]",
    ),
    ((LOGITS[..., :2], LOGITS), LABELS[..., :2], r"no larger than the first, \[2, 3, 4, 4, 2\]; got \[2, 3, 4, 4, 4\]"),
    ((LOGITS, LOGITS[0]), LABELS, r"got \[3, 4, 4, 4\]"),
]


@pytest.mark.parametrize(("logits", "labels", "message"), DOES_NOT_FIT)
def test_input_that_does_not_fit(logits: Any, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiceLossConfig().build(3)(logits, labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dice": -1.0}, "dice must be a finite number of at least 0, got -1.0"),
        ({"cross_entropy": math.inf}, "cross_entropy must be a finite number"),
        ({"dice": 0.0, "cross_entropy": 0.0}, "both 0; give at least one"),
        ({"smooth_numerator": math.nan}, "smooth_numerator must be a finite number of at least 0, got nan"),
        ({"smooth_denominator": 0.0}, "smooth_denominator must be a finite number above 0, got 0.0: a class"),
        ({"class_weights": (1.0, -1.0)}, "finite, at least 0, and not all 0"),
        ({"class_weights": (1.0, 1.0), "cross_entropy": 0.0}, "class_weights are those of the cross-entropy"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiceLossConfig(**settings)


def test_what_does_not_fit_the_classes() -> None:
    with pytest.raises(ValueError, match="got 2 class weights for 3 classes"):
        DiceLossConfig(class_weights=(1.0, 2.0)).build(3)
    with pytest.raises(ValueError, match="needs the background and at least one more class, got 1"):
        DiceLossConfig().build(1)


def test_yaml() -> None:
    given = {"name": "dice", "squared": True, "class_weights": [1, 2.5], "smooth_numerator": 1}
    config = from_dict(DiceLossConfig, given, "a test")
    assert config == DiceLossConfig(squared=True, class_weights=(1.0, 2.5), smooth_numerator=1.0)


def test_a_loss_without_settings_is_that_of_an_empty_configuration() -> None:
    assert DiceLoss(3) == DiceLossConfig().build(3)
