"""Objects as rows of a Parquet file, which pandas, DuckDB, Spark, Ray and others read at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from detseg.files import atomic_path, printable, storable
from detseg.runtime.sources.frames import Frame
from detseg.runtime.writers.growing import GrowingText
from detseg.structures import Detections

COLUMNS = {
    "file": "string", "height": "int32", "width": "int32", "frame": "int64", "time_s": "float64", "class": "string",
    "class_index": "int32", "score": "float32", "left": "float32", "top": "float32", "right": "float32",
    "bottom": "float32", "track_id": "int64",
}  # fmt: skip
"""The columns and their types: ``height`` and ``width`` are those of the image, ``frame`` and ``time_s`` those of
videos, boxes are in pixels of the image; what there is not is null."""
MASK = "mask"
"""One more column for objects with masks: the runs of COCO's compressed form, of the image's size."""
_ROWS_AT_A_TIME = 1 << 16


class GrowingParquet:
    """The Parquet file ``path``. Until its ``with`` block is left, its rows are lines of ``NAME.unfinished.jsonl``, so
    that memory does not grow with them; of the file as well a group of rows is held at a time.

    After an exception the lines stay, if there are any, and ``path`` is as it was. ``goes_on``: lines that are there
    are continued.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
        SaveError: the files cannot be written.
    """

    def __init__(self, path: Path, *, has_masks: bool = False, goes_on: bool = False) -> None:
        import pyarrow  # noqa: F401 - now, not when all is done

        self.path = path
        self._columns = {**COLUMNS, **({MASK: "string"} if has_masks else {})}
        self._lines = GrowingText(path.with_suffix(".jsonl"), goes_on=goes_on)

    def append(self, rows: Sequence[Sequence[Any]]) -> None:
        """Add rows, all of them or none."""
        if rows:
            self._lines.write(_as_lines(rows))

    def close(self) -> None:
        """Make the file of its rows; nothing happens where that is done."""
        import pyarrow
        from pyarrow import parquet

        unfinished = self._lines.unfinished
        if not unfinished.exists():
            return
        schema = pyarrow.schema(list(self._columns.items()))
        with (
            unfinished.open(encoding="utf-8") as lines,
            atomic_path(self.path) as temporary,
            parquet.ParquetWriter(temporary, schema, compression="zstd") as table,
        ):
            while rows := [json.loads(line) for line in islice(lines, _ROWS_AT_A_TIME)]:
                columns = zip(*rows, strict=True)
                arrays = [pyarrow.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
                table.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
        self._lines.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._lines.__exit__(kind, error, trace)


class ParquetWriter:
    """Writes a row for every object: see ``COLUMNS``. Boxes, scores and times are not rounded. ``masks_of`` gives the
    masks of the objects of an image, for the column ``MASK``.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
        SaveError: the file cannot be written.
    """

    def __init__(
        self,
        path: Path | str,
        class_names: Sequence[str],
        masks_of: Callable[[Any], Sequence[str]] | None = None,
        *,
        goes_on: bool = False,
    ) -> None:
        self._masks_of = masks_of
        self._table = GrowingParquet(Path(path), has_masks=masks_of is not None, goes_on=goes_on)
        self._class_names = tuple(class_names)

    def write(self, frame: Frame, result: Detections) -> None:
        """Take the objects of one image."""
        about = [storable(frame.source), *frame.pixels.shape[:2], frame.index, frame.time_s]
        labels = result.labels.tolist()
        tracks = [0] * len(labels) if result.track_ids is None else result.track_ids.tolist()
        columns: list[Sequence[Any]] = [
            [self._class_names[label] for label in labels],
            labels,
            result.scores.tolist(),
            *result.boxes_xyxy.T.tolist(),
            [number or None for number in tracks],
        ]
        if self._masks_of is not None:
            columns.append(self._masks_of(result))
        self._table.append([[*about, *row] for row in zip(*columns, strict=True)])

    def end_source(self) -> None:
        """The file holds all sources."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._table.__exit__(kind, error, trace)


def read_rows(path: Path) -> tuple[bool, Iterator[list[Any]]]:
    """Whether the file ``path``, which a :class:`GrowingParquet` made, has masks, and its rows; a group of them is held
    at a time.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
        ValueError: the file is none of these.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{printable(path)}: is not as detseg predict wrote it ({error})") from error
    names = table.schema_arrow.names
    if names not in ([*COLUMNS], [*COLUMNS, MASK]):
        raise ValueError(f"{printable(path)}: is not as detseg predict wrote it: it has the columns {', '.join(names)}")
    return MASK in names, _rows(table)


def unfinish_parquet(path: Path, unfinished: Path) -> None:
    """Turn ``path``, which a :class:`GrowingParquet` made, back into its ``unfinished`` lines."""
    _, rows = read_rows(path)
    with atomic_path(unfinished) as temporary, temporary.open("w", encoding="utf-8") as lines:
        while some := list(islice(rows, _ROWS_AT_A_TIME)):
            lines.write(_as_lines(some))
    path.unlink()


def _rows(table: Any) -> Iterator[list[Any]]:
    for batch in table.iter_batches(_ROWS_AT_A_TIME):
        yield from map(list, zip(*(column.to_pylist() for column in batch.columns), strict=True))


def _as_lines(rows: Sequence[Sequence[Any]]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
