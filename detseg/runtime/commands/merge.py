"""The verb ``merge``: the tables of all shares of a list, put together to those of one run over the whole of it."""

from __future__ import annotations

import csv
import heapq
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detseg.files import printable, require_apart, storable, write_text
from detseg.folders import claimed_folder
from detseg.runtime.commands.shards import RUN, parse_shard, read_run, require_same_settings
from detseg.runtime.commands.summary import ERRORS
from detseg.runtime.writers.cells import as_text_cell
from detseg.runtime.writers.growing import GrowingJson, GrowingText
from detseg.runtime.writers.parquet import GrowingParquet, read_rows

_DAMAGE = (LookupError, TypeError, AttributeError, RecursionError, UnicodeDecodeError, json.JSONDecodeError, csv.Error)
"""What comes of a table that somebody has changed."""

PARQUET = "objects.parquet"

Entry = tuple[int, Any]
"""An entry of a table, with the position of its source in the whole list."""


@dataclass(frozen=True)
class _Share:
    """A folder with results, and the ``positions`` of its sources in the whole list by their names."""

    folder: Path
    run: Mapping[str, Any]
    positions: Mapping[str, int]

    def position(self, source: str) -> int:
        """Where ``source`` stands in the list."""
        if source not in self.positions:
            raise ValueError(f"{printable(self.folder)}: has results of {printable(source)}, which is not in its share")
        return self.positions[source]


def merge_command(folders: Sequence[Path], output: Path) -> int:
    """``detseg merge``: put the tables in ``folders`` together in ``output``, or where that holds results, in the next
    free of ``output-2``, ``output-3``, ....

    The tables are, byte by byte, those of one run over the whole list. What a share could not read or write is in
    ``errors.jsonl``, in the order of the list.

    Returns 0.

    Raises:
        ValueError: the folders are not all shares of one list, made with the same settings.
    """
    shares = _open(folders)
    names = [name for name in _TABLES if _is_in_all(name, shares)]
    if not names:
        raise ValueError(
            f"there are no tables in {printable(shares[0].folder)}; save coco, csv, parquet, jsonl or table"
        )
    read = [share.folder / RUN for share in shares]
    with claimed_folder(output, (RUN, *_TABLES), lambda folder: require_apart(folder, read)) as target:
        failures = merge_shares(folders, target)
        if failures:
            write_text(target / ERRORS, "".join(json.dumps(one) + "\n" for one in failures))
    print(f"{len(shares)} shares, {shares[0].run['num_sources']} sources: {', '.join(names)} in {printable(target)}")
    if failures:
        print(f"of {len({one['source'] for one in failures})} sources not all is there: see {ERRORS}")
    return 0


def merge_shares(folders: Sequence[Path], target: Path) -> list[dict[str, str]]:
    """Put what tables there are in ``folders``, all shares of one list, together in ``target``; returns what failed.

    Raises:
        ValueError: the folders are not all shares of one list, made with the same settings.
    """
    shares = _open(folders)
    with ExitStack() as stack:
        for name in (name for name in _TABLES if _is_in_all(name, shares)):
            _TABLES[name](shares, target, stack)
    return list(_merged(shares, _failures))


def _open(folders: Sequence[Path]) -> list[_Share]:
    shares = []
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{printable(folder)}: there is no such folder")
        run = read_run(folder)
        if run is None:
            raise ValueError(
                f"{printable(folder)}: holds no complete share; finish it with the command that began it, --shard and "
                "--resume"
            )
        shares.append(_Share(folder, run, run["sources"]))
    first = shares[0]
    for share in shares[1:]:
        message = f"{printable(first.folder)} and {printable(share.folder)} do not belong together"
        ours, theirs = ({**one.run["settings"], "shard": ""} for one in (first, share))
        require_same_settings(ours, theirs, message)
    count = parse_shard(first.run["shard"]).count
    seen = Counter(parse_shard(share.run["shard"]).index for share in shares)
    wrong = [f"share {index}/{count} is missing" for index in range(1, count + 1) if index not in seen]
    wrong += [f"share {index}/{count} is there {times} times" for index, times in sorted(seen.items()) if times > 1]
    if wrong:
        raise ValueError("; ".join(wrong))
    return shares


def _is_in_all(name: str, shares: Sequence[_Share]) -> bool:
    lacking = [share.folder for share in shares if not (share.folder / name).is_file()]
    if lacking and len(lacking) < len(shares):
        raise ValueError(f"{printable(lacking[0])}: has no {name}, which others have")
    return not lacking


def _first(entry: Entry) -> int:
    return entry[0]


def _merged(shares: Sequence[_Share], entries: Callable[[_Share], Iterable[Entry]]) -> Iterator[Any]:
    """The entries of all shares in the order of the list; of each share a few are held."""
    for _, entry in heapq.merge(*(_as_written(share, entries) for share in shares), key=_first):
        yield entry


