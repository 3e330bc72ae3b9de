"""NMS from a detector's raw maps: the kernels against the operator on the CPU, bit by bit, and with one fault each."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import detseg.ops.nms_of_maps  # noqa: F401 - registers the operator
from detseg.ops.kernels import nms as kernels
from detseg.ops.nms import empty_outputs

SIZES, STRIDES = ((4, 5), (2, 3)), (8, 16)
REG_MAX = {"dfl": 4, "ltrb": 1, "yolox": 1}
BOX_CHANNELS = {"dfl": 16, "ltrb": 4, "yolox": 5}


def maps(kind: str, num_classes: int, seed: int, sizes: Any = SIZES) -> list[Tensor]:
    """Raw maps of two images with everything that is no number, too large, equal, or just below the threshold."""
    generator = torch.Generator().manual_seed(seed)
    channels = BOX_CHANNELS[kind] + num_classes
    levels = [2 * torch.randn(2, channels, height, width, generator=generator) for height, width in sizes]
    first, classes = levels[0], BOX_CHANNELS[kind]
    first[0, 0, 0, 0] = first[0, classes, 1, 1] = float("nan")
    first[0, classes:, 1, 1] += 3  # a class that is no number, beside others that are candidates
    first[1, 1, 0, 0] = float("inf")
    first[1, 2, 0, 1] = -float("inf")
    first[1, 0, 0, 2] = 300
    first[0, classes:, 2, 0] = torch.tensor([30.0, 40])[torch.arange(num_classes) % 2]  # whose scores are all 1
    first[0, classes:, 3] = 0  # a score of exactly 0.5
    levels[1][:, classes:] += 1
    return levels


def expected(levels: list[Tensor], kind: str, kept: Tensor | None = None, **settings: Any) -> tuple[Tensor, ...]:
    arguments = {"confidence": 0.25, "iou": 0.6, "max_detections": 40, "multi_label": False, "class_agnostic": False,
                 "max_candidates": 30_000, **settings}  # fmt: skip
    found: tuple[Tensor, ...] = torch.ops.detseg.nms_of_maps(
        [level.cpu() for level in levels], kept if kept is None else kept.cpu(), kind, STRIDES, REG_MAX[kind],
        *arguments.values(),
    )  # fmt: skip
    return found


def launch(
    module: ModuleType, levels: list[Tensor], kind: str, kept: Tensor | None = None, **settings: Any
) -> tuple[Tensor, ...]:
    arguments = {"confidence": 0.25, "iou": 0.6, "max_detections": 40, "multi_label": False, "class_agnostic": False,
                 "max_candidates": 30_000, **settings}  # fmt: skip
    out = empty_outputs(levels[0], arguments["max_detections"])
    for tensor in out:
        tensor.fill_(-7)
    with np.errstate(all="ignore"):  # numpy, in the interpreter, warns of what is not finite
        found: tuple[Tensor, ...] = module.launch_nms_of_maps(
            levels, kept, kind, STRIDES, REG_MAX[kind], *arguments.values(), out=out
        )
    return found


def same(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> bool:
    pairs = [(one.cpu(), other) for one, other in zip(found, wanted, strict=True)]
    return all(bool(((one == other) | (one.isnan() & other.isnan())).all()) for one, other in pairs)


@pytest.mark.parametrize(
    ("kind", "num_classes", "settings"),
    [
        ("dfl", 3, {}),
        ("dfl", 3, {"confidence": 0.5, "class_agnostic": True}),
        ("dfl", 3, {"confidence": 0.0, "max_detections": 5}),
        ("ltrb", 80, {"confidence": 0.001}),
        ("ltrb", 1, {"confidence": 1.0}),
        ("yolox", 3, {}),
        ("yolox", 130, {"confidence": 0.6}),
        ("ltrb", 130, {"confidence": 0.97}),
        ("dfl", 3, {"multi_label": True}),
        ("yolox", 130, {"multi_label": True, "confidence": 0.9}),
    ],
)
def test_kernels_give_what_the_operator_gives(
    kind: str, num_classes: int, settings: dict[str, Any], device: torch.device
) -> None:
    levels = [level.to(device) for level in maps(kind, num_classes, 1)]
    wanted = expected(levels, kind, **settings)
    assert same(launch(kernels, levels, kind, **settings), wanted)
    assert int(wanted[1].sum()) > 6 or settings["confidence"] == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_types_and_layouts(dtype: torch.dtype, channels_last: bool, device: torch.device) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    levels = [level.to(device, dtype).contiguous(memory_format=layout) for level in maps("ltrb", 3, 2)]
    # As split off from maps with coefficients: channels are left out.
    levels = [level[:, 1:] for level in levels]
    levels = [torch.cat([level, level[:, :1]], dim=1)[:, : level.shape[1]] for level in levels]
    assert same(launch(kernels, levels, "ltrb"), expected(levels, "ltrb"))


def test_only_kept_classes_are_found(device: torch.device) -> None:
    levels = [level.to(device) for level in maps("ltrb", 3, 3)]
    kept = torch.tensor([True, False, True], device=device)
    wanted = expected(levels, "ltrb", kept)
    assert same(launch(kernels, levels, "ltrb", kept), wanted)
    assert set(wanted[0][0, : int(wanted[1][0]), 5].tolist()) == {0, 2}
    assert not same(launch(kernels, levels, "ltrb"), wanted)

    settings: dict[str, Any] = {"multi_label": True, "confidence": 0.4}
    wanted = expected(levels, "ltrb", kept, **settings)
    assert same(launch(kernels, levels, "ltrb", kept, **settings), wanted)
    assert not same(launch(kernels, levels, "ltrb", **settings), wanted)


@pytest.mark.parametrize("chooses", [False, True])
@pytest.mark.parametrize("kind", ["ltrb", "yolox"])
def test_more_candidates_than_room(
    kind: str, chooses: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """26 anchors have room, as always, of 130 pairs; the best 20 count, and in one image there are fewer than 26."""
    monkeypatch.setattr(kernels, "_ROOM", 1)
    levels = [level.to(device) for level in maps(kind, 5, 6)]
    for level in levels:
        level[1, BOX_CHANNELS[kind] :] -= 5
    kept = torch.tensor([True, False, True, True, True], device=device) if chooses else None
    settings: dict[str, Any] = {"multi_label": True, "confidence": 0.1, "iou": 0.9, "max_candidates": 20}
    wanted = expected(levels, kind, kept, **settings)
    assert same(launch(kernels, levels, kind, kept, **settings), wanted)
    assert int(wanted[1][0]) > 10
    assert not same(wanted, expected(levels, kind, kept, **settings | {"max_candidates": 1000}))


def test_a_batch_beyond_the_grid_goes_in_parts(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = [level.to(device) for level in maps("ltrb", 3, 4)]
    wanted = expected(levels, "ltrb")
    monkeypatch.setattr(kernels, "MAX_IMAGES", 1)
    assert same(launch(kernels, levels, "ltrb"), wanted)
    none = [level[:0] for level in levels]
    assert [tuple(one.shape) for one in launch(kernels, none, "ltrb")] == [(0, 40, 6), (0,), (0, 40)]


NAN_OUT = "                named = tl.where(score != score, 0x7FFFFFFFFFFFFFFF, named)\n"


@pytest.mark.parametrize(
    ("text", "other", "kind", "num_classes", "settings"),
    [
        pytest.param(NAN_OUT, "", "ltrb", 3, {}, id="another class stands in for one that is NaN"),
        pytest.param(
            "((logit > lowest) | (logit != logit))", "(logit > lowest)", "ltrb", 130, {"confidence": 0.99},
            id="a NaN among low scores is not seen",
        ),
        pytest.param("key_score(top) > confidence", "key_score(top) >= confidence", "ltrb", 3, {"confidence": 0.5},
                     id="score >="),
        pytest.param("lowest_logit(confidence)\n", "lowest_logit(confidence) + 1\n", "ltrb", 3, {},
                     id="the threshold of logits is too high"),
        pytest.param("(index + 0.5) * cell_size", "index * cell_size", "ltrb", 3, {}, id="corners, not centers"),
        pytest.param("cells % width, cells // width)", "cells // width, cells % width)", "ltrb", 3, {},
                     id="rows first"),
        pytest.param("cells.to(tl.int64) + first_anchor", "cells.to(tl.int64)", "ltrb", 3, {}, id="levels overlap"),
        pytest.param("exponential(logit - highest)", "exponential(logit)", "dfl", 3, {}, id="softmax of large numbers"),
        pytest.param("weight += 1.0", "weight += 1.01", "dfl", 3, {}, id="bins are too wide"),
        pytest.param("tl.where(logit > highest, logit, highest)", "tl.maximum(logit, logit)", "dfl", 3, {},
                     id="the last bin is taken for the highest"),
        pytest.param("0.04166579619050025939941406", "0.04166", "ltrb", 3, {}, id="another polynomial"),
        pytest.param("sigmoid(objectness)[:, None] * score", "score", "yolox", 3, {}, id="objectness is forgotten"),
        pytest.param("(exponential(size) * cell_size) * 0.5", "exponential(size) * cell_size", "yolox", 3, {},
                     id="boxes are twice as large"),
        pytest.param("return 5 if KIND", "return 4 if KIND", "yolox", 3, {}, id="objectness is taken for a class"),
        pytest.param("(score > confidence)\n                if", "(score >= confidence)\n                if", "ltrb", 3,
                     {"confidence": 0.5, "multi_label": True}, id="score >=, multi-label"),
        pytest.param("listed = tl.maximum(listed, ", "listed = tl.minimum(listed, ", "ltrb", 3, {"multi_label": True},
                     id="boxes are not decoded"),
    ],
)  # fmt: skip
def test_faults_are_found(
    text: str,
    other: str,
    kind: str,
    num_classes: int,
    settings: dict[str, Any],
    device: torch.device,
    changed_kernels: Callable[..., ModuleType],
) -> None:
    levels = [level.to(device) for level in maps(kind, num_classes, 5)]
    if num_classes > 128:  # all that is near the NaN, in the first block of classes, is low
        levels[0][0, 4:132, 1, 1] = -9
        levels[0][0, 4, 1, 1] = float("nan")
        levels[0][0, 132, 1, 1] = 9
        levels = [level.clamp(max=9) for level in levels]
        for level in levels:
            level[:, 4:132] = torch.where(level[:, 4:132].isnan(), level[:, 4:132], -9)
    levels[1][:, BOX_CHANNELS[kind] :].clamp_(max=-0.9)  # scores of 0.289 and less, in a block of their own
    wrong = changed_kernels((text, other))
    assert not same(launch(wrong, levels, kind, **settings), expected(levels, kind, **settings))
