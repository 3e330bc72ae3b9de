"""Prediction: frames through a runner, in order, with the next ones read and the last ones written meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detseg.arrays import ByteArray
from detseg.runtime.drawing.show import draw_result
from detseg.runtime.inputs.geometry import InputSpec, check_image
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.media.frames import Frame
from detseg.runtime.runner import Pending, Runner
from detseg.runtime.writers.coco_results import detections_to_coco
from detseg.structures import Detections, Result
from detseg.volumes import Volume


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was found in a frame: ``result`` in pixels or voxels of its image, class positions as in ``class_names``."""

    frame: Frame
    result: Result
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]

    @property
    def image(self) -> ByteArray | Volume:
        """The image as it was read, ``[H, W, 3]`` uint8 RGB, or the volume."""
        return self.frame.image

    @property
    def path(self) -> Path | None:
        """The file it came from; None for what was not a file."""
        return self.frame.path

    def plot(self) -> ByteArray:
        """The image with the result drawn, ``[H, W, 3]`` uint8 RGB; of a volume three planes."""
        return draw_result(self.image, self.result, self.class_names)

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """The boxes as entries of a COCO results file.

        Raises:
            TypeError: the result holds no boxes.
        """
        return list(detections_to_coco(image_id, self._boxes(), self.category_ids))

    def to_supervision(self) -> Any:
        """The boxes as ``supervision.Detections``, with class names and track ids.

        Raises:
            ModuleNotFoundError: the package supervision is not installed.
            TypeError: the result holds no boxes.
        """
        import supervision

        boxes = self._boxes()
        return supervision.Detections(
            xyxy=boxes.boxes_xyxy,
            confidence=boxes.scores,
            class_id=boxes.labels,
            tracker_id=boxes.track_ids,
            data={"class_name": [self.class_names[label] for label in boxes.labels]},
        )

    def _boxes(self) -> Detections:
        if not isinstance(self.result, Detections):
            raise TypeError(f"only boxes can be converted, this result is a {type(self.result).__name__}")
        return self.result


def predict_frames(runner: Runner, frames: Iterable[Frame], batch_size: int = 1) -> Iterator[tuple[Frame, Result]]:
    """The result for each of ``frames``, in their order; at most ``batch_size`` frames for each batch that the runner
    works on at a time are held, so they may be endless. Volumes, which are of any size, go through one at a time.

    Raises:
        ValueError: if ``batch_size`` is below 1 or an image is none.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    # A generator function would check its arguments only when the first result is asked for.
    return _predict(runner, iter(frames), batch_size if runner.spec.one_size else 1)


def _predict(runner: Runner, frames: Iterator[Frame], batch_size: int) -> Iterator[tuple[Frame, Result]]:
    waiting: deque[tuple[Sequence[Frame], Pending]] = deque()
    for batch in _batches(frames, runner.spec, batch_size):
        waiting.append((batch, runner.submit([frame.image for frame in batch])))
        if len(waiting) == runner.num_pending:
            yield from _results(*waiting.popleft())
    while waiting:
        yield from _results(*waiting.popleft())


def _batches(frames: Iterator[Frame], spec: InputSpec | VolumeSpec, batch_size: int) -> Iterator[list[Frame]]:
    """``frames`` in their order, as many together as have inputs of one size, at most ``batch_size``."""
    batch: list[Frame] = []
    for frame in frames:
        if batch and _input_size(frame, spec) != _input_size(batch[0], spec):
            yield batch
            batch = []
        batch.append(frame)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _input_size(frame: Frame, spec: InputSpec | VolumeSpec) -> tuple[int, int]:
    image = frame.image
    assert isinstance(spec, InputSpec), "volumes go through one at a time"
    assert not isinstance(image, Volume), "a network for images was given a volume"
    check_image(image)
    height, width = image.shape[:2]
    return spec.input_size(height, width)


def _results(frames: Sequence[Frame], pending: Pending) -> Iterator[tuple[Frame, Result]]:
    return zip(frames, pending.results(), strict=True)
