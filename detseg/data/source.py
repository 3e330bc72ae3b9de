"""What the user named as a data set, and the files in it: paths, lists, class names."""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from detseg.config_files import shorten
from detseg.data.entries.parsing import enumerate_some, show
from detseg.files import read_any_text
from detseg.runtime.media.images import IMAGE_SUFFIXES


class DatasetError(ValueError):
    """A data set that cannot be read; the message names the file and the record."""


_RENAMED = {"void": "ignore_index", "division": "split"}
"""Keys of a YAML by the names that earlier versions had for them."""


@dataclass(frozen=True)
class DataSource:
    """What the user named: a folder, or a YAML with ``settings``, whose folder ``root`` then is. ``class_map`` are new
    names of classes by old ones, see :mod:`detseg.data.class_map`."""

    root: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    yaml_path: Path | None = None
    class_map: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = self.settings
        for old in _RENAMED.keys() & given.keys():
            new = _RENAMED[old]
            if new in given:
                raise DatasetError(f"{self.name}: {new} is given twice, also as {old}, which was its name; keep {new}")
            warnings.warn(
                f"{self.name}: {old} is now called {new}; this version still reads the old name, the next will not",
                FutureWarning,
                stacklevel=3,
            )
        object.__setattr__(self, "settings", {_RENAMED.get(key, key): value for key, value in given.items()})

    @property
    def name(self) -> str:
        """How error messages call it."""
        return str(self.yaml_path or self.root)

    def data_root(self) -> Path:
        """The folder itself, or what ``path:`` in the YAML names. Raises DatasetError: there is no such folder."""
        if self.yaml_path is None:
            return self.root
        path = str(self.settings.get("path") or ".")
        candidates = [*relative_candidates(path, self.root), Path.cwd() / path]
        if with_slashes(path).rstrip("/").rpartition("/")[2] == self.root.name:
            # The folder of the YAML itself, as seen from where its author worked.
            candidates.append(self.root)
        return find_existing(candidates, "path", self.name)

    def candidates(self, text: str) -> list[Path]:
        """Where the path ``text`` in the YAML may point: relative to ``path:``, else to the YAML itself."""
        return [*relative_candidates(text, self.data_root()), *relative_candidates(text, self.root)]


def find_existing(candidates: Iterable[Path], what: str, named_in: str) -> Path:
    """The first of ``candidates`` that exists. Raises DatasetError that lists them where none does."""
    tried = list(dict.fromkeys(candidates))
    for candidate in tried:
        if exists(candidate):
            return candidate
    advice = ""
    if what == "path":
        advice = "; it is the folder of the data set on this machine, and may be left out where the YAML lies in it"
    raise DatasetError(f"{named_in}: {what} not found; tried {', '.join(map(str, tried))}{advice}")


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; what can be the name of none is none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def relative_candidates(text: str, folder: Path) -> list[Path]:
    """Where a path in a YAML or list in ``folder`` may point: relative to that folder, else to ``$DETSEG_DATA``; also
    with slashes for the backslashes of Windows."""
    shared = os.environ.get("DETSEG_DATA")
    bases = (folder, *([Path(shared)] if shared else []))
    forms = dict.fromkeys((text, with_slashes(text)))
    return [Path(os.path.normpath(base / form)) for form in forms for base in bases]


def leaves_root(name: str) -> bool:
    """Whether the file name ``name`` from an annotation file would lead out of the folder of images."""
    unified = name.replace("\\", "/")
    return not name or "\0" in name or unified[0] == "/" or unified[1:2] == ":" or ".." in PurePosixPath(unified).parts


def check_class_names(names: Any, where: str) -> tuple[str, ...]:
    """``names`` as a tuple, if it is a non-empty list of different non-empty texts. Raises DatasetError otherwise."""
    if not isinstance(names, (list, tuple)) or not names:
        raise DatasetError(f"{where}: expected a list of class names, got {show(names)}")
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise DatasetError(f"{where}: every class name must be text, got {show(name)}; put it in quotes")
        if not is_text(name):
            raise DatasetError(f"{where}: class names must be text that can be written as UTF-8, got {show(name)}")
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        several = enumerate_some(map(shorten, repeated))
        raise DatasetError(f"{where}: class names must differ, but there are several of {several}")
    return tuple(names)


def is_text(text: str, is_path: bool = False) -> bool:
    """Whether ``text`` can be written as UTF-8; names of files may also hold bytes that are none, as Python escapes
    them."""
    try:
        text.encode("utf-8", "surrogateescape" if is_path else "strict")
    except UnicodeEncodeError:
        return False
    return True


def read_class_file(path: Path) -> tuple[str, ...]:
    """The class names in a text file, one per line. Raises DatasetError for an empty or ambiguous list, and for an
    empty line between names: some programs count it and others do not."""
    lines = _all_lines(path)
    names = check_class_names([line for line in lines if line], str(path))
    while not lines[-1]:
        lines.pop()
    if "" in lines:
        place = f"line {lines.index('') + 1} is empty"
        raise DatasetError(f"{path}: {place}, but the number of a class is that of its line; remove it or name one")
    return names


