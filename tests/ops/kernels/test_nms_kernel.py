"""The NMS kernels against the oracle of ``tests/ops/conftest.py``, in Triton's interpreter or on a GPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from detseg.ops.kernels import nms as kernels
from detseg.ops.nms import empty_outputs
from detseg.runtime.postprocess.nms import floor_to_float32

Launch = Callable[..., tuple[Tensor, Tensor, Tensor]]
Images = Callable[..., tuple[Tensor, Tensor]]
Mismatches = Callable[..., list[str]]

SETTINGS = [
    {"confidence": confidence, "iou": iou, "multi_label": multi_label, "class_agnostic": class_agnostic}
    for iou, confidence, multi_label, class_agnostic in itertools.product(
        (0.45, 0.6, 0.7), (0.001, 0.25), (False, True), (False, True)
    )
]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def plain(boxes_xyxy: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    return boxes_xyxy, scores


def rows_of_predictions(boxes_xyxy: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    predictions = torch.cat([boxes_xyxy, scores], dim=2)
    return predictions[..., :4], predictions[..., 4:]


def channels_first(boxes_xyxy: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    predictions = torch.cat([boxes_xyxy, scores], dim=2).transpose(1, 2).contiguous().transpose(1, 2)
    return predictions[..., :4], predictions[..., 4:]


LAYOUTS = (plain, rows_of_predictions, channels_first)


@pytest.mark.parametrize("index", range(len(SETTINGS)))
def test_every_setting(
    index: int, device: torch.device, images: Images, launch: Launch, mismatches: Mismatches
) -> None:
    """24 settings x 8 kinds of images; number types and memory layouts take turns."""
    dtype, layout = DTYPES[index % 3], LAYOUTS[index // 3 % 3]
    boxes_xyxy, scores = (tensor.to(device, dtype) for tensor in images(66, 2, seed=index))
    inputs = layout(boxes_xyxy, scores)
    assert mismatches(launch(kernels, *inputs, **SETTINGS[index]), *inputs, **SETTINGS[index]) == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", range(len(SETTINGS)))
def test_a_thousand_images(
    index: int, dtype: torch.dtype, device: torch.device, images: Images, launch: Launch, mismatches: Mismatches
) -> None:
    """24 settings x 3 number types x 2 seeds x 8 kinds of images."""
    setting = {**SETTINGS[index], "max_detections": (300, 20)[index % 2]}
    for seed, num_anchors in ((100 + index, 100), (200 + index, 190)):
        boxes_xyxy, scores = (tensor.to(device, dtype) for tensor in images(num_anchors, 2, seed))
        inputs = LAYOUTS[(index + seed) % 3](boxes_xyxy, scores)
        assert mismatches(launch(kernels, *inputs, **setting), *inputs, **setting) == []


@pytest.mark.parametrize("num_anchors", [0, 1, 63, 64, 65, 127, 128, 129])
@pytest.mark.parametrize("kind", ["random", "tied"])
def test_borders_of_chunks(
    num_anchors: int, kind: str, device: torch.device, images: Images, launch: Launch, mismatches: Mismatches
) -> None:
    inputs = [tensor.to(device) for tensor in images(num_anchors, 1, num_anchors, [kind])]
    setting = {"confidence": 0.0, "iou": 0.7}
    assert mismatches(launch(kernels, *inputs, **setting), *inputs, **setting) == []


@pytest.mark.parametrize("num_anchors", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1023, 1024, 2049)), 1025])
def test_borders_of_sorted_tiles(
    num_anchors: int, device: torch.device, images: Images, launch: Launch, mismatches: Mismatches
) -> None:
    inputs = [tensor.to(device) for tensor in images(num_anchors, 1, num_anchors, ["tied"])]
    setting = {"confidence": 0.0, "iou": 0.5}
    assert mismatches(launch(kernels, *inputs, **setting), *inputs, **setting) == []


@pytest.mark.parametrize("num_anchors", [64, 65, 127, 128, 129, 300])
def test_borders_of_small_tiles(
    num_anchors: int,
    device: torch.device,
    images: Images,
    launch: Launch,
    mismatches: Mismatches,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tiles of 64 instead of 1,024: many of them to join."""
    monkeypatch.setattr(kernels, "_TILE", 64)
    inputs = [tensor.to(device) for tensor in images(num_anchors, 1, num_anchors, ["random", "tied"])]
    setting = {"confidence": 0.0, "iou": 0.5}
    assert mismatches(launch(kernels, *inputs, **setting), *inputs, **setting) == []


