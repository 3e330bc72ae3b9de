"""Writers of results: drawn pictures, masks and COCO results. They take one image at a time and keep none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from detseg.files import atomic_path
from detseg.runtime.drawing.labels import classes_in
from detseg.runtime.drawing.show import Drawing
from detseg.runtime.media.frames import Frame
from detseg.runtime.media.images import IMAGE_SUFFIXES, write_image, write_mask
from detseg.runtime.writers.coco_results import detections_to_coco
from detseg.runtime.writers.output_folder import OutputFolder
from detseg.structures import VOID, Detections, LabelMap


class ResultWriter(Protocol):
    """What takes the result of one image or volume after the other; a context manager, complete when it is left."""

    def write(self, frame: Frame, result: Any, /) -> None:
        """Take the ``result`` for the image or volume of ``frame``."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class PictureWriter:
    """Writes every image with its result drawn into ``folder``, under the name of its source.

    Two sources of the same name give ``name.jpg`` and ``name_2.jpg``. Pictures of an earlier run are replaced.

    Raises:
        ValueError: ``folder`` holds one of the ``sources``, which could be overwritten.
    """

    def __init__(self, folder: Path | str, draw: Drawing, sources: Iterable[Path | str] = ()) -> None:
        self._draw = draw
        self._output = OutputFolder(folder, sources)

    def write(self, frame: Frame, result: Detections | LabelMap) -> None:
        """Draw and write one picture."""
        suffix = Path(frame.source).suffix
        if suffix.lower() not in IMAGE_SUFFIXES:
            suffix = ".png" if frame.stream is None else ".jpg"
        write_image(self._output.path_for(frame, suffix), self._draw(frame, result))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to do: every picture is complete when it is written."""


class DrawnWriter:
    """Frames of videos go to ``videos``, still pictures to ``pictures``."""

    def __init__(self, pictures: ResultWriter, videos: ResultWriter) -> None:
        self._pictures = pictures
        self._videos = videos
        self._both = ExitStack()

    def write(self, frame: Frame, result: Detections | LabelMap) -> None:
        """Write one picture, or append it to its video."""
        (self._pictures if frame.stream is None else self._videos).write(frame, result)

    def __enter__(self) -> Self:
        for writer in (self._pictures, self._videos):
            self._both.enter_context(writer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._both.__exit__(kind, error, trace)


class MaskWriter:
    """Writes every label map into ``folder`` as a gray PNG of 8 bits, under the name of its source.

    The values are class positions or, with ``category_ids``, the data set's own numbers of the classes, as its test
    server takes them (Cityscapes). ``VOID`` is then written as 0, or as 255 where 0 is a class.

    Raises:
        ValueError: ``folder`` holds one of the ``sources``, or a category id does not fit into 8 bits.
    """

    def __init__(
        self,
        folder: Path | str,
        class_names: Sequence[str],
        sources: Iterable[Path | str] = (),
        *,
        category_ids: Sequence[int] | None = None,
    ) -> None:
        self._output = OutputFolder(folder, sources)
        self._num_classes = len(class_names)
        self._table = np.arange(256, dtype=np.uint8)
        if category_ids is not None:
            for name, number in zip(class_names, category_ids, strict=True):
                if not 0 <= number <= 255:
                    raise ValueError(f"class {name} has the id {number}; a mask of 8 bits holds 0 to 255")
            self._table[: len(category_ids)] = category_ids
            self._table[VOID] = VOID if 0 in category_ids else 0

    def write(self, frame: Frame, result: LabelMap) -> None:
        """Write one mask.

        Raises:
            ValueError: a label is no class position.
        """
        strange = [label for label in classes_in(result.labels) if label >= self._num_classes]
        if strange:
            raise ValueError(
                f"{frame.source}: label {strange[0]} in the result; allowed are 0 to {self._num_classes - 1}"
            )
        write_mask(self._output.path_for(frame, ".png"), self._table[result.labels])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to do: every mask is complete when it is written."""


class CocoWriter:
    """Writes detections as a COCO results file, as pycocotools' ``loadRes`` reads it.

    ``path`` gets a list of ``image_id, category_id, bbox, score``, of tracked objects also ``track_id``; beside it
    ``<stem>_images.json`` lists ``id, file_name, height, width`` of every image, those without detections too, and of
    frames of videos ``frame_index`` and ``time_s``. Image ids count from 1 unless given. ``category_ids[label]`` is the
    id of a class, by default ``label + 1``.

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

    def write(self, frame: Frame, detections: Detections, image_id: int | None = None) -> None:
        """Take the detections of one image."""
        self._num_images += 1
        image_id = self._num_images if image_id is None else image_id
        height, width = frame.pixels.shape[:2]
        about: dict[str, Any] = {"id": image_id, "file_name": frame.source, "height": height, "width": width}
        if frame.index is not None:
            about |= {"frame_index": frame.index, "time_s": frame.time_s}
        self._images.append(about)
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

    def _open(self, path: Path) -> JsonList:
        temporary = self._files.enter_context(atomic_path(path))
        return self._files.enter_context(JsonList(temporary))


class JsonList:
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
