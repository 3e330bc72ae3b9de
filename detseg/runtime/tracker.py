"""A tracker that lives as long as its user wants, for frames that are predicted on one by one."""

from __future__ import annotations

from detseg.runtime.sources.frames import Frame
from detseg.runtime.tracking.tracker import ByteTracker, TrackerConfig
from detseg.structures import Detections


class Tracker:
    """Follows objects through the frames of a video, also over several calls::

        tracker = detseg.Tracker()
        for image in camera:
            found, = model.predict(image, track=tracker)

    It begins anew with each video; still images and arrays in a row are one video. One tracker is for one video at a
    time, and for one thread. ``confidence`` is the score from which objects are sure; ``config`` says all of it.

    Raises:
        ValueError: both are given, or ``confidence`` is not in [0, 1].
    """

    def __init__(self, confidence: float | None = None, *, config: TrackerConfig | None = None) -> None:
        if confidence is not None and config is not None:
            raise ValueError("give confidence or config, which holds it as high_score; got both")
        self.config = config or tracker_for(confidence)
        self._tracker = ByteTracker(self.config)
        self._last: Frame | None = None

    def reset(self) -> None:
        """The next frame is the first of another video, and ids begin at 1 again."""
        self._tracker.reset()
        self._last = None

    def follow(self, frame: Frame, detections: Detections) -> Detections:
        """``detections`` with the numbers of their tracks; unsure ones only if they have one."""
        if self._last is not None and not frame.follows(self._last):
            self._tracker.reset()
        self._last = frame
        tracked: Detections = self._tracker.update(detections, frame.index)
        return tracked


def tracker_for(confidence: float | None) -> TrackerConfig:
    """Objects from ``confidence`` on are sure; those that are half hidden score less, and are followed all the same."""
    sure = 0.25 if confidence is None else confidence
    return TrackerConfig(high_score=sure, low_score=min(0.1, sure), new_score=sure)
