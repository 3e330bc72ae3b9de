"""How the camera moved between two frames, so that objects are looked for where they are now.

Corners of the background are followed by sparse optical flow (Shi and Tomasi, "Good Features to Track", 1994; Lucas and
Kanade in pyramids, Bouguet 2001), from where phase correlation says that the image as a whole went; RANSAC finds the
shift, turn and change of size that most of them agree on.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from detseg.arrays import BoolArray, ByteArray, DoubleArray, FloatArray

_LONGEST_SIDE = 480
_MOST_CORNERS, _QUALITY, _APART = 400, 0.01, 6
_LEAST_CORNERS = 12
_LEAST_SHARE = 0.4
"""Of the corners that were followed so many must agree; else the images are of different places."""
_TOLERANCE = 1.5
"""Pixels by which a corner may miss where the motion takes it."""
_WINDOW, _LEVELS = (21, 21), 3
_COARSE = 4


class CameraMotion:
    """Compares each image of a video with the one before."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """The next image is the first of a video."""
        self._last: ByteArray | None = None
        self._free: BoolArray | None = None

    def update(self, image: ByteArray, boxes_xyxy: FloatArray) -> DoubleArray | None:
        """What takes points of the last image to where they are in ``image`` ``[H, W, 3]`` RGB: ``[2, 3]``, a turn, a
        scale and a shift in pixels. None for a first image, and where nothing can be said. ``boxes_xyxy`` ``[N, 4]``
        are the objects in it, which may move by themselves."""
        scale = min(1.0, _LONGEST_SIDE / max(image.shape[:2]))
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        gray: Any = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        last, free = self._last, self._free
        self._last, self._free = gray, _background(gray.shape, boxes_xyxy * scale)
        if last is None or free is None or last.shape != gray.shape:
            return None
        motion = _estimate(last, gray, free)
        if motion is not None:
            motion[:, 2] /= scale
        return motion


def _background(shape: tuple[int, int], boxes_xyxy: FloatArray) -> BoolArray:
    """``[H, W]``: where there is no box."""
    free = np.ones(shape, np.bool_)
    for left, top, right, bottom in np.clip(boxes_xyxy, 0, max(shape)).astype(int).tolist():
        free[top : bottom + 1, left : right + 1] = False
    return free


def _estimate(last: ByteArray, now: ByteArray, free: BoolArray) -> DoubleArray | None:
    found: Any = cv2.goodFeaturesToTrack(last, _MOST_CORNERS, _QUALITY, _APART, mask=free.astype(np.uint8))
    if found is None or len(found) < _LEAST_CORNERS:
        return None
    guess: Any = found + np.array(_shift(last, now), np.float32)
    flow: Any = cv2.calcOpticalFlowPyrLK(
        last, now, found, guess.copy(), winSize=_WINDOW, maxLevel=_LEVELS, flags=cv2.OPTFLOW_USE_INITIAL_FLOW
    )
    followed = flow[1].ravel() > 0
    if followed.sum() < _LEAST_CORNERS:
        return None
    motion: Any
    motion, agrees = cv2.estimateAffinePartial2D(
        found[followed], flow[0][followed], method=cv2.RANSAC, ransacReprojThreshold=_TOLERANCE
    )
    if motion is None or agrees.sum() < max(_LEAST_CORNERS, _LEAST_SHARE * followed.sum()):
        return None
    result: DoubleArray = motion.astype(np.float64)
    return result


def _shift(last: ByteArray, now: ByteArray) -> tuple[float, float]:
    """By how much the image as a whole went right and down, in pixels, as near as small images say."""
    size = (max(16, last.shape[1] // _COARSE), max(16, last.shape[0] // _COARSE))
    first, second = (cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32) for image in (last, now))
    window = cv2.createHanningWindow(size, cv2.CV_32F)
    (right, down), _ = cv2.phaseCorrelate(first, second, window)
    return right * last.shape[1] / size[0], down * last.shape[0] / size[1]
