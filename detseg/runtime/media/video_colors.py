"""How the colors of a video are coded, and images in that code.

A video stores lightness and two differences of color, by the matrix and in the range that its tags name (ITU-T H.273).
Players go by the tags, and where there are none they guess by the size of the images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from detseg.arrays import ByteArray, DoubleArray

UNSPECIFIED = 2
_BT709, _FULL_RANGE, _LIMITED_RANGE = 1, 2, 1
_BT601 = (5, 6)
# Shares of red and blue in the lightness (ITU-R BT.709-6, section 3; BT.601-7, section 2.5).
_SHARES = {_BT709: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114)}


@dataclass(frozen=True, slots=True)
class ColorTags:
    """Codes of ITU-T H.273 for primaries, transfer and matrix, 2 where a video does not say; ``is_full``: lightness
    goes from 0 to 255, not from 16 to 235."""

    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    matrix: int = UNSPECIFIED
    is_full: bool = False

    @property
    def color_range(self) -> int:
        """The range as FFmpeg numbers it."""
        return _FULL_RANGE if self.is_full else _LIMITED_RANGE


BT709 = ColorTags(_BT709, _BT709, _BT709)
"""What images get that are of no video."""


def read_colors(path: str) -> ColorTags:
    """How a copy of the video ``path`` is to be coded: as the video itself, where images can be read from it and
    written to it without a change. Wide gamuts (BT.2020) are read as BT.709, and written as that; without a matrix
    images are read as BT.601, and stay without.
    """
    import av

    try:
        with av.open(path) as video:
            if not video.streams.video or video.streams.video[0].codec_context is None:
                return BT709
            coded = video.streams.video[0].codec_context
            tags = ColorTags(
                int(coded.color_primaries),
                int(coded.color_trc),
                int(coded.colorspace),
                int(coded.color_range) == _FULL_RANGE,
            )
    except av.FFmpegError:
        return BT709
    return tags if tags.matrix in (*_SHARES, UNSPECIFIED) else BT709


def to_planes(image: ByteArray, tags: ColorTags) -> ByteArray:
    """``image`` ``[H, W, 3]`` uint8 RGB, of even sides, in three planes, as the format yuv420p has them: ``[3 H / 2,
    W]`` uint8."""
    if tags.matrix in (*_BT601, UNSPECIFIED) and not tags.is_full:
        # OpenCV's own conversion, several times as fast, knows this code only.
        return cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420).astype(np.uint8, copy=False)
    height, width = image.shape[:2]
    rows = _rows(tags.matrix, tags.is_full)
    planes = np.empty((height * 3 // 2, width), np.uint8)
    planes[:height] = cv2.transform(image, rows[:1])
    half = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    differences = cv2.transform(half, rows[1:])
    planes[height:] = np.moveaxis(differences, 2, 0).reshape(height // 2, width)
    return planes


@cache
def _rows(matrix: int, is_full: bool) -> DoubleArray:
    """From (red, green, blue, 1) to lightness and the differences of blue and of red, ``[3, 4]``."""
    red, blue = _SHARES.get(matrix, _SHARES[6])
    light = np.array([red, 1 - red - blue, blue])
    low, high, swing = (0, 255, 255) if is_full else (16, 235, 224)
    blue_difference = (np.array([0, 0, 1]) - light) / (2 - 2 * blue)
    red_difference = (np.array([1, 0, 0]) - light) / (2 - 2 * red)
    rows = np.array([light * (high - low), blue_difference * swing, red_difference * swing]) / 255
    return np.concatenate([rows, [[low], [128], [128]]], axis=1)
