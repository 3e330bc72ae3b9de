"""Triton kernels that list the candidates of NMS straight from a detector's raw maps.

Scores are logits there and boxes a few dozen numbers each. Most anchors are no candidates: their logits are compared
with a threshold and nothing else is done, and only boxes of candidates are decoded. What is computed is defined to the
last bit, in :mod:`detseg.ops.exact_decode`: every operation rounds on its own, sums have an order, and the exponential
is a polynomial.

Shape legend: B images, A anchors of all levels, C classes, K room for candidates, R bins of a side's distance.
"""

from __future__ import annotations

import triton
import triton.language as tl

from detseg.ops.kernels.candidates import append, key_score, score_key

KINDS = {"dfl": 0, "ltrb": 1, "yolox": 2}
"""How boxes are given, see :func:`detseg.ops.decode.decode`, as the kernels know it."""


@triton.jit
def exponential(x):
    """e to ``x``, at most 80 and at least -80; see :func:`detseg.ops.exact_decode.exponential`."""
    x = tl.where(x > 80.0, 80.0, tl.where(x < -80.0, -80.0, x))
    # Rounded to a whole number: a float32 this large has no bits left for fractions.
    whole = (x * 1.44269502162933349609375 + 12582912.0) - 12582912.0
    rest = (x - whole * 0.693359375) - whole * -0.0002121944417012855410575866699
    value = rest * 0.00019875691214110702276230 + 0.00139819993637502193450927
    value = value * rest + 0.00833345204591751098632812
    value = value * rest + 0.04166579619050025939941406
    value = value * rest + 0.16666665673255920410156250
    value = value * rest + 0.5
    value = (value * rest) * rest + rest + 1.0
    whole = tl.where(x == x, whole, 0.0)  # NaN has no whole part
    power = ((whole.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return value * power


@triton.jit
def sigmoid(x):
    """1 / (1 + e to -``x``)."""
    return tl.div_rn(1.0, 1.0 + exponential(-x))


@triton.jit
def decode_side(
    maps, cells, side, stride_a, stride_c, width, cell_size, mask, KIND: tl.constexpr, REG_MAX: tl.constexpr,
):  # fmt: skip
    """Left, top, right or bottom, as ``side`` ``[1, 4]`` says, of the boxes at ``cells`` ``[N, 1]``: ``[N, 4]``."""
    place = maps + cells.to(tl.int64) * stride_a
    index = tl.where(side % 2 == 0, cells % width, cells // width).to(tl.float32)
    # Two numbers of a box are a center and a size, or a point and the distance to a side.
    if KIND == 2:
        center = (tl.load(place + (side % 2) * stride_c, mask=mask, other=0).to(tl.float32) + index) * cell_size
        size = tl.load(place + (2 + side % 2) * stride_c, mask=mask, other=0).to(tl.float32)
        distance = (exponential(size) * cell_size) * 0.5
    else:
        center = (index + 0.5) * cell_size
        if KIND == 1:
            distance = tl.load(place + side * stride_c, mask=mask, other=0).to(tl.float32) * cell_size
            distance = tl.where(distance < 0, 0.0, distance)
        else:
            bins = place + (side * REG_MAX) * stride_c
            highest = tl.load(bins, mask=mask, other=0).to(tl.float32)
            for number in range(1, REG_MAX):
                logit = tl.load(bins + number * stride_c, mask=mask, other=0).to(tl.float32)
                highest = tl.where(logit > highest, logit, highest)
            total = tl.zeros_like(highest)
            moment = tl.zeros_like(highest)
            weight = 0.0
            for number in range(REG_MAX):
                logit = tl.load(bins + number * stride_c, mask=mask, other=0).to(tl.float32)
                share = exponential(logit - highest)
                total += share
                moment += share * weight
                weight += 1.0
            distance = tl.div_rn(moment, total) * cell_size
    return tl.where(side < 2, center - distance, center + distance)


@triton.jit
def first_class_channel(KIND: tl.constexpr, REG_MAX: tl.constexpr):
    """The channel of the first class: those of the box come before, and objectness."""
    return 5 if KIND == 2 else (4 if KIND == 1 else 4 * REG_MAX)


@triton.jit(do_not_specialize=["width", "first_anchor", "capacity", "confidence", "lowest", "cell_size"])
def collect_from_map(
    maps, kept, boxes, keys, num_found, stride_b, stride_c, stride_a, num_cells, width, cell_size, first_anchor,
    num_anchors, capacity, confidence, lowest,
    KIND: tl.constexpr, REG_MAX: tl.constexpr, NUM_CLASSES: tl.constexpr, MULTI_LABEL: tl.constexpr,
    CHOOSES: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """List the candidates of ``BLOCK_A`` cells of a level ``[B, channels, cells]``, each with its best class or, with
    ``MULTI_LABEL``, with all, and write their boxes: keys ``[B, K]`` and boxes ``[B, A, 4]``, of which all others stay
    as they are.

    No score whose logit is ``lowest`` or below is above ``confidence``. With ``CHOOSES`` only those of the classes that
    are ``kept`` ``[C]`` are listed.
    """
    image = tl.program_id(1).to(tl.int64)
    cells = tl.program_id(0) * BLOCK_A + tl.arange(0, BLOCK_A)
    is_cell = cells < num_cells
    maps += image * stride_b
    keys += image * capacity
    num_found += image
    place = maps + cells.to(tl.int64) * stride_a
    anchors = cells.to(tl.int64) + first_anchor
    if KIND == 2:
        objectness = tl.load(place + 4 * stride_c, mask=is_cell, other=0).to(tl.float32)
    # Below every key, so that an anchor without classes is none.
    top = tl.full([BLOCK_A], -0x8000000000000000, tl.int64)
    listed = tl.zeros([BLOCK_A], tl.int32)
    for first in range(0, NUM_CLASSES, BLOCK_C):
        classes = first + tl.arange(0, BLOCK_C)
        inside = is_cell[:, None] & (classes < NUM_CLASSES)[None, :]
        channels = (first_class_channel(KIND, REG_MAX) + classes)[None, :].to(tl.int64)
        logit = tl.load(place[:, None] + channels * stride_c, mask=inside, other=0).to(tl.float32)
        # Above the threshold, or no number: where an anchor has one class, that takes it out.
        matters = inside & ((logit > lowest) | (logit != logit))
        if KIND == 2:
            matters = matters & (objectness > lowest)[:, None]
        if tl.sum(matters.to(tl.int32)) > 0:
            score = sigmoid(logit)
            if KIND == 2:
                score = sigmoid(objectness)[:, None] * score
            named = score_key(score, anchors[:, None] * NUM_CLASSES + classes[None, :])
            if MULTI_LABEL:
                above = inside & (score > confidence)
                if CHOOSES:
                    wanted = tl.load(kept + classes, mask=classes < NUM_CLASSES, other=0) != 0
                    above = above & wanted[None, :]
                named = tl.reshape(named, [BLOCK_A * BLOCK_C])
                append(keys, num_found, capacity, named, tl.reshape(above, [BLOCK_A * BLOCK_C]))
                listed = tl.maximum(listed, tl.max(above.to(tl.int32), axis=1))
            else:
                named = tl.where(score != score, 0x7FFFFFFFFFFFFFFF, named)
                named = tl.where(inside, named, -0x8000000000000000)
                top = tl.maximum(top, tl.max(named, axis=1))
    if not MULTI_LABEL:
        passing = key_score(top) > confidence
        if CHOOSES:
            label = (0xFFFFFFFF - (top & 0xFFFFFFFF)) % NUM_CLASSES
            passing = passing & (tl.load(kept + label, mask=passing, other=0) != 0)
        append(keys, num_found, capacity, top, passing)
        listed = passing.to(tl.int32)
    if tl.sum(listed) > 0:
        side = tl.arange(0, 4)[None, :]
        mask = (listed != 0)[:, None] & (side < 4)
        corner = decode_side(maps, cells[:, None], side, stride_a, stride_c, width, cell_size, mask, KIND, REG_MAX)
        tl.store(boxes + ((image * num_anchors + anchors) * 4)[:, None] + side, corner, mask=mask)


@triton.jit(do_not_specialize=["first_anchor", "capacity"])
def scores_from_map(
    maps, kept, scores, num_found, stride_b, stride_c, stride_a, num_cells, first_anchor, num_anchors, capacity,
    KIND: tl.constexpr, REG_MAX: tl.constexpr, NUM_CLASSES: tl.constexpr, CHOOSES: tl.constexpr,
    BLOCK_A: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Of images with more candidates than room, all scores of a level, for :func:`limit`: ``[B, A, C]``, -1 for classes
    that are not kept. Usually there are none, and this ends at once."""
    image = tl.program_id(1).to(tl.int64)
    if tl.load(num_found + image) > capacity:
        maps += image * stride_b
        start = tl.program_id(0) * BLOCK_A
        while start < num_cells:
            cells = start + tl.arange(0, BLOCK_A)
            is_cell = cells < num_cells
            place = maps + cells.to(tl.int64) * stride_a
            row = scores + (image * num_anchors + first_anchor + cells.to(tl.int64)) * NUM_CLASSES
            for first in range(0, NUM_CLASSES, BLOCK_C):
                classes = first + tl.arange(0, BLOCK_C)
                inside = is_cell[:, None] & (classes < NUM_CLASSES)[None, :]
                channels = (first_class_channel(KIND, REG_MAX) + classes)[None, :].to(tl.int64)
                score = sigmoid(tl.load(place[:, None] + channels * stride_c, mask=inside, other=0).to(tl.float32))
                if KIND == 2:
                    objectness = tl.load(place + 4 * stride_c, mask=is_cell, other=0).to(tl.float32)
                    score = score * sigmoid(objectness)[:, None]
                if CHOOSES:
                    is_kept = tl.load(kept + classes, mask=classes < NUM_CLASSES, other=0) != 0
                    score = tl.where(is_kept[None, :], score, -1.0)
                tl.store(row[:, None] + classes[None, :], score, mask=inside)
            start += tl.num_programs(0) * BLOCK_A
