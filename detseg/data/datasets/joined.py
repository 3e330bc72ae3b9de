"""Several splits of one data set as one, for a last training on all that may be learned from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detseg.arrays import ByteArray
from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.packed import PackedAnnotations, PackedBuilder
from detseg.data.source import DatasetError


class JoinedDataset(Dataset):
    """The images of ``parts`` one part after the other; images and objects are numbered from 1.

    Raises:
        DatasetError: the parts have different classes, or an image is in two of them.
    """

    def __init__(self, parts: Sequence[Dataset]) -> None:
        first = parts[0]
        split = "+".join(part.split for part in parts)
        for part in parts[1:]:
            if (part.class_names, part.category_ids) != (first.class_names, first.category_ids):
                raise DatasetError(
                    f"{first.home}: {split}: {first.split} has the classes {', '.join(first.class_names)}, "
                    f"{part.split} has {', '.join(part.class_names)}; only splits with the same classes can be joined"
                )
        # The parts have their roots, perhaps different ones: ``path`` asks them.
        super().__init__(
            root=first.home,
            home=first.home,
            split=split,
            class_names=first.class_names,
            category_ids=first.category_ids,
            annotations=_join(parts, split),
            num_dropped_by_reader=sum(part.num_dropped_by_reader for part in parts),
            target=first.target,
        )
        self.has_masks = all(part.has_masks for part in parts)
        self._parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts])

    def path(self, index: int) -> str:
        part, inner = self._locate(index)
        return part.path(inner)

    def mask_path(self, index: int) -> str:
        part, inner = self._locate(index)
        return part.mask_path(inner)

    def mask(self, index: int) -> ByteArray:
        part, inner = self._locate(index)
        return part.mask(inner)

    def read(self, index: int) -> tuple[ByteArray, ByteArray | None]:
        part, inner = self._locate(index)
        return part.read(inner)

    def read_at_least(self, index: int, enough: tuple[int, int] | None) -> tuple[ByteArray, ByteArray | None]:
        part, inner = self._locate(index)
        return part.read_at_least(inner, enough)

    def check_files(self, index: int, *, whole: bool = False) -> None:
        part, inner = self._locate(index)
        part.check_files(inner, whole=whole)

    def fingerprint(self, index: int) -> str:
        part, inner = self._locate(index)
        return part.fingerprint(inner)

    def _locate(self, index: int) -> tuple[Dataset, int]:
        """The part that image ``index`` is in, and its place there."""
        self.annotations.rows(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[number], index - (int(self._ends[number - 1]) if number else 0)


def _join(parts: Sequence[Dataset], split: str) -> PackedAnnotations:
    builder = PackedBuilder()
    found_in: dict[str, str] = {}
    for part in parts:
        for index in range(len(part)):
            path = part.path(index)
            if path in found_in:
                raise DatasetError(f"{part.home}: {split}: {path} is in {found_in[path]} and again in {part.split}")
            found_in[path] = part.split
            _add(builder, part, index, number=len(found_in))
    return builder.build()


def _add(builder: PackedBuilder, part: Dataset, index: int, number: int) -> None:
    """Add image ``index`` of ``part`` with its objects as image ``number``."""
    packed = part.annotations
    position = builder.add_image(number, part.path(index), *part.size(index))
    for row, outline in enumerate(part.segmentations(index), packed.rows(index).start):
        builder.add_object(
            position,
            packed.boxes_xywh[row].tolist(),
            int(packed.labels[row]),
            crowd=bool(packed.crowd[row]),
            difficult=bool(packed.difficult[row]),
            area=float(packed.areas[row]),
            polygons=[points.ravel().tolist() for points in outline] if isinstance(outline, list) else (),
            run_length=outline if isinstance(outline, dict) else None,
        )
