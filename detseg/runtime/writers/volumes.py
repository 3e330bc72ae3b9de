"""Writers of what was found in volumes: NIfTI labels, a table of milliliters, images. They take one volume at a time
and keep none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from detseg import __version__
from detseg.arrays import ByteArray
from detseg.runtime.drawing.labels import classes_in
from detseg.runtime.drawing.palette import Palette
from detseg.runtime.drawing.volume import draw_montage, draw_slices
from detseg.runtime.media.images import write_image
from detseg.runtime.sources.frames import Frame
from detseg.runtime.volumes.dicom_seg import (
    require_highdicom,
    require_segment_names,
    write_dicom_segmentation,
)
from detseg.runtime.volumes.itk_files import label_suffix, write_itk_labels
from detseg.runtime.volumes.nifti import write_label_values, write_probabilities
from detseg.runtime.writers.base import FolderWriter, SharedOutput, csv_lines, rounded
from detseg.runtime.writers.growing import GrowingJson, GrowingText
from detseg.structures import IGNORE_INDEX
from detseg.volumes import LabelVolume, replaced

_LARGEST_ID = 2**31 - 1


class NiftiWriter(FolderWriter):
    """Writes every result into ``folder`` as ``NAME.nii.gz``, on the grid of its source and with what its header says
    of where it lies; ``as_source``: of MetaImage and NRRD files as ``NAME.mha`` and ``NAME.nrrd``.

    The values are class positions or, with ``category_ids``, the data set's own numbers of the classes. A voxel for
    which no class is claimed (``IGNORE_INDEX``) gets the number of class 0, the background.

    Raises:
        ValueError: ``folder`` holds one of the ``sources``, the numbers of category ids and classes differ, or an id
            is negative or does not fit into 32 bits.
    """

    def __init__(
        self,
        folder: Path | str,
        class_names: Sequence[str],
        sources: Iterable[Path | str] = (),
        *,
        category_ids: Sequence[int] | None = None,
        outputs: SharedOutput | None = None,
        as_source: bool = False,
    ) -> None:
        super().__init__(folder, sources, outputs)
        self._as_source = as_source
        self._num_classes = len(class_names)
        ids = tuple(range(self._num_classes) if category_ids is None else category_ids)
        if len(ids) != self._num_classes:
            raise ValueError(f"got {len(ids)} category ids for {self._num_classes} classes; one each is needed")
        for name, number in zip(class_names, ids, strict=True):
            if not 0 <= number <= _LARGEST_ID:
                raise ValueError(f"class {name} has the id {number}; a label volume holds 0 to {_LARGEST_ID}")
        # One type for all volumes of a run, whatever classes are found in each.
        dtype = next(one for one in (np.uint8, np.int16, np.int32) if max(ids) <= np.iinfo(one).max)
        self._table: NDArray[np.integer[Any]] = np.full(256, ids[0], dtype)
        self._table[: len(ids)] = ids

    def write(self, frame: Frame, result: LabelVolume) -> None:
        """Write one label volume.

        Raises:
            ValueError: a label is no class position.
            SaveError: the file cannot be written.
        """
        _check_labels(frame.source, result, self._num_classes)
        suffix = label_suffix(frame.source) if self._as_source else ".nii.gz"
        path, values = self._output.path_for(frame, suffix), replaced(result.labels, self._table)
        if suffix == ".nii.gz":
            write_label_values(path, values, result.affine, frame.volume.forms)
        else:
            write_itk_labels(path, values, result.affine)
        self._output.written(path, frame)


class DicomSegmentationWriter(FolderWriter):
    """Writes the labels of every DICOM series into ``folder`` as ``NAME.dcm``, a DICOM segmentation whose segments are
    all classes but the background.

    Raises:
        ValueError: ``folder`` holds one of the ``sources``, no segment can have the name of a class, or highdicom is
            not installed.
    """

    def __init__(
        self,
        folder: Path | str,
        class_names: Sequence[str],
        sources: Iterable[Path | str] = (),
        outputs: SharedOutput | None = None,
    ) -> None:
        require_highdicom()
        require_segment_names(class_names)
        super().__init__(folder, sources, outputs)
        self._class_names = tuple(class_names)

    def write(self, frame: Frame, result: LabelVolume) -> None:
        """Write one segmentation.

        Raises:
            ValueError: the source is no DICOM series, or its slices lack what a segmentation says of them.
            SaveError: the file cannot be written.
        """
        _check_labels(frame.source, result, len(self._class_names))
        if frame.path is None or not frame.path.is_dir():
            raise ValueError(f"{frame.source}: no DICOM series, of which alone segmentations are made: save nifti")
        path = self._output.path_for(frame, ".dcm")
        # No class is claimed where nothing is known: that is background.
        labels = np.where(result.labels == IGNORE_INDEX, 0, result.labels).astype(np.uint8, copy=False)
        write_dicom_segmentation(path, labels, result.affine, frame.path, self._class_names, __version__)
        self._output.written(path, frame)


class ProbabilitiesWriter(FolderWriter):
    """Writes the probabilities of all classes, the background first, into ``folder`` as ``NAME.nii.gz`` of four
    dimensions, on the grid of the source, to within 1e-5.

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
        super().__init__(folder, sources, outputs)
        self._num_classes = len(class_names)

    def write(self, frame: Frame, result: LabelVolume) -> None:
        """Write those of one volume.

        Raises:
            SaveError: the file cannot be written.
        """
        assert result.probabilities is not None, "the runner keeps them"
        assert len(result.probabilities) == self._num_classes
        path = self._output.path_for(frame, ".nii.gz")
        write_probabilities(path, result.probabilities, result.affine, frame.volume.forms)
        self._output.written(path, frame)


