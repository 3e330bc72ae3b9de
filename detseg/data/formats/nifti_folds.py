"""The split that nnU-Net keeps in ``splits_final.json``, the names of the cases of each fold, and that in a list of
cases as MONAI has them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from detseg.data.formats.nifti_description import MAX_DESCRIPTION_BYTES, case_keys
from detseg.data.source import DatasetError
from detseg.data.split_rule import ALL
from detseg.files import read_text
from detseg.runtime.volumes.volume_cases import FIRST_CHANNEL

FOLDS_NAME = "splits_final.json"


@dataclass(frozen=True)
class ListedFolds:
    """Folds with the names of their cases, of the file ``path``. With ``first_alone`` the splits are train and val of
    the first, otherwise fold0-train, fold0-val, fold1-train, ...; and that of all volumes."""

    path: Path
    folds: tuple[Mapping[str, tuple[str, ...]], ...]
    first_alone: bool

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits that are there."""
        if self.first_alone:
            return ("train", "val", ALL)
        return (*(f"fold{fold}-{part}" for fold in range(len(self.folds)) for part in ("train", "val")), ALL)

    def members(self, split: str, names: Collection[str]) -> list[str]:
        """Those of the volumes ``names`` that are in ``split``, sorted. Raises ValueError: a case has no volume."""
        if split == ALL:
            return sorted(names)
        name_of = {name.removesuffix(FIRST_CHANNEL): name for name in names}
        fold, part = divmod(self.split_names.index(split), 2)
        listed = self.folds[fold]["val" if part else "train"]
        missing = [case for case in listed if case not in name_of]
        if missing:
            raise ValueError(
                f"{self.path} lists {len(missing)} cases without a volume; the first is {missing[0]!r:.100}: take them "
                "out of the list, or restore their files"
            )
        return sorted(name_of[case] for case in listed)


def read_folds(path: Path, *, first_alone: bool) -> ListedFolds:
    """The folds in the file ``path``.

    Raises:
        DatasetError: it cannot be read, or is of another form.
    """
    try:
        if path.stat().st_size > MAX_DESCRIPTION_BYTES:
            raise DatasetError(f"{path}: more than {MAX_DESCRIPTION_BYTES:,} bytes, no list of folds")
        content: Any = json.loads(read_text(path, "utf-8-sig"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, DatasetError) else DatasetError(f"{path}: no valid JSON: {error}") from error
    listed = folds_of_list(path, content, first_alone=first_alone) if isinstance(content, Mapping) else None
    if listed is not None:
        return listed
    if not isinstance(content, list) or not content:
        raise DatasetError(f"{path}: expected a list of folds, {{train: [CASE], val: [CASE]}}, got {content!r:.100}")
    return ListedFolds(path, tuple(_fold(path, number, entry) for number, entry in enumerate(content)), first_alone)


def folds_of_list(path: Path, content: Mapping[str, Any], *, first_alone: bool) -> ListedFolds | None:
    """The folds that a list of cases ``content`` of MONAI, from the file ``path``, says: by the number ``fold`` of each
    case, or by cases under ``validation``; None where it says nothing.

    Raises:
        DatasetError: some cases have a number and others do not, or all have the same.
    """
    entries = [list_of(content, part) for part in ("training", "validation")]
    keys = case_keys([PurePosixPath(first_image(entry)) for part in entries for entry in part], path.parent)
    if entries[1]:
        count = len(entries[0])
        return ListedFolds(path, ({"train": tuple(keys[:count]), "val": tuple(keys[count:])},), first_alone)
    numbers: list[Any] = [entry.get("fold") for entry in entries[0]]
    if not any(type(number) is int for number in numbers):
        return None
    if not all(type(number) is int for number in numbers) or len(set(numbers)) < 2:
        raise DatasetError(
            f"{path}: training: expected the number of its fold for every case, of two folds at least, got "
            f"{sorted(set(map(str, numbers)))}"
        )
    folds = []
    for fold in sorted(set(numbers)):
        own = [number == fold for number in numbers]
        train, val = (
            tuple(key for key, is_own in zip(keys, own, strict=True) if is_own is held_out)
            for held_out in (False, True)
        )
        folds.append({"train": train, "val": val})
    return ListedFolds(path, tuple(folds), first_alone)


def list_of(content: Mapping[str, Any], part: str) -> list[Any]:
    """The cases under ``part`` that name an image and its labels; none where nothing of the kind is there."""
    listed = content.get(part)
    if not isinstance(listed, list) or not all(isinstance(entry, Mapping) and "image" in entry for entry in listed):
        return []
    return listed


def first_image(entry: Mapping[str, Any]) -> str:
    """The file, or the first of the files, with the image of a case."""
    image = entry["image"]
    return str(image[0] if isinstance(image, list) and image else image)


def _fold(path: Path, number: int, entry: Any) -> Mapping[str, tuple[str, ...]]:
    where = f"{path}: fold {number}"
    parts: dict[str, tuple[str, ...]] = {}
    for part in ("train", "val"):
        cases = entry.get(part) if isinstance(entry, Mapping) else None
        if not isinstance(cases, list) or not cases or not all(isinstance(case, str) for case in cases):
            raise DatasetError(f"{where}: expected {{train: [CASE], val: [CASE]}}, got {entry!r:.200}")
        if len(set(cases)) < len(cases):
            raise DatasetError(f"{where}: {part} lists a case twice")
        parts[part] = tuple(cases)
    both = sorted(set(parts["train"]) & set(parts["val"]))
    if both:
        raise DatasetError(f"{where}: {len(both)} cases are in train and in val; the first is {both[0]!r:.100}")
    return parts
