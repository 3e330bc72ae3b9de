"""NIfTI volumes with label volumes, in the layout of the Medical Segmentation Decathlon or named in a YAML.

A volume and its labels have files of one name (``a.nii.gz``), or that of nnU-Net, where a volume's ends in the number
of its channel (``a_0000.nii.gz``). Volumes that nobody has divided into splits are divided here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from detseg.config import from_dict
from detseg.data.dataset import DatasetError, DatasetFormat, Source
from detseg.data.formats.nifti_names import read_class_names
from detseg.data.formats.nifti_pairs import (
    IMAGES,
    TEST_IMAGES,
    Pair,
    find_named_pairs,
    find_test_pairs,
    find_training_pairs,
)
from detseg.data.splits.division import divide, folds
from detseg.data.splits.stratify import parse_ratios, split_names
from detseg.data.volumes import VolumeDataset
from detseg.runtime.media.nifti import volume_stem
from detseg.structures import Truth

ALL = "all"
"""The split with all volumes that a division deals out."""

_TEST = "test"
_SETTINGS = ("format", "path", "names", "division")


@dataclass(frozen=True)
class DivisionConfig:
    """How volumes are divided: in ``ratios`` into train, val and, where there are three, test; or into ``folds`` for
    cross-validation, whose splits are called fold0-train, fold0-val, fold1-train, ...; at random by ``seed``.

    Raises:
        ValueError: a value is outside its range, or both are given.
    """

    ratios: tuple[float, ...] | str | None = None
    folds: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.ratios is not None and self.folds is not None:
            raise ValueError("either ratios or folds can be given, not both")
        if self.folds is not None and self.folds < 2:
            raise ValueError(f"folds must be at least 2, got {self.folds}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        parse_ratios(self.shares)

    @property
    def shares(self) -> tuple[float, ...] | str:
        """The ratios, 8:2 where nothing else is said."""
        return (8, 2) if self.ratios is None else self.ratios

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits that are made, and that of all volumes."""
        if self.folds is None:
            return (*split_names(len(parse_ratios(self.shares))), ALL)
        return (*(f"fold{fold}-{part}" for fold in range(self.folds) for part in ("train", "val")), ALL)

    def members(self, split: str, names: Collection[str]) -> list[str]:
        """Those of ``names`` that are in ``split``, sorted. Raises ValueError: there are too few to be divided."""
        if split == ALL:
            return sorted(names)
        if self.folds is None:
            parts = divide(names, self.shares, self.seed)
        else:
            parts = [part for fold in folds(names, self.folds, self.seed) for part in fold]
        return parts[self.split_names.index(split)]


class NiftiFormat(DatasetFormat):
    """A folder of the Decathlon or nnU-Net, or a YAML."""

    truths = ("volumes",)
    layouts = (
        (
            "imagesTr/ and labelsTr/ with .nii.gz or .nii files of the same names, divided 8:2 into train and val "
            "(imagesTs/ is the split test); the class names in dataset.json"
        ),
        (
            "a YAML with `format: nifti`, `path:`, `names:` by value, the background first, and, for folders as above, "
            "`division: {ratios: [8, 2], seed: 0}` or `division: {folds: 5, seed: 0}`, otherwise per split "
            "`SPLIT: {images: FOLDER or LIST.txt, labels: FOLDER or LIST.txt}` or `SPLIT: [[VOLUME, LABELS], ...]`"
        ),
    )

    def splits(self, source: Source) -> tuple[str, ...]:
        if source.yaml_path is not None:
            named = _named_splits(source)
            stated = source.settings.get("format")
            if stated not in ("nifti", None):
                return ()
            if stated is None:
                return tuple(named) if any(map(_is_ours, named.values())) else ()
            for name, entry in named.items():
                if not (isinstance(entry, Mapping) and "images" in entry) and not isinstance(entry, list):
                    raise DatasetError(
                        f"{source.name}: {name}: expected a split, {{images: FOLDER or LIST.txt, labels: FOLDER or "
                        f"LIST.txt}} or a list of pairs, got {entry!r:.100}; other keys are {', '.join(_SETTINGS)}"
                    )
            if named:
                return tuple(named)
        root = source.data_root()
        if not (root / IMAGES).is_dir():
            return ()
        divided = _read_division(source).split_names
        return divided if _TEST in divided or not (root / TEST_IMAGES).is_dir() else (*divided, _TEST)

    def read_split(self, source: Source, split: str, truth: Truth) -> VolumeDataset:
        pairs = find_pairs(source, split)
        labels = [pair.label for pair in pairs if pair.label is not None]
        name_of = read_class_names(source, labels)
        return VolumeDataset(
            root=source.data_root().absolute(),
            split=split,
            class_names=tuple(name_of.values()),
            category_ids=tuple(name_of),
            images=[pair.image for pair in pairs],
            labels=labels or None,
        )


def find_pairs(source: Source, split: str) -> list[Pair]:
    """The volumes of ``split`` with their labels; all of them have labels, or none.

    Raises:
        DatasetError: the YAML names both splits and a division, files are missing, or there are too few volumes to be
            divided.
    """
    where = f"{source.name}: {split}"
    named = _named_splits(source)
    if split in named:
        if "division" in source.settings:
            raise DatasetError(f"{source.name}: either division or splits such as {split} can be given, not both")
        return find_named_pairs(named[split], source, where)
    division = _read_division(source)
    root = source.data_root().absolute()
    if split not in division.split_names:
        return find_test_pairs(root, where)
    pair_of = {volume_stem(pair.image): pair for pair in find_training_pairs(root, where)}
    try:
        members = division.members(split, pair_of)
    except ValueError as error:
        raise DatasetError(f"{source.name}: division: {error}") from error
    return [pair_of[name] for name in members]


def _is_ours(entry: object) -> bool:
    """Whether a YAML that states no format can be none but this with such an entry."""
    return isinstance(entry, Mapping) and {"images", "labels"} == set(entry)


def _named_splits(source: Source) -> dict[str, Any]:
    """What is under the keys of a YAML that are no settings."""
    return {str(key): entry for key, entry in source.settings.items() if key not in _SETTINGS}


def _read_division(source: Source) -> DivisionConfig:
    stated = source.settings.get("division")
    if stated is None:
        return DivisionConfig()
    if not isinstance(stated, Mapping):
        raise DatasetError(
            f"{source.name}: division: expected {{ratios: [8, 2], seed: 0}} or {{folds: 5, seed: 0}}, "
            f"got {stated!r:.100}"
        )
    return from_dict(DivisionConfig, stated, f"{source.name}: division")
