"""Writers of objects with masks: runs in COCO results, outlines in YOLO text files, PNG files of numbers. They take one
image at a time and keep none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detseg.files import write_text
from detseg.run_lengths import encode
from detseg.runtime.drawing.outlines import joined_outline
from detseg.runtime.media.images import write_numbers
from detseg.runtime.sources.frames import Frame
from detseg.runtime.writers.base import FolderWriter
from detseg.runtime.writers.boxes import box_records, detections_to_coco
from detseg.structures import Instances

MAX_OBJECTS = 2**16 - 1
"""What a PNG of 16 bits can number."""


def instances_to_coco(image_id: int, found: Instances, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The objects of one image as COCO result records of masks: ``image_id, category_id, segmentation, score``, the
    second last as runs in a text, and of tracked objects ``track_id``.

    There is no ``bbox``, as in the results that COCO asks for: pycocotools would take its area for that of the mask.

    Raises:
        ValueError: a label is no class position.
    """
    records = detections_to_coco(image_id, found, category_ids)
    return [
        {("segmentation" if name == "bbox" else name): mask if name == "bbox" else value
         for name, value in record.items()}
        for record, mask in zip(records, encode(found.masks), strict=True)
    ]  # fmt: skip


def instance_records(found: Instances, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """The objects as plain data: as boxes, with the ``mask`` as COCO's runs."""
    records = box_records(found, class_names)
    return [{**record, "mask": mask} for record, mask in zip(records, encode(found.masks), strict=True)]


def mask_runs(found: Instances) -> list[str]:
    """The masks of the objects as the runs of COCO's compressed form."""
    return [str(mask["counts"]) for mask in encode(found.masks)]


class YoloOutlineWriter(FolderWriter):
    """Writes ``NAME.txt`` for every image into ``folder``: for each object its class, the corners of its outline as
    shares of the image, x and y in turn, its score and, if it is tracked, its number. An image without objects gets an
    empty file; an object without a pixel has no line.

    The outline runs along the edges of the pixels and encloses just these. YOLO has room for a single one: the parts of
    an object, and holes in it, are joined by lines that are taken twice.

    Raises:
        ValueError: ``folder`` holds one of the ``sources``.
    """

    def write(self, frame: Frame, result: Instances) -> None:
        """Write one file."""
        height, width = frame.pixels.shape[:2]
        tracks = result.track_ids
        lines = []
        for row, (label, mask) in enumerate(zip(result.labels.tolist(), result.masks, strict=True)):
            crop, left, top = mask.to_crop()
            shares = (joined_outline(crop) + np.array([left, top])) / (width, height)
            if not len(shares):
                continue
            corners = " ".join(f"{value:.6f}" for value in shares.ravel().tolist())
            number = f" {tracks[row]}" if tracks is not None and tracks[row] else ""
            lines.append(f"{label} {corners} {result.scores[row]:.6f}{number}\n")
        path = self._output.path_for(frame, ".txt")
        write_text(path, "".join(lines))
        self._output.written(path, frame)


class NumberWriter(FolderWriter):
    """Writes ``NAME.png`` for every image into ``folder``: a gray PNG of 16 bits in which the pixels of object k hold
    k, counted from 1 in the order of the results, and others 0. Where objects overlap, the better score is in front.

    Raises:
        ValueError: ``folder`` holds one of the ``sources``.
    """

    def write(self, frame: Frame, result: Instances) -> None:
        """Write one file.

        Raises:
            ValueError: there are more than 65,535 objects.
        """
        if len(result) > MAX_OBJECTS:
            raise ValueError(f"{frame.source}: a PNG of 16 bits numbers {MAX_OBJECTS} objects, got {len(result)}")
        numbers = np.zeros(frame.pixels.shape[:2], np.uint16)
        for row in np.argsort(result.scores, kind="stable").tolist():
            crop, left, top = result.masks[row].to_crop()
            numbers[top : top + crop.shape[0], left : left + crop.shape[1]][crop] = row + 1
        path = self._output.path_for(frame, ".png")
        write_numbers(path, numbers)
        self._output.written(path, frame)
