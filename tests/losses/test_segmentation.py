from __future__ import annotations

import importlib
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detseg.config import ConfigError, from_dict, to_dict
from detseg.losses import SEGMENTATION_LOSSES
from detseg.losses.pixelwise import focal_loss, hard_pixels
from detseg.losses.regions import lovasz_softmax_loss, soft_dice_loss
from detseg.losses.segmentation import OHEMConfig, SegmentationLossConfig
from detseg.structures import IGNORE_INDEX

NUM_CLASSES = 5
WEIGHTS = (0.5, 2.0, 0.0, 1.5, 1.0)


def random_batch(num_images: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images with more and less ignored; the second is all ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num_images, NUM_CLASSES, 7, 9, generator=generator)
    mask = torch.randint(0, NUM_CLASSES, (num_images, 7, 9), generator=generator)
    mask[torch.rand(mask.shape, generator=generator) < torch.arange(num_images).view(-1, 1, 1) / 8] = IGNORE_INDEX
    if num_images > 1:
        mask[1] = IGNORE_INDEX
    return logits, mask.to(torch.uint8)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", ["none", WEIGHTS], ids=["plain", "weighted"])
def test_cross_entropy_equals_torch(weights: Any, smoothing: float) -> None:
    logits, mask = random_batch()
    logits.requires_grad_()
    loss = SegmentationLossConfig(class_weights=weights, label_smoothing=smoothing).build(NUM_CLASSES)
    tensor = None if weights == "none" else torch.tensor(weights)
    expected = F.cross_entropy(logits, mask.long(), tensor, ignore_index=IGNORE_INDEX, label_smoothing=smoothing)
    found = loss(logits, mask).total()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits))


def combinations() -> list[SegmentationLossConfig]:
    """Every combination of terms with every setting of the cross-entropy."""
    pixelwise: list[dict[str, Any]] = [{"cross_entropy": 0.0}]
    modes = ({}, {"label_smoothing": 0.1}, {"focal_gamma": 1.5})
    for mode, weights, ohem in itertools.product(modes, ("none", WEIGHTS), (None, OHEMConfig(0.3, 0.25))):
        pixelwise.append({**mode, "cross_entropy": 0.75, "class_weights": weights, "ohem": ohem})
    regions = [dict(zip(("dice", "lovasz"), pair, strict=True)) for pair in itertools.product((0.0, 0.5), (0.0, 2.0))]
    settings = [{**pixels, **terms} for pixels, terms in itertools.product(pixelwise, regions)]
    return [
        SegmentationLossConfig(**one) for one in settings if any(one[t] for t in ("cross_entropy", "dice", "lovasz"))
    ]


@pytest.mark.parametrize("config", combinations(), ids=str)
def test_micro_batches_add_up(config: SegmentationLossConfig) -> None:
    loss = config.build(NUM_CLASSES)
    logits, mask = random_batch()
    logits.requires_grad_()
    whole = loss(logits, mask)
    small = [loss(logits[image : image + 1], mask[image : image + 1]) for image in range(4)]
    normalizer = torch.stack([one.normalizer for one in small]).sum()
    assert list(whole.parts) == [t for t in ("cross_entropy", "dice", "lovasz") if getattr(config, t)]
    assert normalizer.item() == pytest.approx(whole.normalizer.item(), rel=1e-6)
    for name, part in whole.parts.items():
        assert sum(one.parts[name].item() for one in small) == pytest.approx(part.item(), rel=1e-5)
        assert part.item() > 0
    (expected,) = torch.autograd.grad(whole.total(), logits)
    (found,) = torch.autograd.grad(torch.stack([one.sum() for one in small]).sum() / normalizer.clamp(min=1), logits)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)
    assert not expected[mask[:, None].expand_as(expected) == IGNORE_INDEX].any()