def stated_names(source: DataSource) -> tuple[str, ...] | None:
    """The class names that the YAML or ``classes.txt`` of a data set lists, None where neither does. Raises
    DatasetError."""
    names = source.settings.get("names")
    if names is not None:
        if isinstance(names, Mapping) and set(names) == set(range(len(names))):
            names = [names[label] for label in range(len(names))]
        return check_class_names(names, f"{source.name}: names")
    listed = source.data_root() / "classes.txt"
    return read_class_file(listed) if listed.is_file() else None


def with_slashes(path: str) -> str:
    """A path of Windows, with slashes for its backslashes."""
    return path.replace("\\", "/")


def spellings(name: str) -> Iterator[str]:
    """``name``, and what the same file is called on other systems: with slashes for the backslashes of Windows, and
    accents as characters of their own (as macOS writes them) or as parts of their letters."""
    for form in dict.fromkeys((name, with_slashes(name))):
        yield form
        if not form.isascii():
            yield unicodedata.normalize("NFC", form)
            yield unicodedata.normalize("NFD", form)


def as_there(folder: Path, name: str) -> str:
    """The one of the ``spellings`` of ``name`` that is the name of a file in ``folder``; with slashes where none is."""
    if name.isascii() and "\\" not in name:
        return name
    return next((form for form in spellings(name) if exists(folder / form)), with_slashes(name))


def file_of_image(folder: Path, name: str) -> str | None:
    """What the image is called in ``folder`` that an annotation file calls ``name``, as ``as_there`` finds it. Of a
    name that leads out of the folder, such as a path of the machine where images were annotated, the last part counts
    where there is such a file; None where there is none."""
    if not leaves_root(name):
        return as_there(folder, name)
    base = with_slashes(name).rpartition("/")[2]
    if leaves_root(base) or not is_text(base, is_path=True):
        return None
    found = as_there(folder, base)
    return found if exists(folder / found) else None


def fold_spelling(name: str) -> str:
    """What the names of files have in common that differ only by the case of letters or by how accents are written."""
    return unicodedata.normalize("NFC", name).casefold()


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, without space around them; bytes that are no UTF-8, as the names of
    files may have them, as Python escapes them. Raises DatasetError: unreadable, or no text."""
    return [line for line in _all_lines(path) if line]


def _all_lines(path: Path) -> list[str]:
    """Those that are empty too."""
    try:
        text = read_any_text(path, "surrogateescape")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read as text: {error}") from error
    except UnicodeDecodeError as error:
        problem = f"not {error.encoding.upper()}, {error.reason} at byte {error.start}"
        raise DatasetError(f"{path}: cannot be read as text: {problem}; save it as UTF-8") from error
    if "\0" in text:  # UTF-16 that does not say so, most often
        raise DatasetError(f"{path}: cannot be read as text: it holds zero bytes; save it as UTF-8")
    return [line.strip() for line in text.splitlines()]


def images_in(folder: Path) -> list[Path]:
    """The files in ``folder`` and below that have the suffix of an image, as :func:`files_in` finds them."""
    return files_in(folder, IMAGE_SUFFIXES)


def files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files in ``folder`` and below whose names end in one of ``suffixes``, sorted; links to folders are followed,
    names that begin with a dot passed over: macOS writes ``._NAME`` beside files, and other programs what is theirs."""
    found: list[Path] = []
    waiting, seen = [folder], {os.path.realpath(folder)}
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                visible = sorted((one for one in entries if not is_hidden(one.name)), key=lambda one: one.name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DatasetError(f"{place}: cannot be read: {error.strerror}") from error
        for entry in visible:
            if entry.is_dir():
                # A folder that several links lead to is read once; one to a folder around it would lead in circles.
                real = os.path.realpath(entry.path)
                if real not in seen:
                    seen.add(real)
                    waiting.append(Path(entry.path))
            elif Path(entry.name).suffix.lower() in suffixes and not _is_special(entry):
                found.append(Path(entry.path))
    return sorted(found)


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Whether it is a pipe or a device, which would be waited for; a link that leads nowhere is a missing file."""
    return not entry.is_file() and not entry.is_symlink()


def is_hidden(name: str) -> bool:
    """Whether the name of a file or folder begins with a dot."""
    return name.startswith(".")


def require_outside(path: Path | str, root: Path) -> Path:
    """``path``, resolved. Raises ValueError where it lies inside the data set ``root``, as it is named or wherever its
    links lead."""
    target = Path(path).resolve()
    named = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() follows links
    if target.is_relative_to(root.resolve()) or named.is_relative_to(os.path.abspath(root)):  # noqa: PTH100
        raise ValueError(f"{path}: inside the data set {root}, which is never written to; name a place outside")
    return target
