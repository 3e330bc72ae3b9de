"""One split as its files say, right or wrong: what a format makes, and what check, split, train and eval start from.

A format adds what it finds, also where it is wrong, and says so: ``report`` where the split can be used all the same,
``reject`` where it cannot. ``detseg check`` lists all of it; ``refuse`` raises for what was rejected, and what is left
is a data set.
"""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from detseg.data.class_map import merge_classes
from detseg.data.datasets.dataset import Dataset
from detseg.data.datasets.outlines_in_file import OutlinesInFile
from detseg.data.datasets.packed import PackedAnnotations, PackedBuilder
from detseg.data.datasets.volumes import VolumeDataset
from detseg.data.entries.outline import as_points
from detseg.data.entries.parsing import MAX_COORDINATE, FourNumbers, enumerate_some, four_numbers, show
from detseg.data.findings import Finding
from detseg.data.source import DatasetError, check_class_names
from detseg.runtime.media.images import ImageError, image_size
from detseg.structures import Target

_MAX_SHOWN = 10

AnyDataset = Dataset | VolumeDataset


class SplitRecords(ABC):
    """One split with its findings; ``name`` is the split's, ``entry`` what messages call the records of a file.

    Where ``is_unlabeled``, there is nothing to learn from and nothing to judge by.
    """

    target: Target

    def __init__(self, name: str, entry: str = "annotation") -> None:
        self.name = name
        self.entry = entry
        self.class_names: tuple[str, ...] = ()
        self.findings: list[Finding] = []
        self.is_unlabeled = False
        self._refusals: list[tuple[str, str]] = []

    @abstractmethod
    def paths(self) -> list[Path]:
        """The files of the images or volumes, in their order."""

    @abstractmethod
    def to_dataset(self) -> AnyDataset:
        """The split in memory; ``refuse`` has been called."""

    def read_rest(self) -> None:  # noqa: B027 - most leave nothing
        """Look at what opening leaves in the files, and report what is wrong with it."""

    def rename_classes(self, class_map: Mapping[str, str]) -> None:
        """Give classes their new names, and make one class of those with the same; nothing is added afterwards.

        Raises:
            DatasetError: their names cannot be changed.
        """
        raise DatasetError(f"{self.name}: classes: the names of classes that are computed cannot be changed")

    def report(self, code: str, file: Path | str, message: str, *annotation_ids: int | str) -> None:
        """Add a finding that does not keep the split from being used."""
        self.findings.append(Finding(code, str(file), message, annotation_ids, self.name))

    def reject(self, code: str, file: Path | str, message: str, *annotation_ids: int | str) -> None:
        """Add a finding for which ``refuse`` raises."""
        self.report(code, file, message, *annotation_ids)
        entries = f"{self.entry}{'s' if len(annotation_ids) > 1 else ''} {enumerate_some(annotation_ids)}: "
        self.deny(file, f"{entries if annotation_ids else ''}{message}")

    @property
    def num_faults(self) -> int:
        """How much was reported, rejected or denied so far."""
        return len(self.findings) + len(self._refusals)

    def deny(self, file: Path | str, message: str) -> None:
        """Let ``refuse`` raise for what a check finds anyway, such as a missing file."""
        self._refusals.append((str(file), message))

    def refuse(self) -> None:
        """Raise DatasetError with the first ten messages, if anything was rejected."""
        if not self._refusals:
            return
        lines, last = [], None
        for file, message in self._refusals[:_MAX_SHOWN]:
            lines.append(message if file == last else f"{file}: {message}")
            last = file
        if len(self._refusals) > _MAX_SHOWN:
            lines.append(f"... and {len(self._refusals) - _MAX_SHOWN} more; `detseg check` lists all")
        raise DatasetError("\n  ".join(lines))


