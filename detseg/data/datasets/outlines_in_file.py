"""Outlines that stay in their JSON file: of a million objects they are most of it, and boxes do without them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from detseg.arrays import IntArray
from detseg.data.entries.outline import Segmentation, as_points, parse_outline
from detseg.data.entries.parsing import MAX_COORDINATE
from detseg.data.source import DatasetError
from detseg.files import open_regular

_POLYGONS = msgspec.json.Decoder(list[list[float]])
_LARGEST = MAX_COORDINATE / 2
"""Far enough from the limit for single precision not to reach it."""


@dataclass(frozen=True, slots=True)
class OutlinesInFile:
    """The outlines of ``M`` objects: object ``m`` has the ``lengths[m]`` bytes of JSON that begin at ``starts[m]`` of
    the file ``path``, none where that is 0. ``num_bytes`` and ``mtime_ns`` are those of the file when it was opened.
    """

    path: Path
    num_bytes: int
    mtime_ns: int
    starts: IntArray
    lengths: IntArray

    def __getitem__(self, index: int) -> Segmentation:
        """As that of :class:`detseg.data.datasets.packed.PackedSegmentations`.

        Raises:
            DatasetError: the file has changed since it was opened.
        """
        if not self.lengths[index]:
            return None
        with self._open() as file:
            polygons, run_length, _ = parse_outline(json.loads(self._bytes(file, index)))
        if run_length is not None:
            return run_length
        return [np.array(points, np.float64).reshape(-1, 2) for points in as_points(polygons)[0]] or None

    def digested(self) -> list[bytes]:
        """What changes when an outline does, of what is known without a look into the file."""
        return [np.ascontiguousarray(self.lengths).tobytes()]

    def select(self, rows: IntArray) -> OutlinesInFile:
        """The outlines of the objects ``rows``, in this order."""
        return replace(self, starts=self.starts[rows], lengths=self.lengths[rows])

    def problems(self) -> Iterator[tuple[int, str]]:
        """The row of each outline that cannot be used, and why, in the order of the file.

        Raises:
            DatasetError: the file has changed since it was opened.
        """
        with self._open() as file:
            for index in np.argsort(self.starts, kind="stable").tolist():
                if self.lengths[index]:
                    content = self._bytes(file, index)
                    if not _are_polygons(content):
                        polygons, _, problem = parse_outline(json.loads(content))
                        problem = problem or as_points(polygons)[1]
                        if problem:
                            yield index, problem

    def _open(self) -> BinaryIO:
        try:
            file = open_regular(self.path)
        except OSError as error:
            raise DatasetError(f"{self.path}: its outlines cannot be read: {error.strerror}") from error
        status = os.fstat(file.fileno())
        if (status.st_size, status.st_mtime_ns) != (self.num_bytes, self.mtime_ns):
            file.close()
            raise DatasetError(f"{self.path} has changed since it was opened; open the data set again")
        return file

    def _bytes(self, file: BinaryIO, index: int) -> bytes:
        file.seek(int(self.starts[index]))
        return file.read(int(self.lengths[index]))


def _are_polygons(content: bytes) -> bool:
    """Whether the JSON in ``content`` is beyond doubt a list of polygons, as nearly all are; of the others
    ``parse_outline`` says what they are, in five times the time."""
    try:
        polygons = _POLYGONS.decode(content)
    except msgspec.ValidationError:
        return False
    return all(
        len(polygon) % 2 == 0 and (not polygon or (max(polygon) < _LARGEST and min(polygon) > -_LARGEST))
        for polygon in polygons
    )
