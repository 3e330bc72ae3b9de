"""A folder of results, one file for each source, where no source can be overwritten."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from detseg.runtime.nifti import is_volume_path, volume_stem


class OutputFolder:
    """Gives each source a file name in ``folder`` that no other has.

    Two sources of the same name give ``name.jpg`` and ``name_2.jpg``. Files of an earlier run may be replaced.

    Raises:
        ValueError: ``folder`` holds one of the ``sources``, which could be overwritten.
    """

    def __init__(self, folder: Path | str, sources: Iterable[Path | str] = ()) -> None:
        self.folder = Path(folder)
        self._taken: set[str] = set()
        for source in sources:
            self._refuse_own_folder(Path(source))

    def path_for(self, source: Path | str, suffix: str) -> Path:
        """The path for the result of ``source``: its name with ``suffix`` in place of its own (``.nii.gz`` is one)."""
        source = Path(source)
        self._refuse_own_folder(source)
        # Compared without case, because some file systems do.
        stem = volume_stem(source) if is_volume_path(source) else source.stem
        name, number = f"{stem}{suffix}", 1
        while name.casefold() in self._taken:
            number += 1
            name = f"{stem}_{number}{suffix}"
        self._taken.add(name.casefold())
        return self.folder / name

    def _refuse_own_folder(self, source: Path) -> None:
        if source.resolve().parent == self.folder.resolve():
            raise ValueError(
                f"the results would be written into {self.folder}, where the source {source} lies; "
                "name another output folder"
            )
