from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.data.open import open_dataset
from detseg.exporters.verification import NUM_PROVED, calibration_inputs, verification_images
from detseg.runtime.inputs.geometry import InputSpec, letterbox
from detseg.tasks.detection import DetectionTask
from detseg.tasks.model_file import load_model_file
from detseg.volumes import Volume


def detection(path: Path) -> DetectionTask:
    task: Any = load_model_file(path).task
    assert isinstance(task, DetectionTask)
    return task


def test_without_data_there_are_shapes_and_noise(detector_path: Path) -> None:
    images = verification_images(detection(detector_path), None, None)
    assert images.name == "the built-in shapes and noise"
    assert images.dataset is None
    listed = list(images)
    assert len(listed) == len(images) == NUM_PROVED + 3
    assert len({image.shape for image in listed}) > 3, "sizes differ, and so does what letterboxing does"
    for image, again in zip(listed, images, strict=True):
        np.testing.assert_array_equal(image, again)


def test_images_to_verify_are_all_of_the_validation_split(detector_path: Path, detseg_data: Path) -> None:
    data = str(detseg_data / "coco-mini")
    task = detection(detector_path)
    with pytest.raises(ValueError, match="the model does not know 80 classes of the data set"):
        verification_images(task, data, None)
    task.class_names = open_dataset(data, "val").class_names
    images = verification_images(task, data, None)
    assert len(images) == 80
    assert images.dataset.image_id(0) > 0
    assert images.name.endswith("coco-mini, split val")


def test_images_to_calibrate_with_are_made_as_in_prediction(detector_path: Path) -> None:
    task = detection(detector_path)
    assert isinstance(task.spec, InputSpec)
    inputs = list(calibration_inputs(task, "shapes"))
    assert 20 < len(inputs) <= 128
    image = open_dataset("shapes", "train").load(0).image  # type: ignore[union-attr]
    expected = letterbox(image, task.spec)[0].transpose(2, 0, 1)[None] / np.float32(255)  # type: ignore[arg-type]
    np.testing.assert_allclose(inputs[0], expected, rtol=0, atol=1e-6)
    assert inputs[0].dtype == np.float32


def test_volumes_are_cut_to_the_window(hippocampus_task: Any) -> None:
    images = verification_images(hippocampus_task, None, None)
    assert images.name == "the built-in blobs"
    assert all(isinstance(volume, Volume) for volume in images)
    for window in ((16, 24, 8), (200, 8, 8)):
        batch = next(calibration_inputs(hippocampus_task, "blobs", window))
        assert batch.shape == (1, 1, *window)
