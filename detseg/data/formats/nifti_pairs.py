"""Finding volumes and the labels that belong to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detseg.data.dataset import DatasetError, Source, find_existing, leaves_root, read_lines, relative_candidates
from detseg.data.formats.nifti_names import DESCRIPTION_NAME, read_description
from detseg.runtime.media.nifti import VOLUME_SUFFIXES, is_volume_path, volume_stem

IMAGES, LABELS = "imagesTr", "labelsTr"
TEST_IMAGES, TEST_LABELS = "imagesTs", "labelsTs"
_FIRST_CHANNEL = "_0000"


class Pair(NamedTuple):
    """A volume and its labels, if it has any."""

    image: Path
    label: Path | None


def list_volumes(folder: Path) -> list[Path]:
    """The volumes in ``folder``, sorted, without the files ``._NAME`` that macOS lays beside them.

    Raises:
        DatasetError: the folder cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if is_volume_path(path) and not path.name.startswith("."))
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read: {error.strerror}") from error


def find_training_pairs(root: Path, where: str) -> list[Pair]:
    """The volumes of the Decathlon's layout in ``root``: those listed in dataset.json, else all of the folder.

    Raises:
        DatasetError: there are none, files are missing, or several volumes have one name.
    """
    listed = read_description(root).get("training")
    if not listed:
        return pair_up(list_volumes(root / IMAGES), root / LABELS, where)
    place = f"{root / DESCRIPTION_NAME}: training"
    if not isinstance(listed, list):
        raise DatasetError(f"{place}: expected a list of {{image, label}}, got {listed!r:.100}")
    pairs = []
    for number, entry in enumerate(listed):
        files = _image_and_label(entry)
        if files is None:
            raise DatasetError(f"{place}[{number}]: expected {{image: FILE, label: FILE}}, got {entry!r:.100}")
        if any(map(leaves_root, files)):
            raise DatasetError(f"{place}[{number}]: lies outside of {root}: {entry!r:.200}")
        image, label = files
        pairs.append(Pair(root / image, root / label))
    _require_files([file for pair in pairs for file in pair if file is not None], place)
    _by_stem([pair.image for pair in pairs])
    return _without_repetition(pairs, place)


def find_test_pairs(root: Path, where: str) -> list[Pair]:
    """The volumes that the Decathlon's layout keeps for tests, with labels if there is a folder of them."""
    labels = root / TEST_LABELS
    return pair_up(list_volumes(root / TEST_IMAGES), labels if labels.is_dir() else None, where)


def find_named_pairs(entry: Any, source: Source, where: str) -> list[Pair]:
    """The pairs that a YAML names for a split: folders, lists of files, or one by one.

    Raises:
        DatasetError: it is of another form, files are missing, or something is named twice.
    """
    if isinstance(entry, list):
        return _without_repetition([_find_pair(item, source, where) for item in entry], where)
    if not isinstance(entry, Mapping) or not {"images"} <= set(entry) <= {"images", "labels"}:
        raise DatasetError(
            f"{where}: expected {{images: FOLDER or LIST.txt, labels: FOLDER or LIST.txt}}, without labels where there "
            f"are none, or a list of pairs [VOLUME, LABELS], got {entry!r:.200}"
        )
    images_at = find_existing(source.candidates(str(entry["images"])), "images", where).absolute()
    images = list_volumes(images_at) if images_at.is_dir() else _read_list(images_at, source)
    labels_at = None
    if entry.get("labels") is not None:
        labels_at = find_existing(source.candidates(str(entry["labels"])), "labels", where).absolute()
    if labels_at is None or labels_at.is_dir():
        return _without_repetition(pair_up(images, labels_at, where), where)
    labels = _read_list(labels_at, source)
    if len(labels) != len(images):
        raise DatasetError(f"{where}: {images_at} has {len(images)} volumes, {labels_at} lists {len(labels)} labels")
    return _without_repetition([Pair(image, label) for image, label in zip(images, labels, strict=True)], where)


def pair_up(images: Sequence[Path], labels_at: Path | None, where: str) -> list[Pair]:
    """Each volume with the file of its name in the folder ``labels_at``, without labels where that is None.

    Raises:
        DatasetError: there are no volumes, one has no labels, or several files have one name.
    """
    if not images:
        raise DatasetError(f"{where}: there are no volumes; their names end in {' or '.join(VOLUME_SUFFIXES)}")
    if labels_at is None:
        return [Pair(image, None) for image in images]
    _by_stem(images)
    label_of = _by_stem(list_volumes(labels_at))
    pairs = []
    for image in images:
        stem = volume_stem(image)
        pairs.append(Pair(image, label_of.get(stem) or label_of.get(stem.removesuffix(_FIRST_CHANNEL))))
    missing = [pair.image for pair in pairs if pair.label is None]
    if missing:
        raise DatasetError(
            f"{where}: {len(missing)} of {len(images)} volumes have no labels; the first is {missing[0]}: "
            f"{labels_at / volume_stem(missing[0])}{{{','.join(VOLUME_SUFFIXES)}}} was expected"
        )
    return pairs


def _find_pair(item: Any, source: Source, where: str) -> Pair:
    files = _image_and_label(item)
    if files is None:
        raise DatasetError(f"{where}: expected a pair [VOLUME, LABELS], got {item!r:.200}")
    image, label = (find_existing(source.candidates(file), repr(file), where).absolute() for file in files)
    return Pair(image, label)


def _image_and_label(item: Any) -> tuple[str, str] | None:
    """The names in {image, label} or [image, label], None if it is neither."""
    match item:
        case {"image": str(image), "label": str(label)} | [str(image), str(label)]:
            return image, label
    return None


def _read_list(path: Path, source: Source) -> list[Path]:
    """The files that a list names: relative to the list, else to the data set."""
    if path.suffix != ".txt":
        raise DatasetError(f"{path}: expected a folder or a .txt list")
    files = []
    for line in read_lines(path):
        candidates = [*relative_candidates(line, path.parent), *relative_candidates(line, source.data_root())]
        files.append(find_existing(candidates, repr(line), str(path)).absolute())
    return files


def _without_repetition(pairs: list[Pair], where: str) -> list[Pair]:
    if not pairs:
        raise DatasetError(f"{where}: there are no volumes")
    images = [pair.image for pair in pairs]
    repeated = [image for image, count in Counter(images).items() if count > 1]
    if repeated:
        raise DatasetError(f"{where}: {repeated[0]} is named twice")
    return pairs


def _require_files(files: Sequence[Path], where: str) -> None:
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DatasetError(f"{where}: {len(missing)} of {len(files)} files are missing; the first is {missing[0]}")


def _by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    by_stem: dict[str, Path] = {}
    for path in paths:
        other = by_stem.setdefault(volume_stem(path), path)
        if other != path:
            raise DatasetError(
                f"{path}: {other.name} has the same name; which labels belong to which volume is unclear"
            )
    return by_stem