class BoxRecords(SplitRecords):
    """Images with boxes.

    File names are relative to ``root``; ``home`` is the folder of the whole data set, ``image_folders`` hold nothing
    but images of it. ``class_names`` in the order of the labels; ``category_ids`` are their numbers in the files, if
    they have any. ``keeps_all``: degenerate boxes stay in the data set, as the evaluation of COCO wants it, and so do
    the numbers of annotations. ``in_fractions``: the boxes of images without a size are in fractions of their sides.
    Where the ``truth`` is instances, an object without an outline is rejected.
    """

    def __init__(
        self,
        name: str,
        *,
        root: Path,
        class_names: Sequence[str],
        home: Path | None = None,
        category_ids: Sequence[int] | None = None,
        image_folders: Sequence[Path] = (),
        entry: str = "annotation",
        keeps_all: bool = False,
        in_fractions: bool = False,
        target: Target = "boxes",
    ) -> None:
        super().__init__(name, entry)
        self.target = target
        self.root = root
        self.home = home or root
        self.class_names = tuple(class_names)
        self.category_ids = category_ids
        self.image_folders = tuple(image_folders)
        self.in_fractions = in_fractions
        self.sources: list[Path] = []
        self.states_size: list[bool] = []
        self._root_prefix = os.path.join(root, "") if root.is_absolute() else ""  # noqa: PTH118
        self._keeps_all = keeps_all
        self._builder = PackedBuilder()
        self._label_of = {class_name: label for label, class_name in enumerate(self.class_names)}

    def add_image(
        self, name: Path | str, source: Path, size: tuple[int, int] | None = None, number: int | None = None
    ) -> int:
        """Add the image with the file ``name``, absolute or relative to ``root``, and return its position.

        ``source`` is the file that its boxes are in, ``size`` the (height, width) that this states. Without it, they
        are those of the image; (0, 0) if that cannot be read, which ``load`` says when its turn comes. ``number``
        counts from 1 if it is None.
        """
        # By texts: there may be a hundred thousand.
        text = str(name).removeprefix(self._root_prefix)
        self.states_size.append(size is not None)
        self.sources.append(source)
        if size is None:
            try:
                size = image_size(os.path.join(self.root, text))  # noqa: PTH118
            except ImageError:
                size = 0, 0
        return self._builder.add_image(len(self.sources) if number is None else number, text, *size)

    def size(self, image: int) -> tuple[int, int]:
        """The (height, width) of the image at position ``image``, while they are added."""
        return self._builder.size(image)

    def add_box(
        self,
        image: int,
        box_xywh: Any,
        label: int | str | None,
        number: int,
        *,
        crowd: bool = False,
        difficult: bool = False,
        area: Any = None,
        polygons: Sequence[Sequence[float]] = (),
        run_length: Mapping[str, Any] | None = None,
    ) -> None:
        """Add the box ``number`` of a file, left, top, width and height in pixels, to the image at position ``image``.

        ``label`` is a position in the classes or a name of one; None where it is unknown and that has been said. What
        is no box of a known class is rejected; ``polygons`` that are none are left out, and an ``area`` that is none.
        """
        if area is not None and not (type(area) in (int, float) and 0 <= area < MAX_COORDINATE**2):
            message = f"area must be a finite number that is not negative, got {show(area)}; that of the box is taken"
            self.report("D007", self.sources[image], message, number)
            area = None
        outline, problem = as_points(polygons)
        if problem:
            self.report("D007", self.sources[image], problem, number)
        xywh = four_numbers(box_xywh)
        if xywh is None:
            message = f"the box must be 4 finite numbers x, y, width, height, got {show(box_xywh)}"
            self.reject("D005", self.sources[image], message, number)
            return
        position = self._label_of.get(label, -1) if isinstance(label, str) else label
        if position is None or not 0 <= position < len(self.class_names):
            if label is not None:
                message = f"{label!r} is no class; known are {self.describe_classes()}"
                self.reject("D004", self.sources[image], message, number)
            position = -1
        if not outline and run_length is None:
            self._reject_bare(self.sources[image], number)
        self._builder.add_object(
            image,
            xywh,
            position,
            crowd=crowd,
            difficult=difficult,
            area=area,
            annotation_id=number,
            polygons=outline,
            run_length=run_length,
        )

    def add_known_box(self, image: int, box_xywh: FourNumbers, label: int, number: int) -> None:
        """The same for a box without an outline that is known to be one, of the class at position ``label``: in large
        data sets nearly all are."""
        if self.target == "instances":
            self._reject_bare(self.sources[image], number)
        self._builder.add_object(image, box_xywh, label, annotation_id=number)

    def take_over(self, packed: PackedAnnotations, source: Path) -> None:
        """Take images and boxes that are known to be right, all of them at once, from the file ``source``, which states
        the sizes of the images; there must be none yet."""
        self.take_over_read(packed, [source] * len(packed), [True] * len(packed))
        outlines = packed.segmentations
        if isinstance(outlines, OutlinesInFile) and not outlines.lengths.all():
            self._reject_bare(source, *packed.annotation_ids[outlines.lengths == 0].tolist())

    def take_over_read(self, packed: PackedAnnotations, sources: Sequence[Path], states_size: Sequence[bool]) -> None:
        """Take images and boxes that were read before from the files ``sources`` ``[N]`` and found to be right; there
        must be none yet. ``states_size`` ``[N]``: whether the files state the size of the image."""
        assert not self.sources
        self.sources, self.states_size, self.packed = list(sources), list(states_size), packed

    def _reject_bare(self, source: Path, *numbers: int) -> None:
        """Reject objects without an outline, if that is what is learned from."""
        if self.target == "instances":
            message = "has" if len(numbers) == 1 else "have"
            self.reject("D009", source, f"{message} no outline, which instances are learned from", *numbers)

    def read_rest(self) -> None:
        outlines = self.packed.segmentations
        if isinstance(outlines, OutlinesInFile):
            for row, problem in outlines.problems():
                code = "D013" if self.target == "instances" else "D007"
                self.report(code, outlines.path, problem, int(self.packed.annotation_ids[row]))

    def rename_classes(self, class_map: Mapping[str, str]) -> None:
        merged = merge_classes(self.class_names, class_map)
        # The last one is for what is of no known class.
        label_of = np.array([*merged.position_of, -1], np.int64)
        self.packed = replace(self.packed, labels=label_of[self.packed.labels])
        self.class_names = merged.names
        if self.category_ids is not None:
            self.category_ids = [self.category_ids[position] for position in merged.kept]

    def describe_classes(self) -> str:
        """The classes and their positions, for messages."""
        return enumerate_some(f"{label} {name}" for label, name in enumerate(self.class_names))

    @cached_property
    def packed(self) -> PackedAnnotations:
        """All boxes by image, with the label -1 where the class is unknown; nothing can be added any more."""
        return self._builder.build()

    def paths(self) -> list[Path]:
        names = self.packed.names
        return [self.root / names[index] for index in range(len(names))]

    def refuse(self) -> None:
        super().refuse()
        check_class_names(self.class_names, f"{self.home}: the classes")

    def to_dataset(self) -> Dataset:
        if self.is_unlabeled:
            warn_unlabeled(self.paths()[0].parent.parent, len(self.sources))
        packed, num_dropped = self.packed, 0
        sides = packed.boxes_xywh[:, 2:]
        if self._keeps_all:
            # A box without width is a box that nothing matches; what has less than none cannot be judged.
            usable = sides.min(axis=1, initial=0) >= 0
            num_dropped = int((~usable).sum())
            packed = packed if not num_dropped else packed.select(usable)
        else:
            usable = sides.min(axis=1, initial=np.inf) > 0
            known = (np.repeat(packed.heights, np.diff(packed.offsets)) > 0) | (not self.in_fractions)
            num_dropped = int((known & ~usable).sum())
            packed = packed.select(known & usable).renumbered()
        return Dataset(
            root=self.root,
            home=self.home,
            split=self.name,
            class_names=self.class_names,
            category_ids=self.category_ids,
            annotations=packed,
            num_dropped_by_reader=num_dropped,
            target=self.target,
        )


def warn_unlabeled(folder: Path, num_images: int) -> None:
    """Warn that the images in ``folder`` have no truth."""
    warnings.warn(f"{folder}: {num_images} images without truth: they can be predicted, not judged", stacklevel=4)


class GeneratedRecords(SplitRecords):
    """A split that is computed, not stored: there is nothing wrong with it."""

    def __init__(self, dataset: AnyDataset) -> None:
        super().__init__(dataset.split)
        self.target = dataset.target
        self.class_names = dataset.class_names
        self._dataset = dataset

    def paths(self) -> list[Path]:
        return []

    def to_dataset(self) -> AnyDataset:
        return self._dataset
