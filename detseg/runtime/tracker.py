"""A tracker that lives as long as its user wants, for frames that are predicted on one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from detseg.runtime.postprocess.class_settings import reaches
from detseg.runtime.sources.frames import Frame
from detseg.runtime.tracking.camera import CameraMotion
from detseg.runtime.tracking.tracker import ByteTracker, TrackerConfig
from detseg.structures import Detections


class Tracker:
    """Follows objects through the frames of a video, also over several calls::

        tracker = detseg.Tracker()
        for image in camera:
            found, = model.predict(image, track=tracker)

    It begins anew with each video; still images and arrays in a row are one video. One tracker is for one video at a
    time, and for one thread. ``confidence`` is the score from which objects are sure, by default that which the model
    has for their class, or 0.25; ``camera_motion`` is for cameras that pan or shake; ``config`` says all of it.

    Raises:
        ValueError: both are given, or ``confidence`` is not in [0, 1].
    """

    def __init__(
        self, confidence: float | None = None, *, camera_motion: bool = False, config: TrackerConfig | None = None
    ) -> None:
        if config is not None and (confidence is not None or camera_motion):
            raise ValueError("give confidence or config, which holds it as high_score, and camera_motion; got both")
        self.config = config or replace(tracker_for(confidence), camera_motion=camera_motion)
        self._tracker = ByteTracker(self.config)
        self._camera = CameraMotion() if self.config.camera_motion else None
        self._last: Frame | None = None

    def reset(self) -> None:
        """The next frame is the first of another video, and ids begin at 1 again."""
        self._tracker.reset()
        if self._camera is not None:
            self._camera.reset()
        self._last = None

    def follow(self, frame: Frame, detections: Detections, floors: Sequence[float] = ()) -> Detections:
        """``detections`` with the numbers of their tracks; unsure ones only if they have one. ``floors``: the score
        from which objects of each class are sure, in place of the configuration's."""
        if self._last is None or not frame.follows(self._last):
            self.reset()
            self._tracker.reset(None if frame.stream is None else frame.stream.fps)
        self._last = frame
        camera = None if self._camera is None else self._camera.update(frame.pixels, detections.boxes_xyxy)
        sure = reaches(detections, floors) if floors else None
        tracked: Detections = self._tracker.update(detections, frame.index, sure, camera)
        return tracked


def tracker_for(confidence: float | None) -> TrackerConfig:
    """Objects from ``confidence`` on are sure; those that are half hidden score less, and are followed all the same."""
    sure = 0.25 if confidence is None else confidence
    return TrackerConfig(high_score=sure, low_score=min(0.1, sure), new_score=sure)
