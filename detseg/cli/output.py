"""What the command line prints, shown so that nothing in it can act on a terminal: names of files, classes and tensors
come from strangers, and may hold escape codes, or bytes that are no text."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

# Controls of 7 and 8 bits but tab and new line; marks that turn the direction of text; separators of lines and
# paragraphs; bytes of file names that are no text, as Python holds them.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_PROGRESS = re.compile("(?:[\r\n]|\x1b\\[A)*")
"""How bars of progress begin, and what they move the cursor with."""
LONGEST_MESSAGE = 4000


def printable(text: str) -> str:
    """``text`` with what would act on a terminal written out, such as ``\\x1b``; line ends and tabs stay."""
    return _UNPRINTABLE.sub(lambda match: _written_out(match[0]), text)


def shortened(message: object) -> str:
    """A message in at most ``LONGEST_MESSAGE`` characters."""
    text = str(message)
    if len(text) <= LONGEST_MESSAGE:
        return text
    return f"{text[:LONGEST_MESSAGE]}... ({len(text):,} characters in all)"


def _written_out(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


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
        shown = text[:start] + printable(text[start:])
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
