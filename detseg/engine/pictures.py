"""Pictures for a report: small enough to be kept in memory and put into a page."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from detseg.arrays import ByteArray, DoubleArray, IntArray

_LONGEST_SIDE = 1600
_QUALITY = 85


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a report: a file name, a caption, and a JPEG of up to 1600 pixels on the longer side."""

    name: str
    caption: str
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class BoxTally:
    """Numbers of boxes ``counts`` ``[C, 5]`` by class and :class:`~detseg.evaluation.errors.Outcome`, at these
    ``confidences`` ``[C]``, over a whole data set."""

    class_names: tuple[str, ...]
    confidences: DoubleArray
    counts: IntArray

    @property
    def f1(self) -> float:
        """F1 = 2 TP / (2 TP + FP + FN) over the objects of all classes; 0 where there is nothing."""
        right, false_positives, wrong_class, badly_placed, missed = self.counts.sum(axis=0).tolist()
        errors = false_positives + missed + 2 * (wrong_class + badly_placed)
        return 2 * right / (2 * right + errors) if right else 0.0


@dataclass(frozen=True, slots=True)
class Pictures:
    """What a report shows of a data set: ``examples`` spread over it, and the ``worst``, the worst first, with
    ``measure`` saying by what; of boxes also how many errors there are of each kind."""

    examples: tuple[Picture, ...] = ()
    worst: tuple[Picture, ...] = ()
    measure: str = ""
    tally: BoxTally | None = None


def encode_jpeg(picture: ByteArray) -> bytes:
    """``picture`` ``[H, W, 3]`` RGB as a JPEG, made smaller where a side is longer than 1600 pixels."""
    scale = _LONGEST_SIDE / max(picture.shape[:2])
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    if scale < 1:
        size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    done, encoded = cv2.imencode(".jpg", np.ascontiguousarray(bgr), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done, f"a picture of {picture.shape} cannot be encoded"
    return encoded.tobytes()
