"""Files that grow while a run goes and take their name when they are whole, so that whatever ends the run leaves what
was found so far."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from detseg.files import atomic_path, put_in_place, save_errors, storable

Lines = Iterator[str]


class GrowingText:
    """The text file ``path``, called ``NAME.unfinished.SUFFIX`` until its ``with`` block is left without an exception.

    What is written is on its way to the disk at once. After an exception the unfinished file stays, unless it holds no
    more than it began with, and ``path`` is as it was. ``goes_on``: an unfinished file that is there is continued.

    Raises:
        SaveError: the file cannot be written.
    """

    def __init__(self, path: Path, begin: str = "", *, goes_on: bool = False) -> None:
        self.path = path
        self.unfinished = unfinished_name(path)
        goes_on = goes_on and self.unfinished.exists()
        self._is_empty = not goes_on
        with save_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a line is in the file or it is not.
            self._stream = self.unfinished.open("rb+" if goes_on else "wb", buffering=0)
            self._stream.seek(0, io.SEEK_END)
        if not goes_on:
            self._write(begin)

    def write(self, text: str) -> None:
        """Append whole lines of ``text``."""
        self._is_empty = False
        self._write(text)

    def close(self) -> None:
        """Give the file its name; nothing happens where it has it already."""
        if not self._stream.closed:
            self._stream.close()
            put_in_place(self.unfinished, self.path)

    def discard(self) -> None:
        """Remove the unfinished file."""
        self._stream.close()
        self.unfinished.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._is_empty:
            self.discard()
        else:
            self._stream.close()

    def _write(self, text: str) -> None:
        data = storable(text).encode()
        with save_errors(self.path):
            begin = self._stream.tell()
            try:
                while data:
                    data = data[self._stream.write(data) or 0 :]
            except OSError:
                self._stream.seek(begin)
                self._stream.truncate()  # no half of a line
                raise


class GrowingJson:
    """The JSON file ``path``, with one list or what ``put_together`` makes of the lines of its entries. Until its
    ``with`` block is left they are in ``NAME.unfinished.jsonl``, so that memory does not grow with them.

    After an exception the lines stay, if there are any, and ``path`` is as it was. ``goes_on``: lines that are there
    are continued.

    Raises:
        SaveError: the files cannot be written.
    """

    def __init__(
        self, path: Path, put_together: Callable[[Lines], Lines] | None = None, *, goes_on: bool = False
    ) -> None:
        self.path = path
        self._put_together = put_together or _json_list
        self._lines = GrowingText(path.with_suffix(".jsonl"), goes_on=goes_on)

    def count(self) -> int:
        """How many entries there are."""
        with self._lines.unfinished.open("rb") as lines:
            return sum(1 for _ in lines)

    def append(self, *entries: Any) -> None:
        """Add entries, all of them or none."""
        if entries:
            self._lines.write("".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries))

    def close(self) -> None:
        """Make the file of its entries; nothing happens where that is done."""
        unfinished = self._lines.unfinished
        if not unfinished.exists():
            return
        with (
            atomic_path(self.path) as temporary,
            temporary.open("w", encoding="utf-8") as whole,
            unfinished.open(encoding="utf-8") as lines,
        ):
            whole.writelines(self._put_together(line.rstrip("\n") for line in lines))
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


def unfinished_name(path: Path) -> Path:
    """What ``path`` is called while it grows."""
    return path.with_name(f"{path.stem}.unfinished{path.suffix}")


def unfinish(path: Path, unfinished: Path) -> None:
    """Turn ``path``, which a :class:`GrowingText` or :class:`GrowingJson` made, back into its ``unfinished`` file."""
    if path.suffix != ".json":
        path.replace(unfinished)
        return
    content = json.loads(path.read_bytes())
    entries = content if isinstance(content, list) else [{name: value} for name, value in content.items()]
    with atomic_path(unfinished) as temporary:
        temporary.write_text("".join(json.dumps(one) + "\n" for one in entries), encoding="utf-8")
    path.unlink()


def json_object(lines: Lines) -> Lines:
    """One JSON object of all the objects in ``lines``."""
    yield "{"
    separator = "\n"
    for line in lines:
        yield separator + line[1:-1]
        separator = ",\n"
    yield "\n}\n"


def _json_list(lines: Lines) -> Lines:
    first = next(lines, None)
    if first is None:
        yield "[]\n"
        return
    yield "[\n" + first
    for line in lines:
        yield ",\n" + line
    yield "\n]\n"
