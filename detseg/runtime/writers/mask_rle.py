"""Masks as COCO's compressed run-length encoding, as pycocotools reads it."""

from __future__ import annotations

from typing import Any

import numpy as np

from detseg.arrays import BoolArray


def encode_rle(mask: BoolArray) -> dict[str, Any]:
    """A mask ``[H, W]`` -> ``{"size": [H, W], "counts": "..."}``.

    The lengths of runs of 0 and 1 in turn, beginning with 0, go down the columns. From the fourth on, each is written
    as its difference to the one two before; numbers are in groups of five bits, low ones first, each a printable
    character: 48 plus the bits, plus 32 if more groups follow; the last one's highest bit is the sign.
    """
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False, append=not flat[-1] if flat.size else False))
    counts = np.diff(changes, prepend=0)
    differences = counts.copy()
    differences[3:] -= counts[1:-2]
    return {"size": list(mask.shape), "counts": "".join(_characters(number) for number in differences.tolist())}


def _characters(number: int) -> str:
    text = ""
    while True:
        bits = number & 0x1F
        number >>= 5
        more = number != (-1 if bits & 0x10 else 0)
        text += chr(48 + bits + 32 * more)
        if not more:
            return text
