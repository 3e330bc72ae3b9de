from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg.data.shapes import ShapesConfig, ShapesDataset
from detseg.engine.gallery import Gallery
from detseg.models.letnet import LETNetConfig
from detseg.runtime.images import read_image
from detseg.runtime.show import compare_labels
from detseg.structures import LabelMap
from detseg.tasks.semantic import SemanticTaskConfig


def draw(folder: Path, num_images: int, num_pictures: int) -> list[str]:
    """The names of the pictures of a data set whose predictions all are class 1."""
    config = ShapesConfig(image_size=64, num_val=num_images, max_objects=1, min_objects=1, min_side=16, max_side=30)
    dataset = ShapesDataset("val", config, "masks")
    task: Any = SemanticTaskConfig().build(LETNetConfig().build(4), dataset.class_names)
    gallery = Gallery(task, dataset, folder, num_pictures)
    result = LabelMap(np.ones((64, 64), np.uint8))
    for index in range(num_images):
        gallery(index, result, dataset.mask(index))
    if folder.exists():
        image, mask = dataset.read(0)
        assert mask is not None
        expected = compare_labels(image, mask, result.labels, dataset.class_names).astype(int)
        assert np.abs(read_image(folder / "000000_000000.jpg") - expected).mean() < 3
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize(
    ("num_images", "num_pictures", "expected"),
    [(9, 3, [0, 4, 8]), (3, 12, [0, 1, 2]), (5, 1, [0])],
    ids=["spread from the first to the last", "all of a few", "one"],
)
def test_pictures_are_spread_over_the_data_set(
    tmp_path: Path, num_images: int, num_pictures: int, expected: list[int]
) -> None:
    names = draw(tmp_path / "pictures", num_images, num_pictures)
    assert names == [f"{index:06d}_{index:06d}.jpg" for index in expected]
