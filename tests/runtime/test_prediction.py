"""A prediction for programs, for people and for notebooks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from detseg.runtime.kinds import load_kind
from detseg.runtime.prediction import FoundObject, Prediction
from detseg.runtime.sources.frames import Frame, StreamInfo
from detseg.structures import Detections, LabelMap
from detseg.volumes import LabelVolume, Volume

NAMES = ("bus", "car", "van")
IMAGE = np.full((600, 900, 3), 128, np.uint8)
BOXES = Detections(
    np.array([[10, 20, 30, 40], [50, 60, 70, 80], [1, 2, 3, 4]], np.float32),
    np.array([0.9, 0.8, 0.7], np.float32),
    np.array([1, 0, 1]),
    np.array([5, 0, 7]),
)


def boxes(result: Detections = BOXES, frame: Frame | None = None) -> Prediction:
    return Prediction(frame or Frame(IMAGE, "street.jpg"), result, NAMES, (1, 2, 3), load_kind("boxes"))


def masks() -> Prediction:
    labels = np.full((600, 900), 255, np.uint8)
    labels[:10] = 2
    return Prediction(Frame(IMAGE), LabelMap(labels), NAMES, (1, 2, 3), load_kind("masks"))


def volumes() -> Prediction:
    volume = Volume(np.zeros((4, 5, 6), np.float32), np.eye(4))
    labels = LabelVolume(np.ones((4, 5, 6), np.uint8), np.eye(4))
    return Prediction(Frame(volume, "scan.nii.gz"), labels, ("background", "left"), (0, 1), load_kind("volumes"))


def test_boxes_as_arrays_and_as_objects() -> None:
    found = boxes()
    assert len(found) == 3
    assert found.names == ["car", "bus", "car"]
    assert found.counts == {"bus": 1, "car": 2}
    np.testing.assert_array_equal(found.boxes_xyxy, BOXES.boxes_xyxy)
    np.testing.assert_array_equal(found.scores, BOXES.scores)
    np.testing.assert_array_equal(found.labels, BOXES.labels)
    assert found.track_ids is not None
    assert found[0] == FoundObject("car", 1, pytest.approx(0.9), (10, 20, 30, 40), 5)
    assert found[-1].box_xyxy == (1, 2, 3, 4)
    assert [one.track_id for one in found] == [5, None, 7]
    with pytest.raises(IndexError):
        found[3]


def test_nothing_found_is_false() -> None:
    assert boxes()
    nothing = boxes(Detections.empty())
    assert not nothing
    assert len(nothing) == 0
    assert list(nothing) == []
    assert nothing.track_ids is None


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (boxes(), "Prediction(street.jpg, 600x900: 1 bus, 2 car)"),
        (boxes(Detections.empty(), Frame(IMAGE)), "Prediction(array, 600x900: nothing)"),
        (
            boxes(frame=Frame(IMAGE, "a.mp4", index=7, time_s=0.2, stream=StreamInfo(25, 900, 600))),
            "Prediction(a.mp4, frame 7, 600x900: 1 bus, 2 car)",
        ),
        (masks(), "Prediction(array, 600x900: van)"),
        (volumes(), "Prediction(scan.nii.gz, 4x5x6: left)"),
    ],
)
def test_its_text_is_short(made: Prediction, text: str) -> None:
    assert repr(made) == text


@pytest.mark.parametrize("make", [boxes, masks, volumes])
def test_notebooks_show_the_drawn_image(make: object) -> None:
    assert callable(make)
    made = make()
    image = cv2.imdecode(np.frombuffer(made._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert max(image.shape[:2]) <= 640
    page = made._repr_html_()
    assert page.startswith('<figure><img alt="drawn prediction" src="data:image/png;base64,')


def test_names_of_files_do_not_become_html() -> None:
    page = boxes(frame=Frame(IMAGE, "<script>.jpg"))._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;.jpg" in page


def test_masks_have_no_objects() -> None:
    assert masks().counts == {"van": 1}
    assert masks().labels.shape == (600, 900)
    for ask in (len, list, lambda made: made[0], lambda made: made.scores, lambda made: made.boxes_xyxy):
        with pytest.raises(TypeError, match="only boxes can be"):
            ask(masks())
