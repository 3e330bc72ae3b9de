"""Writers of masks, and masks as COCO's run-length encoding. They take one image at a time and keep none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detseg.arrays import BoolArray
from detseg.run_lengths import RunLengths
from detseg.runtime.drawing.labels import classes_in
from detseg.runtime.drawing.palette import Palette
from detseg.runtime.media.images import write_image, write_mask
from detseg.runtime.sources.frames import Frame
from detseg.runtime.writers.base import FolderWriter, SharedOutput
from detseg.structures import IGNORE_INDEX, LabelMap


class MaskWriter(FolderWriter):
    """Writes every label map into ``folder`` as a PNG with one number of 8 bits for each pixel, under the name of its
    source; with a ``palette`` inside, by which viewers show it in the colors of the classes, otherwise in gray.

    The values are class positions or, with ``category_ids``, the data set's own numbers of the classes, as its test
    server takes them (Cityscapes). ``IGNORE_INDEX`` is then written as 0, or as 255 where 0 is a class.

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
        palette: Palette | None = None,
        outputs: SharedOutput | None = None,
    ) -> None:
        super().__init__(folder, sources, outputs)
        self._colors = None if palette is None else palette.table()
        self._num_classes = len(class_names)
        self._table = np.arange(256, dtype=np.uint8)
        if category_ids is not None:
            for name, number in zip(class_names, category_ids, strict=True):
                if not 0 <= number <= 255:
                    raise ValueError(f"class {name} has the id {number}; a mask of 8 bits holds 0 to 255")
            self._table[: len(category_ids)] = category_ids
            self._table[IGNORE_INDEX] = IGNORE_INDEX if 0 in category_ids else 0

    def write(self, frame: Frame, result: LabelMap) -> None:
        """Write one mask.

        Raises:
            ValueError: a label is no class position.
        """
        _require_known(frame, result, self._num_classes)
        path = self._output.path_for(frame, ".png")
        write_mask(path, self._table[result.labels], self._colors)
        self._output.written(path, frame)


class ColorMaskWriter(FolderWriter):
    """Writes every label map into ``folder`` as a PNG in the colors of ``palette``, under the name of its source.

    Raises:
        ValueError: ``folder`` holds one of the ``sources``.
    """

    def __init__(
        self,
        folder: Path | str,
        class_names: Sequence[str],
        sources: Iterable[Path | str] = (),
        *,
        palette: Palette,
        outputs: SharedOutput | None = None,
    ) -> None:
        super().__init__(folder, sources, outputs)
        self._num_classes = len(class_names)
        self._colors = palette.table()

    def write(self, frame: Frame, result: LabelMap) -> None:
        """Write one mask.

        Raises:
            ValueError: a label is no class position.
        """
        _require_known(frame, result, self._num_classes)
        path = self._output.path_for(frame, ".png")
        write_image(path, self._colors[result.labels])
        self._output.written(path, frame)


def _require_known(frame: Frame, result: LabelMap, num_classes: int) -> None:
    strange = [label for label in classes_in(result.labels) if label >= num_classes]
    if strange:
        raise ValueError(f"{frame.source}: label {strange[0]} in the result; allowed are 0 to {num_classes - 1}")


def encode_rle(mask: BoolArray) -> dict[str, Any]:
    """A mask ``[H, W]`` as pycocotools reads it, see :meth:`detseg.run_lengths.RunLengths.to_coco`."""
    return RunLengths.from_mask(mask).to_coco()
