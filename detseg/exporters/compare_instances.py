"""How far the masks of objects in an exported file are from those of the model."""

from __future__ import annotations

from typing import Any

from detseg.exporters.compare_boxes import BoxComparison

MASK_TOLERANCE = 0.005
"""Share of the pixels of both masks of an object that may differ, beside one row or column: where a box ends at the
centers of pixels, the last bit of its side decides over all of them."""


class InstanceComparison(BoxComparison):
    """Objects are matched by their boxes, as in :class:`detseg.exporters.compare_boxes.BoxComparison`; then the pixels
    of their masks are compared."""

    def __init__(self, confidence: float, max_detections: int) -> None:
        super().__init__(confidence, max_detections)
        self._smallest_iou = 1.0
        self._sum_of_ious = 0.0
        self._num_masks = 0
        self._num_pixels = 0
        self._num_differing = 0
        self._num_beyond = 0

    def _add_pairs(self, expected: Any, found: Any) -> None:
        super()._add_pairs(expected, found)
        sides = expected.boxes_xyxy[:, 2:] - expected.boxes_xyxy[:, :2]
        for mask, other, side in zip(expected.masks, found.masks, sides.max(axis=1).tolist(), strict=True):
            common = mask.intersection(other)
            union = mask.area + other.area - common
            iou = common / union if union else 1.0
            self._smallest_iou = min(self._smallest_iou, iou)
            self._sum_of_ious += iou
            self._num_masks += 1
            self._num_pixels += union
            self._num_differing += union - common
            self._num_beyond += union - common > MASK_TOLERANCE * union + side + 1

    def report(self) -> dict[str, Any]:
        """That of boxes, and of the masks of matched objects the IoU and the share of pixels that differ."""
        return {
            **super().report(),
            "mean_mask_iou": self._sum_of_ious / self._num_masks if self._num_masks else 1.0,
            "smallest_mask_iou": self._smallest_iou,
            "differing_mask_pixels": self._num_differing / self._num_pixels if self._num_pixels else 0.0,
        }

    def problems(self) -> list[str]:
        """What is beyond the tolerance of float32."""
        problems = super().problems()
        if self._num_beyond:
            problems.append(
                f"{self._num_beyond} masks differ in more than {100 * MASK_TOLERANCE:g} % of their pixels and one row; "
                f"the smallest IoU is {self._smallest_iou:.4f}"
            )
        return problems
