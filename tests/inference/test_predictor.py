from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detseg.inference.predictor import Prediction, Predictor
from detseg.ops.nms import select_detections
from detseg.runtime.geometry import InputSpec
from detseg.runtime.images import ImageError, read_image, write_image
from detseg.runtime.sources import expand_sources
from detseg.structures import Detections, Placement


class BrightSpots(nn.Module):
    """A detector without training: every cell of 8 x 8 pixels is a box, its score the brightness of its green."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(8)
        self.noise = nn.Dropout(0.9)
        self.batch_sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batch_sizes.append(len(images))
        scores: Tensor = self.noise(self.pool(images)[:, 1])
        return scores


class SpotTask:
    """Turns the brightness of cells into detections, with the real NMS and the real way back to the image."""

    spec = InputSpec(64, 64, pad_value=0)

    def normalize(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        assert images.is_contiguous()
        return images.float() / 255

    def predict(self, model: nn.Module, images: Tensor, placements: Sequence[Placement]) -> list[Detections]:
        raw = model(images)
        rows, columns = raw.shape[1:]
        top, left = torch.meshgrid(torch.arange(rows) * 8.0, torch.arange(columns) * 8.0, indexing="ij")
        boxes_xyxy = torch.stack([left, top, left + 8, top + 8], dim=-1).reshape(-1, 4)
        results = []
        for scores, placement in zip(raw, placements, strict=True):
            found = select_detections(boxes_xyxy, scores.reshape(-1, 1), 0.8, 0.5, 50, False, False)
            results.append(Detections(placement.to_original(found.boxes_xyxy), found.scores, found.labels))
        return results


def spot(height: int, width: int, box_xyxy: tuple[int, int, int, int]) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = box_xyxy
    image[top:bottom, left:right, 1] = 255
    return image


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(BrightSpots(), SpotTask())


# 128x64: halved, 16 pixels of padding to the left; 64x64: as it is; 32x32: doubled
SPOTS = [spot(128, 64, (16, 32, 32, 48)), spot(64, 64, (8, 8, 16, 16)), spot(32, 32, (4, 8, 8, 12))]
EXPECTED = [(16, 32, 32, 48), (8, 8, 16, 16), (4, 8, 8, 12)]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_boxes_come_back_in_pixels_of_the_originals(predictor: Predictor, batch_size: int) -> None:
    predictions = list(predictor.predict(SPOTS, batch_size))
    for prediction, image, box in zip(predictions, SPOTS, EXPECTED, strict=True):
        assert prediction.path is None
        assert prediction.image is image
        assert prediction.result.boxes_xyxy.tolist() == [list(box)]


def test_batches_are_full_across_sizes(predictor: Predictor) -> None:
    list(predictor.predict(SPOTS * 3, batch_size=4))
    assert predictor.model.batch_sizes == [4, 4, 1]


def test_files_and_arrays_mix_and_keep_their_order(predictor: Predictor, tmp_path: Path) -> None:
    for number, image in enumerate(SPOTS):
        write_image(tmp_path / f"{number}.png", image)
    files = expand_sources([tmp_path])
    predictions = list(predictor.predict([files[2], SPOTS[0], str(files[1])], batch_size=2))
    assert [prediction.path for prediction in predictions] == [files[2], None, files[1]]
    boxes = [tuple(prediction.result.boxes_xyxy[0].astype(int).tolist()) for prediction in predictions]
    assert boxes == [EXPECTED[2], EXPECTED[0], EXPECTED[1]]


def test_a_bad_file_is_reported_and_its_place_in_the_batch_filled(predictor: Predictor, tmp_path: Path) -> None:
    for number, image in enumerate(SPOTS):
        write_image(tmp_path / f"{number}.png", image)
    (tmp_path / "0b.png").write_bytes(b"GIF89a")
    (tmp_path / "1b.png").write_bytes((tmp_path / "1.png").read_bytes()[:-20])
    errors: list[tuple[str, ImageError]] = []
    sources = [*expand_sources([tmp_path]), tmp_path / "missing.png"]
    predictions = list(predictor.predict(sources, 3, on_error=lambda path, error: errors.append((path.name, error))))
    assert [prediction.path.name for prediction in predictions if prediction.path] == ["0.png", "1.png", "2.png"]
    assert [name for name, _ in errors] == ["0b.png", "1b.png", "missing.png"]
    assert "truncated" in str(errors[1][1])
    assert predictor.model.batch_sizes == [3]


def test_without_a_handler_a_bad_file_is_an_error(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"missing\.png"):
        list(predictor.predict([tmp_path / "missing.png"]))


def test_sources_are_taken_as_needed_and_images_let_go(predictor: Predictor) -> None:
    references: list[weakref.ref[np.ndarray]] = []
    most = 0

    def endless() -> Iterator[np.ndarray]:
        for _ in itertools.count():
            image = spot(64, 64, (8, 8, 16, 16))
            references.append(weakref.ref(image))
            yield image

    for number, _ in enumerate(predictor.predict(endless(), batch_size=4)):
        most = max(most, sum(reference() is not None for reference in references))
        if number == 40:
            break
    # one batch, and the one that the loop variable and the generator still name
    assert 4 <= most <= 6


def test_the_model_runs_in_evaluation_mode_without_gradients(predictor: Predictor) -> None:
    assert not predictor.model.training
    seen: list[bool] = []
    predictor.model.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    list(predictor.predict(SPOTS[:1]))
    assert seen == [False]


def test_no_sources_no_predictions(predictor: Predictor) -> None:
    assert list(predictor.predict([])) == []


def test_impossible_requests_are_refused_at_once(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        predictor.predict(SPOTS, batch_size=0)
    with pytest.raises(ValueError, match="HxWx3 uint8"):
        list(predictor.predict([SPOTS[0].astype(np.float32)]))


def test_real_pictures_give_the_same_alone_and_in_a_batch(predictor: Predictor, detseg_data: Path) -> None:
    files = expand_sources([detseg_data / "coco-mini" / "val2017"])[:16]
    alone = [prediction for file in files for prediction in predictor.predict([file])]
    together = list(predictor.predict(files, batch_size=5))
    assert sum(len(prediction.result) for prediction in alone) >= 10
    for one, other in zip(alone, together, strict=True):
        assert_same(one, other)
        assert np.array_equal(one.image, read_image(one.path or ""))


def assert_same(one: Prediction, other: Prediction) -> None:
    assert one.path == other.path
    for name in ("boxes_xyxy", "scores", "labels"):
        assert np.array_equal(getattr(one.result, name), getattr(other.result, name))
