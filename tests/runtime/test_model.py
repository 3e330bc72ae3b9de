from __future__ import annotations

import itertools
import sys
import threading
import types
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detseg.runtime.inputs.geometry import InputSpec, fitted
from detseg.runtime.kinds import load_kind
from detseg.runtime.media.images import ImageError, read_image, write_image
from detseg.runtime.model import Model
from detseg.runtime.prediction import Prediction
from detseg.runtime.runner import Finished
from detseg.runtime.sources.finding import SourceError, expand_sources
from detseg.runtime.sources.frames import Frame
from detseg.runtime.sources.video_reader import Section
from detseg.runtime.tracking.tracker import TrackerConfig
from detseg.structures import IGNORE_INDEX, Detections, LabelMap
from detseg.volumes import LabelVolume

NAMES = ("left", "right")


class SpotRunner:
    """Finds what is green: one box about it, of the class of the half in which it begins."""

    spec = InputSpec(64, 64, pad_value=0)
    default_batch_size = 1
    kind = load_kind("boxes")

    def __init__(self, max_in_flight: int = 1) -> None:
        self.max_in_flight = max_in_flight
        self.batch_sizes: list[int] = []

    def submit(self, images: Sequence[np.ndarray], kept: Any = None) -> Finished:
        self.batch_sizes.append(len(images))
        return Finished([self._find(image) for image in images])

    def _find(self, image: np.ndarray) -> Detections:
        placed, transform = self.spec.place(image)
        rows, columns = np.nonzero(placed[1] > 127)
        if not len(rows):
            return Detections.empty()
        box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
        return Detections(transform.to_original(box), np.ones(1, np.float32), np.array([int(columns.min() >= 32)]))


def spot(height: int, width: int, box_xyxy: tuple[int, int, int, int]) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = box_xyxy
    image[top:bottom, left:right, 1] = 255
    return image


def model_of(runner: Any, task_name: str = "detection") -> Model:
    return Model(runner, task_name, NAMES, (4, 9))


# 128x64: halved, 16 pixels of padding to the left; 64x64: as it is; 32x32: doubled
SPOTS = [spot(128, 64, (16, 32, 32, 48)), spot(64, 64, (8, 8, 16, 16)), spot(32, 32, (4, 8, 8, 12))]
EXPECTED = [(16, 32, 32, 48), (8, 8, 16, 16), (4, 8, 8, 12)]


def boxes(prediction: Prediction) -> tuple[float, ...]:
    assert isinstance(prediction.result, Detections)
    return tuple(prediction.result.boxes_xyxy[0].tolist())


