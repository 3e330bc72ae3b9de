"""A folder of results, one file for each source, where no source can be overwritten."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from detseg.runtime.media.frames import Frame


class OutputFolder:
    """Gives each image a file name in ``folder`` that no other has.

    Two images of the same name give ``name.jpg`` and ``name_2.jpg``. Files of an earlier run may be replaced.

    Raises:
        ValueError: ``folder`` holds one of the ``sources``, which could be overwritten.
    """

    def __init__(self, folder: Path | str, sources: Iterable[Path | str] = ()) -> None:
        self.folder = Path(folder)
        self._taken: set[str] = set()
        for source in sources:
            self._refuse_own_folder(Path(source))

    def path_for(self, frame: Frame, suffix: str) -> Path:
        """The path for the result of ``frame``: its name with ``suffix``."""
        if frame.path is not None:
            self._refuse_own_folder(frame.path)
        return self.folder / self.free_name(frame.name, suffix)

    def free_name(self, stem: str, suffix: str) -> str:
        """``stem`` with ``suffix``, and with a number between them if that is taken."""
        # Compared without case, because some file systems do.
        name, number = f"{stem}{suffix}", 1
        while name.casefold() in self._taken:
            number += 1
            name = f"{stem}_{number}{suffix}"
        self._taken.add(name.casefold())
        return name

    def _refuse_own_folder(self, source: Path) -> None:
        if source.resolve().parent == self.folder.resolve():
            raise ValueError(
                f"the results would be written into {self.folder}, where the source {source} lies; "
                "name another output folder"
            )
