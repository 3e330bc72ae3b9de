"""What was found in one image: for programs, for people, and for notebooks."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np

from detseg.arrays import ByteArray, FloatArray, IntArray
from detseg.run_lengths import RunLengths
from detseg.runtime.drawing.palette import Palette
from detseg.runtime.kinds.base import Kind
from detseg.runtime.sources.frames import Frame
from detseg.structures import Detections, Result
from detseg.volumes import Volume

_SHOWN_SIDE = 640
"""Pixels of an image in a notebook, on its longer side."""


@dataclass(frozen=True, slots=True)
class FoundObject:
    """One object: its class by ``name`` and position ``label``, ``score`` in [0, 1], ``box_xyxy`` in pixels of the
    image, the number of its track, where it has one, and its ``mask``, where there are masks; ``mask.to_mask()`` is
    ``[H, W]`` bool."""

    name: str
    label: int
    score: float
    box_xyxy: tuple[float, float, float, float]
    track_id: int | None = None
    mask: RunLengths | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Prediction:
    """What was found in a frame: ``result`` in pixels or voxels of its image, class positions as in ``class_names``.

    Of boxes: ``len(prediction)`` objects, ``prediction[0]`` the surest, ``for found in prediction: found.name``.
    Notebooks show the drawn image.
    """

    frame: Frame
    result: Result
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    kind: Kind
    palette: Palette | None = None

    @property
    def image(self) -> ByteArray | Volume:
        """The image as it was read, ``[H, W, 3]`` uint8 RGB, or the volume."""
        return self.frame.image

    @property
    def path(self) -> Path | None:
        """The file it came from; None for what was not a file."""
        return self.frame.path

    @property
    def boxes_xyxy(self) -> FloatArray:
        """The corners of the boxes, best first, ``[N, 4]`` float32 in pixels of the image."""
        return self._boxes().boxes_xyxy

    @property
    def scores(self) -> FloatArray:
        """Of the boxes, ``[N]`` float32 in [0, 1]."""
        return self._boxes().scores

    @property
    def labels(self) -> IntArray | ByteArray:
        """Class positions: of boxes ``[N]`` int64; of pixels ``[H, W]`` and voxels ``[X, Y, Z]`` uint8, 255 where no
        class is claimed."""
        return self.result.labels

    @property
    def names(self) -> list[str]:
        """The class names of the boxes."""
        return [self.class_names[label] for label in self._boxes().labels]

    @property
    def track_ids(self) -> IntArray | None:
        """The numbers of the boxes' tracks, ``[N]`` int64, 0 for those without; None where nothing is followed."""
        return self._boxes().track_ids

    @property
    def masks(self) -> tuple[RunLengths, ...] | None:
        """The masks of the objects, in pixels of the image; None where only boxes are found."""
        masks: tuple[RunLengths, ...] | None = getattr(self._boxes(), "masks", None)
        return masks

    @property
    def counts(self) -> dict[str, int]:
        """How often each class was found: objects, or 1 where there is any of it; others are left out."""
        counts = self.kind.count(self.result, len(self.class_names))
        return {name: int(count) for name, count in zip(self.class_names, counts, strict=True) if count}

    def __len__(self) -> int:
        return len(self._boxes())

    def __bool__(self) -> bool:
        """Whether anything was found."""
        return bool(self.counts)

    def __getitem__(self, index: int) -> FoundObject:
        boxes = self._boxes()
        left, top, right, bottom = boxes.boxes_xyxy[index].tolist()
        label = int(boxes.labels[index])
        track = 0 if boxes.track_ids is None else int(boxes.track_ids[index])
        score = float(boxes.scores[index])
        mask = None if self.masks is None else self.masks[index]
        return FoundObject(self.class_names[label], label, score, (left, top, right, bottom), track or None, mask)

    def __iter__(self) -> Iterator[FoundObject]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"Prediction({self._describe()})"

    def _describe(self) -> str:
        shape = self.image.shape if isinstance(self.image, Volume) else self.image.shape[:2]
        place = self.frame.source or "array"
        if self.frame.index is not None:
            place += f", frame {self.frame.index}"
        found = ", ".join(f"{count} {name}" if self.kind.has_boxes else name for name, count in self.counts.items())
        return f"{place}, {'x'.join(map(str, shape))}: {found or 'nothing'}"

    def _repr_png_(self) -> bytes:
        drawn = self.plot()
        scale = _SHOWN_SIDE / max(drawn.shape[:2])
        if scale < 1:
            drawn = cast(ByteArray, cv2.resize(drawn, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
        encoded, data = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
        assert encoded
        return data.tobytes()

    def _repr_html_(self) -> str:
        image = base64.b64encode(self._repr_png_()).decode("ascii")
        return (
            f'<figure><img alt="drawn prediction" src="data:image/png;base64,{image}">'
            f"<figcaption>{html.escape(self._describe())}</figcaption></figure>"
        )

    def plot(self) -> ByteArray:
        """The image with the result drawn, ``[H, W, 3]`` uint8 RGB; of a volume three planes."""
        return self.kind.draw(self.image, self.result, self.class_names, palette=self.palette)

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """The boxes, or the masks where there are some, as entries of a COCO results file.

        Raises:
            TypeError: the result holds no boxes.
        """
        return self.kind.coco_records(self.result, image_id, self.category_ids)

    def to_supervision(self) -> Any:
        """The boxes as ``supervision.Detections``, with class names, an array of text, and track ids, -1 where an
        object has none; with masks ``[N, H, W]`` where there are some.

        Raises:
            ModuleNotFoundError: the package supervision is not installed.
            TypeError: the result holds no boxes.
        """
        import supervision

        boxes, masks = self._boxes(), self.masks
        return supervision.Detections(
            xyxy=boxes.boxes_xyxy,
            confidence=boxes.scores,
            class_id=boxes.labels,
            mask=np.stack([mask.to_mask() for mask in masks]) if masks else None,
            tracker_id=None if boxes.track_ids is None else np.where(boxes.track_ids, boxes.track_ids, -1),
            data={"class_name": np.array(self.class_names)[boxes.labels]},
        )

    def _boxes(self) -> Detections:
        if not self.kind.has_boxes:
            raise TypeError(f"only boxes can be converted, this result is a {type(self.result).__name__}")
        return cast(Detections, self.result)
