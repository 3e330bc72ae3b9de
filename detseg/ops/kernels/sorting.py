"""Triton kernels that sort the lists of candidates of a batch, each as long as it happens to be.

Shape legend: B images, K room for candidates.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["capacity"])
def rank(keys, ranked, num_found, capacity, TILE: tl.constexpr, BLOCK: tl.constexpr):
    """Sort each tile of the keys ``[B, K]``, best first: a key's place is the number of better ones."""
    image = tl.program_id(1).to(tl.int64)
    keys += image * capacity
    ranked += image * capacity
    num_keys = tl.minimum(tl.load(num_found + image), capacity)
    start = tl.program_id(0) * BLOCK
    while start < num_keys:
        slots = start + tl.arange(0, BLOCK)
        key = tl.load(keys + slots, mask=slots < num_keys, other=0)
        tile = start // TILE * TILE
        end = tl.minimum(tile + TILE, num_keys)
        place = tl.zeros([BLOCK], tl.int32)
        first = tile
        while first < end:
            others = first + tl.arange(0, BLOCK)
            other = tl.load(keys + others, mask=others < end, other=-0x8000000000000000)
            place += tl.sum((other[None, :] > key[:, None]).to(tl.int32), axis=1)
            first += BLOCK
        tl.store(ranked + tile + place, key, mask=slots < num_keys)
        start += tl.num_programs(0) * BLOCK


@triton.jit(do_not_specialize=["capacity"])
def merge(ranked, keys, num_found, capacity, TILE: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    """Join the sorted tiles: a key's place is the sum over all tiles of the number of better ones, found by bisection.

    ``STEPS`` halvings find a place among ``TILE`` keys: log2(TILE) + 1.
    """
    image = tl.program_id(1).to(tl.int64)
    keys += image * capacity
    ranked += image * capacity
    num_keys = tl.minimum(tl.load(num_found + image), capacity)
    start = tl.program_id(0) * BLOCK
    while start < num_keys:
        slots = start + tl.arange(0, BLOCK)
        key = tl.load(ranked + slots, mask=slots < num_keys, other=0)
        own = start // TILE * TILE
        place = slots - own
        tile = 0
        while tile < num_keys:
            if tile != own:
                low = tl.zeros([BLOCK], tl.int32)
                high = low + tl.minimum(TILE, num_keys - tile)
                for _ in range(STEPS):
                    middle = (low + high) // 2
                    searching = low < high
                    better = tl.load(ranked + tile + middle, mask=searching, other=0) > key
                    low = tl.where(searching & better, middle + 1, low)
                    high = tl.where(searching & (better == 0), middle, high)
                place += low
            tile += TILE
        tl.store(keys + place, key, mask=slots < num_keys)
        start += tl.num_programs(0) * BLOCK
