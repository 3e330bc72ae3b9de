"""The journal of a run of ``predict``: which sources are done, so that a run that was killed goes on where it was."""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detseg.files import printable, remove_partial_files, save_errors
from detseg.runtime.commands.shards import require_same_settings
from detseg.runtime.sources.frames import Frame
from detseg.runtime.writers.base import SharedOutput
from detseg.runtime.writers.growing import unfinish
from detseg.runtime.writers.parquet import unfinish_parquet

JOURNAL = "progress.unfinished.jsonl"
"""Lies in the folder of a run until it has ended, and is locked by the process that is at work."""

Failure = tuple[str, str, str]
"""Whether it was "read", "predicted" or "written", the source, and what was wrong."""


class Progress:
    """The journal in ``folder``: a line of JSON for each thing that happens.

    The first line holds ``settings``: what the results depend on. ``{"claim": path, "source": name}`` comes before a
    file of a source is written, ``{"sizes": {name: bytes}}`` when the tables are open, and with ``"done": name`` and
    its ``"failures"`` when all that belongs to a source has been written; ``sizes`` are those of the tables then. Each
    line is whole or, as the last one, not there. With ``go_on`` an earlier journal is read, and the folder brought to
    where it was when the last source was done.

    Raises:
        ValueError: another process is at work in the folder, or the settings were others.
        SaveError: the journal cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, go_on: bool) -> None:
        self.done: set[str] = set()
        self.failures: list[Failure] = []
        self._folder = folder
        self._claims: list[Path] = []
        self._has_claimed = False
        path = folder / JOURNAL
        known = json.loads(json.dumps(settings, default=str))
        with save_errors(path):
            self._stream = io.FileIO(path, "a+")
        try:
            self._lock()
            lines = self._read() if go_on else []
            if lines:
                require_same_settings(lines[0], known, f"the run in {printable(folder)} cannot go on")
                self._restore(lines[1:])
            else:
                self._stream.truncate(0)
                self._write(known)
        except BaseException:
            is_empty = not os.fstat(self._stream.fileno()).st_size
            self._stream.close()
            if is_empty and not go_on:
                path.unlink(missing_ok=True)  # such as on a full disk
            raise

    def reserve(self, outputs: SharedOutput) -> None:
        """Mark the names of files that are there as taken."""
        for path in self._claims:
            outputs.taken[path.parent, path.name.casefold()] = (self, "", None)

    def claim(self, path: Path, frame: Frame) -> None:
        """A file of the source of ``frame`` will be written at ``path``."""
        self._has_claimed = True
        self._write({"claim": str(path.relative_to(self._folder)), "source": frame.source})

    def begin(self) -> None:
        """The tables are open."""
        self._write({"sizes": self._sizes()})

    def end(self, source: str, failures: Sequence[Failure]) -> None:
        """All that belongs to ``source`` has been written, but for what ``failures`` say of it."""
        told = [one for one in failures if one[1] == source]
        self._write({"sizes": self._sizes(), "done": source, "failures": told})

    def close(self) -> None:
        """The run has ended: there is nothing to go on with."""
        (self._folder / JOURNAL).unlink(missing_ok=True)
        self._stream.close()

    @contextmanager
    def kept_on_errors(self) -> Iterator[None]:
        """Closes the journal at the end of the block; after an exception it stays where it is."""
        try:
            yield
        except BaseException:
            self._stream.close()
            if not (self.done or self._has_claimed or self._tables()):
                (self._folder / JOURNAL).unlink()  # nothing has begun
            raise
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process is at work in {printable(self._folder)}; wait for it, or name another folder"
            ) from error

    def _read(self) -> list[dict[str, Any]]:
        """The whole lines, without what a killed process left of the last one."""
        self._stream.seek(0)
        text = self._stream.readall()
        whole = text.rfind(b"\n") + 1
        with self._as_written():
            lines = [json.loads(line) for line in text[:whole].splitlines()]
            if not all(isinstance(line, dict) for line in lines):
                raise TypeError("a line is no object")
        self._stream.truncate(whole)
        return lines

    @contextmanager
    def _as_written(self) -> Iterator[None]:
        """Refuse a journal that is not as a run wrote it."""
        try:
            yield
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            path = printable(self._folder / JOURNAL)
            raise ValueError(f"{path}: is not as detseg predict wrote it ({error}); begin again elsewhere") from error

    def _own(self, name: str) -> Path:
        """The file of this ``name`` in the folder: what a journal says must not lead elsewhere."""
        path = Path(name)
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise ValueError(f"{name!r} is no file of this folder")
        return self._folder / path

    def _restore(self, lines: Sequence[dict[str, Any]]) -> None:
        with self._as_written():
            failures: list[Failure] = []
            for line in lines:
                if "done" in line:
                    self.done.add(str(line["done"]))
                    failures += [(str(verb), str(source), str(text)) for verb, source, text in line["failures"]]
            claims = {self._own(line["claim"]): line["source"] in self.done for line in lines if "claim" in line}
            last = max((number for number, line in enumerate(lines) if "sizes" in line), default=-1)
            sizes = {self._own(name): int(size) for name, size in (lines[last]["sizes"] if last >= 0 else {}).items()}
            if any(path.parent != self._folder or size < 0 for path, size in sizes.items()):
                raise ValueError("sizes are those of tables in the folder")
        self.failures += failures
        for folder in {self._folder, *(path.parent for path in claims)}:
            remove_partial_files(folder)
        for path, is_done in claims.items():
            if not is_done:
                path.unlink(missing_ok=True)
        self._claims = [path for path, is_done in claims.items() if is_done]
        for path, size in sizes.items():
            _cut(path, size)
        for path in self._tables():
            if path not in sizes:
                path.unlink()

    def _tables(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.unfinished.*") if path.name != JOURNAL)

    def _sizes(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in self._tables()}

    def _write(self, line: Any) -> None:
        with save_errors(self._folder / JOURNAL):
            self._stream.write(json.dumps(line).encode() + b"\n")


def is_begun(folder: Path) -> bool:
    """Whether a run in ``folder`` was ended before its time."""
    return (folder / JOURNAL).exists()


def _cut(unfinished: Path, size: int) -> None:
    """Bring a table back to ``size`` bytes, also where it had its own name already."""
    finished = unfinished.with_name(unfinished.name.replace(".unfinished", ""))
    if unfinished.suffix == ".jsonl" and not unfinished.exists():
        others = (finished, finished.with_suffix(".json"), finished.with_suffix(".parquet"))
        finished = next((path for path in others if path.exists()), finished)
    if size and not unfinished.exists() and finished.exists():
        (unfinish_parquet if finished.suffix == ".parquet" else unfinish)(finished, unfinished)
    if unfinished.exists():
        if unfinished.stat().st_size < size:
            raise ValueError(f"{printable(unfinished)} was changed since the run was ended; begin again elsewhere")
        with unfinished.open("rb+") as stream:
            stream.truncate(size)
