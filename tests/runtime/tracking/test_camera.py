from __future__ import annotations

import cv2
import numpy as np
import pytest

import detseg
from detseg.runtime.sources.frames import Frame, StreamInfo
from detseg.runtime.tracking.camera import CameraMotion
from detseg.runtime.tracking.motion import BoxMotion
from detseg.structures import Detections

NOTHING = np.zeros((0, 4), np.float32)


def ground(height: int = 900, width: int = 1200) -> np.ndarray:
    """Texture with structure of several sizes."""
    random = np.random.default_rng(0)
    total = np.zeros((height, width, 3), np.float32)
    for size in (4, 16, 64):
        coarse = random.random((height // size + 2, width // size + 2, 3)).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(total * 85, 0, 255).astype(np.uint8)


GROUND = ground()


def seen(motion: np.ndarray) -> np.ndarray:
    """A camera's image of the ground, 640 x 480, after ``motion`` of what it sees."""
    return cv2.warpAffine(GROUND, motion, (640, 480))


def shifted(right: float, down: float) -> np.ndarray:
    return np.array([[1.0, 0.0, right - 250], [0.0, 1.0, down - 200]])


@pytest.mark.parametrize(("right", "down"), [(0.0, 0.0), (3.0, -2.0), (-31.0, 12.0), (120.0, 40.0)])
def test_a_pan_is_measured(right: float, down: float) -> None:
    camera = CameraMotion()
    assert camera.update(seen(shifted(0, 0)), NOTHING) is None, "there is nothing before the first image"
    motion = camera.update(seen(shifted(right, down)), NOTHING)
    assert motion is not None
    assert np.allclose(motion, [[1, 0, right], [0, 1, down]], atol=(0.01, 0.01, 1.0))


def test_a_turn_with_zoom_is_measured() -> None:
    camera = CameraMotion()
    camera.update(seen(shifted(0, 0)), NOTHING)
    # By 3 degrees and a tenth larger, around the middle of the image.
    turn = cv2.getRotationMatrix2D((320, 240), 3, 1.1)
    whole = turn @ np.vstack([shifted(0, 0), [0, 0, 1]])
    motion = camera.update(seen(whole), NOTHING)
    assert motion is not None
    corners = np.array([[0, 0, 1], [640, 480, 1], [640, 0, 1]], np.float64)
    assert np.abs(corners @ (motion - turn).T).max() < 1.5


def test_objects_say_nothing_about_the_camera() -> None:
    """Most of the image is an object that moves; the ground around it stands still."""
    camera = CameraMotion()
    first, second = seen(shifted(0, 0)), seen(shifted(0, 0))
    first[60:420, 80:540] = GROUND[400:760, 500:960]
    second[60:420, 100:560] = GROUND[400:760, 500:960]
    camera.update(first, np.array([[80, 60, 540, 420]], np.float32))
    motion = camera.update(second, np.array([[100, 60, 560, 420]], np.float32))
    assert motion is not None
    assert np.abs(motion[:, 2]).max() < 0.5


def test_another_place_and_a_blank_wall_say_nothing() -> None:
    camera = CameraMotion()
    camera.update(seen(shifted(0, 0)), NOTHING)
    assert camera.update(GROUND[::-1][:480, :640].copy(), NOTHING) is None
    blank = np.full((480, 640, 3), 90, np.uint8)
    camera.update(blank, NOTHING)
    assert camera.update(blank, NOTHING) is None
    assert camera.update(blank[:100, :100], NOTHING) is None, "of another size"


def test_boxes_move_turn_and_grow_with_the_camera() -> None:
    motion = BoxMotion.begin(np.array([[90, 80, 110, 120]], np.float32))
    # A quarter turn (x, y) -> (-y, x), twice as large, then 300 to the right.
    moved = motion.seen_by(np.array([[0.0, -2.0, 300.0], [2.0, 0.0, 0.0]]))
    assert np.allclose(moved.boxes_xyxy, [[300 - 200 - 20, 200 - 40, 300 - 200 + 20, 200 + 40]])
    assert np.allclose(moved.position_variances, motion.position_variances * [[4, 4, 1, 4]])


@pytest.mark.parametrize("camera_motion", [True, False])
def test_an_object_that_stands_still_is_followed_by_a_camera_that_jumps(camera_motion: bool) -> None:
    tracker = detseg.Tracker(camera_motion=camera_motion)
    stream = StreamInfo(25.0, 640, 480)
    ids = []
    for index, right in enumerate([0, 0, 0, 90, 10, -70, 20]):
        image = seen(shifted(right, 0))
        box = np.array([[300 + right, 200, 340 + right, 260]], np.float32)
        found = Detections(box, np.array([0.9], np.float32), np.array([0]))
        followed = tracker.follow(Frame(image, "a.mp4", index=index, stream=stream), found)
        assert followed.track_ids is not None
        ids += followed.track_ids.tolist()
    assert (ids == [1] * 7) == camera_motion, "boxes 40 pixels wide that jump by 90 are others without it"
