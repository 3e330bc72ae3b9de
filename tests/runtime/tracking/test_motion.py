"""The filter of boxes: equal to the Kalman filter of the textbook, and sane on boxes without size."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from detseg.runtime.tracking.motion import BoxMotion


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


# A box of 20 x 40, in 5 frames: to the right, down, and growing.
SEEN = boxes((100, 50, 120, 90), (104, 51, 124, 92), (107, 52, 128, 94), (111, 54, 133, 97), (116, 55, 138, 99))
ALL = np.ones(1, np.bool_)


class TextbookFilter:
    """One box: a state of 8, a covariance of 8 x 8, and the noise as the authors of the model give it, but for how
    fast a box may be that is seen for the first time."""

    def __init__(self, box: np.ndarray) -> None:
        position = self.measured(box)
        height = position[3]
        self.state = np.concatenate([position, np.zeros(4)])
        deviations = [height / 10, height / 10, 1e-2, height / 10, height / 2, height / 2, 1e-5, height / 16]
        self.covariance = np.diag(np.square(deviations))

    @staticmethod
    def measured(box: np.ndarray) -> np.ndarray:
        left, top, right, bottom = box.astype(np.float64)
        return np.array([(left + right) / 2, (top + bottom) / 2, (right - left) / (bottom - top), bottom - top])

    def predict(self) -> None:
        step = np.eye(8) + np.eye(8, k=4)
        height = self.state[3]
        deviations = [height / 20, height / 20, 1e-2, height / 20, height / 160, height / 160, 1e-5, height / 160]
        self.state = step @ self.state
        self.covariance = step @ self.covariance @ step.T + np.diag(np.square(deviations))

    def correct(self, box: np.ndarray) -> None:
        height = self.state[3]
        look = np.eye(4, 8)
        spread = look @ self.covariance @ look.T + np.diag(np.square([height / 20, height / 20, 1e-1, height / 20]))
        gain = self.covariance @ look.T @ np.linalg.inv(spread)
        self.state = self.state + gain @ (self.measured(box) - look @ self.state)
        self.covariance = self.covariance - gain @ spread @ gain.T


def assert_equal(motion: BoxMotion, textbook: TextbookFilter) -> None:
    assert motion.positions[0] == pytest.approx(textbook.state[:4], rel=1e-9)
    assert motion.velocities[0] == pytest.approx(textbook.state[4:], rel=1e-9, abs=1e-12)
    covariance = np.diag(np.concatenate([motion.position_variances[0], motion.velocity_variances[0]]))
    covariance += np.diag(motion.covariances[0], k=4) + np.diag(motion.covariances[0], k=-4)
    assert covariance == pytest.approx(textbook.covariance, rel=1e-9, abs=1e-12)


def test_equals_the_textbook() -> None:
    motion, textbook = BoxMotion.begin(SEEN[:1]), TextbookFilter(SEEN[0])
    assert_equal(motion, textbook)
    for box in SEEN[1:]:
        motion = motion.predicted(1)
        textbook.predict()
        assert_equal(motion, textbook)
        motion = motion.corrected(ALL, box[None])
        textbook.correct(box)
        assert_equal(motion, textbook)


def test_many_frames_in_one_step() -> None:
    steady = boxes((100, 50, 120, 90), (103, 50, 123, 90))
    motion = BoxMotion.begin(steady[:1]).predicted(1).corrected(ALL, steady[1:])
    at_once, one_by_one = motion.predicted(5), motion
    for _ in range(5):
        one_by_one = one_by_one.predicted(1)
    for part in fields(BoxMotion):
        assert getattr(at_once, part.name) == pytest.approx(getattr(one_by_one, part.name), rel=1e-12), part.name


def test_a_steady_box_is_expected_where_it_goes() -> None:
    motion = BoxMotion.begin(boxes((0, 0, 20, 40)))
    for step in range(1, 61):
        motion = motion.predicted(1).corrected(ALL, boxes((3 * step, 0, 20 + 3 * step, 40)))
    assert motion.velocities[0] == pytest.approx([3, 0, 0, 0], abs=0.01)
    assert motion.predicted(10).boxes_xyxy[0] == pytest.approx([210, 0, 230, 40], abs=0.1)


def test_boxes_come_back() -> None:
    several = boxes((0, 0, 20, 40), (5.5, 3, 105.25, 9), (-30, -8, -10, 700))
    assert BoxMotion.begin(several).boxes_xyxy == pytest.approx(several.astype(np.float64), abs=1e-9)


def test_boxes_do_not_touch_each_other() -> None:
    several = boxes((0, 0, 20, 40), (500, 100, 560, 130), (9, 9, 99, 99))
    moved = several + np.float32(4)
    seen = np.array([True, False, True])
    motion = BoxMotion.begin(several).predicted(1)
    together = motion.corrected(seen, moved[seen])
    for row in np.nonzero(seen)[0]:
        alone = BoxMotion.begin(several[row, None]).predicted(1).corrected(ALL, moved[row, None])
        assert np.array_equal(together.positions[row], alone.positions[0])
        assert np.array_equal(together.velocity_variances[row], alone.velocity_variances[0])
    assert np.array_equal(together.positions[1], motion.positions[1])
    assert np.array_equal(together.position_variances[1], motion.position_variances[1])
    assert motion.positions[0] == pytest.approx([10, 20, 0.5, 40]), "the motion before is left as it was"


def test_unseen_boxes_go_on_but_keep_their_height() -> None:
    motion = BoxMotion.begin(SEEN[:1])
    for box in SEEN[1:]:
        motion = motion.predicted(1).corrected(ALL, box[None])
    assert motion.velocities[0, 0] > 1
    assert motion.velocities[0, 3] > 0.5
    unseen = motion.predicted(1).corrected(~ALL, boxes())
    later = unseen.predicted(20)
    assert later.positions[0, 3] == unseen.positions[0, 3]
    assert later.positions[0, 0] == pytest.approx(unseen.positions[0, 0] + 20 * motion.velocities[0, 0])


def test_chosen_and_joined() -> None:
    several = boxes((0, 0, 20, 40), (500, 100, 560, 130), (9, 9, 99, 99))
    motion = BoxMotion.begin(several)
    chosen = motion.select(np.array([False, True, True]))
    assert np.array_equal(chosen.positions, motion.positions[1:])
    joined = chosen.joined(BoxMotion.begin(several[:1]))
    for part in fields(BoxMotion):
        assert np.array_equal(getattr(joined, part.name), getattr(motion, part.name)[[1, 2, 0]]), part.name


@pytest.mark.parametrize(
    "box",
    [
        (5, 5, 5, 5),  # a point
        (5, 5, 50, 5),  # no height
        (9, 9, 3, 3),  # the corners swapped
        (-3e38, -3e38, 3e38, 3e38),
    ],
)
def test_strange_boxes_stay_finite(box: tuple[float, float, float, float]) -> None:
    motion = BoxMotion.begin(boxes(box))
    for seen in (box, (0, 0, 20, 40), box, (0, 0, 20, 2), (0, 0, 20, 1)):
        motion = motion.predicted(7).corrected(ALL, boxes(seen))
        for part in fields(BoxMotion):
            assert np.isfinite(getattr(motion, part.name)).all(), part.name
        assert motion.predicted(1000).positions[0, 3] >= 1
