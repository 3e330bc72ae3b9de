"""Writers of detections: drawn pictures and COCO results. They take one image at a time and keep none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from detseg.files import atomic_path
from detseg.runtime.coco_results import detections_to_coco
from detseg.runtime.draw import draw_boxes
from detseg.runtime.images import IMAGE_SUFFIXES, write_image
from detseg.structures import ByteArray, Detections


class DetectionWriter(Protocol):
    """What takes the detections of one image after the other; a context manager, complete when it is left."""

    def write(self, source: Path | str, image: ByteArray, detections: Detections) -> None:
        """Take the ``detections`` found in ``image`` ``[H, W, 3]``, which came from ``source``."""

    def close(self) -> None:
        """Complete the files; further calls do nothing."""


class PictureWriter:
    """Writes every image with its detections drawn into ``folder``, under the name of its source.

    Two sources of the same name give ``name.jpg`` and ``name_2.jpg``. Pictures of an earlier run are replaced.

    Raises:
        ValueError: ``folder`` holds one of the ``sources``, which could be overwritten.
    """

    def __init__(self, folder: Path | str, class_names: Sequence[str], sources: Iterable[Path | str] = ()) -> None:
        self.folder = Path(folder)
        self.class_names = tuple(class_names)
        self._taken: set[str] = set()
        for source in sources:
            self._refuse_own_folder(Path(source))

    def write(self, source: Path | str, image: ByteArray, detections: Detections) -> None:
        """Draw and write one picture."""
        self._refuse_own_folder(Path(source))
        boxes, labels, scores = detections.boxes_xyxy, detections.labels, detections.scores
        write_image(self._free_path(Path(source)), draw_boxes(image, boxes, labels, self.class_names, scores))

    def close(self) -> None:
        """Nothing to do: every picture is complete when it is written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refuse_own_folder(self, source: Path) -> None:
        if source.resolve().parent == self.folder.resolve():
            raise ValueError(
                f"the pictures would be written into {self.folder}, where the source {source} lies; "
                "name another output folder"
            )

    def _free_path(self, source: Path) -> Path:
        suffix = source.suffix if source.suffix.lower() in IMAGE_SUFFIXES else ".png"
        # Compared without case, because some file systems do.
        name, number = f"{source.stem}{suffix}", 1
        while name.casefold() in self._taken:
            number += 1
            name = f"{source.stem}_{number}{suffix}"
        self._taken.add(name.casefold())
        return self.folder / name


class CocoWriter:
    """Writes detections as a COCO results file, as pycocotools' ``loadRes`` reads it.

    ``path`` gets a list of ``image_id, category_id, bbox, score``; beside it ``<stem>_images.json`` lists ``id,
    file_name, height, width`` of every image, those without detections too. Image ids count from 1 unless given.
    ``category_ids[label]`` is the id of a class, by default ``label + 1``.

    Entries are streamed to temporary files, which get their names when the writer is closed. If its ``with`` block ends
    in an exception, they are removed and files of an earlier run stay.

    Raises:
        ValueError: the numbers of category ids and classes differ.
        SaveError: the files cannot be written.
    """

    def __init__(self, path: Path | str, class_names: Sequence[str], category_ids: Sequence[int] | None = None) -> None:
        path = Path(path)
        self.category_ids = tuple(range(1, len(class_names) + 1) if category_ids is None else category_ids)
        if len(self.category_ids) != len(class_names):
            raise ValueError(
                f"got {len(self.category_ids)} category ids for {len(class_names)} classes; one each is needed"
            )
        self._num_images = 0
        self._files = ExitStack()
        self._results = self._open(path)
        self._images = self._open(path.with_name(f"{path.stem}_images.json"))

    def write(self, source: Path | str, image: ByteArray, detections: Detections, image_id: int | None = None) -> None:
        """Take the detections of one image."""
        self._num_images += 1
        image_id = self._num_images if image_id is None else image_id
        height, width = image.shape[:2]
        self._images.append({"id": image_id, "file_name": str(source), "height": height, "width": width})
        for result in detections_to_coco(image_id, detections, self.category_ids):
            self._results.append(result)

    def close(self) -> None:
        """Complete both files."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)

    def _open(self, path: Path) -> _JsonList:
        temporary = self._files.enter_context(atomic_path(path))
        return self._files.enter_context(_JsonList(temporary))


class _JsonList:
    """A JSON file with one list, written entry by entry, so that memory does not grow with it."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("w", encoding="utf-8")
        self._separator = "[\n"

    def append(self, entry: dict[str, Any]) -> None:
        self._stream.write(self._separator + json.dumps(entry, allow_nan=False))
        self._separator = ",\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._stream:
            self._stream.write("[]\n" if self._separator == "[\n" else "\n]\n")
