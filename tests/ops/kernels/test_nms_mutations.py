"""The comparison with the oracle finds faults: kernels with one fault each, made from the source, must fail it."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from detseg.ops.kernels import nms as kernels

Images = Callable[..., tuple[Tensor, Tensor]]
Launch = Callable[..., tuple[Tensor, Tensor, Tensor]]
Mismatches = Callable[..., list[str]]

CHUNK_COMPARED = "suppresses(left, top, right, bottom, left, top, right, bottom, iou)"
MOVED = ", ".join(f"{side} + label.to(tl.float32) * 7680" for side in ("left", "top", "right", "bottom"))
CLASSES_FORGOTTEN = ("(label[:, None] == label[None, :])", "(label[:, None] == label[:, None])")
# Of the boxes of one chunk, which is all that an image of 60 anchors has.
OFFSET = [CLASSES_FORGOTTEN, (CHUNK_COMPARED, f"suppresses({MOVED}, {MOVED}, iou)")]
FILL_KEEP = "tl.store(keep + rows, tl.full([BLOCK], -1, tl.int64), mask=rows < max_detections)"
FILL_ROWS = "tl.store(detections + rows * 6 + column, tl.zeros([BLOCK], tl.float32), mask=rows < max_detections)"
COUNT = "tl.minimum(tl.minimum(tl.load(num_found + image), capacity), max_candidates)"
LABEL_KEPT = "label_k = tl.load(labels + anchor_k * stride_label_a, mask=kept, other=0)"
LABEL_ROUNDED = "label_k = tl.load(detections + rows * 6 + 5, mask=kept, other=0).to(tl.int64)"
TIES = [("| (0xFFFFFFFF - place)", "| place"), ("(0xFFFFFFFF - (key & 0xFFFFFFFF))", "(key & 0xFFFFFFFF)")]
NOT_A_NUMBER = "            key = tl.where(score != score, 0x7FFFFFFFFFFFFFFF, key)\n"
AFTER_LIMIT = {"multi_label": True, "max_candidates": 20, "room": 1}


def change(text: str, retransform: str) -> list[tuple[str, str]]:
    return [(text, retransform)]


@pytest.mark.parametrize(
    ("changes", "kind", "options"),
    [
        pytest.param(TIES, "tied", {}, id="ties go to the higher place"),
        pytest.param(change("- overlap) > iou", "- overlap) >= iou"), "integer", {"iou": 0.5}, id="IoU >="),
        pytest.param(change("(floor_to_float32(iou))", "(iou)"), "integer", {}, id="thresholds rounded up"),
        pytest.param(change("(best) > confidence", "(best) >= confidence"), "tied", {}, id="score >="),
        pytest.param(
            change("tl.reshape(score > confidence", "tl.reshape(score >= confidence"), "tied", {"multi_label": True},
            id="score >=, multi-label",
        ),
        pytest.param(OFFSET, "far", {}, id="classes are offset, and meet others"),
        pytest.param(OFFSET, "clustered", {"labels": [80], "iou": 0.7}, id="classes are offset, and rounded"),
        pytest.param([CLASSES_FORGOTTEN], "clustered", {}, id="classes of a chunk are not compared"),
        pytest.param(
            change("(label_k[:, None] == label[None, :])", "(label_k[:, None] == label_k[:, None])"),
            "clustered", {"num_anchors": 150}, id="classes of kept boxes are not compared",
        ),
        pytest.param(
            change(LABEL_KEPT, LABEL_ROUNDED), "clustered", {"num_anchors": 150, "labels": [2**24, 2**24 + 1, 2]},
            id="labels are compared as float32",
        ),
        pytest.param(change("num_changed = tl.sum(settled ^ stays)", "num_changed = 0"), "clustered", {}, id="1 round"),
        pytest.param(
            change("lanes[:, None] < lanes[None, :]", "lanes[:, None] > lanes[None, :]"), "clustered", {},
            id="worse boxes suppress better ones",
        ),
        pytest.param(
            change("while first < num_kept:", "while first + BLOCK < num_kept:"), "random", {"num_anchors": 150},
            id="the last kept boxes are forgotten",
        ),
        pytest.param(change(NOT_A_NUMBER, ""), "not finite", {}, id="another class stands in for one that is NaN"),
        pytest.param(
            change(COUNT, "tl.minimum(tl.load(num_found + image), capacity)"), "random", {"max_candidates": 20},
            id="max_candidates is not asked",
        ),
        pytest.param(change("(key >= lowest)", "(key > lowest)"), "tied", AFTER_LIMIT, id="one candidate too few"),
        pytest.param(
            change("if tl.load(num_found) > capacity:", "if tl.load(num_found) < 0:"), "random", AFTER_LIMIT,
            id="what comes first has the room",
        ),
        pytest.param(
            change("_TILE.bit_length()", "_TILE.bit_length() - 1"), "random", {"num_anchors": 300, "tile": 64},
            id="a bisection ends too early",
        ),
        pytest.param(
            change("tl.minimum(num_kept + tl.sum(stays), max_detections)", "num_kept + tl.sum(stays)"), "random",
            {"max_detections": 10}, id="those beyond max_detections are counted",
        ),
        pytest.param(change(FILL_KEEP, "pass"), "random", {}, id="anchors past the count are left as they were"),
        pytest.param(change(FILL_ROWS, "pass"), "random", {}, id="rows past the count are left as they were"),
    ],
)  # fmt: skip
def test_faults_are_found(
    changes: list[tuple[str, str]],
    kind: str,
    options: dict[str, Any],
    device: torch.device,
    images: Images,
    launch: Launch,
    mismatches: Mismatches,
    changed_kernels: Callable[..., ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings: dict[str, Any] = {"confidence": 0.25, "iou": 0.6, **options}
    num_anchors, labels = settings.pop("num_anchors", 60), settings.pop("labels", None)
    constants = {"_ROOM": settings.pop("room", kernels._ROOM), "_TILE": settings.pop("tile", kernels._TILE)}
    num_classes = 3 if labels is None else 1
    inputs = [tensor.to(device) for tensor in images(num_anchors, num_classes, 11, [kind, kind])]
    if labels is not None:
        which = torch.arange(2 * num_anchors, device=device).view(2, num_anchors) % len(labels)
        inputs.append(torch.tensor(labels, device=device)[which])
    found = {}
    for name, module in (("right", kernels), ("wrong", changed_kernels(*changes))):
        for constant, value in constants.items():
            monkeypatch.setattr(module, constant, value)
        found[name] = mismatches(launch(module, *inputs, **settings), *inputs, **settings)
    assert found["right"] == []
    assert found["wrong"] != []


def test_an_unchanged_copy_passes(
    device: torch.device,
    images: Images,
    launch: Launch,
    mismatches: Mismatches,
    changed_kernels: Callable[..., ModuleType],
) -> None:
    """So that a fault is found for what it is, not for the copy."""
    inputs = [tensor.to(device) for tensor in images(70, 3, 12)]
    settings = {"confidence": 0.25, "iou": 0.6}
    assert mismatches(launch(changed_kernels(), *inputs, **settings), *inputs, **settings) == []


def test_a_change_must_match_the_source(changed_kernels: Callable[..., ModuleType]) -> None:
    with pytest.raises(AssertionError, match="not exactly once"):
        changed_kernels(("no such text", ""))
