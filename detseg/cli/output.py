"""What the command line prints, shown so that nothing in it can act on a terminal: names of files, classes and tensors
come from strangers, and may hold escape codes, or bytes that are no text."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from detseg.files import printable

_PROGRESS = re.compile("(?:[\r\n]|\x1b\\[A)*")
"""How bars of progress begin, and what they move the cursor with."""
LONGEST_MESSAGE = 4000


def shortened(message: object) -> str:
    """A message in at most ``LONGEST_MESSAGE`` characters."""
    text = str(message)
    if len(text) <= LONGEST_MESSAGE:
        return text
    return f"{text[:LONGEST_MESSAGE]}... ({len(text):,} characters in all)"


class _Printable:
    """A text stream through which only what is printable gets to another. ``moves``: a bar of progress may begin with
    what moves the cursor."""

    def __init__(self, stream: TextIO, moves: bool) -> None:
        self._stream = stream
        self._moves = moves

    def write(self, text: str) -> int:
        start = 0
        if self._moves:
            found = _PROGRESS.match(text)
            start = found.end() if found else 0
        shown = text[:start] + printable(text[start:], keep="\n\t")
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def printable_output() -> Iterator[None]:
    """Within the block, what is printed on standard output and standard error is printable."""
    output, errors = sys.stdout, sys.stderr
    sys.stdout = cast(TextIO, _Printable(output, moves=False))
    sys.stderr = cast(TextIO, _Printable(errors, moves=True))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = output, errors