def _as_written(share: _Share, entries: Callable[[_Share], Iterable[Entry]]) -> Iterator[Entry]:
    """``entries(share)``. Raises ValueError where a table is not as it was written."""
    try:
        yield from entries(share)
    except _DAMAGE as error:
        told = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{printable(share.folder)}: a table there is not as detseg predict wrote it ({told})"
        ) from error


def _failures(share: _Share) -> Sequence[Entry]:
    """What could not be read or written; what is in no share, because it was not there, comes first."""
    path = share.folder / ERRORS
    if not path.exists():
        return []
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return sorted(((share.positions.get(one["source"], -1), one) for one in found), key=_first)


def _entries(path: Path) -> Iterator[Any]:
    """The entries of a list that :class:`GrowingJson` wrote, which stand in a line each."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            text = line.strip().removesuffix(",")
            if text not in ("[", "]", "[]"):
                yield json.loads(text)


def _merge_coco(shares: Sequence[_Share], target: Path, stack: ExitStack) -> None:
    """Images get new numbers, in the order of the list, and detections follow them."""
    images = stack.enter_context(GrowingJson(target / "detections_images.json"))
    results = stack.enter_context(GrowingJson(target / "detections.json"))

    def entries(share: _Share) -> Iterator[Entry]:
        boxes = _entries(share.folder / "detections.json")
        following = next(boxes, None)
        for image in _entries(share.folder / "detections_images.json"):
            mine = []
            while following is not None and following["image_id"] == image["id"]:
                mine.append(following)
                following = next(boxes, None)
            yield share.position(image["file_name"]), (image, mine)
        if following is not None:
            raise ValueError(f"{printable(share.folder)}: detections.json has detections of images that are not there")

    for number, (image, boxes) in enumerate(_merged(shares, entries), start=1):
        images.append(image | {"id": number})
        results.append(*(box | {"image_id": number} for box in boxes))


def _merge_csv(name: str) -> Callable[[Sequence[_Share], Path, ExitStack], None]:
    def merge(shares: Sequence[_Share], target: Path, stack: ExitStack) -> None:
        heads = []
        for share in shares:
            with (share.folder / name).open(newline="", encoding="utf-8") as stream:
                try:
                    heads.append(next(csv.reader(stream)))
                except (*_DAMAGE, StopIteration) as error:
                    raise ValueError(f"{printable(share.folder / name)}: is not as detseg predict wrote it") from error
        if any(head != heads[0] for head in heads):
            raise ValueError(f"the columns of {name} differ between the shares")

        def entries(share: _Share) -> Iterator[Entry]:
            by_cell = {as_text_cell(storable(source)): position for source, position in share.positions.items()}
            with (share.folder / name).open(newline="", encoding="utf-8") as stream:
                rows = csv.reader(stream)
                next(rows, None)
                for row in rows:
                    if row[0] not in by_cell:
                        share.position(row[0])
                    yield by_cell[row[0]], row

        table = stack.enter_context(GrowingText(target / name, _csv_line(heads[0])))
        for row in _merged(shares, entries):
            table.write(_csv_line(row))

    return merge


def _csv_line(row: Sequence[str]) -> str:
    """A line as the writers make it, of cells that are as they shall be."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue()


def _merge_lines(shares: Sequence[_Share], target: Path, stack: ExitStack) -> None:
    table = stack.enter_context(GrowingText(target / "results.jsonl"))

    def entries(share: _Share) -> Iterator[Entry]:
        with (share.folder / "results.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                yield share.position(json.loads(line)["file"]), line

    for line in _merged(shares, entries):
        table.write(line)


def _merge_parquet(shares: Sequence[_Share], target: Path, stack: ExitStack) -> None:
    opened = {share.folder: read_rows(share.folder / PARQUET) for share in shares}
    if len({has_masks for has_masks, _ in opened.values()}) > 1:
        raise ValueError(f"the columns of {PARQUET} differ between the shares")
    table = stack.enter_context(GrowingParquet(target / PARQUET, has_masks=opened[shares[0].folder][0]))

    def entries(share: _Share) -> Iterator[Entry]:
        positions = {storable(source): position for source, position in share.positions.items()}
        for row in opened[share.folder][1]:
            yield positions[row[0]] if row[0] in positions else share.position(row[0]), row

    for row in _merged(shares, entries):
        table.append([row])


def _merge_volumes(shares: Sequence[_Share], target: Path, stack: ExitStack) -> None:
    table = stack.enter_context(GrowingJson(target / "volumes.json"))

    def entries(share: _Share) -> Iterator[Entry]:
        for entry in _entries(share.folder / "volumes.json"):
            yield share.position(entry["file"]), entry

    for entry in _merged(shares, entries):
        table.append(entry)


_TABLES: Mapping[str, Callable[[Sequence[_Share], Path, ExitStack], None]] = {
    "detections.json": _merge_coco,
    "detections.csv": _merge_csv("detections.csv"),
    "results.jsonl": _merge_lines,
    PARQUET: _merge_parquet,
    "volumes.csv": _merge_csv("volumes.csv"),
    "volumes.json": _merge_volumes,
}
"""What is put together, by the names of the files."""
