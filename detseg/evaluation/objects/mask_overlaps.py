"""How far the masks of objects overlap."""

from __future__ import annotations

from typing import cast

import numpy as np

from detseg.arrays import DoubleArray
from detseg.structures import Detections, GroundTruth, Instances


def mask_overlaps(found: Detections, truth: GroundTruth) -> DoubleArray:
    """The IoU ``[D, G]`` of the masks of what was found and of the objects, which all have some; with a crowd region
    the share of the mask that lies in it. Masks without a pixel overlap nothing."""
    masks, objects = cast(Instances, found).masks, truth.masks or ()
    overlaps = np.zeros((len(masks), len(truth.labels)))
    edges = [[(box[0], box[1], box[0] + box[2], box[1] + box[3]) for box in (one.box_xywh for one in some)]
             for some in (masks, objects)]  # fmt: skip
    for row, mask in enumerate(masks):
        left, top, right, bottom = edges[0][row]
        for column, other in enumerate(objects):
            other_left, other_top, other_right, other_bottom = edges[1][column]
            if left < other_right and other_left < right and top < other_bottom and other_top < bottom:
                common = mask.intersection(other)
                whole = mask.area if truth.crowd[column] else mask.area + other.area - common
                overlaps[row, column] = common / whole
    return overlaps
