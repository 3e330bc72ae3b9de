"""Names of files for libraries that are not written in Python."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def native_name(path: Path | str) -> Iterator[str]:
    """A name of the file ``path`` while the block lasts, for libraries that want UTF-8, which end the process at any
    other name, and that take what stands before a colon for a protocol.

    It is the whole path; where that is not UTF-8, a link in a temporary folder, with the same suffix.
    """
    path = Path(path).absolute()
    if is_utf8(str(path)):
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="detseg-") as folder:
        link = Path(folder) / f"file{path.suffix if is_utf8(path.suffix) else ''}"
        link.symlink_to(path)
        yield str(link)


def is_utf8(text: str) -> bool:
    """Whether ``text``, such as the name of a file, can be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