@pytest.mark.parametrize("config", combinations(), ids=str)
def test_a_batch_of_ignored_only(config: SegmentationLossConfig) -> None:
    logits, mask = random_batch(2)
    logits.requires_grad_()
    loss = config.build(NUM_CLASSES)(logits, torch.full_like(mask, IGNORE_INDEX))
    assert loss.normalizer == 0
    loss.total().backward()
    assert loss.total() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_terms_have_their_weights() -> None:
    logits, mask = random_batch(1)
    labels, num_labeled = mask.long(), int((mask != IGNORE_INDEX).sum())
    config = SegmentationLossConfig(cross_entropy=3.0, dice=0.5, lovasz=2.0, focal_gamma=2.0)
    loss = config.build(NUM_CLASSES)(logits, mask)
    assert loss.normalizer == num_labeled
    focal = focal_loss(logits.log_softmax(1), labels, 2.0).sum()
    assert loss.parts["cross_entropy"].item() == pytest.approx(3 * focal.item())
    for name, gain, region in (("dice", 0.5, soft_dice_loss), ("lovasz", 2.0, lovasz_softmax_loss)):
        expected = gain * region(logits.softmax(1), labels).item() * num_labeled
        assert loss.parts[name].item() == pytest.approx(expected)


def test_images_count_by_their_labeled_pixels() -> None:
    logits, mask = random_batch()
    loss = SegmentationLossConfig(cross_entropy=0.0, dice=1.0).build(NUM_CLASSES)(logits, mask)
    counts = (mask != IGNORE_INDEX).sum((1, 2))
    expected = (soft_dice_loss(logits.softmax(1), mask.long()) * counts).sum() / counts.sum()
    assert counts.unique().numel() == 4
    assert loss.total().item() == pytest.approx(expected.item())


def test_ohem_is_cross_entropy_where_the_other_pixels_are_ignored() -> None:
    logits, mask = random_batch()
    kept = hard_pixels(logits.log_softmax(1), mask.long(), 0.2, 0.3)
    assert 0 < kept.sum() < (mask != IGNORE_INDEX).sum()
    settings: dict[str, Any] = {"class_weights": WEIGHTS, "label_smoothing": 0.1}
    plain, mined = (
        SegmentationLossConfig(**settings, ohem=ohem).build(NUM_CLASSES) for ohem in (None, OHEMConfig(0.2, 0.3))
    )
    expected = plain(logits, mask.masked_fill(~kept, IGNORE_INDEX))
    found = mined(logits, mask)
    assert found.total().item() == pytest.approx(expected.total().item(), rel=1e-6)
    assert found.normalizer.item() == pytest.approx(expected.normalizer.item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits, mask = random_batch()
    logits = logits.to(dtype).requires_grad_()
    loss = SegmentationLossConfig(dice=1.0, lovasz=1.0, label_smoothing=0.1, class_weights=WEIGHTS).build(NUM_CLASSES)
    expected = loss(logits.detach().float(), mask)
    with torch.autocast("cpu", dtype=dtype):
        found = loss(logits, mask)
    for name, part in found.parts.items():
        assert part.dtype == torch.float32
        assert part.item() == expected.parts[name].item()
    found.total().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == dtype
    assert logits.grad.isfinite().all()


def test_weights_from_the_data() -> None:
    logits, mask = random_batch()
    assert SegmentationLossConfig().build(NUM_CLASSES).weighting is None
    assert SegmentationLossConfig(class_weights=WEIGHTS).build(NUM_CLASSES).weighting is None
    loss = SegmentationLossConfig(class_weights="median_frequency").build(NUM_CLASSES)
    assert loss.weighting == "median_frequency"
    with pytest.raises(ValueError, match="median_frequency come from the training set; call set_class_weights first"):
        loss(logits, mask)
    loss.set_class_weights(WEIGHTS)
    expected = SegmentationLossConfig(class_weights=WEIGHTS).build(NUM_CLASSES)(logits, mask)
    assert loss(logits, mask).total() == expected.total()
    with pytest.raises(ValueError, match="got 2 class weights for 5 classes"):
        loss.set_class_weights([1.0, 2.0])


@pytest.mark.parametrize(
    ("logits", "mask", "message"),
    [
        (
            torch.zeros(1, 3, 2, 2),
            torch.zeros(1, 2, 2),
            r"a loss for 11 classes needs logits \[B, 11, H, W\], got \[1, 3",
        ),
        (torch.zeros(11, 2, 2), torch.zeros(1, 2, 2), r"got \[11, 2, 2\]"),
        (torch.zeros(1, 11, 2, 2), torch.zeros(1, 2, 3), r"need a mask \[1, 2, 2\] of uint8, got \[1, 2, 3\] of"),
        (torch.zeros(2, 11, 2, 2), torch.zeros(1, 2, 2), r"need a mask \[2, 2, 2\]"),
        (torch.zeros(1, 11, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64), r"of torch\.int64"),
        (
            torch.zeros(1, 11, 1, 3),
            torch.tensor([[[10, 13, IGNORE_INDEX]]]),
            "label 13 in the mask, allowed 0 to 10 and 255",
        ),
        (
            torch.zeros(1, 11, 1, 3),
            torch.tensor([[[0, 11, IGNORE_INDEX]]]),
            "label 11 in the mask, allowed 0 to 10 and 255",
        ),
    ],
)
def test_input_that_does_not_fit(logits: Tensor, mask: Tensor, message: str) -> None:
    if mask.dtype != torch.int64 or IGNORE_INDEX in mask:
        mask = mask.to(torch.uint8)
    with pytest.raises(ValueError, match=message):
        SegmentationLossConfig().build(11)(logits, mask)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dice": -1.0}, "dice must be a finite number of at least 0, got -1.0"),
        ({"lovasz": float("inf")}, "lovasz must be a finite"),
        ({"focal_gamma": -0.5}, "focal_gamma must be a finite number of at least 0, got -0.5"),
        ({"cross_entropy": 0.0}, "all 0; give at least one term a weight above 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\), got 1.0"),
        ({"label_smoothing": 0.1, "focal_gamma": 2.0}, "label_smoothing and focal_gamma exclude each other"),
        ({"class_weights": "inverse"}, "'inverse'; allowed are none, enet, median_frequency, or a list of numbers"),
        ({"class_weights": (1.0, -1.0)}, r"finite, at least 0, and not all 0, got \[1.0, -1.0\]"),
        ({"class_weights": (1.0, float("nan"))}, "finite, at least 0"),
        ({"class_weights": (1.0, float("inf"))}, "finite, at least 0"),
        ({"class_weights": (0.0, 0.0)}, "not all 0"),
        ({"class_weights": ()}, "not all 0"),
        (
            {"cross_entropy": 0.0, "dice": 1.0, "ohem": OHEMConfig(), "class_weights": "enet"},
            "class_weights, ohem: sett",
        ),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentationLossConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0.0}, r"threshold is a probability in \(0, 1\], got 0.0"),
        ({"threshold": 1.5}, "threshold is a probability"),
        ({"min_kept": -0.1}, r"min_kept is a share of an image's pixels in \[0, 1\], got -0.1"),
        ({"min_kept": 100000}, "min_kept is a share"),
    ],
)
def test_ohem_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OHEMConfig(**settings)


