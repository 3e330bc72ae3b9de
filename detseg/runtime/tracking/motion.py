"""How boxes move: a Kalman filter for many boxes at once.

The state of a box is its center, its aspect ratio and its height, each with a velocity that is constant but for noise,
which grows with the height of the box (Wojke et al., "Simple Online and Realtime Tracking with a Deep Association
Metric", arXiv 1703.07402, whose noise is used here). Nothing in that model couples one of the four with another: the
filter is four filters of a position and a velocity, written out, without matrices and for all boxes in one step.

Shape legend: T boxes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

from detseg.arrays import BoolArray, DoubleArray, FloatArray

_ASPECT, _HEIGHT = 2, 3
# The smallest height in pixels: a box without height would have neither an aspect ratio nor noise.
_MIN_HEIGHT = 1.0

# Standard deviations of x, y, aspect and height; all but the aspect's are in heights of the box, velocities per frame.
_POSITION_NOISE = (1 / 20, 1 / 20, 1e-2, 1 / 20)
_VELOCITY_NOISE = (1 / 160, 1 / 160, 1e-5, 1 / 160)
_MEASUREMENT_NOISE = (1 / 20, 1 / 20, 1e-1, 1 / 20)
_FIRST_POSITION_NOISE = (2 / 20, 2 / 20, 1e-2, 2 / 20)
# Of position far more than the paper's 10 / 160: in videos of one frame a second an object moves by its height and
# more, and how it moves must be taken from its second frame. At 25 frames a second the two do the same
# (bench/tracking.py).
_FIRST_VELOCITY_NOISE = (1 / 2, 1 / 2, 1e-5, 10 / 160)


@dataclass(frozen=True, slots=True)
class BoxMotion:
    """Boxes in motion, ``[T, 4]`` float64 each: center x, center y, aspect (width / height) and height.

    ``positions`` in pixels, ``velocities`` in pixels per frame, then the variances of both and their covariance.
    """

    positions: DoubleArray
    velocities: DoubleArray
    position_variances: DoubleArray
    covariances: DoubleArray
    velocity_variances: DoubleArray

    @classmethod
    def begin(cls, boxes_xyxy: FloatArray) -> Self:
        """Boxes ``[T, 4]`` seen for the first time, whose velocity is unknown."""
        positions = _to_positions(boxes_xyxy)
        zeros = np.zeros_like(positions)
        return cls(
            positions=positions,
            velocities=zeros,
            position_variances=_variances(positions, _FIRST_POSITION_NOISE),
            covariances=zeros,
            velocity_variances=_variances(positions, _FIRST_VELOCITY_NOISE),
        )

    @property
    def boxes_xyxy(self) -> DoubleArray:
        """Where the boxes are taken to be, ``[T, 4]`` float64 in pixels."""
        centers, heights = self.positions[:, :2], self.positions[:, _HEIGHT]
        halves = np.stack([self.positions[:, _ASPECT] * heights, heights], axis=1) / 2
        return np.concatenate([centers - halves, centers + halves], axis=1)

    def select(self, index: BoolArray) -> Self:
        """The boxes where ``index`` ``[T]`` is true."""
        return replace(self, **{part.name: getattr(self, part.name)[index] for part in fields(self)})

    def joined(self, others: BoxMotion) -> Self:
        """These boxes, then ``others``."""
        pairs = {part.name: (getattr(self, part.name), getattr(others, part.name)) for part in fields(self)}
        return replace(self, **{name: np.concatenate(pair) for name, pair in pairs.items()})

    def predicted(self, num_frames: int) -> Self:
        """The boxes ``num_frames`` later: that many steps of one frame in one, with the noise of the present height."""
        jitter = _variances(self.positions, _POSITION_NOISE)
        drift = _variances(self.positions, _VELOCITY_NOISE)
        # A drift of velocity in frame i moves the box in each of the frames after it: sums of 0..n-1 and their squares.
        sum_frames = num_frames * (num_frames - 1) / 2
        sum_squares = sum_frames * (2 * num_frames - 1) / 3
        positions = self.positions + num_frames * self.velocities
        positions[:, _HEIGHT] = np.maximum(positions[:, _HEIGHT], _MIN_HEIGHT)
        return replace(
            self,
            positions=positions,
            position_variances=self.position_variances
            + 2 * num_frames * self.covariances
            + num_frames**2 * self.velocity_variances
            + num_frames * jitter
            + sum_squares * drift,
            covariances=self.covariances + num_frames * self.velocity_variances + sum_frames * drift,
            velocity_variances=self.velocity_variances + num_frames * drift,
        )

    def seen_by(self, motion: DoubleArray) -> BoxMotion:
        """The same boxes in the image of a camera that moved: ``motion`` ``[2, 3]`` takes points to where they are
        now, by a turn, a scale and a shift."""
        turn = motion[:, :2]
        scale = float(np.sqrt(abs(np.linalg.det(turn))))
        positions, velocities = self.positions.copy(), self.velocities.copy()
        positions[:, :2] = positions[:, :2] @ turn.T + motion[:, 2]
        velocities[:, :2] = velocities[:, :2] @ turn.T
        positions[:, _HEIGHT] = np.maximum(positions[:, _HEIGHT] * scale, _MIN_HEIGHT)
        velocities[:, _HEIGHT] *= scale
        # The aspect has no unit of length.
        squares = np.array([scale**2, scale**2, 1.0, scale**2])
        return replace(
            self,
            positions=positions,
            velocities=velocities,
            position_variances=self.position_variances * squares,
            covariances=self.covariances * squares,
            velocity_variances=self.velocity_variances * squares,
        )

    def corrected(self, seen: BoolArray, boxes_xyxy: FloatArray) -> Self:
        """The boxes after those where ``seen`` ``[T]`` is true were measured to be at ``boxes_xyxy``, one for each.

        Those that were not seen go on at their velocity, but keep their height: a guess that grows or shrinks unchecked
        would soon meet boxes of any size.
        """
        before = self.select(seen)
        noise = _variances(before.positions, _MEASUREMENT_NOISE)
        spread = before.position_variances + noise
        position_gain, velocity_gain = before.position_variances / spread, before.covariances / spread
        surprise = _to_positions(boxes_xyxy) - before.positions
        values = {part.name: getattr(self, part.name).copy() for part in fields(self)}
        values["velocities"][~seen, _HEIGHT] = 0
        values["positions"][seen] += position_gain * surprise
        values["velocities"][seen] += velocity_gain * surprise
        values["position_variances"][seen] *= 1 - position_gain
        values["covariances"][seen] *= 1 - position_gain
        values["velocity_variances"][seen] -= velocity_gain * before.covariances
        return replace(self, **values)


def _to_positions(boxes_xyxy: FloatArray) -> DoubleArray:
    left, top, right, bottom = boxes_xyxy.astype(np.float64).T
    heights = np.maximum(bottom - top, _MIN_HEIGHT)
    return np.stack([(left + right) / 2, (top + bottom) / 2, (right - left) / heights, heights], axis=1)


def _variances(positions: DoubleArray, noise: tuple[float, float, float, float]) -> DoubleArray:
    """``[T, 4]``: the squares of ``noise``, whose unit is the height for all but the aspect."""
    deviations = positions[:, _HEIGHT, None] * np.array(noise)
    deviations[:, _ASPECT] = noise[_ASPECT]
    variances: DoubleArray = deviations**2
    return variances
