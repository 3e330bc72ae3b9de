"""Triton kernels that list the candidates of NMS in a batch of dense predictions.

A candidate is one number: its score in the upper half, in bits whose order as integers is the order of the scores, and
below it what is left of 2^32 - 1 after its place ``anchor * C + class`` is taken away. These keys are unique, so the
better one is the larger one, ties go to the lower place, and the order in which threads arrive changes nothing.

Shape legend: B images, A anchors, C classes, K room for candidates.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def score_key(score, place):
    """float32 scores and int64 places -> int64 keys. A NaN gets the largest of all or the smallest."""
    bits = tl.where(score == 0, 0.0, score).to(tl.int32, bitcast=True)  # -0 is as good as 0
    ordered = tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (0xFFFFFFFF - place)


@triton.jit
def key_score(key):
    """int64 keys -> float32 scores."""
    ordered = (key >> 32).to(tl.int32)
    return tl.where(ordered >= 0, ordered, ordered ^ 0x7FFFFFFF).to(tl.float32, bitcast=True)


@triton.jit
def class_keys(scores, anchors, classes, stride_a, stride_c, num_anchors, NUM_CLASSES: tl.constexpr):
    """The keys ``[anchors, classes]`` of a block of scores, and the scores, NaN outside of the image's."""
    inside = (anchors < num_anchors)[:, None] & (classes < NUM_CLASSES)[None, :]
    offsets = anchors[:, None].to(tl.int64) * stride_a + classes[None, :].to(tl.int64) * stride_c
    score = tl.load(scores + offsets, mask=inside, other=float("nan")).to(tl.float32)
    return score_key(score, anchors[:, None].to(tl.int64) * NUM_CLASSES + classes[None, :]), score, inside


@triton.jit
def append(keys, num_found, capacity, key, passing):
    """Add the ``passing`` of some keys to the list of an image; those that have no room are only counted."""
    added = passing.to(tl.int32)
    count = tl.sum(added)
    if count > 0:
        # The place alone is at stake, and the next kernel begins when all of this one is in memory.
        position = tl.atomic_add(num_found, count, sem="relaxed") + tl.cumsum(added, 0) - 1
        tl.store(keys + position, key, mask=passing & (position < capacity))


@triton.jit(do_not_specialize=["capacity", "confidence"])
def collect(
    scores, keys, num_found, stride_b, stride_a, stride_c, num_anchors, capacity, confidence,
    NUM_CLASSES: tl.constexpr, MULTI_LABEL: tl.constexpr, LABELED: tl.constexpr,
    BLOCK_A: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """List the candidates of ``BLOCK_A`` anchors of an image: scores ``[B, A, C]`` -> keys ``[B, K]``."""
    image = tl.program_id(1).to(tl.int64)
    anchors = tl.program_id(0) * BLOCK_A + tl.arange(0, BLOCK_A)
    scores += image * stride_b
    keys += image * capacity
    num_found += image
    # Below every key, so that an anchor without classes is none.
    best = tl.full([BLOCK_A], -0x8000000000000000, tl.int64)
    for first in range(0, NUM_CLASSES, BLOCK_C):
        classes = first + tl.arange(0, BLOCK_C)
        key, score, inside = class_keys(scores, anchors, classes, stride_a, stride_c, num_anchors, NUM_CLASSES)
        if MULTI_LABEL:
            key = tl.reshape(key, [BLOCK_A * BLOCK_C])
            append(keys, num_found, capacity, key, tl.reshape(score > confidence, [BLOCK_A * BLOCK_C]))
        else:
            # One score that is no number takes the whole anchor out.
            key = tl.where(score != score, 0x7FFFFFFFFFFFFFFF, key)
            key = tl.where(inside, key, -0x8000000000000000)
            best = tl.maximum(best, tl.max(key, axis=1))
    if not MULTI_LABEL:
        if LABELED:
            passing = key_score(best) == key_score(best)
        else:
            passing = key_score(best) > confidence
        append(keys, num_found, capacity, best, passing)


@triton.jit(do_not_specialize=["capacity", "max_candidates", "confidence"])
def limit(
    scores, keys, num_found, stride_b, stride_a, stride_c, num_anchors, capacity, max_candidates, confidence,
    NUM_CLASSES: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Where an image has more candidates than there is room, list the best ``max_candidates`` of them anew.

    Digit by digit from the top, the key is found that exactly so many are not below.
    """
    image = tl.program_id(0).to(tl.int64)
    scores += image * stride_b
    keys += image * capacity
    num_found += image
    if tl.load(num_found) > capacity:
        values = tl.arange(0, 256)
        lowest = tl.zeros([], tl.int64)
        wanted = max_candidates
        shift = 56
        while shift >= 0:
            histogram = tl.zeros([256], tl.int32)
            start = 0
            while start < num_anchors:
                anchors = start + tl.arange(0, BLOCK_A)
                for first in range(0, NUM_CLASSES, BLOCK_C):
                    classes = first + tl.arange(0, BLOCK_C)
                    key, score, _ = class_keys(scores, anchors, classes, stride_a, stride_c, num_anchors, NUM_CLASSES)
                    # In two steps, as a shift by all 64 bits is undefined.
                    counted = (score > confidence) & ((key >> shift) >> 8 == (lowest >> shift) >> 8)
                    digits = tl.reshape((key >> shift).to(tl.int32) & 255, [BLOCK_A * BLOCK_C])
                    histogram += tl.histogram(digits, 256, mask=tl.reshape(counted, [BLOCK_A * BLOCK_C]))
                start += BLOCK_A
            at_least = tl.sum(histogram) - tl.cumsum(histogram, 0) + histogram
            digit = tl.max(tl.where(at_least >= wanted, values, 0))
            wanted -= tl.sum(tl.where(values > digit, histogram, 0))
            lowest |= digit.to(tl.int64) << shift
            shift -= 8
        num_listed = 0
        start = 0
        while start < num_anchors:
            anchors = start + tl.arange(0, BLOCK_A)
            for first in range(0, NUM_CLASSES, BLOCK_C):
                classes = first + tl.arange(0, BLOCK_C)
                key, score, _ = class_keys(scores, anchors, classes, stride_a, stride_c, num_anchors, NUM_CLASSES)
                listed = tl.reshape(((score > confidence) & (key >= lowest)).to(tl.int32), [BLOCK_A * BLOCK_C])
                position = num_listed + tl.cumsum(listed, 0) - 1
                tl.store(keys + position, tl.reshape(key, [BLOCK_A * BLOCK_C]), mask=listed != 0)
                num_listed += tl.sum(listed)
            start += BLOCK_A
        tl.store(num_found, num_listed)
