"""Hardest examples of objects with masks: judged by these, and shown with them."""

from __future__ import annotations

from typing import cast

import numpy as np

from detseg.arrays import ByteArray, DoubleArray
from detseg.evaluation.hardest import MARKS, HardestBoxes
from detseg.evaluation.objects.errors import BoxErrors, Outcome, find_box_errors
from detseg.evaluation.objects.mask_overlaps import mask_overlaps
from detseg.runtime.drawing.instances import tint
from detseg.structures import Detections, GroundTruth, Instances


class HardestInstances(HardestBoxes):
    """As :class:`detseg.evaluation.hardest.HardestBoxes`, with the IoU of masks in place of that of boxes."""

    measure = f"{HardestBoxes.measure} What overlaps are the masks."

    def _errors(self, result: Detections, truth: GroundTruth, confidences: DoubleArray) -> BoxErrors:
        return find_box_errors(result, truth, confidences, measure=mask_overlaps)

    def _image(self, index: int, errors: BoxErrors, truth: GroundTruth) -> ByteArray:
        """The image with the masks of what was found and missed, in the colors of what they are."""
        found = cast(Instances, errors.found)
        missed = np.flatnonzero(errors.missed).tolist()
        masks = [*((truth.masks or ())[row] for row in missed), *reversed(found.masks)]
        outcomes = [Outcome.MISS] * len(missed) + [Outcome(value) for value in reversed(errors.outcomes.tolist())]
        colors = [MARKS[outcome].color for outcome in outcomes]
        return tint(super()._image(index, errors, truth), (mask.to_crop() for mask in masks), colors)