@pytest.mark.parametrize("max_in_flight", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_boxes_come_back_in_order_in_pixels_of_the_originals(max_in_flight: int, batch_size: int) -> None:
    predictions = list(model_of(SpotRunner(max_in_flight)).predict(SPOTS, batch_size))
    for prediction, image, box in zip(predictions, SPOTS, EXPECTED, strict=True):
        assert prediction.path is None
        assert prediction.image is image
        np.testing.assert_allclose(boxes(prediction), box, atol=1)


def test_batches_are_full_across_sizes() -> None:
    runner = SpotRunner()
    list(model_of(runner).predict(SPOTS * 3, batch_size=4))
    assert runner.batch_sizes == [4, 4, 1]


def test_images_whose_inputs_differ_in_size_make_batches_of_their_own() -> None:
    runner = SpotRunner()
    runner.spec = fitted(runner.spec, 32)
    # inputs of 64x32, 64x64, 64x64, three times over
    for batch_size, expected in ((4, [1, 2] * 3), (2, [1, 2] * 3), (1, [1] * 9)):
        runner.batch_sizes.clear()
        predictions = list(model_of(runner).predict(SPOTS * 3, batch_size))
        assert runner.batch_sizes == expected
        for prediction, image, box in zip(predictions, SPOTS * 3, EXPECTED * 3, strict=True):
            assert prediction.image is image
            np.testing.assert_allclose(boxes(prediction), box, atol=1)


def test_a_full_batch_does_not_wait_for_the_next_image() -> None:
    """As of a camera: what is there is predicted before the next image is taken."""
    num_taken = 0

    def camera() -> Iterator[np.ndarray]:
        nonlocal num_taken
        for image in SPOTS * 2:
            num_taken += 1
            yield image

    predictions = model_of(SpotRunner()).predict(camera(), batch_size=2)
    seen = [num_taken for _ in predictions]
    assert seen == [2, 2, 4, 4, 6, 6]


def test_the_runner_never_has_more_on_its_hands_than_it_says() -> None:
    on_hand = 0

    class Waiting:
        def __init__(self, found: Any) -> None:
            self.found = found

        def results(self) -> Any:
            nonlocal on_hand
            on_hand -= 1
            return self.found

    class Careful(SpotRunner):
        def submit(self, images: Sequence[np.ndarray], kept: Any = None) -> Any:
            nonlocal on_hand
            on_hand += 1
            assert on_hand <= self.max_in_flight
            return Waiting(super().submit(images).found)

    for max_in_flight in (1, 2, 3):
        predictions = model_of(Careful(max_in_flight)).predict(SPOTS * 4, 2)
        assert len(list(predictions)) == 12
        assert on_hand == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, and a video of four frames in which the spot moves."""
    for number, image in enumerate(SPOTS):
        write_image(tmp_path / f"{number}.png", image)
    video = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 64))
    for number in range(4):
        video.write(spot(64, 64, (8 + 2 * number, 8, 24 + 2 * number, 24)))
    video.release()
    return tmp_path


def test_names_arrays_and_videos_mix_and_keep_their_order(folder: Path) -> None:
    given = [folder / "2.png", SPOTS[0], str(folder / "v.avi"), str(folder / "1.png")]
    found = list(model_of(SpotRunner()).predict(given, batch_size=4, section=Section(every=2)))
    assert [prediction.frame.name for prediction in found] == ["2", "", "v_000000", "v_000002", "1"]
    np.testing.assert_allclose([boxes(p)[0] for p in found], [4, 16, 8, 12, 8], atol=1)


@pytest.mark.parametrize("given", ["0.png", "*.png", "."])
def test_one_source_needs_no_list(folder: Path, given: str) -> None:
    count = {"0.png": 1, "*.png": 3, ".": 7}[given]
    assert len(list(model_of(SpotRunner()).predict(str(folder / given)))) == count
    assert len(list(model_of(SpotRunner()).predict(SPOTS[0]))) == 1


def test_a_bad_file_is_reported_and_its_place_in_the_batch_filled(folder: Path) -> None:
    (folder / "v.avi").unlink()
    (folder / "0b.png").write_bytes(b"GIF89a")
    (folder / "1b.png").write_bytes((folder / "1.png").read_bytes()[:-20])
    errors: list[tuple[str, str]] = []
    runner = SpotRunner()
    predictions = list(
        model_of(runner).predict(folder, 3, on_error=lambda source, error: errors.append((source.name, str(error))))
    )
    assert [prediction.path.name for prediction in predictions if prediction.path] == ["0.png", "1.png", "2.png"]
    assert [Path(name).name for name, _ in errors] == ["0b.png", "1b.png"]
    assert "truncated" in errors[1][1]
    assert runner.batch_sizes == [3]
    with pytest.raises(ImageError, match=r"0b\.png"):
        list(model_of(runner).predict(folder))


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(SourceError, match="does not exist"):
        list(model_of(SpotRunner()).predict(["nothing.png"]))
    with pytest.raises(SourceError, match="only with --allow-url"):
        list(model_of(SpotRunner()).predict("http://127.0.0.1/a.mp4"))


def test_sources_are_taken_as_needed_and_images_let_go() -> None:
    references: list[weakref.ref[np.ndarray]] = []
    most = 0

    def endless() -> Iterator[np.ndarray]:
        for _ in itertools.count():
            image = spot(64, 64, (8, 8, 16, 16))
            references.append(weakref.ref(image))
            yield image

    for number, _ in enumerate(model_of(SpotRunner()).predict(endless(), batch_size=4)):
        most = max(most, sum(reference() is not None for reference in references))
        if number == 40:
            break
    # one batch, and the one that the loop variable and the generators still name
    assert 4 <= most <= 7


def test_sources_can_be_taken_in_a_thread() -> None:
    taken_in: set[str] = set()

    def images() -> Iterator[np.ndarray]:
        for image in SPOTS:
            taken_in.add(threading.current_thread().name)
            yield image

    found = list(model_of(SpotRunner()).predict(images(), ahead=2))
    np.testing.assert_allclose([boxes(prediction) for prediction in found], EXPECTED, atol=1)
    assert taken_in == {"iterate-ahead"}


def test_only_some_classes() -> None:
    found = model_of(SpotRunner()).predict([SPOTS[1], spot(64, 64, (40, 8, 50, 16))], classes=["right"])
    assert [len(prediction.result) for prediction in found] == [0, 1]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the model has no class up, down; it has left, right"):
        model_of(SpotRunner()).predict(SPOTS, classes=["up", "right", "down"])


@pytest.mark.parametrize(
    ("kind", "found", "expected"),
    [
        ("masks", LabelMap(np.array([[0, 1, IGNORE_INDEX]], np.uint8)), [[IGNORE_INDEX, 1, IGNORE_INDEX]]),
        ("volumes", LabelVolume(np.array([[[0, 1, 1]]], np.uint8), np.eye(4)), [[[0, 1, 1]]]),
    ],
)
def test_only_some_classes_of_masks_and_volumes(kind: str, found: Any, expected: Any) -> None:
    class Fixed(SpotRunner):
        def submit(self, images: Sequence[np.ndarray], kept: Any = None) -> Finished:
            return Finished([found] * len(images))

    runner = Fixed()
    runner.kind = load_kind(kind)
    (prediction,) = model_of(runner).predict(SPOTS[0], classes=["right"])
    assert prediction.result.labels.tolist() == expected


def test_tracks_begin_anew_with_each_video(folder: Path) -> None:
    given = [folder / "v.avi", folder / "v.avi"]
    # The same object in each frame of a video is one; in the next video it is object 1 again.
    found = list(model_of(SpotRunner()).predict(given, track=TrackerConfig()))
    ids = [prediction.result.track_ids.tolist() for prediction in found]  # type: ignore[union-attr]
    assert ids[:4] == ids[4:]
    assert {tuple(one) for one in ids if one} == {(1,)}
    masks = SpotRunner()
    masks.kind = load_kind("masks")
    with pytest.raises(ValueError, match="only boxes can be tracked, this model is for semantic"):
        model_of(masks, "semantic").predict(SPOTS, track=TrackerConfig())


def test_nothing_given_nothing_found() -> None:
    assert list(model_of(SpotRunner()).predict([])) == []


def test_impossible_requests_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        model_of(SpotRunner()).predict(SPOTS, batch_size=0)
    with pytest.raises(ValueError, match="must be uint8, got float32"):
        list(model_of(SpotRunner()).predict([SPOTS[0].astype(np.float32)]))


def test_what_a_prediction_can_become() -> None:
    (prediction,) = model_of(SpotRunner()).predict(SPOTS[1])
    assert (prediction.plot() != SPOTS[1]).any()
    assert prediction.to_coco(image_id=7) == [
        {"image_id": 7, "category_id": 4, "bbox": [8.0, 8.0, 8.0, 8.0], "score": 1.0}
    ]
    mask = Prediction(Frame(SPOTS[1]), LabelMap(np.zeros((64, 64), np.uint8)), NAMES, (4, 9), load_kind("masks"))
    with pytest.raises(TypeError, match="only boxes can be converted, this result is a LabelMap"):
        mask.to_coco()


def test_the_bridge_to_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is not installed for tests, as it brings another OpenCV; its constructor takes these names."""
    (prediction,) = model_of(SpotRunner()).predict(SPOTS[1])
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ModuleNotFoundError, match="supervision"):
        prediction.to_supervision()
    bridge = types.ModuleType("supervision")
    bridge.Detections = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", bridge)
    made = prediction.to_supervision()
    assert made["xyxy"].tolist() == [[8, 8, 16, 16]]
    assert (made["confidence"].tolist(), made["class_id"].tolist(), made["tracker_id"]) == ([1.0], [0], None)
    assert isinstance(made["data"]["class_name"], np.ndarray), "comparing it with a name must go by element"
    assert made["data"]["class_name"].tolist() == ["left"]
    found = replace(prediction.result, track_ids=np.array([3]))  # type: ignore[type-var]
    assert replace(prediction, result=found).to_supervision()["tracker_id"].tolist() == [3]
    found = replace(prediction.result, track_ids=np.array([0]))  # type: ignore[type-var]
    assert replace(prediction, result=found).to_supervision()["tracker_id"].tolist() == [-1]
    empty = replace(prediction, result=Detections.empty()).to_supervision()["data"]["class_name"]
    assert (empty.shape, empty.dtype.kind) == ((0,), "U")


