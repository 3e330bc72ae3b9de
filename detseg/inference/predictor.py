"""Prediction: files, arrays or volumes in, results in original pixels or voxels out, one at a time and in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from detseg.arrays import ByteArray
from detseg.runtime.geometry import InputSpec
from detseg.runtime.images import ImageError
from detseg.runtime.volume_geometry import VolumeSpec
from detseg.structures import Result
from detseg.volumes import Volume

Source = Path | str | ByteArray | Volume


class PredictionTask(Protocol):
    """What the predictor needs of a task."""

    spec: InputSpec | VolumeSpec

    def normalize(self, images: Tensor) -> Tensor:
        """Placed images -> the float input of the model."""

    def predict(self, model: nn.Module, images: Tensor, placements: Sequence[Any]) -> list[Any]:
        """Normalized images through the model -> the result for each image, in original pixels or voxels."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """``image`` as it was read, ``[H, W, 3]`` uint8 RGB or a volume; ``path`` where it came from (None for what was not
    a path), ``result`` what the task found in it, in pixels or voxels of ``image``."""

    path: Path | None
    image: ByteArray | Volume
    result: Result


class Predictor:
    """Runs ``model`` on images, letterboxed to the task's input each on its own, so that batches may mix sizes freely,
    or on volumes. The geometry of an image, and with it its result, does not depend on the others in its batch. The
    model is moved to ``device`` and put into evaluation mode.
    """

    def __init__(self, model: nn.Module, task: PredictionTask, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.task = task

    def predict(
        self,
        sources: Iterable[Source],
        batch_size: int = 1,
        on_error: Callable[[Path, ImageError], None] | None = None,
    ) -> Iterator[Prediction]:
        """The result for each of ``sources``: paths, arrays ``[H, W, 3]`` uint8 RGB or volumes, in their order.

        Sources are taken as needed and at most ``batch_size`` images are held, so they may be endless; volumes, which
        are of any size, go through one at a time. A file that cannot be read goes to ``on_error`` and the next one
        takes its place; without ``on_error`` its error is raised.

        Raises:
            ValueError: if ``batch_size`` is below 1 or an array is no image.
            ImageError: a file cannot be read and ``on_error`` is None.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        images = self._read(sources, on_error)
        # A generator function would check its arguments only when the first prediction is asked for.
        return self._predict_batches(images, batch_size if self.task.spec.one_size else 1)

    def _predict_batches(self, images: Iterator[tuple[Path | None, Any, Any]], batch_size: int) -> Iterator[Prediction]:
        while batch := list(islice(images, batch_size)):
            results = self._run([placed for *_, placed in batch])
            for (path, image, _), result in zip(batch, results, strict=True):
                yield Prediction(path, image, result)

    @torch.inference_mode()
    def _run(self, placed: list[Any]) -> list[Any]:
        arrays = torch.from_numpy(np.stack([image for image, _ in placed]))
        inputs = self.task.normalize(arrays.to(self.device).contiguous())
        return self.task.predict(self.model, inputs, [placement for _, placement in placed])

    def _read(
        self, sources: Iterable[Source], on_error: Callable[[Path, ImageError], None] | None
    ) -> Iterator[tuple[Path | None, Any, Any]]:
        """Path, image, and the image as placed in the input with the way back."""
        for source in sources:
            if isinstance(source, np.ndarray | Volume):
                yield None, source, self.task.spec.place(source)  # type: ignore[arg-type]
                continue
            path = Path(source)
            try:
                image, placed = self._read_and_place(path)
            except ImageError as error:
                if on_error is None:
                    raise
                on_error(path, error)
            else:
                yield path, image, placed

    def _read_and_place(self, path: Path) -> tuple[Any, Any]:
        image: Any = self.task.spec.read(path)
        try:
            return image, self.task.spec.place(image)
        except ImageError as error:  # a volume that would become too large
            raise ImageError(f"{path}: {error}") from error