@pytest.mark.parametrize("num_classes", [0, 1, 80, 130])
@pytest.mark.parametrize("multi_label", [False, True])
def test_numbers_of_classes(
    num_classes: int,
    multi_label: bool,
    device: torch.device,
    images: Images,
    launch: Launch,
    mismatches: Mismatches,
) -> None:
    inputs = [tensor.to(device) for tensor in images(12, num_classes, 3, ["clustered", "tied", "not finite"])]
    setting = {"confidence": 0.9, "iou": 0.6, "multi_label": multi_label}
    assert mismatches(launch(kernels, *inputs, **setting), *inputs, **setting) == []


@pytest.mark.parametrize("max_detections", [1, 2, 63, 65])
def test_no_more_than_max_det(
    max_detections: int, device: torch.device, images: Images, launch: Launch, mismatches: Mismatches
) -> None:
    inputs = [tensor.to(device) for tensor in images(150, 2, max_detections, ["random", "tied"])]
    setting = {"confidence": 0.1, "iou": 0.7, "max_detections": max_detections}
    found = launch(kernels, *inputs, **setting)
    assert mismatches(found, *inputs, **setting) == []
    assert found[1].tolist() == [max_detections, max_detections]


@pytest.mark.parametrize("max_candidates", [1, 10, 64, 100, 399])
@pytest.mark.parametrize("multi_label", [False, True])
def test_the_best_candidates_stay(
    max_candidates: int,
    multi_label: bool,
    device: torch.device,
    images: Images,
    launch: Launch,
    mismatches: Mismatches,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Many scores are equal at the limit. Of the multi-label candidates, three of four have no room in the list."""
    monkeypatch.setattr(kernels, "_ROOM", 1)
    inputs = [tensor.to(device) for tensor in images(100, 5, max_candidates, ["random", "tied", "not finite"])]
    setting = {
        "confidence": 0.1,
        "iou": 0.9,
        "multi_label": multi_label,
        "max_candidates": max_candidates,
        "max_detections": 400,
    }
    assert mismatches(launch(kernels, *inputs, **setting), *inputs, **setting) == []


def test_more_candidates_than_there_is_room_for(
    device: torch.device, images: Images, launch: Launch, mismatches: Mismatches
) -> None:
    """1,025 anchors x 80 classes, nearly all above the threshold: more than the 65,536 that are listed at most."""
    boxes_xyxy, scores = (tensor.to(device) for tensor in images(1025, 80, 7, ["tied"]))
    assert int((scores > 0.001).sum()) > kernels._ROOM
    setting = {"confidence": 0.001, "iou": 0.6, "multi_label": True, "max_candidates": 500}
    assert mismatches(launch(kernels, boxes_xyxy, scores, **setting), boxes_xyxy, scores, **setting) == []


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("strided", [False, True])
def test_given_labels(
    class_agnostic: bool,
    strided: bool,
    device: torch.device,
    images: Images,
    launch: Launch,
    mismatches: Mismatches,
) -> None:
    """Of any size, also where float32 cannot tell them apart; any score that is a number is a candidate's."""
    boxes_xyxy, scores = (tensor.to(device) for tensor in images(140, 1, 5))
    scores = scores - 0.5
    labels = torch.tensor([2**24, 2**24 + 1, -3], device=device)[torch.arange(8 * 140, device=device).view(8, 140) % 3]
    if strided:
        labels = labels.t().contiguous().t()
    setting = {
        "confidence": 0.9,
        "iou": 0.6,
        "class_agnostic": class_agnostic,
        "max_candidates": 1,
        "multi_label": True,
    }
    found = launch(kernels, boxes_xyxy, scores, labels, **setting)
    assert mismatches(found, boxes_xyxy, scores, labels, **setting) == []


def lengths_whose_ratio_is(ratio: np.float32) -> tuple[float, float]:
    """Two whole numbers whose quotient is ``ratio`` in float32, and whose sum float32 holds exactly."""
    for whole in range(11_200_000, 2**24):
        part = round(whole * float(ratio))
        if np.float32(part) / np.float32(whole) == ratio and float(np.float32(part + whole)) == part + whole:
            return float(part), float(whole)
    raise AssertionError(f"no quotient is {ratio}")


@pytest.mark.parametrize("iou", [0.45, 0.5, 0.6, 0.7])
@pytest.mark.parametrize(("ulps", "count"), [(-1, 2), (0, 2), (1, 1)])
def test_one_unit_in_the_last_place_decides(
    iou: float, ulps: int, count: int, device: torch.device, launch: Launch, mismatches: Mismatches
) -> None:
    """An IoU that is the largest float32 not above the threshold suppresses nothing, the next one does."""
    ratio = floor_to_float32(iou)
    if ulps:
        ratio = np.nextafter(ratio, np.float32(np.inf * ulps))
    part, whole = lengths_whose_ratio_is(ratio)
    boxes_xyxy = torch.tensor([[[0, 0, whole, 1], [0, 0, part, 1]]], device=device)
    scores = torch.tensor([[[0.9], [0.8]]], device=device)
    found = launch(kernels, boxes_xyxy, scores, confidence=0.25, iou=iou)
    assert found[1].tolist() == [count]
    assert mismatches(found, boxes_xyxy, scores, confidence=0.25, iou=iou) == []


@pytest.mark.parametrize(("confidence", "count"), [(0.25, 0), (np.nextafter(0.25, 0), 1), (0.1, 1), (1.0, 0)])
def test_a_score_must_be_above_the_threshold(
    confidence: float, count: int, device: torch.device, launch: Launch
) -> None:
    boxes_xyxy = torch.tensor([[[0.0, 0, 1, 1]]], device=device)
    scores = torch.tensor([[[0.25]]], device=device)
    for multi_label in (False, True):
        assert launch(kernels, boxes_xyxy, scores, confidence=confidence, iou=0.5, multi_label=multi_label)[
            1
        ].tolist() == [count]


def test_hand_made(device: torch.device, launch: Launch) -> None:
    """The first suppresses the second, which, being gone, does not suppress the third; the fourth is of class 1."""
    boxes_xyxy = torch.tensor([[[0, 0, 10, 10], [0, 4, 10, 14], [0, 8, 10, 18], [0, 8, 10, 18.0]]], device=device)
    scores = torch.tensor([[[0.5, 0], [0.375, 0], [0.25, 0], [0, 0.75]]], device=device)
    detections, counts, keep = launch(kernels, boxes_xyxy, scores, confidence=0.2, iou=0.4, max_detections=5)
    assert counts.tolist() == [3]
    assert keep.tolist() == [[3, 0, 2, -1, -1]]
    assert detections[0].tolist() == [
        [0, 8, 10, 18, 0.75, 1],
        [0, 0, 10, 10, 0.5, 0],
        [0, 8, 10, 18, 0.25, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def chain(num_boxes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Boxes, best first, of which each overlaps only the next, with an IoU of 1/3."""
    tops = torch.arange(num_boxes, dtype=torch.float32) * 5
    boxes_xyxy = torch.stack([tops * 0, tops, tops * 0 + 10, tops + 10], dim=1)
    return boxes_xyxy[None].to(device), torch.linspace(1, 0.5, num_boxes)[None, :, None].to(device)


def at_most(num_rounds: int) -> tuple[str, str]:
    """The change of the source that ends the settling of a chunk after so many rounds."""
    head = "        num_changed = 1\n        while num_changed > 0:\n"
    counting = f"        num_rounds = 0\n        while (num_changed > 0) & (num_rounds < {num_rounds}):\n"
    return head, f"        num_changed = 1\n{counting}            num_rounds += 1\n"


def test_a_chain_ends_within_its_bound(
    device: torch.device,
    launch: Launch,
    mismatches: Mismatches,
    changed_kernels: Callable[..., ModuleType],
) -> None:
    """A chunk of 64 is settled after 64 rounds, and one more finds nothing to change: the worst case needs no more."""
    boxes_xyxy, scores = chain(1024, device)
    setting = {"confidence": 0.1, "iou": 0.3, "max_detections": 600}
    found = launch(changed_kernels(at_most(65)), boxes_xyxy, scores, **setting)
    assert found[2][0, :512].tolist() == list(range(0, 1024, 2))
    assert mismatches(found, boxes_xyxy, scores, **setting) == []


def test_a_chain_needs_nearly_so_many_rounds(
    device: torch.device, launch: Launch, mismatches: Mismatches, changed_kernels: Callable[..., ModuleType]
) -> None:
    boxes_xyxy, scores = chain(64, device)
    found = launch(changed_kernels(at_most(62)), boxes_xyxy, scores, confidence=0.1, iou=0.3)
    assert mismatches(found, boxes_xyxy, scores, confidence=0.1, iou=0.3) != []


def test_no_images(device: torch.device, launch: Launch) -> None:
    found = launch(
        kernels, torch.zeros(0, 5, 4, device=device), torch.zeros(0, 5, 2, device=device), confidence=0.1, iou=0.5
    )
    assert [tuple(tensor.shape) for tensor in found] == [(0, 300, 6), (0,), (0, 300)]


def test_double_precision_is_rounded(device: torch.device, images: Images, launch: Launch) -> None:
    boxes_xyxy, scores = (tensor.to(device) for tensor in images(60, 2, 1))
    expected = launch(kernels, boxes_xyxy, scores, confidence=0.1, iou=0.6)
    found = launch(kernels, boxes_xyxy.double(), scores.double(), confidence=0.1, iou=0.6)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_too_many_scores_are_refused(device: torch.device) -> None:
    boxes_xyxy, scores = torch.zeros(1, 1, 1, device=device).expand(1, 2**21, 4), torch.zeros(1, device=device)
    scores, out = scores.expand(1, 2**21, 1024), empty_outputs(boxes_xyxy, 300)
    with pytest.raises(ValueError, match="2097152 x 1024 scores, NMS takes fewer than 2"):
        kernels.launch_nms(boxes_xyxy, scores, None, 0.1, 0.5, 300, False, False, 100, out)


@pytest.mark.parametrize("labeled", [False, True])
def test_more_images_than_a_grid_has_places(
    labeled: bool, device: torch.device, images: Images, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA's grids end at 65,535 on their second axis; a batch beyond goes through in several launches."""
    boxes_xyxy, scores = (tensor.to(device) for tensor in images(40, 1 if labeled else 2, 3))
    labels = torch.arange(boxes_xyxy.shape[1], device=device).repeat(len(boxes_xyxy), 1) % 3 if labeled else None
    settings = (0.1, 0.5, 20, False, False, 1000)

    def run() -> list[Tensor]:
        return list(kernels.launch_nms(boxes_xyxy, scores, labels, *settings, empty_outputs(boxes_xyxy, 20)))

    expected = run()
    assert kernels.MAX_IMAGES <= 65_535
    assert len(boxes_xyxy) > 3
    monkeypatch.setattr(kernels, "MAX_IMAGES", 3)
    for one, other in zip(run(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
