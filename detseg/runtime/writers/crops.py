"""Every object as an image of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from detseg.runtime.media.images import write_image
from detseg.runtime.sources.frames import Frame
from detseg.runtime.writers.base import OutputFolder, SharedOutput, WholeFiles
from detseg.structures import Detections


class CropWriter(WholeFiles):
    """Writes what is inside each box as ``CLASS/NAME_NUMBER.jpg`` into ``folder``, the surest object of an image as
    number 1; of followed objects the name ends in ``_id`` and the number of the track. Boxes that lie outside of the
    image, or hold no pixel, have none.

    Raises:
        ValueError: ``folder`` holds one of the ``sources``.
    """

    def __init__(
        self,
        folder: Path | str,
        class_names: Sequence[str],
        sources: Iterable[Path | str] = (),
        outputs: SharedOutput | None = None,
    ) -> None:
        names = _folder_names(class_names)
        sources = list(sources)
        outputs = outputs or SharedOutput()
        self._outputs = [OutputFolder(Path(folder) / name, sources, outputs) for name in names]

    def write(self, frame: Frame, result: Detections) -> None:
        """Write the objects of one image."""
        height, width = frame.pixels.shape[:2]
        tracks = np.zeros(len(result), np.int64) if result.track_ids is None else result.track_ids
        for number, (box, label, track) in enumerate(
            zip(result.boxes_xyxy, result.labels.tolist(), tracks.tolist(), strict=True), start=1
        ):
            # All pixels that the box touches.
            left, top = np.clip(np.floor(box[:2]), 0, (width, height)).astype(int).tolist()
            right, bottom = np.clip(np.ceil(box[2:]), 0, (width, height)).astype(int).tolist()
            if right > left and bottom > top:
                output = self._outputs[label]
                path = output.path_for(frame, ".jpg", f"{frame.name}_{number}" + (f"_id{track}" if track else ""))
                write_image(path, np.ascontiguousarray(frame.pixels[top:bottom, left:right]))
                output.written(path, frame)


def _folder_names(class_names: Sequence[str]) -> list[str]:
    """A name for a folder for each class, which any file system takes."""
    names: list[str] = []
    for number, class_name in enumerate(class_names):
        name = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", class_name).strip(" .")[:60] or f"class_{number}"
        taken = {one.casefold() for one in names}
        names.append(name if name.casefold() not in taken else f"{name}_{number}")
    return names