def test_the_number_of_class_weights_is_that_of_the_classes() -> None:
    with pytest.raises(ValueError, match="got 5 class weights for 11 classes"):
        SegmentationLossConfig(class_weights=WEIGHTS).build(11)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, SegmentationLossConfig()),
        ({"class_weights": "enet"}, SegmentationLossConfig(class_weights="enet")),
        ({"class_weights": [1, 2.5, 0]}, SegmentationLossConfig(class_weights=(1.0, 2.5, 0.0))),
        ({"ohem": {"threshold": 0.5}, "dice": 1}, SegmentationLossConfig(dice=1.0, ohem=OHEMConfig(threshold=0.5))),
        ({"ohem": {}}, SegmentationLossConfig(ohem=OHEMConfig(0.7, 1 / 16))),
    ],
)
def test_from_yaml_and_back(given: dict[str, Any], expected: SegmentationLossConfig) -> None:
    config = from_dict(SegmentationLossConfig, given, "run.yaml")
    assert config == expected
    assert from_dict(SegmentationLossConfig, to_dict(config), "saved.yaml") == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"class_weights": "ent"},
            "class_weights: expected one of 'none', 'enet', 'median_frequency', got 'ent' \\(str\\); did you mean enet",
        ),
        ({"class_weights": ["a"]}, "expected a number, got 'a'"),
        ({"ohem": {"thresh": 0.5}}, "did you mean ohem.threshold"),
    ],
)
def test_yaml_that_does_not_fit(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(SegmentationLossConfig, given, "run.yaml")


@pytest.mark.parametrize(("name", "target"), SEGMENTATION_LOSSES.items())
def test_table_names_configurations_that_build(name: str, target: str) -> None:
    module, attribute = target.split(":")
    config = getattr(importlib.import_module(module), attribute)()
    assert config.name == name
    assert config.build(NUM_CLASSES)(*random_batch()).total().isfinite()
