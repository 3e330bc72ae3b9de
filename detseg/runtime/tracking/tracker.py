"""Tracking: which detection in one frame is the same object as which in the frames before.

ByteTrack (Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", arXiv 2110.06864): boxes
are compared with where each object is expected by now; sure detections are given to the objects first, and unsure ones,
which other trackers throw away, continue the objects left over. One that is half hidden keeps its track that way.

Shape legend: T tracks, N detections.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np

from detseg.arrays import BoolArray, DoubleArray, FloatArray, IntArray
from detseg.runtime.tracking.assignment import match
from detseg.runtime.tracking.motion import BoxMotion
from detseg.structures import Detections

_USUAL_RATE = 25.0
"""Frames a second of videos that do not say."""
_FAR_S = 0.2
"""After how much time objects may be anywhere near."""


@dataclass(frozen=True, slots=True)
class TrackerConfig:
    """Which detections make, continue and end a track.

    Detections that score ``high_score`` or more are sure and stay, whether they belong to a track or not; those from
    ``low_score`` on only continue a track, those below are not looked at; one from ``new_score`` on may begin a track.
    One from ``first_score`` on, and ``new_score``, has a number from its first frame on; others, which may flare up and
    be gone, get theirs when they are seen a second time running.
    The paper's 0.6 is for a detector of one class, trained for the scene; 0.25, the confidence at which predictions are
    shown, suits one that knows many. The detector must be asked for boxes from ``low_score`` on, or nothing is left
    that could continue half-hidden objects.

    A detection belongs to a track if its IoU with the expected box is above ``match_iou``, above ``low_match_iou`` if
    it is not sure, above ``new_match_iou`` if the track was seen only once and has no number. These are low: the best
    matching of all decides, and in videos of few frames a second a box hardly meets the last one of its object; where
    more than 0.2 seconds lie between two frames, any overlap does. A track unseen for more than ``max_lost_frames``
    frames, skipped ones counted, is forgotten, and its object gets another number when it comes back; 30 are the
    paper's, a second of most videos. Of videos of fewer than 25 frames a second it is
    as many as they have in the same time, and 2 at least. With ``class_agnostic`` a track may change
    its class. With ``camera_motion``, :class:`detseg.Tracker` takes the motion of the camera out before boxes are
    compared, see :mod:`detseg.runtime.tracking.camera`.
    """

    high_score: float = 0.25
    low_score: float = 0.1
    new_score: float = 0.25
    first_score: float = 0.6
    match_iou: float = 0.05
    low_match_iou: float = 0.5
    new_match_iou: float = 0.05
    max_lost_frames: int = 30
    class_agnostic: bool = False
    camera_motion: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.low_score <= self.high_score <= self.new_score <= 1:
            raise ValueError(
                "0 <= low_score <= high_score <= new_score <= 1 must hold, "
                f"got {self.low_score}, {self.high_score} and {self.new_score}"
            )
        if not 0 <= self.first_score <= 1:
            raise ValueError(f"first_score must be from 0 to 1, got {self.first_score}")
        for name in ("match_iou", "low_match_iou", "new_match_iou"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {value}")
        if self.max_lost_frames < 0:
            raise ValueError(f"max_lost_frames must be at least 0, got {self.max_lost_frames}")

    @property
    def has_usual_scores(self) -> bool:
        """Whether nobody said from which scores on objects are sure."""
        return (self.high_score, self.new_score) == (0.25, 0.25)


class ByteTracker:
    """Follows objects through one video: :meth:`update` with each frame, :meth:`reset` before the next video.

    ``frame_rate`` is that of the video, where it is known. The ids depend on the detections alone. Time is counted in
    frames of the video, so that a video of which every fifth frame is looked at is tracked with the speeds that objects
    have, not five times those.
    """

    def __init__(self, config: TrackerConfig | None = None, frame_rate: float | None = None) -> None:
        self.config = config or TrackerConfig()
        self.reset(frame_rate)

    def reset(self, frame_rate: float | None = None) -> None:
        """Forget everything: the next frame is the first of a video, perhaps of this rate, and ids begin at 1 again."""
        self._frame_rate = frame_rate or _USUAL_RATE
        most = self.config.max_lost_frames
        self._max_lost_frames = max(min(2, most), round(most * min(1.0, self._frame_rate / _USUAL_RATE)))
        self._tracks = _Tracks.begin(Detections.empty(), np.zeros(0, np.int64), 0)
        self._frame_index = -1
        self._num_ids = 0

    def update(
        self,
        detections: Detections,
        frame_index: int | None = None,
        sure: BoolArray | None = None,
        camera: DoubleArray | None = None,
    ) -> Detections:
        """``detections``, in their order, with the numbers of their tracks in ``track_ids``, 0 where there is none.

        Boxes, scores and labels stay as they are. No sure detection is lost: what moves too far from frame to frame, or
        is seen once, stays without a number. Those that are not sure are there only if they continue a track. An object
        gets its number when it is seen for the second time running, so that what flares up once gets none; at once from
        ``first_score`` on, and in the first frame of a video. ``frame_index`` is the number of the frame in its video,
        from 0; without it, this is the frame after the last one. ``sure`` ``[N]`` says which detections are sure, and
        may begin a track, where ``high_score`` and ``new_score`` do not. ``camera`` ``[2, 3]`` takes points of the last
        frame to where they are in this one, where the camera moved.

        Raises:
            ValueError: if ``frame_index`` is not above that of the last frame.
        """
        last_index = self._frame_index
        index = last_index + 1 if frame_index is None else frame_index
        if index <= last_index:
            raise ValueError(
                f"frame {index} was given after frame {last_index}: give a video's frames in their order, numbered "
                "from 0, and call reset() before another video"
            )
        is_newcomer = detections.scores >= self.config.new_score if sure is None else sure.copy()
        high = detections.scores >= self.config.high_score if sure is None else sure
        tracks = self._tracks.select(self._is_remembered(index)).predicted(index - last_index, camera)
        is_far = index - last_index > _FAR_S * self._frame_rate
        found = self._associate(tracks, detections, high, is_far=is_far)
        tracks = self._numbered(tracks.corrected(found, detections, index), found)
        # One that was seen once, and then not, was a flicker; it never had a number.
        confirmed = tracks.ids > 0
        tracks, found = tracks.select(confirmed), found[confirmed]

        is_newcomer[found[found >= 0]] = False
        newcomers = np.nonzero(is_newcomer)[0]
        begun = _Tracks.begin(detections, newcomers, index)
        is_numbered = (detections.scores[newcomers] >= self.config.first_score) | (last_index < 0)
        begun = self._numbered(begun, np.where(is_numbered, newcomers, -1))
        self._tracks, self._frame_index = tracks.joined(begun), index
        return self._with_ids(detections, np.concatenate([found, newcomers]), self._tracks.ids, high)

    def _is_remembered(self, index: int) -> BoolArray:
        """``[T]``: the tracks that can be found in frame ``index``."""
        num_unseen = index - self._tracks.last_seen - 1
        remembered: BoolArray = num_unseen <= self._max_lost_frames
        # One that is in view is looked for however many frames were skipped.
        remembered |= self._tracks.last_seen == self._frame_index
        return remembered

    def _associate(self, tracks: _Tracks, detections: Detections, high: BoolArray, *, is_far: bool) -> IntArray:
        """The detection of each track, ``[T]``, or -1; ``is_far``: much time has passed since the last frame."""
        config = self.config
        iou = _pairwise_iou(tracks.motion.boxes_xyxy, detections.boxes_xyxy)
        if not config.class_agnostic:
            iou[tracks.labels[:, None] != detections.labels] = 0
        low = (detections.scores >= config.low_score) & ~high
        confirmed = tracks.ids > 0
        # An unsure detection is too little to bring back an object that was hidden altogether.
        in_view = confirmed & (tracks.last_seen == self._frame_index)
        found = np.full(len(tracks.ids), -1)
        for is_candidate, is_wanted, min_iou in (
            (confirmed, high, 0.0 if is_far else config.match_iou),
            (in_view, low, config.low_match_iou),
            (~confirmed, high, 0.0 if is_far else config.new_match_iou),
        ):
            rows = np.nonzero(is_candidate & (found < 0))[0]
            columns = np.setdiff1d(np.nonzero(is_wanted)[0], found)
            matched = match(iou[np.ix_(rows, columns)] - min_iou)
            found[rows[matched >= 0]] = columns[matched[matched >= 0]]
        return found

    def _numbered(self, tracks: _Tracks, found: IntArray) -> _Tracks:
        """The tracks, with the next numbers for those found that have none, in the order of their detections."""
        unnumbered = np.nonzero((found >= 0) & (tracks.ids == 0))[0]
        unnumbered = unnumbered[np.argsort(found[unnumbered])]
        ids = tracks.ids.copy()
        ids[unnumbered] = self._num_ids + 1 + np.arange(len(unnumbered))
        self._num_ids += len(unnumbered)
        return tracks._replace(ids=ids)

    def _with_ids(self, detections: Detections, found: IntArray, ids: IntArray, high: BoolArray) -> Detections:
        """The detections that were found for a numbered track, and those that are sure."""
        track_ids = np.zeros(len(detections), np.int64)
        track_ids[found[found >= 0]] = ids[found >= 0]
        shown = (track_ids > 0) | high
        return replace(detections.select(shown), track_ids=track_ids[shown])


class _Tracks(NamedTuple):
    """Tracks, the oldest first: ``ids`` ``[T]`` int64, 0 where seen only once; ``labels`` ``[T]`` int64, the classes
    they began with; ``last_seen`` ``[T]`` int64, the number of a frame; their motion."""

    ids: IntArray
    labels: IntArray
    last_seen: IntArray
    motion: BoxMotion

    @classmethod
    def begin(cls, detections: Detections, chosen: IntArray, index: int) -> Self:
        """A track for each of the ``chosen`` detections."""
        return cls(
            np.zeros(len(chosen), np.int64),
            detections.labels[chosen],
            np.full(len(chosen), index),
            BoxMotion.begin(detections.boxes_xyxy[chosen]),
        )

    def select(self, index: BoolArray) -> Self:
        return self._replace(
            ids=self.ids[index],
            labels=self.labels[index],
            last_seen=self.last_seen[index],
            motion=self.motion.select(index),
        )

    def joined(self, others: _Tracks) -> Self:
        return self._replace(
            ids=np.concatenate([self.ids, others.ids]),
            labels=np.concatenate([self.labels, others.labels]),
            last_seen=np.concatenate([self.last_seen, others.last_seen]),
            motion=self.motion.joined(others.motion),
        )

    def predicted(self, num_frames: int, camera: DoubleArray | None) -> Self:
        motion = self.motion.predicted(num_frames)
        return self._replace(motion=motion if camera is None else motion.seen_by(camera))

    def corrected(self, found: IntArray, detections: Detections, index: int) -> Self:
        """The tracks after detection ``found`` ``[T]`` was given to each, -1 where there was none."""
        seen = found >= 0
        last_seen = np.where(seen, index, self.last_seen)
        motion = self.motion.corrected(seen, detections.boxes_xyxy[found[seen]])
        return self._replace(last_seen=last_seen, motion=motion)


def _pairwise_iou(expected_xyxy: DoubleArray, boxes_xyxy: FloatArray) -> DoubleArray:
    """``[T, N]``: the IoU of ``[T, 4]`` with ``[N, 4]``, 0 where they do not meet."""
    first, second = expected_xyxy.T[:, :, None], boxes_xyxy.astype(np.float64).T
    width = np.minimum(first[2], second[2]) - np.maximum(first[0], second[0])
    height = np.minimum(first[3], second[3]) - np.maximum(first[1], second[1])
    overlap = np.maximum(width, 0) * np.maximum(height, 0)
    first_area, second_area = ((corners[2] - corners[0]) * (corners[3] - corners[1]) for corners in (first, second))
    union = first_area + second_area - overlap
    iou: DoubleArray = np.divide(overlap, union, out=np.zeros_like(overlap), where=overlap > 0)
    return iou