@pytest.mark.slow
def test_supervision_itself_filters_by_name_and_merges() -> None:
    import supervision

    (prediction,) = model_of(SpotRunner()).predict(SPOTS[1])
    found = Detections(
        np.array([[8, 8, 16, 16], [40, 8, 50, 16], [42, 20, 50, 30]], np.float32),
        np.array([0.9, 0.8, 0.7], np.float32),
        np.array([0, 1, 1]),
    )
    made = replace(prediction, result=found).to_supervision()
    assert len(made[made["class_name"] == "right"]) == 2
    other = supervision.Detections(
        xyxy=made.xyxy, confidence=made.confidence, class_id=made.class_id, data={"class_name": made["class_name"]}
    )
    assert len(supervision.Detections.merge([made, other])) == 6
    tracked = replace(prediction, result=replace(found, track_ids=np.array([3, 0, 1]))).to_supervision()
    assert tracked.tracker_id.tolist() == [3, -1, 1]


def test_real_images_give_the_same_alone_and_in_a_batch(detseg_data: Path) -> None:
    files = expand_sources([detseg_data / "coco-mini" / "val2017"])[:16]
    model = model_of(SpotRunner())
    alone = [prediction for file in files for prediction in model.predict(file)]
    together = list(model.predict(files, batch_size=5))
    for one, other in zip(alone, together, strict=True):
        assert one.path == other.path
        assert np.array_equal(one.result.boxes_xyxy, other.result.boxes_xyxy)  # type: ignore[union-attr]
        assert np.array_equal(one.image, read_image(one.path or ""))  # type: ignore[arg-type]


def test_a_child_that_was_forked_while_another_thread_changed_settings_can_change_them(in_forked_child: Any) -> None:
    model = Model(SpotRunner(), "detection", NAMES, (4, 9), lambda settings, tracker: SpotRunner())
    with model._lock:
        assert in_forked_child(lambda: len(model(SPOTS[0], confidence=0.5))) == "1"
    assert len(model(SPOTS[0], confidence=0.5)) == 1
