from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from detseg.inference.load import EagerRunner


def bright_box(height: int, width: int, box_xyxy: tuple[int, int, int, int]) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = box_xyxy
    image[top:bottom, left:right] = 255
    return image


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_batch_of_several_sizes_is_done_when_it_is_handed_in(
    spot_model: Any, spot_task: Any, dtype: torch.dtype
) -> None:
    boxes = [(16, 32, 32, 48), (8, 8, 16, 16)]
    images = [bright_box(128, 64, boxes[0]), bright_box(64, 64, boxes[1])]
    runner = EagerRunner(spot_model.eval(), spot_task, torch.device("cpu"), dtype)
    pending = runner.submit(images)
    assert spot_model.batch_sizes == [2]
    assert [found.boxes_xyxy.tolist() for found in pending.results()] == [[list(box)] for box in boxes]
    assert runner.max_in_flight == 1


def test_what_is_no_image_is_refused(spot_model: Any, spot_task: Any) -> None:
    runner = EagerRunner(spot_model.eval(), spot_task, torch.device("cpu"), torch.float32)
    with pytest.raises(ValueError, match="HxWx3 uint8"):
        runner.submit([np.zeros((4, 4), np.uint8)])
