"""MOTA, IDF1 and HOTA of trackers on made videos whose truth is exact, against other programs in the same run.

    python bench/tracking.py [--scenes camera,hand] [--trackers detseg,trackers,sort,supervision] [--videos N]
                             [--json FILE]

A video is where its objects are in each frame, and what a detector would find of them: boxes that tremble, scores that
fall where an object is half hidden, objects that are not found, and false boxes. Images are made only where a tracker
looks at them (``detseg-camera``, which is ``predict --track --camera-motion``): a background of noise that moves as the
camera does, with objects of other noise. All programs get the same detections, in their own form, and have their own
defaults, but for the frame rate. TrackEval counts
(https://github.com/JonathonLuiten/TrackEval), at IoU 0.5 (MOTA, IDF1) and at all its thresholds (HOTA).

Scenes: ``cross``: objects meet and pass; ``hide``: they are hidden for up to a second; ``return``: they leave the
image and come back; ``crowd``: many small ones that turn; ``camera``: a camera that pans and shakes; ``hand``: one that
is waved about, as from a bicycle. Each at 25 frames a second and at 1. A cell is the mean of some videos. The others
need ``pip install supervision trackers trackeval``; supervision has a ByteTrack of its own up to 0.26.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.runtime.sources.frames import Frame as VideoFrame
from detseg.runtime.sources.frames import StreamInfo
from detseg.runtime.tracker import Tracker
from detseg.runtime.tracking.tracker import ByteTracker
from detseg.structures import Detections

WIDTH, HEIGHT = 1280, 720
SECONDS = 20
SCENES = ("cross", "hide", "return", "crowd", "camera", "hand")
MOVING: dict[str, tuple[float, float, float]] = {"camera": (120.0, 3.0, 4.0), "hand": (200.0, 1.5, 12.0)}
"""Scenes whose camera moves: pixels to each side, seconds of a radian, and the pixels by which it shakes."""
_ROOM = 400
MEASURES = ("MOTA", "IDF1", "HOTA")
FALSE_PER_FRAME, MISSED, TREMBLE = 0.3, 0.03, 0.02

Array = NDArray[Any]
Frame = tuple[Array, Array]
"""Numbers ``[N]`` and boxes ``[N, 4]`` of the objects in view, or of tracks."""
Update = Callable[[Detections, "Array | None"], Frame]


def make_video(scene: str, fps: int, seed: int) -> list[tuple[Frame, Detections]]:
    """The truth of each frame, and what is found in it."""
    random = np.random.default_rng([SCENES.index(scene), seed])
    times = np.arange(SECONDS * fps) / fps
    count = 25 if scene == "crowd" else 8
    sizes = random.uniform((30, 60), (60, 120), (count, 2)) if scene == "crowd" else random.uniform(60, 160, (count, 2))
    centers = _paths(scene, count, times, random)
    if scene in MOVING:
        centers = centers + _offsets(scene, times, seed)[:, None]
    is_hidden = np.zeros((len(times), count), bool)
    if scene == "hide":
        for number in range(count):
            for start in random.uniform(0, SECONDS, 4):
                is_hidden[:, number] |= (times >= start) & (times < start + random.uniform(0.2, 1.0))
    video = []
    for index in range(len(times)):
        boxes = np.concatenate([centers[index] - sizes / 2, centers[index] + sizes / 2], axis=1)
        inside = (np.clip(boxes, 0, (WIDTH, HEIGHT) * 2) @ [[-1, 0], [0, -1], [1, 0], [0, 1]]).min(axis=1) > 12
        present = np.flatnonzero(inside & ~is_hidden[index])
        video.append(((present, np.clip(boxes[present], 0, (WIDTH, HEIGHT) * 2)), _found(boxes[present], random)))
    return video


def _offsets(scene: str, times: Array, seed: int) -> Array:
    """By how much all that is seen is moved by the camera, ``[T, 2]``."""
    width, period, shake = MOVING[scene]
    pan = width * np.sin(times / period)[:, None] * [1.0, 0.25]
    return pan + np.random.default_rng([9, seed]).normal(0, shake, (len(times), 2))


def make_images(scene: str, fps: int, seed: int) -> Iterator[Array]:
    """The images ``[H, W, 3]`` of a scene whose camera moves, one by one."""
    random = np.random.default_rng([7, seed])
    offsets = _offsets(scene, np.arange(SECONDS * fps) / fps, seed)
    background = _noise(random, HEIGHT + 2 * _ROOM, WIDTH + 2 * _ROOM)
    patches: dict[int, Array] = {}
    for offset, ((ids, boxes), _) in zip(offsets, make_video(scene, fps, seed), strict=True):
        shift = np.array([[1, 0, offset[0] - _ROOM], [0, 1, offset[1] - _ROOM]])
        image = cv2.warpAffine(background, shift, (WIDTH, HEIGHT))
        for number, box in zip(ids.tolist(), boxes.round().astype(int).tolist(), strict=True):
            left, top, right, bottom = box
            if right > left and bottom > top:
                patch = patches.setdefault(number, _noise(random, 240, 240))
                image[top:bottom, left:right] = patch[: bottom - top, : right - left]
        yield image


def _noise(random: np.random.Generator, height: int, width: int) -> Array:
    """Texture with structure of several sizes, ``[H, W, 3]`` uint8."""
    total = np.zeros((height, width, 3), np.float32)
    for size in (4, 16, 64):
        coarse = random.random((height // size + 2, width // size + 2, 3)).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(total * 85, 0, 255).astype(np.uint8)


def _paths(scene: str, count: int, times: Array, random: np.random.Generator) -> Array:
    """Centers ``[T, N, 2]``."""
    starts = random.uniform((0, 0), (WIDTH, HEIGHT), (count, 2))
    if scene == "return":
        # In and out at the sides, some seconds each way.
        phases, periods = random.uniform(0, 6, count), random.uniform(4, 7, count)
        x = WIDTH / 2 + 0.6 * WIDTH * np.sin(2 * np.pi * times[:, None] / periods / 2 + phases)
        return np.stack([x, np.broadcast_to(starts[:, 1], x.shape)], axis=2)
    if scene == "crowd":
        angles = np.cumsum(random.normal(0, 0.8, (SECONDS + 1, count)), axis=0) + random.uniform(0, 6.3, count)
        steps = 40 * np.stack([np.cos(angles), np.sin(angles)], axis=2)
        whole = starts + np.concatenate([np.zeros((1, count, 2)), np.cumsum(steps, axis=0)])
        seconds = np.arange(len(whole))
        return np.stack(
            [
                np.stack([np.interp(times, seconds, whole[:, number, axis]) for axis in (0, 1)], axis=1)
                for number in range(count)
            ],
            axis=1,
        )
    speeds = random.uniform(30, 90, (count, 2)) * random.choice((-1, 1), (count, 2))
    moved = starts + times[:, None, None] * speeds
    # Back from the sides, as a ball.
    room = np.array([WIDTH, HEIGHT])
    return room - np.abs(moved % (2 * room) - room)


def _found(boxes: Array, random: np.random.Generator) -> Detections:
    sizes = boxes[:, 2:] - boxes[:, :2]
    trembling = boxes + random.normal(0, TREMBLE, boxes.shape) * np.concatenate([sizes, sizes], axis=1)
    scores = np.clip(random.normal(0.8, 0.1, len(boxes)), 0.05, 0.99)
    # Who is covered by one that is nearer (lower in the image) scores less, down to nothing.
    for number in range(len(boxes)):
        nearer = boxes[boxes[:, 3] > boxes[number, 3]]
        if len(nearer):
            low, high = np.maximum(nearer[:, :2], boxes[number, :2]), np.minimum(nearer[:, 2:], boxes[number, 2:])
            covered = (np.clip(high - low, 0, None).prod(axis=1) / sizes[number].prod()).max()
            scores[number] *= 1 - covered
    seen = (random.random(len(boxes)) >= MISSED) & (scores >= 0.1)
    count = random.poisson(FALSE_PER_FRAME)
    corners = random.uniform((0, 0), (WIDTH - 100, HEIGHT - 100), (count, 2))
    false = np.concatenate([corners, corners + random.uniform(30, 100, (count, 2))], axis=1)
    # What a detector gives lies in the image.
    every = np.clip(np.concatenate([trembling[seen], false]), 0, (WIDTH, HEIGHT) * 2).astype(np.float32)
    all_scores = np.concatenate([scores[seen], random.uniform(0.1, 0.5, count)]).astype(np.float32)
    order = np.argsort(-all_scores, kind="stable")
    return Detections(every[order], all_scores[order], np.zeros(len(order), np.int64))


def detseg_tracker(fps: int) -> Update:
    """Ours, as ``detseg predict --track`` has it."""
    tracker = ByteTracker(frame_rate=fps)

    return lambda detections, image: _numbered(tracker.update(detections))


def detseg_camera(fps: int) -> Update:
    """Ours with the motion of the camera taken out."""
    tracker, index, stream = Tracker(camera_motion=True), -1, StreamInfo(fps, WIDTH, HEIGHT)

    def update(detections: Detections, image: Array | None) -> Frame:
        assert image is not None
        nonlocal index
        index += 1
        return _numbered(tracker.follow(VideoFrame(image, index=index, stream=stream), detections))

    return update


def _numbered(found: Detections) -> Frame:
    assert found.track_ids is not None
    numbered = found.track_ids > 0
    return found.track_ids[numbered], found.boxes_xyxy[numbered]


def trackers_bytetrack(fps: int) -> Update:
    """ByteTrack of the package trackers."""
    from trackers import ByteTrackTracker

    return _of_supervision(ByteTrackTracker(frame_rate=fps).update)


def trackers_sort(fps: int) -> Update:
    """SORT of the package trackers."""
    from trackers import SORTTracker

    return _of_supervision(SORTTracker(frame_rate=fps).update)


def supervision_bytetrack(fps: int) -> Update:
    """ByteTrack of supervision, up to its version 0.26."""
    import supervision

    return _of_supervision(supervision.ByteTrack(frame_rate=fps).update_with_detections)


def _of_supervision(follow: Callable[[Any], Any]) -> Update:
    import supervision

    def update(detections: Detections, image: Array | None) -> Frame:
        given = supervision.Detections(
            xyxy=detections.boxes_xyxy, confidence=detections.scores, class_id=detections.labels
        )
        found = follow(given)
        ids = found.tracker_id if found.tracker_id is not None else np.full(len(found), -1)
        numbered = ids >= 0
        return ids[numbered], found.xyxy[numbered]

    return update


TRACKERS: dict[str, tuple[str, Callable[[int], Update]]] = {
    "detseg": ("numpy", detseg_tracker),
    "detseg-camera": ("cv2", detseg_camera),
    "trackers": ("trackers", trackers_bytetrack),
    "sort": ("trackers", trackers_sort),
    "supervision": ("supervision", supervision_bytetrack),
}
"""By name the package that it needs, and what begins one video."""


def judge(truth: Sequence[Frame], found: Sequence[Frame]) -> dict[str, float]:
    """What TrackEval says of one video."""
    from trackeval.metrics import CLEAR, HOTA, Identity

    def compact(frames: Sequence[Frame]) -> tuple[list[Array], int]:
        known = {number: place for place, number in enumerate(sorted({int(one) for ids, _ in frames for one in ids}))}
        return [np.array([known[int(one)] for one in ids], int) for ids, _ in frames], len(known)

    (true_ids, num_true), (ids, num_ids) = compact(truth), compact(found)
    data = {
        "num_timesteps": len(truth),
        "num_gt_ids": num_true,
        "num_tracker_ids": num_ids,
        "num_gt_dets": sum(map(len, true_ids)),
        "num_tracker_dets": sum(map(len, ids)),
        "gt_ids": true_ids,
        "tracker_ids": ids,
        "similarity_scores": [_iou(first[1], second[1]) for first, second in zip(truth, found, strict=True)],
    }
    return {
        "MOTA": float(CLEAR({"THRESHOLD": 0.5, "PRINT_CONFIG": False}).eval_sequence(data)["MOTA"]),
        "IDF1": float(Identity({"THRESHOLD": 0.5, "PRINT_CONFIG": False}).eval_sequence(data)["IDF1"]),
        "HOTA": float(np.mean(HOTA().eval_sequence(data)["HOTA"])),
    }


def _iou(first: Array, second: Array) -> Array:
    low = np.maximum(first[:, None, :2], second[:, :2])
    high = np.minimum(first[:, None, 2:], second[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    whole: Array = shared / np.maximum(areas[0][:, None] + areas[1] - shared, 1e-9)
    return whole


def measure(scene: str, fps: int, name: str, num_videos: int) -> dict[str, float]:
    """The mean of some videos."""
    values = []
    for seed in range(num_videos):
        video = make_video(scene, fps, seed)
        update = TRACKERS[name][1](fps)
        looks = name == "detseg-camera" and scene in MOVING
        images = make_images(scene, fps, seed) if looks else (None for _ in video)
        found_in = [update(found, image) for (_, found), image in zip(video, images, strict=True)]
        values.append(judge([truth for truth, _ in video], found_in))
    return {measure: float(np.mean([one[measure] for one in values])) for measure in MEASURES}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trackers", default=",".join(TRACKERS), help="which, separated by commas")
    parser.add_argument("--scenes", default=",".join(SCENES), help="which, separated by commas")
    parser.add_argument("--videos", type=int, default=5, help="videos of each scene (default 5)")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args()
    names = [name for name in options.trackers.split(",") if importlib.util.find_spec(TRACKERS[name][0]) is not None]
    if "supervision" in names:
        import supervision

        if not hasattr(supervision, "ByteTrack"):
            names.remove("supervision")
    print(f"| scene | fps | {' | '.join(f'{name} MOTA IDF1 HOTA' for name in names)} |")
    print(f"|---|---|{'---|' * len(names)}")
    rows = []
    for scene in options.scenes.split(","):
        for fps in (25, 1):
            results = {
                name: measure(scene, fps, name, options.videos)
                for name in names
                if name != "detseg-camera" or scene in MOVING
            }
            rows.append({"scene": scene, "fps": fps, **results})
            cells = [
                " ".join(f"{results[name][one]:.3f}" for one in MEASURES) if name in results else "" for name in names
            ]
            print(f"| {scene} | {fps} | {' | '.join(cells)} |", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
