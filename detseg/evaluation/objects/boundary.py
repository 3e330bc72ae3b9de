"""Boundary IoU (arXiv 2103.16562): masks compared where it is hard, along their edges.

Large objects have a high IoU even where their outline is a rough guess. So only the pixels of a mask count that lie
near its edge, and objects match by the smaller of this IoU and the usual one.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np

from detseg.run_lengths import RunLengths

KEY = "boundary"
"""Under this, the entries of COCO's tables have the boundary of their mask."""
_WIDTH = 0.02
"""Of the band along the edge, as a share of the diagonal of the image, as in the paper."""


def boundary_of(mask: RunLengths) -> RunLengths:
    """The pixels of ``mask`` that are no further from a pixel outside than the band is wide, at least one; what lies
    beyond the image is outside, and distance is that of a king on a chessboard."""
    width = max(1, round(_WIDTH * math.hypot(mask.height, mask.width)))
    crop, left, top = mask.to_crop()
    if not crop.size:
        return mask
    padded = np.pad(crop.view(np.uint8), 1)
    inner = cv2.erode(padded, np.ones((2 * width + 1, 2 * width + 1), np.uint8))[1:-1, 1:-1]
    return RunLengths.from_crop(crop & (inner == 0), left, top, mask.height, mask.width)


def with_boundaries(evaluation_class: Any, iou: Any) -> Any:
    """pycocotools' ``COCOeval`` with boundaries; ``iou`` is its function of masks."""

    class BoundaryEvaluation(evaluation_class):  # type: ignore[misc]
        """Objects match by the smaller IoU of masks and boundaries; with crowd regions, by their masks."""

        def computeIoU(self, image_id: int, category_id: int) -> Any:  # noqa: N802 - the name there
            """The IoU ``[D, G]`` of what was found, the best first, and the objects."""
            ious = super().computeIoU(image_id, category_id)
            objects, found = self._gts[image_id, category_id], self._dts[image_id, category_id]
            if not len(objects) or not len(found):
                return ious
            order = np.argsort([-one["score"] for one in found], kind="mergesort")[: self.params.maxDets[-1]]
            crowd = np.array([bool(one["iscrowd"]) for one in objects])
            along = iou([found[row][KEY] for row in order], [one[KEY] for one in objects], crowd.astype(int).tolist())
            return np.where(crowd, ious, np.minimum(ious, along))

    return BoundaryEvaluation
