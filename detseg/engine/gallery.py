"""Pictures of an evaluation: what is true beside what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from detseg.engine.samples import Samples
from detseg.runtime.images import write_image
from detseg.runtime.nifti import volume_stem
from detseg.tasks.base import Task

PICTURES_NAME = "pictures"
NUM_PICTURES = 12


class Gallery:
    """Draws images spread evenly over ``dataset``, each as soon as its result is there; give it to ``evaluate``.

    Pictures go to ``folder`` as ``<position>_<name of the image>.jpg``.
    """

    def __init__(self, task: Task, dataset: Samples, folder: Path, num_pictures: int = NUM_PICTURES) -> None:
        self._task = task
        self._dataset = dataset
        self._folder = folder
        last = len(dataset) - 1
        self._chosen = set(np.linspace(0, last, min(num_pictures, len(dataset))).round().astype(int).tolist())

    def __call__(self, index: int, result: Any, truth: Any) -> None:
        """Draw image ``index``, if it is one of those chosen.

        Raises:
            SaveError: the picture cannot be written.
        """
        if index not in self._chosen:
            return
        image, _ = self._dataset.read(index)
        picture = self._task.compare(image, truth, result, self._dataset.class_names)
        write_image(self._folder / f"{index:06d}_{volume_stem(self._dataset.path(index))}.jpg", picture)