class TableWriter:
    """Writes how much of every class but class 0, the background, is in each volume: ``folder/volumes.csv`` and
    ``folder/volumes.json``.

    The CSV has one row per volume: ``file``; ``spacing_x_mm``, ``spacing_y_mm``, ``spacing_z_mm``, the distances
    between voxels along the axes of the file; and for each class ``<name>_voxels`` and ``<name>_ml``. The JSON lists
    the same as ``{"file", "spacing_mm": [x, y, z], "classes": {<name>: {"voxels", "milliliters"}}}``.

    Rows go to ``volumes.unfinished.csv`` and ``volumes.unfinished.jsonl``, of which the tables are made when the
    ``with`` block is left. If it ends in an exception, they stay, and so do tables of an earlier run.

    Raises:
        SaveError: the files cannot be written.
    """

    def __init__(self, folder: Path | str, class_names: Sequence[str], *, goes_on: bool = False) -> None:
        self.class_names = tuple(class_names)
        self._files = ExitStack()
        folder = Path(folder)
        columns = [f"{name}_{unit}" for name in self.class_names[1:] for unit in ("voxels", "ml")]
        head = csv_lines([["file", *(f"spacing_{axis}_mm" for axis in "xyz"), *columns]])
        self._csv = self._files.enter_context(GrowingText(folder / "volumes.csv", head, goes_on=goes_on))
        self._json = self._files.enter_context(GrowingJson(folder / "volumes.json", goes_on=goes_on))

    def write(self, frame: Frame, result: LabelVolume) -> None:
        """Take the result of one volume.

        Raises:
            ValueError: a label is no class position.
        """
        _check_labels(frame.source, result, len(self.class_names))
        record = volume_record(result, self.class_names)
        cells = [value for share in record["classes"].values() for value in share.values()]
        self._csv.write(csv_lines([[frame.source, *record["spacing_mm"], *cells]]))
        self._json.append({"file": frame.source, **record})

    def end_source(self) -> None:
        """The tables hold all sources."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)


def volume_record(result: LabelVolume, class_names: Sequence[str]) -> dict[str, Any]:
    """``{"spacing_mm": [x, y, z], "classes": {<name>: {"voxels", "milliliters"}}}`` of all classes but class 0."""
    counts = result.voxel_counts[1 : len(class_names)].tolist()
    # Digits beyond those of a float32 affine would only be noise.
    return {
        "spacing_mm": [rounded(length) for length in result.spacing],
        "classes": {
            name: {"voxels": count, "milliliters": rounded(count * result.voxel_milliliters)}
            for name, count in zip(class_names[1:], counts, strict=True)
        },
    }


class _VolumeImages(FolderWriter):
    """Writes an image of every result, which ``draw`` makes, into ``folder`` as ``NAME.png``.

    Raises:
        ValueError: ``folder`` holds one of the ``sources``, which could be overwritten.
    """

    draw: Callable[..., ByteArray]

    def __init__(
        self,
        folder: Path | str,
        class_names: Sequence[str],
        sources: Iterable[Path | str] = (),
        outputs: SharedOutput | None = None,
        palette: Palette | None = None,
    ) -> None:
        self.class_names = tuple(class_names)
        self.palette = palette
        super().__init__(folder, sources, outputs)

    def write(self, frame: Frame, result: LabelVolume) -> None:
        """Draw and write one image.

        Raises:
            ValueError: the result is not one of this volume, or of other classes.
            SaveError: the image cannot be written.
        """
        image = type(self).draw(frame.volume, result, self.class_names, palette=self.palette)
        path = self._output.path_for(frame, ".png")
        write_image(path, image)
        self._output.written(path, frame)


class SlicesWriter(_VolumeImages):
    """Writes images of three planes with outlines, see :func:`detseg.runtime.drawing.volume.draw_slices`."""

    draw = staticmethod(draw_slices)


class MontageWriter(_VolumeImages):
    """Writes sheets of axial slices with outlines, see :func:`detseg.runtime.drawing.volume.draw_montage`."""

    draw = staticmethod(draw_montage)


def _check_labels(source: str, result: LabelVolume, num_classes: int) -> None:
    strange = [label for label in classes_in(result.labels) if label >= num_classes]
    if strange:
        raise ValueError(f"{source}: label {strange[0]} in the result; allowed are 0 to {num_classes - 1}")
